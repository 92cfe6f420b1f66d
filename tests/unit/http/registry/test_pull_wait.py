"""Tests for :mod:`nixery.http.registry.pull_wait`."""

from __future__ import annotations

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from nixery.builds.demand import ASKED_SECONDS
from nixery.builds.tracker import BuildTracker
from nixery.errors import StorageError
from nixery.http.registry.errors import StillBuilding
from nixery.http.registry.pull_wait import (
    MAX_RETRY_AFTER_SECONDS,
    MIN_RETRY_AFTER_SECONDS,
    PullWaiter,
    retry_after,
    wait_limit,
)
from nixery.image.names import Tag, parse_image_name
from nixery.nix.progress import Phase
from nixery.testing.fakes import FakeWallClock

NAME = parse_image_name("shell/git", "x86_64-linux")
LATEST = Tag("latest")

DOCKER = (
    b"docker/20.10.24+dfsg1 go/go1.19.8 git-commit/5d6db84 kernel/6.1.0 os/linux arch/amd64"
    b" UpstreamClient(Docker-Client/20.10.24+dfsg1 \\(linux\\))"
)

COMING_BACK = (
    b"containerd/1.6.20~ds1",
    b"containerd/v2.3.0",
    b"containers/5.23.1 (github.com/containers/image)",
    b"skopeo/1.9.3",
    b"Buildah/1.28.2",
    b"cri-o/1.30.0 go/go1.22 os/linux arch/amd64",
    b"go-containerregistry/v0.19.1",
    b"crane/0.19.1 go-containerregistry/0.19.1",
    b"oras/1.1.0",
    b"Helm/3.14.0",
    b"regclient/regctl (v0.5.7)",
    b"curl/7.88.1",
    b"Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
    b"my-docker/1.0",
    b"dockerish",
    # Docker that keeps its images in containerd has containerd's limit.
    b"docker/29.0.0 go/go1.24 os/linux arch/amd64 containerd-client/2.1.4 storage-driver/overlayfs",
    b"docker/27.1.1 go/go1.21 storage-driver/overlayfs",
    b"",
)


class ClientTests(SynchronousTestCase):
    """Tests of how long each client is kept waiting."""

    def test_dockers_own_puller_waits_for_as_long_as_it_takes(self) -> None:
        """Docker's own puller waits for as long as it takes."""
        for agent in (DOCKER, b"docker/1.13.1", b"Docker/24.0.7 go/go1.20"):
            self.assertIsNone(wait_limit(agent, 25), agent)

    def test_other_clients_get_the_deadline(self) -> None:
        """All other clients, and unknown ones, get the deadline."""
        for agent in (*COMING_BACK, None):
            self.assertEqual(wait_limit(agent, 25), 25, agent)

    def test_when_to_come_back(self) -> None:
        """Sooner to what has just begun, later to what takes long, within limits."""
        self.assertEqual(retry_after(0), MIN_RETRY_AFTER_SECONDS)
        self.assertEqual(retry_after(25), 12.5)
        self.assertEqual(retry_after(10_000), MAX_RETRY_AFTER_SECONDS)

    def test_how_long_podman_lasts(self) -> None:
        """Five requests, held for 25 s each, last for more than four minutes."""
        elapsed = 0.0
        for _ in range(5):
            elapsed += 25
            last = elapsed
            elapsed += retry_after(elapsed)
        self.assertGreater(last, 240)


class HoldTests(SynchronousTestCase):
    """Requests that are held."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.book = BuildTracker(
            clock=self.clock, wall_clock=FakeWallClock(self.clock), new_id=lambda: "id"
        )
        self.image: Deferred[str] = Deferred()
        self.links = True

    def wait_for_image(
        self, agent: bytes | None = b"skopeo/1.9.3", image: Deferred[str] | None = None
    ) -> Deferred[str]:
        waiting = PullWaiter(
            clock=self.clock,
            deadline=25,
            announce=self.book.pin,
            waiting=self.book.clients.waiting,
            expect_retry=self.book.clients.expect_retry,
            link=lambda build_id: f"http://reg/builds/{build_id}" if self.links else None,
        )

        async def work() -> str:
            return await (self.image if image is None else image)

        return Deferred.fromCoroutine(waiting.wait_for_image(agent, NAME, LATEST, work()))

    def test_ready_in_time(self) -> None:
        """A client that waits long enough gets the image, and no timer is left."""
        held = self.wait_for_image()
        self.clock.advance(24)
        self.image.callback("image")
        self.assertEqual(self.successResultOf(held), "image")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_ready_at_once(self) -> None:
        """An image that is ready at once costs no timer at all."""
        self.image.callback("image")
        calls: list[float] = []
        self.patch(self.clock, "callLater", lambda delay, *_: calls.append(delay))
        self.assertEqual(self.successResultOf(self.wait_for_image()), "image")
        self.assertEqual(calls, [])

    def test_failure_is_told_when_it_comes(self) -> None:
        """A failure is told when it comes."""
        held = self.wait_for_image()
        self.image.errback(StorageError(operation="write", reason="full"))
        self.failureResultOf(held, StorageError)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_at_deadline_it_is_told_how_far_build_is_and_where_to_watch_it(self) -> None:
        """At the deadline, it is told how far the build is, and where to watch it."""
        build = self.book.begin(NAME, LATEST)
        self.clock.advance(10)
        held = self.wait_for_image()
        build.phase(Phase.BUILDING)
        build.count(Phase.BUILDING, 3, 14, "builds")
        self.clock.advance(25)
        error = self.failureResultOf(held, StillBuilding).value
        self.assertEqual(
            attrs.asdict(error),
            {
                "image": "shell/git",
                "doing": "building, 3 of 14 builds",
                "seconds": 35,
                "retry_after": 17.5,
                "watch": "http://reg/builds/id",
            },
        )
        self.assertIn("http://reg/builds/id", error.message)

    def test_client_of_a_queued_image_is_told_to_come_back_before_it_loses_its_place(self) -> None:
        """However long it has waited already, it is back within the minute."""
        build = self.book.begin(NAME, LATEST)
        build.set_queued(7)
        self.clock.advance(3600)
        held = self.wait_for_image()
        self.clock.advance(25)
        error = self.failureResultOf(held, StillBuilding).value
        self.assertEqual(error.retry_after, ASKED_SECONDS / 2)

    def test_clients_that_wait_are_counted_where_they_wait(self) -> None:
        """Held requests and clients that are told to retry count; those that leave do not."""
        build = self.book.begin(NAME, LATEST)
        build.phase(Phase.BUILDING)
        first, docker = (
            self.wait_for_image(image=Deferred()),
            self.wait_for_image(DOCKER, Deferred()),
        )
        self.assertEqual(2, build.view().clients)
        self.clock.advance(25)
        self.failureResultOf(first, StillBuilding)
        self.assertEqual(2, build.view().clients)
        again = self.wait_for_image()
        self.assertEqual(2, build.view().clients)
        docker.cancel()
        self.failureResultOf(docker, CancelledError)
        self.assertEqual(1, build.view().clients)
        self.image.callback("image")
        self.successResultOf(again)
        self.assertEqual(0, build.view().clients)

    def test_error_names_no_page_to_watch_if_there_are_no_pages(self) -> None:
        """The error names no page to watch if there are no pages."""
        self.links = False
        self.book.begin(NAME, LATEST)
        held = self.wait_for_image()
        self.clock.advance(25)
        error = self.failureResultOf(held, StillBuilding).value
        self.assertIsNone(error.watch)
        self.assertNotIn("watch", error.message)

    def test_something_may_take_long_before_there_is_a_build(self) -> None:
        """Something may take long before there is a build."""
        held = self.wait_for_image()
        self.clock.advance(25)
        error = self.failureResultOf(held, StillBuilding).value
        self.assertEqual((error.doing, error.seconds), ("starting", 25))

    def test_docker_is_held_until_the_image_is_ready(self) -> None:
        """Docker is held until the image is ready."""
        held = self.wait_for_image(DOCKER)
        self.clock.advance(100_000)
        self.image.callback("image")
        self.assertEqual(self.successResultOf(held), "image")

    def test_clients_that_leave(self) -> None:
        """Nothing is left of a client that leaves."""
        held = self.wait_for_image()
        held.cancel()
        self.failureResultOf(held, CancelledError)
        self.assertEqual(self.clock.getDelayedCalls(), [])
