"""Tests for :mod:`nixery.builds.builder`: images over verified fakes."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import LogLevel, capturedLogs

from nixery.builds.demand import ASKED_SECONDS
from nixery.builds.errors import CachedFailure, ImageTimedOut
from nixery.builds.pipeline import DEADLINE_MARGIN_SECONDS
from nixery.builds.settings import BuildLimits
from nixery.errors import ShuttingDown, StorageError
from nixery.image.errors import PackagesRefused
from nixery.image.manifests import parse_manifest
from nixery.image.names import Digest, Tag, escape_attribute, parse_image_name
from nixery.layers.grouping import Popularity
from nixery.limits.build_quota import BuildQuota
from nixery.limits.errors import BuildsExceeded, QueueFull
from nixery.limits.fair_queue import SWEEP_SECONDS
from nixery.nix.errors import BuildFailed
from nixery.sources.errors import UnknownRevision
from nixery.storage.errors import BlobUnknown
from nixery.testing.fakes import FakeNix
from tests.support.builds import FAILURE, LATEST, BuilderCase


class BuilderTests(BuilderCase):
    """From a name to an image."""

    def test_new_popularity_data(self) -> None:
        """Data that arrive while the daemon runs shape what is asked for from then on."""
        current = Popularity()
        waiting: list[Deferred[Popularity]] = [Deferred()]

        async def popularity() -> Popularity:
            return await waiting[0] if waiting else current

        self.builder.popularity = popularity
        first = self.request("hello")
        self.assertEqual([], self.nix.evaluations)
        waiting.pop().callback(current)
        known = self.successResultOf(first)
        self.assertEqual(known, self.build("hello"))
        begun = self.storage.created
        current = Popularity(transitive={"glibc": 9, "hello": 9}, setsize=9)
        changed = self.build("hello")
        # The same layers otherwise grouped: what is grouped as before is not packed again.
        self.assertNotEqual(known.manifests[0].digest, changed.manifests[0].digest)
        self.assertLess(self.storage.created - begun, begun)
        self.assertEqual(changed, self.build("hello"))
        current = Popularity()
        self.assertEqual(known, self.build("hello"))

    def test_the_order_of_names_does_not_matter(self) -> None:
        """Names that ask for the same get the same image."""
        self.assertEqual(self.build("git/hello"), self.build("hello/git/hello"))
        self.assertEqual(len(self.nix.realisations), 1)

    def test_a_known_image_is_not_built(self) -> None:
        """The second pull evaluates, because a path may have changed, and no more."""
        first = self.build("hello")
        begun = self.storage.created
        self.assertEqual(self.build("hello"), first)
        self.assertEqual(len(self.nix.realisations), 1)
        self.assertEqual(len(self.nix.evaluations), 2)
        self.assertEqual(self.storage.created, begun)

    def test_another_process_knows_it_too(self) -> None:
        """An image stored by one daemon is found by the next."""
        first = self.build("hello")
        self.restart()
        self.assertEqual(self.build("hello"), first)
        self.assertEqual(len(self.nix.realisations), 1)

    def test_a_blob_that_is_gone_is_made_again(self) -> None:
        """A manifest never names a blob that was removed."""
        image = self.build("hello")
        _, layer, *_ = parse_manifest(image.manifests[0].body)
        self.storage.lose(layer.digest)
        self.clock.advance(10)
        again = self.build("hello")
        self.assertEqual(again, image)
        self.assertEqual(self.now(self.storage.missing(image.digests)), frozenset())

    def test_one_build_for_all_who_ask(self) -> None:
        """Twenty pulls of a cold image are one build, and a client may leave."""
        gate: Deferred[None] = Deferred()
        self.nix.before_realise = lambda: gate
        waiting = [self.request("hello") for _ in range(20)]
        waiting[0].cancel()
        self.failureResultOf(waiting[0], CancelledError)
        gate.callback(None)
        images = {self.successResultOf(each).manifests[0].digest for each in waiting[1:]}
        self.assertEqual(len(images), 1)
        self.assertEqual(len(self.nix.realisations), 1)

    def test_a_layer_of_two_images_is_packed_once(self) -> None:
        """Two images that are built at once pack what they share once."""
        gates: list[Deferred[None]] = []

        def gate() -> Deferred[None]:
            gates.append(Deferred())
            return gates[-1]

        self.nix.before_realise = gate
        both = self.request("hello"), self.request("bash")
        for each in gates:
            each.callback(None)
        for asked in both:
            self.successResultOf(asked)
        # glibc and the certificates once, hello, bash, and two roots.
        self.assertEqual(self.storage.created, 6)

    def test_all_missing_packages_are_named_and_nothing_is_built(self) -> None:
        """All packages that do not exist are named, and nothing is built."""
        refused = self.failureResultOf(self.request("hello/nope/neither"), PackagesRefused).value
        self.assertEqual([problem.name for problem in refused.problems], ["neither", "nope"])
        self.assertEqual(self.nix.realisations, [])

    def test_path_has_one_revision(self) -> None:
        """A path has one revision; other tags never reach Nix."""
        self.failureResultOf(self.request("hello", Tag("v1")), UnknownRevision)
        self.assertEqual(self.nix.evaluations, [])

    def test_failures_are_remembered_for_a_while(self) -> None:
        """A build that failed is not tried again for a minute, and then it is."""
        self.failureResultOf(self.request("broken"), BuildFailed)
        self.clock.advance(59)
        remembered = self.failureResultOf(self.request("broken"), CachedFailure).value
        self.assertEqual(remembered.original, FAILURE)
        self.assertEqual(remembered.retry_after, 1)
        self.assertEqual(len(self.nix.realisations), 1)
        self.clock.advance(1)
        self.failureResultOf(self.request("broken"), BuildFailed)
        self.assertEqual(len(self.nix.realisations), 2)

    def test_storage_failures_are_not_remembered(self) -> None:
        """A build that failed on the storage is tried again at once."""
        self.storage.failing = True
        self.failureResultOf(self.request("hello"), StorageError)
        self.storage.failing = False
        self.build("hello")

    # -- builds that take long ----------------------------------------------------

    def gates(self) -> list[Deferred[None]]:
        """Hold builds back, with a Deferred to release each that has begun."""
        gates: list[Deferred[None]] = []

        def gate() -> Deferred[None]:
            gates.append(Deferred())
            return gates[-1]

        self.nix.before_realise = gate
        return gates

    def limited(self, **fields: Any) -> list[Deferred[None]]:
        """Make a builder with limits; return the Deferreds that release its builds."""
        self.limits = BuildLimits(**fields)
        self.restart()
        return self.gates()

    def states(self) -> dict[str, str]:
        return {build.image: build.state.value for build in self.tracker.overview()}

    def test_builds_beyond_the_limit_wait_and_beyond_the_queue_are_refused(self) -> None:
        """As many images are made at once as may; others wait, and one too many is refused."""
        gates = self.limited(max_builds=1, max_queued=1)
        first, second = self.request("hello"), self.request("git")
        self.assertEqual(len(gates), 1)
        self.assertEqual(self.states(), {"hello": "running", "git": "queued"})
        self.failureResultOf(self.request("bash"), QueueFull)
        # The refusal is not remembered.
        gates[0].callback(None)
        self.successResultOf(first)
        self.assertEqual(self.states(), {"hello": "succeeded", "git": "running"})
        third = self.request("bash")
        for gate in gates[1:]:
            gate.callback(None)
        gates[-1].callback(None)
        self.successResultOf(second)
        self.successResultOf(third)

    def test_flood_of_one_client_delays_another_by_one_build(self) -> None:
        """The client that came last has the next turn, and not the one after the whole flood."""
        gates = self.limited(max_builds=1)
        for name in ("hello", "git", "bash", "git/hello", "bash/hello"):
            self.by("flooding", name)
        honest = self.by("honest", "bash/git")
        gates[0].callback(None)
        self.assertEqual(self.states()["bash/git"], "running")
        gates[1].callback(None)
        self.successResultOf(honest)

    def test_image_that_another_client_has_queued_is_not_held_back_with_its_flood(self) -> None:
        """A client that joins a build that waits brings it forward to its own turn."""
        gates = self.limited(max_builds=1)
        for name in ("hello", "git", "bash", "git/hello", "bash/hello"):
            self.by("flooding", name)
        honest = self.by("honest", "bash/hello")
        gates[0].callback(None)
        gates[1].callback(None)
        self.successResultOf(honest)

    def test_client_that_has_left_gives_up_its_places(self) -> None:
        """A build that waits while nobody asks for a minute is dropped; one that runs goes on."""
        gates = self.limited(max_builds=1, max_queued=2)
        self.builder.build_quota.max_concurrent = 3
        running, *waiting = [self.by("left", name) for name in ("hello", "git", "bash")]
        for request in (running, *waiting):
            request.cancel()
        other = self.by("other", "bash/hello")
        self.assertNoResult(other)
        self.clock.advance(ASKED_SECONDS)
        self.clock.advance(SWEEP_SECONDS)
        self.assertEqual(self.states()["hello"], "running")
        self.assertEqual({"git", "bash"} & self.states().keys(), set())
        self.assertEqual(self.builder.queues["build"].waiting, 1)
        # Its quota is free again.
        self.assertNoResult(self.by("left", "git"))
        gates[0].callback(None)
        gates[1].callback(None)
        self.successResultOf(other)
        self.build("hello")

    def test_joining_is_free(self) -> None:
        """A request for an image that is being made, or queued, takes no place in the queue."""
        gates = self.limited(max_builds=1, max_queued=1)
        waiting = [self.request(name) for name in ("hello", "git", "hello", "git", "git/git")]
        for gate in range(2):
            gates[gate].callback(None)
        for each in waiting:
            self.successResultOf(each)

    def test_an_image_is_made_whoever_waits(self) -> None:
        """A client that leaves during the evaluation gets its image built all the same."""
        evaluated: Deferred[None] = Deferred()
        evaluate = FakeNix.evaluate

        async def slowly(*arguments: Any) -> Any:
            await evaluated
            return await evaluate(*arguments)

        self.patch(FakeNix, "evaluate", slowly)
        asked = self.request("hello")
        asked.cancel()
        self.failureResultOf(asked, CancelledError)
        evaluated.callback(None)
        self.assertEqual(len(self.nix.realisations), 1)
        self.build("hello")
        self.assertEqual(len(self.nix.realisations), 1)

    def test_tracker_tells_the_phases_of_a_build_and_its_outcome(self) -> None:
        """The tracker tells the phases of a build, and its outcome."""
        image = self.build("hello")
        [build] = self.tracker.overview()
        self.assertEqual(
            [stage.phase.value for stage in build.stages],
            ["evaluating", "building", "packing", "storing"],
        )
        self.assertEqual((build.state.value, build.image), ("succeeded", "hello"))
        self.assertEqual(build.digest, image.manifests[0].digest)
        [count] = build.counts
        self.assertEqual((count.done, count.unit), (count.expected, "layers"))
        # Pulls of what is known are no builds.
        self.build("hello")
        self.assertEqual(len(self.tracker.overview()), 1)

    def test_failed_build_stays_in_the_tracker_and_is_there_once(self) -> None:
        """A failed build stays in the tracker, and is there once."""
        for _ in range(3):
            self.request("broken").addErrback(lambda _: None)
        [build] = self.tracker.overview()
        assert build.failure is not None
        self.assertEqual(build.failure.derivation, FAILURE.derivation)

    def test_one_image_by_two_names(self) -> None:
        """A request for an image that is being made under another name is shown with that build."""
        gates = self.gates()
        first = self.request("hello")
        escaped = self.request(escape_attribute("hello"))
        [build] = self.tracker.overview()
        self.assertEqual((build.image, build.follows), ("hello", None))
        self.assertEqual([f"{escape_attribute('hello')}:latest"], [*map(str, build.also)])
        gates[0].callback(None)
        self.assertEqual(self.successResultOf(first), self.successResultOf(escaped))
        self.assertEqual(self.states(), {"hello": "succeeded"})

    def test_one_revision_by_two_tags(self) -> None:
        """Two tags of one revision, and names in another order, are one build."""
        gates = self.gates()
        self.sources.revisions["v1"] = self.sources.revisions["latest"]
        requests = [
            self.request("git/hello"),
            self.request("hello/git"),
            self.request("git/hello", Tag("v1")),
        ]
        [build] = self.tracker.overview()
        self.assertEqual({"hello/git:latest", "git/hello:v1"}, {*map(str, build.also)})
        self.assertEqual("building", build.describe_activity())
        gates[0].callback(None)
        for request in requests:
            self.successResultOf(request)
        [build] = self.tracker.overview()
        self.assertEqual(("succeeded", 1), (build.state.value, build.attempts))

    def test_failure_of_one_revision_by_two_tags_is_one_row(self) -> None:
        """A build that fails is one row for all of its tags, and stays one when it is retried."""
        gates = self.gates()
        self.sources.revisions["v1"] = self.sources.revisions["latest"]
        for tag in ("latest", "v1"):
            self.request("broken", Tag(tag)).addErrback(lambda _: None)
        gates[0].callback(None)
        [build] = self.tracker.overview()
        self.assertEqual(("failed", 1), (build.state.value, build.attempts))
        self.assertEqual(["broken:v1"], [*map(str, build.also)])
        assert build.failure is not None
        assert build.failure.retry_at is not None
        self.assertEqual(60, build.failure.retry_at - build.started_at)
        # Answered from memory: no attempt.
        self.request("broken").addErrback(lambda _: None)
        self.assertEqual((build,), self.tracker.overview())
        # Tried once more, under the other tag.
        self.clock.advance(61)
        self.request("broken", Tag("v1")).addErrback(lambda _: None)
        gates[1].callback(None)
        [again] = self.tracker.overview()
        self.assertNotEqual(build.id, again.id)
        self.assertEqual(("broken:v1", 2), (str(again.labels[0]), again.attempts))
        self.assertIn("broken:latest", map(str, again.also))
        # The page that clients were told of shows the last attempt.
        found = self.tracker.find(build.id)
        assert found is not None
        self.assertEqual(again.id, found.id)
        name = parse_image_name("broken", "x86_64-linux")
        view = self.tracker.find_failed(name, LATEST, FAILURE)
        assert view is not None
        self.assertEqual(again.id, view.id)

    def test_client_above_its_quota_makes_no_rows(self) -> None:
        """A client that has had its builds for the hour, and retries, makes no rows."""
        self.builder.build_quota = BuildQuota(max_per_hour=1, seconds=self.clock.seconds)
        self.successResultOf(self.by("greedy", "hello"))
        for _ in range(3):
            self.failureResultOf(self.by("greedy", "git"), BuildsExceeded)
        self.assertEqual({"hello": "succeeded"}, self.states())

    def test_each_kind_of_failure_says_when_it_is_tried_again(self) -> None:
        """A cached failure is tried again after its time, and any other by the next pull."""
        cached = CachedFailure(original=FAILURE, retry_after=7)
        for error, seconds in (
            (FAILURE, 60),
            (cached, 7),
            (QueueFull(waiting=1, retry_after=3), 0),
        ):
            self.assertEqual(seconds, self.builder.retry_delay(error))

    def test_image_that_takes_too_long_as_a_whole_is_given_up(self) -> None:
        """An image that takes too long as a whole is given up, and that is remembered."""
        self.limited(max_builds=1, deadline=60)
        waiting = self.request("hello")
        self.clock.advance(60 + DEADLINE_MARGIN_SECONDS)
        error = self.failureResultOf(waiting, ImageTimedOut).value
        self.assertEqual((error.seconds, error.setting), (60, "build_deadline"))
        self.failureResultOf(self.request("hello"), CachedFailure)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_waiting_is_not_building(self) -> None:
        """The deadline begins when the turn has come."""
        gates = self.limited(max_builds=1, deadline=1000)
        first, second = self.request("hello"), self.request("git")
        self.clock.advance(1000)
        gates[0].callback(None)
        self.successResultOf(first)
        self.clock.advance(1000)
        gates[1].callback(None)
        self.successResultOf(second)

    def test_stopping_gives_time(self) -> None:
        """Builds that run may end while the daemon stops; no others begin."""
        gates = self.limited(max_builds=1, shutdown_timeout=10)
        running, queued = self.request("hello"), self.request("git")
        with capturedLogs() as logs:
            stopped = Deferred.fromCoroutine(self.service.stop())
            self.failureResultOf(queued, ShuttingDown)
            self.failureResultOf(self.request("bash"), ShuttingDown)
        # That the daemon stops is no fault of an image.
        self.assertEqual([], [each for each in logs if each["log_level"] > LogLevel.info])
        self.clock.advance(9)
        self.assertNoResult(stopped)
        gates[0].callback(None)
        self.successResultOf(running)
        self.successResultOf(stopped)
        self.assertEqual((self.nix.roots, len(gates)), (set(), 1))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stopping_does_not_wait_for_ever(self) -> None:
        """A build still running after the grace period is cancelled, and tracked as such."""
        self.limited(shutdown_timeout=10)
        waiting = self.request("hello")
        stopped = Deferred.fromCoroutine(self.service.stop())
        self.clock.advance(10)
        self.failureResultOf(waiting, ShuttingDown)
        self.successResultOf(stopped)
        self.assertEqual(self.states(), {"hello": "cancelled"})
        self.assertEqual(self.nix.roots, set())

    def test_unforeseen_failure_is_logged_even_if_no_client_waits_any_more(self) -> None:
        """An unforeseen failure is logged, even if no client waits any more."""
        gates = self.gates()
        asked = self.request("hello")
        asked.cancel()
        self.failureResultOf(asked, CancelledError)
        gates[0].errback(ZeroDivisionError())
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_daemon_that_stops_takes_no_new_builds_and_cancels_those_that_run(self) -> None:
        """A daemon that stops takes no new builds and cancels those that run."""
        self.nix.before_realise = Deferred
        waiting = self.request("hello")
        self.successResultOf(Deferred.fromCoroutine(self.service.stop()))
        self.failureResultOf(waiting, ShuttingDown)
        self.failureResultOf(self.request("git"), ShuttingDown)
        self.assertEqual(self.nix.roots, set())

    def test_a_missing_blob_is_unknown(self) -> None:
        """The storage of these tests tells what is missing."""
        digest = Digest("sha256:" + "0" * 64)
        failing = Deferred.fromCoroutine(self.storage.stat(digest))
        self.failureResultOf(failing, BlobUnknown)
