"""Tests for :mod:`nixery.pulls.unattended_pulls`."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from nixery.builds.demand import ASKED_SECONDS
from nixery.builds.settings import BuildLimits
from nixery.builds.tracker import BuildTracker
from nixery.builds.views import BuildState, BuildView
from nixery.errors import ShuttingDown
from nixery.image.manifests import Image
from nixery.image.names import parse_image_name
from nixery.nix.errors import BuildFailed
from nixery.nix.progress import Phase
from nixery.process.errors import CommandOutput
from nixery.pulls.unattended_pulls import HOLD_SECONDS, MAX_HOLDS, MAX_PER_CLIENT, UnattendedPulls
from nixery.testing.fakes import FakeWallClock
from tests.support.builds import LATEST, BuilderCase
from tests.support.http import IMAGE, FakeImages

NAME = parse_image_name("git", "x86_64-linux")
OUTPUT = CommandOutput(argv=(), status=1, stderr="")


class QueueTests(BuilderCase):
    """The images of the real service, one of which is made at a time."""

    def test_queued_build_waits_for_its_turn_without_a_connection(self) -> None:
        """A build stays in the queue after its visitor has left, and a pull joins it."""
        self.limits = BuildLimits(max_builds=1)
        self.restart()
        gates: list[Deferred[None]] = []

        def gate() -> Deferred[None]:
            gates.append(Deferred())
            return gates[-1]

        self.nix.before_realise = gate
        running, left = self.by("other", "hello"), self.by("other", "bash")
        left.cancel()
        pulls = UnattendedPulls(
            images=self.service,
            builds=self.tracker,
            waiting=self.tracker.clients.waiting,
            clock=self.clock,
        )
        asked = Deferred.fromCoroutine(pulls.begin("a", NAME, LATEST))
        self.clock.advance(HOLD_SECONDS)
        view = self.successResultOf(asked)
        assert view is not None
        self.assertEqual(BuildState.QUEUED, view.state)
        self.clock.pump([1.0] * int(2 * ASKED_SECONDS))
        states = {build.image: build.state for build in self.tracker.overview()}
        self.assertEqual(BuildState.QUEUED, states["git"])
        self.assertNotIn("bash", states, "a client that pulls has to ask again")
        pulled = self.request("git")
        for number in range(2):
            gates[number].callback(None)
        self.successResultOf(running)
        self.successResultOf(pulled)
        self.assertEqual(2, len(self.nix.realisations))
        built = self.tracker.find(view.id)
        assert built is not None
        self.assertEqual(BuildState.SUCCEEDED, built.state)


class UnattendedPullsTests(SynchronousTestCase):
    """An image that is made when the test says so."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.images = FakeImages()
        self.image: Deferred[Image] = Deferred()
        self.images.images["git", "latest"] = self.image
        self.tracker = BuildTracker(clock=self.clock, wall_clock=FakeWallClock(self.clock))
        self.pulls = UnattendedPulls(
            images=self.images,
            builds=self.tracker,
            waiting=self.tracker.clients.waiting,
            clock=self.clock,
        )

    def begin(self, client: str = "a") -> Deferred[BuildView | None]:
        return Deferred.fromCoroutine(self.pulls.begin(client, NAME, LATEST))

    def allows(self, client: str) -> bool:
        return self.pulls.allows(client, NAME, LATEST)

    def test_image_that_is_there_has_no_build(self) -> None:
        """An image that is there already has no build to watch."""
        self.images.images["git", "latest"] = IMAGE
        self.assertIsNone(self.successResultOf(self.begin()))

    def test_build_is_found_as_soon_as_it_has_begun_and_stays_listed(self) -> None:
        """A tag that takes long to look up is waited for; the build stays listed for watchers."""
        asked = self.begin()
        self.clock.advance(HOLD_SECONDS)
        self.assertNoResult(asked)
        build = self.tracker.begin(NAME, LATEST)
        self.clock.advance(HOLD_SECONDS)
        view = self.successResultOf(asked)
        assert view is not None
        self.assertEqual((build.id, 1), (view.id, view.clients))
        build.succeed(IMAGE.manifests[0].digest)
        self.assertIsNotNone(self.tracker.find(build.id))
        self.assertEqual([("git", "latest")], self.images.requests)

    def test_tag_that_takes_too_long_has_no_build_yet(self) -> None:
        """After a while without a build there is none to tell; the image is still wanted."""
        asked = self.begin()
        for _ in range(MAX_HOLDS):
            self.clock.advance(HOLD_SECONDS)
        self.assertIsNone(self.successResultOf(asked))
        self.assertFalse(self.image.called)

    def test_visitor_who_leaves_cancels_nothing(self) -> None:
        """The image is wanted until its build ends, whether or not a page is still open."""
        asked = self.begin()
        asked.cancel()
        self.failureResultOf(asked, CancelledError)
        self.assertFalse(self.image.called)
        self.begin()
        self.assertEqual(1, len(self.images.requests), "the same visitor joins the same pull")
        self.image.callback(IMAGE)

    def test_failure_leads_to_the_build_that_tells_why(self) -> None:
        """A failure that a build tells of is that build, any other one is raised."""
        failure = BuildFailed(derivation="/nix/store/x.drv", log=(), output=OUTPUT)
        build = self.tracker.begin(NAME, LATEST)
        build.phase(Phase.BUILDING)
        build.fail(failure)
        for error, known in ((failure, True), (ShuttingDown(), False)):
            self.images.images["git", "latest"] = error
            asked = self.begin()
            if known:
                view = self.successResultOf(asked)
                assert view is not None
                self.assertEqual(build.id, view.id)
            else:
                self.failureResultOf(asked, ShuttingDown)

    def test_client_waits_for_a_number_of_images(self) -> None:
        """A client waits for some images at once, and for others when one of these is there."""
        gates = []
        for number in range(MAX_PER_CLIENT):
            self.assertTrue(self.allows("a"))
            gate: Deferred[Image] = Deferred()
            gates.append(gate)
            self.images.images[f"p{number}", "latest"] = gate
            name = parse_image_name(f"p{number}", "x86_64-linux")
            Deferred.fromCoroutine(self.pulls.begin("a", name, LATEST))
        self.assertFalse(self.allows("a"))
        self.assertTrue(self.pulls.allows("a", parse_image_name("p0", "x86_64-linux"), LATEST))
        self.assertTrue(self.allows("b"))
        gates[0].callback(IMAGE)
        self.assertTrue(self.allows("a"))

    def test_stop_ends_the_waiting(self) -> None:
        """Nothing waits for an image any longer once the daemon has stopped."""
        asked = self.begin()
        self.successResultOf(self.pulls.stop())
        self.failureResultOf(asked, CancelledError)
        self.assertTrue(self.allows("a"))
