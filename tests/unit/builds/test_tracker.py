"""Tests for :mod:`nixery.builds.tracker`."""

from __future__ import annotations

from contextlib import ExitStack

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from nixery.builds import tracker
from nixery.builds.errors import CachedFailure
from nixery.builds.progress import Build
from nixery.builds.tracker import BuildTracker
from nixery.builds.views import BuildState, RemovedBuild
from nixery.errors import StorageError
from nixery.image.errors import PackagesRefused
from nixery.image.names import Digest, ImageName, Tag, parse_image_name
from nixery.limits.errors import WorkAbandoned
from nixery.nix.progress import Phase
from nixery.testing.fakes import FakeWallClock

DIGEST = Digest("sha256:" + "0" * 64)
LATEST = Tag("latest")
FAILURE = StorageError(operation="write", reason="full")


def named(repository: str) -> ImageName:
    return parse_image_name(repository, "x86_64-linux")


class TrackerTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.numbers = iter(range(1000))
        self.tracker = BuildTracker(
            clock=self.clock,
            wall_clock=FakeWallClock(self.clock),
            max_ended=3,
            new_id=lambda: f"id{next(self.numbers)}",
        )

    def begin(self, repository: str, *phases: Phase) -> Build:
        build = self.tracker.begin(named(repository), LATEST)
        for phase in phases or (Phase.BUILDING,):
            build.phase(phase)
        return build

    def listed(self) -> list[str]:
        return [build.image for build in self.tracker.overview()]


class BuildTrackerTests(TrackerTestCase):
    """Tests of the builds that are kept, and of the notifications about them."""

    def test_running_builds_come_first_and_the_youngest(self) -> None:
        """Those that run come first, then those that ended; the youngest first."""
        first, second, *_ = [self.begin(name) for name in "abcd"]
        second.succeed(DIGEST)
        first.fail(FAILURE)
        self.assertEqual(self.listed(), ["d", "c", "a", "b"])
        states = [build.state.value for build in self.tracker.overview()]
        self.assertEqual(states, ["running", "running", "failed", "succeeded"])

    def test_only_so_many_that_have_ended_are_kept(self) -> None:
        """Only so many that have ended are kept; what runs always is."""
        running = [self.begin(f"running{number}") for number in range(10)]
        for number in range(10):
            self.begin(f"ended{number}").succeed(DIGEST)
        self.assertEqual(self.listed()[-3:], ["ended9", "ended8", "ended7"])
        self.assertEqual(len(self.listed()), 13)
        self.assertIsNone(self.tracker.find("id10"))
        for build in running:
            build.succeed(DIGEST)
        self.assertEqual(len(self.listed()), 3)

    def test_trackers_default_ids_cannot_be_guessed(self) -> None:
        """The tracker's default ids cannot be guessed."""
        book = BuildTracker(clock=self.clock, wall_clock=FakeWallClock(self.clock))
        ids = {book.begin(named("a"), LATEST).id for _ in range(100)}
        self.assertEqual(len(ids), 100)
        for each in ids:
            self.assertRegex(each, "^[0-9a-f]{16}$")

    def test_before_the_first_phase(self) -> None:
        """A build that is answered from memory is never listed or notified."""
        told: list[None] = []
        self.tracker.watch(lambda: told.append(None))
        build = self.tracker.begin(named("a"), LATEST)
        self.assertEqual(self.listed(), [])
        build.succeed(DIGEST)
        self.clock.advance(10)
        self.assertEqual((self.listed(), told), ([], []))
        self.assertEqual(self.tracker.changes(1).version, 1)

    def test_image_that_turns_out_to_be_known_is_seen_while_it_is_looked_up_only(self) -> None:
        """An image that turns out to be known is seen while it is looked up only."""
        build = self.begin("a", Phase.EVALUATING)
        self.assertEqual(self.listed(), ["a"])
        build.succeed(DIGEST)
        self.assertEqual(self.listed(), [])
        self.assertIsNone(self.tracker.find(build.id))

    def test_build_that_fails_at_once_is_not_kept(self) -> None:
        """A build whose packages do not exist, or that failed a moment ago, is not kept."""
        for error in (
            PackagesRefused(problems=()),
            CachedFailure(original=FAILURE, retry_after=1),
        ):
            self.begin("a", Phase.EVALUATING).fail(error)
        self.assertEqual(self.listed(), [])

    def test_build_that_a_client_was_told_to_watch_is_kept_however_it_ends(self) -> None:
        """A build that a client was told to watch is kept however it ends."""
        build = self.begin("a", Phase.EVALUATING)
        view = self.tracker.pin(named("a"), LATEST)
        assert view is not None
        self.assertEqual(view.id, build.id)
        build.fail(PackagesRefused(problems=()))
        self.assertEqual(self.listed(), ["a"])
        self.assertIsNone(self.tracker.pin(named("a"), LATEST))

    def test_announced_by_another_spelling(self) -> None:
        """Names that ask for the same find the same build; other tags do not."""
        self.begin("git/htop")
        self.assertIsNotNone(self.tracker.pin(named("htop/git/htop"), LATEST))
        self.assertIsNone(self.tracker.pin(named("git/htop"), Tag("v1")))
        self.assertIsNone(self.tracker.pin(named("git"), LATEST))

    def test_request_that_follows_another_build_is_told_to_watch_that_build(self) -> None:
        """A request that follows another build is told to watch that build."""
        maker, follower = self.begin("git"), self.begin("git-minimal", Phase.EVALUATING)
        follower.follow(maker)
        view = self.tracker.pin(named("git-minimal"), LATEST)
        assert view is not None
        self.assertEqual(view.id, maker.id)
        found = self.tracker.find(follower.id)
        assert found is not None
        self.assertEqual((maker.id, None), (found.id, found.follows))

    def test_build_that_follows_another_is_shown_as_that_one(self) -> None:
        """There is one row with both names; the page of the other leads to it, also later."""
        maker, follower = self.begin("git"), self.begin("git-minimal", Phase.EVALUATING)
        told: list[None] = []
        self.tracker.watch(lambda: told.append(None), follower.id)
        version = self.tracker.changes(0).version
        follower.follow(maker)
        changes = self.tracker.changes(version)
        self.assertEqual((RemovedBuild(id=follower.id, images=("git-minimal",)),), changes.removed)
        [view] = changes.builds
        self.assertEqual(["git:latest", "git-minimal:latest"], [*map(str, view.labels)])
        maker.log("a line")
        self.assertEqual(("a line",), self.tracker.log(follower.id, 0, 9).lines)
        self.clock.advance(1)
        self.clock.advance(1)
        self.assertGreater(len(told), 0)
        maker.succeed(DIGEST)
        follower.succeed(DIGEST)
        self.assertEqual(["git"], self.listed())
        found = self.tracker.find(follower.id)
        assert found is not None
        self.assertEqual(maker.id, found.id)

    def test_one_that_turns_out_to_make_the_image_is_shown(self) -> None:
        """A build that was to follow, and makes the image itself, is a row again."""
        first = self.tracker.begin(named("git"), LATEST, "key")
        second = self.tracker.begin(named("git"), Tag("v1"), "key")
        for build in (first, second):
            build.phase(Phase.EVALUATING)
        self.assertEqual(1, len(self.tracker.overview()))
        second.lead()
        self.assertEqual(2, len(self.tracker.overview()))
        first.follow(second)
        [view] = self.tracker.overview()
        self.assertEqual(second.id, view.id)
        self.assertEqual(["git:v1", "git:latest"], [*map(str, view.labels)])
        for each in (first.id, second.id):
            found = self.tracker.find(each)
            assert found is not None
            self.assertEqual(second.id, found.id)

    def test_one_that_outlives_the_build_that_it_followed_is_shown(self) -> None:
        """A build that goes on after the one that it waited for is a row of its own."""
        first = self.tracker.begin(named("git"), LATEST, "key")
        second = self.tracker.begin(named("git"), Tag("v1"), "key")
        first.phase(Phase.BUILDING)
        first.succeed(DIGEST)
        second.phase(Phase.BUILDING)
        self.assertEqual(
            ["git:v1", "git:latest"], [str(view.labels[0]) for view in self.tracker.overview()]
        )

    def test_failure_of_its_own_is_shown(self) -> None:
        """A build that fails while the one that it waits for goes on is a row of its own."""
        first = self.tracker.begin(named("git"), LATEST, "key")
        second = self.tracker.begin(named("git"), Tag("v1"), "key")
        first.phase(Phase.BUILDING)
        second.fail(FAILURE)
        self.assertEqual(
            ["running", "failed"], [view.state.value for view in self.tracker.overview()]
        )

    def test_clients_that_wait_are_counted_for_all_names_of_a_build(self) -> None:
        """Clients that wait for any name of a build count, and none when it has ended."""
        with ExitStack() as requests:
            for repository, tag in (("git", "latest"), ("git", "v1"), ("htop", "latest")):
                requests.enter_context(self.tracker.clients.waiting(named(repository), Tag(tag)))
            first = self.tracker.begin(named("git"), LATEST, "key")
            first.phase(Phase.BUILDING)
            self.tracker.begin(named("git"), Tag("v1"), "key")
            version = self.tracker.changes(0).version
            with self.tracker.clients.waiting(named("git"), LATEST):
                [view] = self.tracker.changes(version).builds
                self.assertEqual(3, view.clients)
            [view] = self.tracker.overview()
            self.assertEqual(2, view.clients)
            first.succeed(DIGEST)
            [view] = self.tracker.overview()
            self.assertEqual(0, view.clients)

    def test_spellings_of_waiting_clients_are_shown(self) -> None:
        """A client that writes the packages in another order is shown with the build."""
        with self.tracker.clients.waiting(named("htop/git"), LATEST):
            self.begin("git/htop")
            with self.tracker.clients.waiting(named("git/htop/git"), LATEST):
                [view] = self.tracker.overview()
        self.assertEqual(
            ["git/htop:latest", "htop/git:latest", "git/htop/git:latest"],
            [*map(str, view.labels)],
        )

    def test_attempts_that_fail_alike_are_one_row(self) -> None:
        """The last attempt replaces those before; another failure is another row."""
        for _ in range(3):
            self.begin("a").fail(FAILURE)
        [view] = self.tracker.overview()
        self.assertEqual(3, view.attempts)
        self.begin("a").fail(StorageError(operation="write", reason="gone"))
        self.begin("b").fail(FAILURE)
        self.assertEqual(["b", "a", "a"], self.listed())

    def test_retry_before_its_time_is_no_row_while_it_is_looked_up(self) -> None:
        """A retry that is answered from memory is not listed while it is evaluated."""
        self.begin("a").fail(FAILURE, 60)
        told: list[None] = []
        self.tracker.watch(lambda: told.append(None))
        early = self.begin("a", Phase.EVALUATING)
        early.set_queued(1)
        self.assertEqual(["a"], self.listed())
        early.fail(CachedFailure(original=FAILURE, retry_after=1.0))
        self.clock.advance(1)
        self.assertEqual(([], 1), (told, len(self.tracker.overview())))
        # It may be built after all, or be waited for so long that a client was told of it.
        self.begin("a", Phase.EVALUATING, Phase.BUILDING)
        self.assertEqual(["a", "a"], self.listed())
        self.begin("b").fail(FAILURE, 60)
        self.begin("b", Phase.EVALUATING)
        self.tracker.pin(named("b"), LATEST)
        self.assertEqual(2, self.listed().count("b"))
        self.clock.advance(60)
        self.begin("b", Phase.EVALUATING)
        self.assertEqual(3, self.listed().count("b"))

    def test_build_that_was_cancelled_is_shown_as_the_next_one(self) -> None:
        """A client that comes back after its build was dropped finds the build that goes on."""
        dropped = self.begin("a", Phase.EVALUATING)
        self.tracker.pin(named("a"), LATEST)
        dropped.fail(WorkAbandoned())
        self.assertEqual(["a"], self.listed())
        build = self.tracker.begin(named("a"), LATEST)
        [view] = self.tracker.overview()
        found = self.tracker.find(dropped.id)
        assert found is not None
        self.assertEqual((build.id, build.id), (view.id, found.id))
        build.succeed(DIGEST)
        self.assertEqual(["a"], self.listed())

    def test_retry_that_was_not_tried_is_shown_as_the_failure_before(self) -> None:
        """A client that was told to watch a retry finds the attempt that failed."""
        failed = self.begin("a")
        failed.fail(FAILURE)
        retry = self.begin("a", Phase.EVALUATING)
        self.tracker.pin(named("a"), LATEST)
        retry.fail(CachedFailure(original=FAILURE, retry_after=1.0))
        [view] = self.tracker.overview()
        self.assertEqual((failed.id, 1), (view.id, view.attempts))
        found = self.tracker.find(retry.id)
        assert found is not None
        self.assertEqual(failed.id, found.id)

    def test_failure_new_or_remembered_is_found_again(self) -> None:
        """A failure, new or remembered, is found again; another one of the image is not."""
        build = self.begin("a")
        build.fail(FAILURE)
        remembered = CachedFailure(original=FAILURE, retry_after=1.0)
        for error in (FAILURE, remembered):
            view = self.tracker.find_failed(named("a"), LATEST, error)
            assert view is not None
            self.assertEqual(view.id, build.id)
        other = StorageError(operation="write", reason="gone")
        self.assertIsNone(self.tracker.find_failed(named("a"), LATEST, other))
        self.assertIsNone(self.tracker.find_failed(named("b"), LATEST, FAILURE))

    def test_logs_of_builds_that_have_ended_take_bounded_memory(self) -> None:
        """The logs of builds that have ended take bounded memory: the oldest go first."""
        self.patch(tracker, "MAX_ENDED_LOG_CHARACTERS", 250)
        builds = [self.begin(name) for name in "abc"]
        for build in builds:
            build.log("x" * 99)
            build.succeed(DIGEST)
        self.assertEqual([build.output.memory_size for build in builds], [0, 100, 100])
        self.assertEqual(self.tracker.log(builds[0].id, 0, 10).first, 1)
        self.assertEqual(self.tracker.log(builds[1].id, 0, 10).lines, ("x" * 99,))
        # The sum follows builds that the tracker drops.
        for name in "def":
            self.begin(name).succeed(DIGEST)
        builds = [self.begin(name) for name in "gh"]
        for build in builds:
            build.log("x" * 99)
            build.succeed(DIGEST)
        self.assertEqual([build.output.memory_size for build in builds], [100, 100])

    def test_id_that_is_none_has_no_build_no_log_and_no_changes(self) -> None:
        """An id that is none has no build, no log and no changes."""
        self.assertIsNone(self.tracker.find("x"))
        self.assertEqual(self.tracker.log("x", 5, 5).lines, ())
        self.tracker.watch(self.fail, "x")()


class ChangesTests(TrackerTestCase):
    """Tests of the changes since a given version."""

    def test_from_nothing_everything_is_new(self) -> None:
        """After version 0 all builds are returned."""
        self.begin("a")
        changes = self.tracker.changes(0)
        self.assertEqual([build.image for build in changes.builds], ["a"])
        self.assertIsNone(changes.removed)

    def test_only_what_has_changed(self) -> None:
        """After a later version only changed builds are returned, each once."""
        first, _ = self.begin("a"), self.begin("b")
        version = self.tracker.changes(0).version
        first.count(Phase.BUILDING, 1, 2, "builds")
        changes = self.tracker.changes(version)
        self.assertEqual([build.image for build in changes.builds], ["a"])
        self.assertEqual(changes.removed, ())
        self.assertEqual(self.tracker.changes(changes.version).builds, ())

    def test_removed_build_is_told_by_its_id(self) -> None:
        """A removed build is told by its id."""
        build = self.begin("a", Phase.EVALUATING)
        version = self.tracker.changes(0).version
        build.succeed(DIGEST)
        self.assertEqual(
            self.tracker.changes(version).removed,
            (RemovedBuild(id=build.id, images=("a",)),),
        )

    def test_reader_whose_version_is_too_old_gets_everything(self) -> None:
        """A reader whose version is too old gets everything."""
        self.begin("a")
        version = self.tracker.changes(0).version
        for _ in range(tracker.MAX_REMOVED_IDS + 1):
            self.tracker.new_id = lambda: "x"
            self.begin("b", Phase.EVALUATING).succeed(DIGEST)
        self.assertIsNone(self.tracker.changes(version).removed)

    def test_from_the_future(self) -> None:
        """A reader whose version is newer than any gets everything."""
        self.begin("a")
        self.assertIsNone(self.tracker.changes(10**9).removed)

    def test_changes_of_all_builds_are_told_at_a_bearable_rate_and_logs_are_not(self) -> None:
        """Changes of all builds are told at a bearable rate, and logs are not."""
        told: list[float] = []
        leave = self.tracker.watch(lambda: told.append(self.clock.seconds()))
        build = self.begin("a")
        self.clock.advance(0)
        for _ in range(100):
            build.log("line")
        self.clock.pump([0.125] * 8)
        self.assertEqual(told, [1000])
        for number in range(1000):
            build.count(Phase.BUILDING, number, 1000, "builds")
        self.clock.pump([0.125] * 8)
        self.assertEqual(told, [1000, 1001.125])
        leave()
        build.succeed(DIGEST)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_watcher_of_one_build_is_told_of_its_log_and_its_end_and_of_no_other(self) -> None:
        """A watcher of one build is told of its log and its end, and of no other."""
        told: list[float] = []
        build, other = self.begin("a"), self.begin("b")
        self.tracker.watch(lambda: told.append(self.clock.seconds()), build.id)
        other.log("line")
        other.succeed(DIGEST)
        self.clock.advance(1)
        self.assertEqual(told, [])
        build.log("line")
        self.clock.advance(1)
        self.assertEqual(told, [1002])
        build.succeed(DIGEST)
        self.clock.advance(1)
        self.assertEqual(told, [1002, 1003])

    def test_watching_what_is_forgotten(self) -> None:
        """Even the end of a build that is not kept is told."""
        told: list[None] = []
        build = self.begin("a", Phase.EVALUATING)
        self.tracker.watch(lambda: told.append(None), build.id)
        build.succeed(DIGEST)
        self.clock.advance(1)
        self.assertEqual(told, [None])

    def test_build_that_was_queued_is_told_as_such_with_its_place(self) -> None:
        """A build that was queued is told as such, with its place."""
        build = self.begin("a", Phase.EVALUATING)
        build.set_queued(3)
        [view] = self.tracker.overview()
        self.assertEqual((view.state, view.position), (BuildState.QUEUED, 3))
        build.set_running()
        [view] = self.tracker.overview()
        self.assertEqual((view.state, view.position), (BuildState.RUNNING, None))
