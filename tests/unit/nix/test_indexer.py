"""Tests for :mod:`nixery.nix.indexer`, against processes that a test plays."""

from __future__ import annotations

import json
from pathlib import Path

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from nixery.nix import indexer as module
from nixery.nix.indexer import (
    BUSY_PAUSE_SECONDS,
    MAX_STANDSTILL_SECONDS,
    REST_FACTOR,
    RETRY_SECONDS,
    START_DELAY_SECONDS,
    PackageIndexer,
)
from nixery.nix.package_index import PackageIndex
from nixery.nix.package_indexes import PackageIndexes
from nixery.nix.resolve_arguments import Lookup
from nixery.process.errors import CommandOutput, ProcessFailed
from nixery.sources.source import PackageSet, Revision
from nixery.testing.fakes import InlineWorkers
from tests.support.nix import FakeProcess, FakeSpawner, nix_context

SYSTEM = "x86_64-linux"


def revision(commit: str = "c", *, pinned: bool = True, version: str | None = None) -> Revision:
    return Revision(identity={"commit": commit}, pinned=pinned, label=commit, version=version)


def package_set(of: Revision | None = None) -> PackageSet:
    return PackageSet(revision=of or revision(), path=Path("/set"))


class PackageIndexerTests(SynchronousTestCase):
    """Tests of when a pass runs, of its slices, and of its end."""

    def setUp(self) -> None:
        self.patch(module, "SLICE", 4)
        self.clock = Clock()
        self.children = FakeSpawner()
        self.context = nix_context(self.children, self.clock)
        self.indexes = PackageIndexes(Path(self.mktemp()), InlineWorkers(), {})
        self.building = False
        self.indexer = self.make_indexer()

    def make_indexer(self) -> PackageIndexer:
        """Make the indexer of a daemon that has just been started."""

        def lookup(package_set: PackageSet, system: str) -> Lookup:
            return Lookup(
                settings=self.context.settings,
                resolve=Path("/nix/resolve.nix"),
                package_set=package_set,
                system=system,
            )

        return PackageIndexer(self.context, self.indexes, lookup, lambda: self.building)

    def request(self, of: Revision | None = None) -> None:
        """Request an index, and wait until its pass begins."""
        self.indexer.request(package_set(of or revision()), SYSTEM)
        self.clock.advance(START_DELAY_SECONDS)

    @property
    def running(self) -> FakeProcess:
        """The only process that runs."""
        [child] = [child for child in self.children.processes if not child.result.called]
        return child

    def asked(self) -> list[str] | None:
        """The names that the process is asked for; ``None``: for all names."""
        argv = self.running.command.argv
        names: list[str] | None = json.loads(argv[argv.index("names") + 1])
        return names

    def answer(self, *failing: str) -> None:
        """Have the process end; it fails at the first of these that it was asked for."""
        names = self.asked() or []
        culprit = next((name for name in names if name in failing), None)
        for name in names[: None if culprit is None else names.index(culprit) + 1]:
            self.trace(name)
            # It may fetch what it pins.
            self.trace(f"nixery-fetched /nix/store/{'0' * 32}-source")
        if culprit is not None:
            output = CommandOutput(argv=("nix-instantiate",), status=1, stderr="error: aborted")
            self.running.result.errback(ProcessFailed(output=output))
        else:
            records = [[name, name, "1", f"It is {name}", True] for name in names]
            self.running.exit(json.dumps(records).encode())

    def trace(self, text: str) -> None:
        listener = self.running.command.on_stderr_line
        assert listener is not None
        listener(b"trace: " + text.encode())

    def list_names(self, count: int) -> list[str]:
        self.assertIsNone(self.asked())
        names = [f"p{number}" for number in range(count)]
        self.running.exit(json.dumps(names).encode())
        return names

    def index(self, of: Revision | None = None) -> PackageIndex | None:
        return self.successResultOf(
            Deferred.fromCoroutine(self.indexes.get(of or revision(), SYSTEM))
        )

    def idle(self) -> bool:
        return all(child.result.called for child in self.children.processes)

    # -- a pass ------------------------------------------------------------------

    def test_set_is_listed_in_slices(self) -> None:
        """A set is listed in slices, one process after the other, and then kept."""
        self.request()
        names = self.list_names(10)
        asked = []
        while not self.idle():
            asked.append(self.asked())
            self.answer()
        self.assertEqual([names[:4], names[4:8], names[8:]], asked)
        index = self.index()
        assert index is not None
        self.assertEqual(tuple(names), index.names)
        self.assertEqual(names, [entry.attribute for entry in index.entries])
        self.assertEqual(0, index.skipped)

    def test_processes_have_a_low_priority(self) -> None:
        """All processes of a pass have a low priority and a deadline."""
        self.request()
        self.list_names(5)
        self.answer()
        self.answer()
        for child in self.children.processes:
            self.assertTrue(child.command.low_priority)
            self.assertEqual(self.context.settings.eval_timeout, child.command.timeout)

    def test_request_is_answered_between_slices(self) -> None:
        """While something is evaluated or built, the next slice waits."""
        self.request()
        self.list_names(8)
        with self.indexer.used(package_set(), SYSTEM):
            self.answer()
            self.clock.pump([BUSY_PAUSE_SECONDS] * 10)
            self.assertTrue(self.idle())
            self.building = True
        self.clock.pump([BUSY_PAUSE_SECONDS] * 10)
        self.assertTrue(self.idle())
        self.building = False
        self.clock.advance(BUSY_PAUSE_SECONDS)
        self.assertEqual(["p4", "p5", "p6", "p7"], self.asked())
        self.answer()
        self.assertIsNotNone(self.index())

    def test_packages_of_a_busy_registry_are_listed(self) -> None:
        """If something is always being built, each slice waits for a while only."""
        self.building = True
        self.request()
        self.assertTrue(self.idle())
        self.clock.pump([BUSY_PAUSE_SECONDS] * int(MAX_STANDSTILL_SECONDS / BUSY_PAUSE_SECONDS))
        self.list_names(1)
        self.assertTrue(self.idle())
        self.clock.pump([BUSY_PAUSE_SECONDS] * int(MAX_STANDSTILL_SECONDS / BUSY_PAUSE_SECONDS))
        self.answer()
        self.assertIsNotNone(self.index())

    def test_use_that_fails_ends(self) -> None:
        """A use that ends with an error does not hold the pass back for ever."""

        def fail() -> None:
            with self.indexer.used(package_set(), SYSTEM):
                raise ZeroDivisionError

        self.assertRaises(ZeroDivisionError, fail)
        self.clock.advance(START_DELAY_SECONDS)
        self.list_names(0)
        self.assertIsNotNone(self.index())

    def test_pass_begins_after_a_while(self) -> None:
        """A pass does not begin with the request that causes it."""
        self.indexer.request(package_set(), SYSTEM)
        self.clock.advance(START_DELAY_SECONDS - 0.1)
        self.assertEqual([], self.children.processes)

    # -- names that cannot be evaluated --------------------------------------------

    def test_names_that_fail_are_left_out(self) -> None:
        """A slice that fails is repeated without the name that was looked at last."""
        self.request()
        names = self.list_names(8)
        while not self.idle():
            self.answer("p1", "p2", "p7")
        index = self.index()
        assert index is not None
        self.assertEqual(
            ["p0", "p3", "p4", "p5", "p6"], [entry.attribute for entry in index.entries]
        )
        self.assertEqual(3, index.skipped)
        self.assertEqual(tuple(names), index.names)

    def test_slices_are_repeated_so_often_only(self) -> None:
        """Slices that fail are left out as a whole after too many repetitions."""
        self.patch(module, "MAX_REPETITIONS", 2)
        self.request()
        names = self.list_names(8)
        while not self.idle():
            self.answer(*names)
        index = self.index()
        assert index is not None
        self.assertEqual((), index.entries)
        self.assertEqual(8, index.skipped)
        # All names, a slice, nothing, its last three names, its last two, and the second slice.
        self.assertEqual(6, len(self.children.processes))

    def test_what_packages_trace_ends_no_pass(self) -> None:
        """A slice is left out if nothing tells the name that ended it."""
        self.request()
        self.list_names(8)
        for text in ("", "p7", "\ufffd"):
            self.trace(text)
        output = CommandOutput(argv=("nix-instantiate",), status=1)
        self.running.result.errback(ProcessFailed(output=output))
        while not self.idle():
            self.answer()
        index = self.index()
        assert index is not None
        self.assertEqual(["p4", "p5", "p6", "p7"], [entry.attribute for entry in index.entries])
        self.assertEqual(4, index.skipped)

    def test_nothing_is_repeated_when_nothing_can_be_evaluated(self) -> None:
        """If not even no names can be looked at, the pass ends, and is tried again much later."""
        self.request()
        self.list_names(8)
        output = CommandOutput(argv=("nix-instantiate",), status=1, stderr="error: no daemon")
        for _ in range(2):
            self.running.result.errback(ProcessFailed(output=output))
        self.assertTrue(self.idle())
        self.assertIsNone(self.index())
        self.request()
        self.assertEqual(3, len(self.children.processes))
        self.clock.advance(RETRY_SECONDS)
        self.request()
        self.list_names(0)
        self.assertIsNotNone(self.index())

    def test_set_that_cannot_be_evaluated_ends_no_other_pass(self) -> None:
        """After a set that cannot be evaluated, the next one is listed."""
        self.indexer.request(package_set(revision("other")), SYSTEM)
        self.request()
        output = CommandOutput(argv=("nix-instantiate",), status=1)
        self.running.result.errback(ProcessFailed(output=output))
        self.list_names(0)
        self.assertIsNone(self.index())
        self.assertIsNotNone(self.index(revision("other")))

    def test_pass_that_may_not_fetch_is_repeated_under_guard(self) -> None:
        """A pass that may not fetch goes on under guard of its fetches, and repeats a process."""
        self.request()
        self.list_names(8)
        self.answer()
        message = "access to URI 'https://example.org/a' is forbidden in restricted mode"
        output = CommandOutput(argv=("nix-instantiate",), status=1, stderr=f"error: {message}")
        self.running.result.errback(ProcessFailed(output=output))
        self.assertEqual(["p4", "p5", "p6", "p7"], self.asked())
        self.assertIn("pinned", self.running.command.argv)
        self.answer()
        index = self.index()
        assert index is not None
        self.assertEqual((8, 0), (len(index.entries), index.skipped))

    def test_output_that_is_not_understood_ends_the_pass(self) -> None:
        """Output that is not understood ends the pass, and nothing is kept."""
        self.request()
        self.running.exit(b"what?")
        self.assertTrue(self.idle())
        self.assertIsNone(self.index())

    # -- again -------------------------------------------------------------------

    def test_set_is_listed_once(self) -> None:
        """A pinned revision is listed once, however often it is requested, also after a restart."""
        self.request()
        self.request()
        self.list_names(0)
        self.request()
        self.indexer = self.make_indexer()
        self.request()
        self.assertEqual(1, len(self.children.processes))

    def test_set_that_may_change_is_listed_again(self) -> None:
        """A set that may change is listed again, after many times as long as that takes."""
        moving = revision(pinned=False)
        self.request(moving)
        self.clock.advance(3)
        self.list_names(0)
        self.request(moving)
        self.assertTrue(self.idle())
        self.clock.advance(3 * REST_FACTOR)
        self.request(moving)
        self.list_names(1)

    def test_set_is_listed_again_when_it_was_seen_to_change(self) -> None:
        """A set whose changes are observed is listed again when it has changed, and not before."""
        self.request(revision(pinned=False, version="1"))
        self.clock.advance(3)
        self.list_names(0)
        self.clock.advance(100 * REST_FACTOR)
        self.request(revision(pinned=False, version="1"))
        self.assertTrue(self.idle())
        self.request(revision(pinned=False, version="2"))
        self.list_names(0)
        self.request(revision(pinned=False, version="3"))
        self.list_names(0)

    def test_newest_version_is_listed(self) -> None:
        """If a set changes before its pass begins, it is listed once, as it is then."""
        for version in ("1", "2"):
            self.indexer.request(package_set(revision(pinned=False, version=version)), SYSTEM)
        self.clock.advance(START_DELAY_SECONDS)
        self.list_names(0)
        self.request(revision(pinned=False, version="2"))
        self.assertEqual(1, len(self.children.processes))

    def test_revisions_wait_for_each_other(self) -> None:
        """One revision is listed at a time, the last one first; of many, the first are dropped."""
        for number in range(6):
            self.indexer.request(package_set(revision(str(number))), SYSTEM)
        self.clock.advance(START_DELAY_SECONDS)
        while not self.idle():
            self.list_names(0)
        known = [number for number in range(6) if self.index(revision(str(number)))]
        self.assertEqual([2, 3, 4, 5], known)

    # -- the end -----------------------------------------------------------------

    def test_pass_is_stopped(self) -> None:
        """A pass is stopped with its process, which is killed at once, and no other one begins."""
        self.request()
        self.list_names(8)
        child = self.running
        killed: list[Deferred[None]] = []
        child.exit_delay = Deferred(killed.append)
        self.successResultOf(Deferred.fromCoroutine(self.indexer.stop()))
        self.assertTrue(child.stopped)
        self.assertEqual([child.exit_delay], killed)
        self.request()
        self.assertEqual(2, len(self.children.processes))
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_process_that_may_build_is_given_time(self) -> None:
        """A process that may have builders is not killed, so that it can stop them."""
        settings = evolve(self.context.settings, allow_import_from_derivation=True)
        self.context = evolve(self.context, settings=settings)
        self.indexer = self.make_indexer()
        self.request()
        child = self.running
        child.exit_delay = Deferred()
        stopped = Deferred.fromCoroutine(self.indexer.stop())
        self.assertTrue(child.stopped)
        self.assertNoResult(stopped)
        child.exit_delay.callback(None)
        self.successResultOf(stopped)

    def test_pass_that_waits_is_stopped(self) -> None:
        """A pass that has not begun, or stands still, is stopped as well."""
        self.indexer.request(package_set(), SYSTEM)
        self.successResultOf(Deferred.fromCoroutine(self.indexer.stop()))
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_nothing_is_to_be_stopped(self) -> None:
        """An indexer that has nothing to do is stopped at once."""
        self.successResultOf(Deferred.fromCoroutine(self.indexer.stop()))
