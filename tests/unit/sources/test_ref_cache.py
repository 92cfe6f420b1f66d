"""Tests of the cache of upstream refs, and of how long its entries last."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from nixery.errors import ShuttingDown
from nixery.process.errors import CommandMissing
from nixery.sources import ref_cache
from nixery.sources.errors import SourceUnavailable
from nixery.sources.ref_cache import NEGATIVE_TTL_SECONDS, STALE_TTL_SECONDS, RefCache
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

    async def check(self) -> None:
        if self.missing:
            raise CommandMissing(command="git")

    async def find(self, reference: Reference) -> ResolvedRef | None:
        self.asked.append(reference)
        if self.gate is not None:
            await self.gate
        if self.down:
            raise DOWN
        return self.refs.get(reference)


class LookupTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.upstream = FakeUpstream({MAIN: A})
        self.path = Path(self.mktemp()) / "git.json"
        self.cache = self.make()
        self.logged: list[LogEvent] = []
        observer: Any = self.logged.append  # any callable will do
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def make(self, ttl: float = 900) -> RefCache:
        cache = RefCache(
            self.upstream,
            name="the repository",
            ttl=ttl,
            ref_file=RefFile(self.path),
            workers=InlineWorkers(),
            clock=self.clock,
        )
        self.successResultOf(Deferred.fromCoroutine(cache.start()))
        return cache

    def find(
        self, reference: Reference = MAIN, *, must_exist: bool = False
    ) -> Deferred[ResolvedRef | None]:
        return Deferred.fromCoroutine(self.cache.find(reference, must_exist=must_exist))

    def found(self, reference: Reference = MAIN, *, must_exist: bool = False) -> ResolvedRef | None:
        return self.successResultOf(self.find(reference, must_exist=must_exist))

    def warnings(self) -> list[str]:
        levels = [str(event["log_level"].name) for event in self.logged]
        formats = [str(event["log_format"]) for event in self.logged]
        return [f"{level}: {form}" for level, form in zip(levels, formats, strict=True)]

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

    def test_commits_stay(self) -> None:
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

    def test_last_known(self) -> None:
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
        self.failureResultOf(self.find(ChannelName(name="x"), must_exist=True), SourceUnavailable)
        self.found(must_exist=True)
        del self.upstream.refs[MAIN]
        self.clock.advance(900)
        self.assertEqual(self.found(must_exist=True), A)

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
        names = [ChannelName(name=f"c{number}") for number in range(9)]
        for name in (*names, *names[1:]):
            self.found(name)
        self.assertEqual(names, self.upstream.asked)
        self.found(names[0])
        self.assertEqual([*names, names[0]], self.upstream.asked)
