"""Tests for :mod:`nixery.builds.progress` and the values of :mod:`nixery.builds.views`."""

from __future__ import annotations

import tracemalloc

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError
from twisted.internet.task import Clock
from twisted.logger import LogEvent, formatEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from nixery.builds import build_output
from nixery.builds.activity import MAX_STAGES
from nixery.builds.build_failure import ADVICE, BuildFailure
from nixery.builds.progress import Build
from nixery.builds.tracker import BuildTracker
from nixery.builds.views import BuildState
from nixery.errors import ShuttingDown, StorageError
from nixery.image.names import Digest, Tag, parse_image_name
from nixery.nix.errors import BuildFailed
from nixery.nix.progress import Phase, Progress
from nixery.process.errors import CommandOutput
from nixery.testing.fakes import FakeWallClock

DIGEST = Digest("sha256:" + "0" * 64)
OUTPUT = CommandOutput(argv=("nix-build", "--option", "secret"), status=100, stderr="/home/secret")

BEGUN = 1_800_001_000

DERIVATION = f"/nix/store/{'0' * 32}-hello-2.12.drv"


class ProgressTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.wall_clock = FakeWallClock(self.clock)
        self.assertEqual(BEGUN, self.wall_clock.now())
        self.tracker = BuildTracker(clock=self.clock, wall_clock=self.wall_clock)
        self.build = self.begin()
        self.events: list[LogEvent] = []
        globalLogPublisher.addObserver(self.observe)  # type: ignore[arg-type]  # any callable is one
        self.addCleanup(globalLogPublisher.removeObserver, self.observe)  # type: ignore[arg-type]  # any callable is one

    def begin(self) -> Build:
        return self.tracker.begin(parse_image_name("shell/git", "x86_64-linux"), Tag("v1"))

    def observe(self, event: LogEvent) -> None:
        if event["log_namespace"].startswith("nixery.builds.progress"):
            self.events.append(event)


class PartTests(ProgressTestCase):
    """Tests of the build of an index, which has a part for each platform."""

    def begin(self) -> Build:
        self.name = parse_image_name("multi/git", "x86_64-linux")
        build = self.tracker.begin(self.name, Tag("v1"))
        self.amd64, self.arm64 = (
            build.part(self.name.for_system(system)) for system in self.name.platforms
        )
        return build

    def test_stages_and_counts_of_all_platforms(self) -> None:
        """A stage and a count say their platform; stages are in the order of their times."""
        self.amd64.phase(Phase.EVALUATING)
        self.clock.advance(1)
        self.arm64.phase(Phase.EVALUATING)
        self.clock.advance(1)
        self.amd64.phase(Phase.PACKING)
        self.amd64.count(Phase.PACKING, 1, 3, "layers")
        self.arm64.count(Phase.PACKING, 2, 5, "layers")
        self.amd64.derivation("/nix/store/x.drv")
        view = self.build.view()
        self.assertEqual(
            [(stage.platform, stage.phase, stage.started_at) for stage in view.stages],
            [
                ("amd64", Phase.EVALUATING, BEGUN),
                ("arm64", Phase.EVALUATING, BEGUN + 1),
                ("amd64", Phase.PACKING, BEGUN + 2),
            ],
        )
        self.assertEqual(
            [(count.platform, count.done, count.expected) for count in view.counts],
            [("amd64", 1, 3), ("arm64", 2, 5)],
        )
        self.assertEqual(view.derivation, "/nix/store/x.drv")
        self.assertEqual(view.system, "x86_64-linux, aarch64-linux")
        self.assertEqual(
            view.describe_activity(), "amd64: packing, 1 of 3 layers; arm64: evaluating"
        )
        self.assertEqual(self.tracker.overview(), (view,))

    def test_it_waits_if_all_of_it_waits(self) -> None:
        """The build is queued while no platform's turn has come, and at the best place."""
        self.amd64.set_queued(4)
        self.assertIs(self.build.view().state, BuildState.RUNNING)
        self.arm64.set_queued(3)
        view = self.build.view()
        self.assertEqual((view.state, view.position), (BuildState.QUEUED, 3))
        self.amd64.finish_part()
        self.assertEqual(self.build.view().position, 3)
        self.arm64.set_running()
        self.assertIs(self.build.view().state, BuildState.RUNNING)

    def test_platform_of_another_build(self) -> None:
        """The stages of another build that makes the image of a platform are shown as its own."""
        other = self.tracker.begin(self.name.for_system("aarch64-linux"), Tag("v1"))
        other.phase(Phase.EVALUATING)
        self.clock.advance(1)
        other.phase(Phase.BUILDING)
        self.arm64.follow(other)
        self.assertEqual(self.build.view().describe_activity(), "arm64: building")
        self.assertEqual(self.arm64.pin().id, self.build.id)

    def test_end(self) -> None:
        """A build of which any part has made something is kept, and no stage goes on."""
        self.amd64.phase(Phase.BUILDING)
        self.build.succeed(DIGEST)
        self.clock.advance(5)
        [view] = self.tracker.overview()
        self.assertEqual((view.state, view.stages[0].ended_at), (BuildState.SUCCEEDED, BEGUN))

    def test_nothing_was_made(self) -> None:
        """One that has only looked up what is known is forgotten."""
        self.amd64.phase(Phase.EVALUATING)
        self.build.succeed(DIGEST)
        self.assertEqual(self.tracker.overview(), ())


class BuildTests(ProgressTestCase):
    """Tests of a build's view: its state, phases, counts and log."""

    def test_mypy_holds_it_against_the_protocol_here(self) -> None:
        """mypy holds it against the protocol here."""
        checked: Progress = self.build
        self.assertIs(checked, self.build)

    def test_phase_lasts_until_the_next_begins_and_the_last_one_until_the_end(self) -> None:
        """A phase lasts until the next begins, and the last one until the end."""
        self.build.phase(Phase.EVALUATING)
        self.clock.advance(2)
        self.build.phase(Phase.BUILDING)
        self.clock.advance(3)
        view = self.build.view()
        self.assertEqual(
            [(stage.phase, stage.started_at, stage.ended_at) for stage in view.stages],
            [
                (Phase.EVALUATING, BEGUN, BEGUN + 2),
                (Phase.BUILDING, BEGUN + 2, None),
            ],
        )
        self.assertEqual((view.started_at, view.ended_at, view.elapsed), (BEGUN, None, 5))
        self.build.succeed(DIGEST)
        self.clock.advance(100)
        view = self.build.view()
        self.assertEqual(
            (view.stages[-1].ended_at, view.ended_at, view.elapsed), (BEGUN + 5, BEGUN + 5, 5)
        )

    def test_name_is_the_clients_own_spelling(self) -> None:
        """The name is the client's own spelling."""
        view = self.build.view()
        self.assertEqual((view.image, view.tag, view.system), ("shell/git", "v1", "x86_64-linux"))

    def test_each_unit_of_a_phase_has_its_newest_count(self) -> None:
        """Each unit of a phase has its newest count."""
        self.build.phase(Phase.DOWNLOADING)
        self.build.count(Phase.DOWNLOADING, 1, 10, "paths")
        self.build.count(Phase.DOWNLOADING, 2000, 5000, "bytes")
        self.build.count(Phase.DOWNLOADING, 2, 10, "paths")
        self.assertEqual(
            [(count.unit, count.done, count.expected) for count in self.build.view().counts],
            [("paths", 2, 10), ("bytes", 2000, 5000)],
        )

    def test_derivation_is_told_while_something_is_built(self) -> None:
        """The derivation is told while something is built."""
        self.build.phase(Phase.BUILDING)
        self.build.derivation("/nix/store/x-a.drv")
        self.assertEqual(self.build.view().derivation, "/nix/store/x-a.drv")
        self.build.phase(Phase.PACKING)
        self.assertIsNone(self.build.view().derivation)

    def test_derivations_that_run_are_told_with_their_times(self) -> None:
        """Those that run are told in the order in which they began, and none that has ended."""
        self.build.phase(Phase.BUILDING)
        first, second = (f"/nix/store/{'0' * 32}-{name}-1.0.drv" for name in ("a", "b"))
        self.build.derivation(first)
        self.clock.advance(5)
        self.build.derivation(second)
        self.build.derivation_phase(first, "buildPhase")
        view = self.build.view()
        self.assertEqual(
            [(each.package, each.started_at - BEGUN, each.phase) for each in view.running],
            [("a 1.0", 0, "buildPhase"), ("b 1.0", 5, "")],
        )
        self.assertEqual(second, view.derivation)
        for _ in range(2):
            self.build.derivation_ended(second, True)
        self.build.derivation_phase(second, "fixupPhase")
        self.assertEqual(first, self.build.view().derivation)
        self.build.fail(StorageError(operation="write", reason="full"))
        self.assertEqual((), self.build.view().running)

    def test_one_derivation_is_described_by_its_package(self) -> None:
        """If one derivation is built, it is named; that none of one is done tells nothing."""
        self.build.phase(Phase.BUILDING)
        self.build.count(Phase.BUILDING, 0, 1, "builds")
        self.assertEqual("building", self.build.view().describe_activity())
        self.build.derivation(DERIVATION)
        self.assertEqual("building hello 2.12", self.build.view().describe_activity())
        part = self.build.part(self.build.name.for_system("aarch64-linux"))
        part.phase(Phase.BUILDING)
        part.derivation(DERIVATION.replace("hello", "other"))
        view = self.build.view()
        self.assertEqual(["", "arm64"], [each.platform for each in view.running])
        self.assertEqual(
            "building hello 2.12; arm64: building other 2.12", view.describe_activity()
        )

    def test_current_activity_is_described_in_a_few_words(self) -> None:
        """The current activity is described in a few words."""
        self.assertEqual(self.build.view().describe_activity(), "running")
        self.build.set_queued(2)
        self.assertEqual(self.build.view().describe_activity(), "waiting for its turn, number 2")
        self.build.set_running()
        self.build.phase(Phase.BUILDING)
        self.build.count(Phase.DOWNLOADING, 1, 2, "paths")
        self.build.count(Phase.BUILDING, 3, 14, "builds")
        self.assertEqual(self.build.view().describe_activity(), "building, 3 of 14 builds")

    def test_build_that_succeeds_has_a_digest(self) -> None:
        """A build that succeeds has a digest."""
        self.build.phase(Phase.BUILDING)
        self.build.succeed(DIGEST)
        view = self.build.view()
        self.assertEqual((view.state, view.digest), (BuildState.SUCCEEDED, DIGEST))
        self.assertTrue(view.state.is_final)

    def test_failed_build_tells_what_its_error_tells_clients(self) -> None:
        """A failed build tells what its error tells clients, and no command output."""
        self.build.phase(Phase.BUILDING)
        error = BuildFailed(derivation=DERIVATION, log=("a", "b"), output=OUTPUT)
        self.build.fail(error)
        view = self.build.view()
        self.assertEqual(view.state, BuildState.FAILED)
        self.assertEqual(
            view.failure,
            BuildFailure(
                message=error.message,
                title="hello 2.12 failed to build",
                derivation=DERIVATION,
                log=("a", "b"),
                advice=ADVICE[BuildFailed],
            ),
        )
        self.assertNotIn("secret", str(view))

    def test_message_of_an_unforeseen_error_is_not_told_to_clients(self) -> None:
        """The message of an unforeseen error is not told to clients."""
        self.build.fail(RuntimeError("/home/secret"))
        view = self.build.view()
        self.assertEqual(view.state, BuildState.FAILED)
        self.assertNotIn("secret", str(view))

    def test_other_errors_tell_their_message(self) -> None:
        """Other errors tell their message."""
        self.build.fail(StorageError(operation="write", reason="full"))
        problem = self.build.view().failure
        assert problem is not None
        self.assertEqual(problem.message, "storage failed to write: full")

    def test_build_that_is_stopped_has_not_failed(self) -> None:
        """A build that is stopped has not failed."""
        for error in (CancelledError(), ShuttingDown()):
            build = self.begin()
            build.fail(error)
            self.assertEqual(build.view().state, BuildState.CANCELLED)
            self.assertIsNone(build.view().failure)

    def test_however_often_it_begins_anew_a_build_has_a_bounded_history(self) -> None:
        """However often it begins anew, a build has a bounded history."""
        for _ in range(100):
            self.build.phase(Phase.EVALUATING)
            self.build.phase(Phase.BUILDING)
        self.assertEqual(len(self.build.view().stages), MAX_STAGES)


class LogTests(ProgressTestCase):
    """Lines, kept and in the daemon's log."""

    def test_parts_of_the_log_are_found_by_the_numbers_of_lines(self) -> None:
        """Parts of the log are found by the numbers of lines."""
        for number in range(10):
            self.build.log(f"line {number}")
        part = self.build.output.tail(3, 2)
        self.assertEqual((part.first, part.lines, part.after), (3, ("line 3", "line 4"), 5))
        self.assertEqual(self.build.output.tail(10, 5).lines, ())
        self.assertEqual(self.build.output.tail(10, 5).after, 10)
        self.assertEqual(self.build.view().log_lines, 10)

    @given(st.lists(st.integers(0, 300), max_size=60), st.integers(0, 70), st.integers(1, 70))
    @settings(max_examples=100)
    def test_newest_lines_are_kept_within_both_bounds_under_their_numbers(
        self, lengths: list[int], after: int, limit: int
    ) -> None:
        """The newest lines are kept, within both bounds, under their numbers."""
        self.patch(build_output, "MAX_LOG_LINES", 20)
        self.patch(build_output, "MAX_LOG_CHARACTERS", 1000)
        lines = [f"{number} {'x' * length}" for number, length in enumerate(lengths)]
        build = self.begin()
        for line in lines:
            build.log(line)
        kept = build.output.tail(0, 1000)
        self.assertEqual(list(kept.lines), lines[kept.first :])
        self.assertEqual(kept.after, len(lines))
        self.assertLessEqual(len(kept.lines), 20)
        self.assertLessEqual(sum(len(line) + 1 for line in kept.lines), 1000)
        if kept.first:
            more = lines[kept.first - 1 :]
            self.assertTrue(len(more) > 20 or sum(len(line) + 1 for line in more) > 1000)
        part = build.output.tail(after, limit)
        self.assertEqual(part.first, max(after, kept.first) if lines else after)
        self.assertEqual(list(part.lines), lines[part.first : part.first + limit])

    def test_twenty_thousand_lines_take_bounded_memory(self) -> None:
        """Twenty thousand lines take bounded memory, and no timer or event each."""
        told: list[None] = []
        self.build.phase(Phase.BUILDING)
        self.tracker.watch(lambda: told.append(None), self.build.id)
        tracemalloc.start()
        try:
            for number in range(20_000):
                self.build.log(f"{number} " + "x" * 500)
            used, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        self.assertLess(used, 2 * build_output.MAX_LOG_CHARACTERS)
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.clock.advance(0)
        self.assertEqual(len(told), 1)

    def test_what_is_logged(self) -> None:
        """The daemon's log has a line for each phase, and none for counts or lines."""
        for _ in range(2):
            for phase in (Phase.EVALUATING, Phase.BUILDING, Phase.PACKING):
                self.build.phase(phase)
                self.build.derivation("/nix/store/x.drv")
                self.build.count(phase, 1, 2, "layers")
                self.build.log("a line")
        self.assertEqual(
            [formatEvent(event) for event in self.events],
            ["shell/git: evaluating", "shell/git: building", "shell/git: packing"],
        )
