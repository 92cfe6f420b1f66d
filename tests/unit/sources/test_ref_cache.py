"""Tests of the cache of upstream refs, and of how long its entries last."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.logger import LogEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from nixery.errors import ShuttingDown
from nixery.limits.build_quota import current_client
from nixery.limits.errors import QueueFull
from nixery.process.errors import CommandMissing
from nixery.sources import ref_cache
from nixery.sources.errors import LookupsExceeded, SourceUnavailable
from nixery.sources.interface import InTurn
from nixery.sources.ref_cache import (
    LOOKUPS_PER_MINUTE,
    MAX_WAITING_LOOKUPS,
    MIN_STALE_SECONDS,
    NEGATIVE_TTL_SECONDS,
    RENEWAL_WAIT_SECONDS,
    STALE_TTL_SECONDS,
    RefCache,
)
from nixery.sources.ref_file import RefFile
from nixery.sources.source import ResolvedRef
from nixery.sources.tag_policy import ChannelName, GitCommit, GitRefs, Reference
from nixery.testing.fakes import InlineWorkers

MAIN = GitRefs(names=("refs/heads/main",))
A, B = ResolvedRef(commit="a" * 40, ref="refs/heads/main"), ResolvedRef(commit="b" * 40)
DOWN = SourceUnavailable(source="the repository", what="main", reason="it is down")


@define(eq=False)
class FakeUpstream:
    """Implements :class:`nixery.sources.interface.RefSource`."""

    refs: dict[Reference, ResolvedRef] = field(factory=dict)
    down: bool = False
    missing: bool = False
    gate: Deferred[None] | None = None
    asked: list[Reference] = field(factory=list)
    answers: Callable[[Reference], Awaitable[ResolvedRef | None]] | None = None

    async def check(self) -> None:
        if self.missing:
            raise CommandMissing(command="git")

    async def stop(self) -> None:
        pass

    async def find(self, reference: Reference, in_turn: InTurn | None = None) -> ResolvedRef | None:
        """Look a reference up; all but branches and tags wait for their turn."""
        if in_turn is None or isinstance(reference, GitRefs):
            return await self.look_up(reference)
        return await in_turn(lambda: self.look_up(reference))

    async def look_up(self, reference: Reference) -> ResolvedRef | None:
        self.asked.append(reference)
        if self.answers is not None:
            return await self.answers(reference)
        if self.gate is not None:
            await self.gate
        if self.down:
            raise DOWN
        return self.refs.get(reference)


class RefCacheCase(SynchronousTestCase):
    max_lookups = 2

    def setUp(self) -> None:
        self.clock = Clock()
        self.upstream = FakeUpstream({MAIN: A})
        self.path = Path(self.mktemp()) / "git.json"
        self.results: list[Deferred[ResolvedRef | None]] = []
        self.cache = self.make()
        self.logged: list[LogEvent] = []
        observer: Any = self.logged.append  # any callable will do
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def make(self, ttl: float = 900, stale_ttl: float = MIN_STALE_SECONDS) -> RefCache:
        cache = RefCache(
            self.upstream,
            name="the repository",
            ttl=ttl,
            stale_ttl=stale_ttl,
            max_lookups=self.max_lookups,
            ref_file=RefFile(self.path),
            workers=InlineWorkers(),
            clock=self.clock,
        )
        self.successResultOf(Deferred.fromCoroutine(cache.start()))
        self.addCleanup(lambda: self.end(cache))
        return cache

    def find(
        self, reference: Reference = MAIN, *, configured: bool = False
    ) -> Deferred[ResolvedRef | None]:
        found = Deferred.fromCoroutine(self.cache.find(reference, configured=configured))
        self.results.append(found)
        return found

    def end(self, cache: RefCache) -> None:
        """End what a test has left running."""
        self.successResultOf(Deferred.fromCoroutine(cache.stop()))
        for each in self.results:
            each.addErrback(lambda _: None)

    def found(self, reference: Reference = MAIN, *, configured: bool = False) -> ResolvedRef | None:
        return self.successResultOf(self.find(reference, configured=configured))

    def warnings(self) -> list[str]:
        levels = [str(event["log_level"].name) for event in self.logged]
        formats = [str(event["log_format"]) for event in self.logged]
        return [f"{level}: {form}" for level, form in zip(levels, formats, strict=True)]


class LookupTests(RefCacheCase):
    # -- time ---------------------------------------------------------------------

    def test_time_to_live(self) -> None:
        """A reference is asked about once in its time to live, and then again."""
        self.assertEqual(self.found(), A)
        self.upstream.refs[MAIN] = B
        self.clock.advance(899)
        self.assertEqual(self.found(), A)
        self.clock.advance(1)
        self.assertEqual(self.found(), B)
        self.assertEqual(len(self.upstream.asked), 2)

    def test_without_a_time_to_live_every_question_is_asked(self) -> None:
        """Without a time to live, every question is asked."""
        self.cache = self.make(ttl=0)
        for _ in range(3):
            self.found()
        self.assertEqual(len(self.upstream.asked), 3)

    def test_concurrent_lookups_of_a_ref_share_one_request(self) -> None:
        """Concurrent lookups of a ref share one request, and cancelling one leaves the others."""
        self.cache = self.make(ttl=0)
        gate: Deferred[None] = Deferred()
        self.upstream.gate = gate
        asked = [self.find() for _ in range(20)]
        asked[0].cancel()
        self.failureResultOf(asked[0])
        gate.callback(None)
        self.assertEqual({self.successResultOf(each) for each in asked[1:]}, {A})
        self.assertEqual(len(self.upstream.asked), 1)

    def test_references_are_apart(self) -> None:
        """Each reference has an answer of its own."""
        other = GitRefs(names=("refs/heads/other",))
        self.upstream.refs[other] = B
        self.assertEqual((self.found(), self.found(other)), (A, B))
        self.assertEqual((self.found(), self.found(other)), (A, B))
        self.assertEqual(len(self.upstream.asked), 2)

    def test_missing_ref_is_asked_about_again_soon_but_not_at_once(self) -> None:
        """A missing ref is asked about again soon, but not at once."""
        other = ChannelName(name="nixos-99.99")
        for _ in range(5):
            self.assertIsNone(self.found(other))
        self.assertEqual(len(self.upstream.asked), 1)
        self.clock.advance(NEGATIVE_TTL_SECONDS)
        self.upstream.refs[other] = B
        self.assertEqual(self.found(other), B)

    def test_branch_that_is_deleted_is_served_no_longer_now_or_after_a_restart(self) -> None:
        """A branch that is deleted is served no longer, now or after a restart."""
        self.found()
        del self.upstream.refs[MAIN]
        self.clock.advance(900)
        self.assertIsNone(self.found())
        self.upstream.down = True
        self.cache = self.make()
        self.failureResultOf(self.find(), SourceUnavailable)

    def test_commit_that_cannot_be_fetched_is_looked_up_again_before_its_time(self) -> None:
        """A commit that cannot be fetched is looked up again before its time."""
        self.found()
        self.upstream.refs[MAIN] = B
        self.cache.invalidate(B.commit)
        self.assertEqual(self.found(), A)
        self.cache.invalidate(A.commit)
        self.assertEqual(self.found(), B)

    # -- commits --------------------------------------------------------------------

    def test_commit_found_in_history_is_never_looked_up_again(self) -> None:
        """A commit that was in the history is never asked about again."""
        commit = GitCommit(commit=B.commit)
        self.upstream.refs[commit] = B
        self.found(commit)
        del self.upstream.refs[commit]
        self.clock.advance(10**6)
        self.assertEqual(self.found(commit), B)
        self.cache = self.make()
        self.assertEqual(self.found(commit), B)
        self.assertEqual(len(self.upstream.asked), 1)

    def test_trust_is_no_proof(self) -> None:
        """A commit that was taken on trust has to prove itself when that is over."""
        trusted = GitCommit(commit=B.commit, trusted=True)
        self.upstream.refs[trusted] = B
        self.assertEqual(self.found(trusted), B)
        self.assertIsNone(self.found(GitCommit(commit=B.commit)))

    # -- failures -------------------------------------------------------------------

    def test_last_commit_is_served_and_logged_once_while_upstream_is_down(self) -> None:
        """The last known commit is served while the upstream is down, and the log says so once."""
        self.found()
        self.upstream.down = True
        for _ in range(3):
            self.clock.advance(900)
            self.assertEqual(self.found(), A)
        [warning] = self.warnings()
        self.assertIn("warn", warning)
        self.assertEqual(self.logged[0]["commit"], A.commit)
        self.assertIn("it is down", self.logged[0]["reason"])
        # It is over.
        self.upstream.down = False
        self.upstream.refs[MAIN] = B
        self.clock.advance(STALE_TTL_SECONDS)
        self.assertEqual(self.found(), B)
        self.assertIn("answers again", self.warnings()[1])
        # And it happens again.
        self.upstream.down = True
        self.clock.advance(900)
        self.found()
        self.assertEqual(len(self.logged), 3)

    def test_an_upstream_that_is_away_is_left_alone(self) -> None:
        """An upstream that has just failed is not asked again until the pause is over."""
        self.cache = self.make(ttl=0)
        self.found()
        self.upstream.down = True
        for _ in range(10):
            self.assertEqual(self.found(), A)
        self.assertEqual(len(self.upstream.asked), 2)
        self.clock.advance(STALE_TTL_SECONDS)
        self.found()
        self.assertEqual(len(self.upstream.asked), 3)

    def test_without_last_known_commit_lookup_fails_and_next_one_tries_again(self) -> None:
        """Without a last known commit the lookup fails, and the next one tries again."""
        self.upstream.down = True
        self.assertEqual(self.failureResultOf(self.find(), SourceUnavailable).value, DOWN)
        self.upstream.down = False
        self.assertEqual(self.found(), A)

    def test_start_without_upstream_serves_what_was_served_before(self) -> None:
        """A daemon that starts while the upstream is away serves what it served before."""
        self.found()
        self.upstream.down = True
        self.cache = self.make()
        self.assertEqual(self.found(), A)
        # And it asks at once, whatever the file says.
        self.assertEqual(len(self.upstream.asked), 2)

    def test_last_commit_counts_while_the_configured_ref_is_gone(self) -> None:
        """If what is configured is gone, something is wrong, and the last commit counts."""
        self.failureResultOf(self.find(ChannelName(name="x"), configured=True), SourceUnavailable)
        self.found(configured=True)
        del self.upstream.refs[MAIN]
        self.clock.advance(900)
        self.assertEqual(self.found(configured=True), A)

    def test_file_that_cannot_be_read_costs_what_it_held_and_nothing_else(self) -> None:
        """A file that cannot be read costs what it held, and nothing else."""
        self.found()
        for text in ("{", "[]", '{"version": 1}', '{"version": 1, "references": [1]}'):
            self.path.write_text(text)
            self.cache = self.make()
            self.assertEqual(self.found(), A)

    def test_file_that_cannot_be_written(self) -> None:
        """A ref that was found is served even if the file cannot be written (full disk)."""
        self.path.parent.write_text("no directory")
        self.assertEqual(self.found(), A)

    def test_asked_again_changes_no_file(self) -> None:
        """The same answer again is not written again."""
        self.found()
        self.path.unlink()
        self.clock.advance(900)
        self.found()
        self.assertFalse(self.path.exists())

    def test_without_the_program_to_ask_with_there_is_no_start(self) -> None:
        """Without the program to ask with there is no start."""
        self.upstream.missing = True
        self.failureResultOf(Deferred.fromCoroutine(self.cache.start()), CommandMissing)

    def test_question_is_ended_by_end_of_daemon_and_none_is_begun_after_it(self) -> None:
        """A question is ended by the end of the daemon, and none is begun after it."""
        self.upstream.gate = Deferred()
        asked = self.find()
        self.successResultOf(Deferred.fromCoroutine(self.cache.stop()))
        self.failureResultOf(asked, ShuttingDown)
        self.failureResultOf(self.find(), ShuttingDown)
        self.assertEqual(len(self.upstream.asked), 1)

    def test_memory_is_bounded(self) -> None:
        """However many tags people make up, the oldest are forgotten."""
        self.patch(ref_cache, "MAX_CACHED_REFS", 8)
        self.cache = self.make()
        names = [ChannelName(name=f"c{number}") for number in range(9)]
        for name in (*names, *names[1:]):
            self.found(name)
        self.assertEqual(names, self.upstream.asked)
        self.found(names[0])
        self.assertEqual([*names, names[0]], self.upstream.asked)


class RenewalTests(RefCacheCase):
    """Renewals of the reference that is configured."""

    def setUp(self) -> None:
        super().setUp()
        self.found(configured=True)
        self.upstream.refs[MAIN] = B
        self.gate: Deferred[None] = Deferred()
        self.upstream.gate = self.gate
        self.clock.advance(900)

    def test_renewal_is_waited_for(self) -> None:
        """A renewal that takes less than the wait is waited for."""
        waiting = self.find(configured=True)
        self.clock.advance(RENEWAL_WAIT_SECONDS - 0.1)
        self.assertNoResult(waiting)
        self.gate.callback(None)
        self.assertEqual(self.successResultOf(waiting), B)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_last_result_is_served_when_the_wait_is_over(self) -> None:
        """The last result is served when the wait is over, and at once to those who come then."""
        early, late = self.find(configured=True), None
        self.clock.advance(1)
        late = self.find(configured=True)
        self.clock.advance(RENEWAL_WAIT_SECONDS - 1)
        self.assertEqual([self.successResultOf(each) for each in (early, late)], [A, A])
        later = self.find(configured=True)
        self.clock.advance(0)
        self.assertEqual(self.successResultOf(later), A)
        # All of them share one request, which goes on without them.
        self.assertEqual(len(self.upstream.asked), 2)
        self.gate.callback(None)
        self.assertEqual(self.found(configured=True), B)
        self.assertEqual(len(self.upstream.asked), 2)

    def test_each_renewal_is_waited_for(self) -> None:
        """The next renewal is waited for again."""
        first = self.find(configured=True)
        self.clock.advance(RENEWAL_WAIT_SECONDS)
        self.assertEqual(self.successResultOf(first), A)
        self.gate.callback(None)
        self.upstream.gate = Deferred()
        self.clock.advance(900)
        second = self.find(configured=True)
        self.assertNoResult(second)
        self.clock.advance(RENEWAL_WAIT_SECONDS)
        self.assertEqual(self.successResultOf(second), B)

    def test_result_that_is_too_old_is_not_served(self) -> None:
        """A result that is older than its time to live and a minute is not served."""
        self.clock.advance(MIN_STALE_SECONDS - RENEWAL_WAIT_SECONDS + 0.1)
        waiting = self.find(configured=True)
        self.clock.advance(10 * RENEWAL_WAIT_SECONDS)
        self.assertNoResult(waiting)
        self.gate.callback(None)
        self.assertEqual(self.successResultOf(waiting), B)

    def test_longer_staleness(self) -> None:
        """A longer time for stale results is respected."""
        self.upstream.gate = None
        self.upstream.refs[MAIN] = A
        self.cache = self.make(stale_ttl=3600)
        self.found(configured=True)
        self.upstream.gate = self.gate
        self.clock.advance(900 + 3000)
        waiting = self.find(configured=True)
        self.clock.advance(RENEWAL_WAIT_SECONDS)
        self.assertEqual(self.successResultOf(waiting), A)

    def test_result_that_cannot_be_fetched_is_not_served(self) -> None:
        """A commit that could not be fetched is not served while it is looked up anew."""
        self.cache.invalidate(A.commit)
        waiting = self.find(configured=True)
        self.clock.advance(10 * RENEWAL_WAIT_SECONDS)
        self.assertNoResult(waiting)
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)

    def test_other_references_are_waited_for(self) -> None:
        """A reference that only a client named is waited for, however long it takes."""
        waiting = self.find(configured=False)
        self.clock.advance(10 * RENEWAL_WAIT_SECONDS)
        self.assertNoResult(waiting)

    def test_many_other_references_do_not_displace_it(self) -> None:
        """However many other references are found or missing, the configured one is kept."""
        self.patch(ref_cache, "MAX_CACHED_REFS", 8)
        self.upstream.gate = None
        self.found(configured=True)
        self.upstream.refs |= {GitRefs(names=(f"r{n}",)): A for n in range(20)}
        for number in range(20):
            self.found(GitRefs(names=(f"r{number}",)))
            self.found(GitRefs(names=(f"made-up-{number}",)))
        asked = len(self.upstream.asked)
        self.assertEqual(self.found(configured=True), B)
        self.assertEqual(len(self.upstream.asked), asked)
        self.upstream.down = True
        self.cache = self.make()
        self.assertEqual(self.found(configured=True), B)


class QueueTests(RefCacheCase):
    """Look-ups of references that clients chose."""

    def setUp(self) -> None:
        super().setUp()
        self.gates: list[Deferred[None]] = []
        self.upstream.answers = self.look_up
        token = current_client.set(())
        self.addCleanup(current_client.reset, token)

    async def look_up(self, reference: Reference) -> ResolvedRef | None:
        self.gates.append(Deferred())
        await self.gates[-1]
        return self.upstream.refs.get(reference)

    def ask(self, client: str, reference: Reference) -> Deferred[ResolvedRef | None]:
        current_client.set(("192.0.2.1", client))
        return self.find(reference)

    def asked(self) -> list[str]:
        return [reference.describe() for reference in self.upstream.asked]

    def answer(self) -> None:
        self.gates.pop(0).callback(None)

    @staticmethod
    def names(prefix: str, number: int) -> list[Reference]:
        return [ChannelName(name=f"{prefix}{each}") for each in range(number)]

    def test_few_at_a_time_and_clients_take_turns(self) -> None:
        """Only a few look-ups run at once, and another client's does not wait for all of them."""
        made_up = [self.ask("user mallory", each) for each in self.names("m", 20)]
        honest = self.ask("user alice", ChannelName(name="a"))
        self.assertEqual(self.asked(), ["m0", "m1"])
        self.answer()
        self.answer()
        self.assertIn("a", self.asked()[2:4])
        while self.gates:
            self.answer()
        for each in (*made_up, honest):
            self.assertIsNone(self.successResultOf(each))

    def test_lookups_whose_clients_have_left_are_dropped(self) -> None:
        """Look-ups that wait without a client are dropped; those that have begun go on."""
        made_up = [self.ask("user mallory", each) for each in self.names("m", 20)]
        for each in made_up:
            each.cancel()
            self.failureResultOf(each, CancelledError)
        while self.gates:
            self.answer()
        self.assertEqual(self.asked(), ["m0", "m1"])
        # Its result is there for a client that comes back.
        self.assertIsNone(self.successResultOf(self.ask("user mallory", ChannelName(name="m0"))))

    def test_client_that_comes_back_waits_for_its_turn_again(self) -> None:
        """A look-up that was dropped is begun anew for a client that comes back."""
        self.max_lookups = 1
        self.cache = self.make()
        running = self.ask("user mallory", ChannelName(name="m"))
        self.ask("user alice", ChannelName(name="a")).addErrback(lambda _: None).cancel()
        waiting = self.ask("user alice", ChannelName(name="a"))
        self.answer()
        self.answer()
        self.assertIsNone(self.successResultOf(waiting))
        self.assertIsNone(self.successResultOf(running))

    def test_same_reference_for_two_clients(self) -> None:
        """A client does not wait in another's place, and a reference is not looked up twice."""
        self.max_lookups = 1
        self.cache = self.make()
        made_up = [self.ask("user mallory", each) for each in self.names("m", 20)]
        honest = self.ask("user alice", ChannelName(name="m19"))
        self.answer()
        self.answer()
        self.assertIsNone(self.successResultOf(honest))
        while self.gates:
            self.answer()
        self.assertEqual(len(self.asked()), 20)
        self.assertIsNone(self.successResultOf(made_up[19]))

    def test_too_many_that_wait(self) -> None:
        """A client with too many look-ups is refused, and another one finds a place."""
        made_up = [self.ask("user mallory", each) for each in self.names("m", 200)]
        refused = [each for each in made_up if each.called]
        self.assertEqual(len(refused), 200 - MAX_WAITING_LOOKUPS - self.max_lookups)
        error = self.failureResultOf(refused[0], QueueFull).value
        self.assertIn("tags wait to be looked up", error.message)
        honest = self.ask("user alice", ChannelName(name="a"))
        self.assertNoResult(honest)
        for each in refused[1:]:
            self.failureResultOf(each, QueueFull)

    def test_configured_reference_does_not_wait_in_the_queue(self) -> None:
        """The configured reference is looked up at once, whatever else waits."""
        for each in self.names("m", 20):
            self.ask("user mallory", each)
        latest = self.find(configured=True)
        self.gates.pop().callback(None)
        self.assertEqual(self.successResultOf(latest), A)

    def test_commits_are_limited_for_each_client(self) -> None:
        """A client may have some commits a minute looked up that are not known yet."""
        commits = [GitCommit(commit=f"{number:040x}") for number in range(LOOKUPS_PER_MINUTE + 1)]
        for commit in commits[:-1]:
            asked = self.ask("user mallory", commit)
            self.answer()
            self.assertIsNone(self.successResultOf(asked))
        error = self.failureResultOf(self.ask("user mallory", commits[-1]), LookupsExceeded).value
        self.assertIn(f"looks up {LOOKUPS_PER_MINUTE} a minute", error.message)
        # Those that were looked up are known, and other clients are not concerned.
        self.assertIsNone(self.successResultOf(self.ask("user mallory", commits[0])))
        self.assertNoResult(self.ask("user alice", commits[-1]))
        self.clock.advance(error.retry_after)
        self.ask("user mallory", GitCommit(commit="f" * 40))
        self.assertEqual(self.asked()[-1], "f" * 40)

    def test_daemon_itself_is_not_limited(self) -> None:
        """Look-ups that no client caused are not limited."""
        for number in range(2 * LOOKUPS_PER_MINUTE):
            asked = self.find(GitCommit(commit=f"{number:040x}"))
            self.answer()
            self.assertIsNone(self.successResultOf(asked))
