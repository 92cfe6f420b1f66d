"""
Builds that take longer than clients wait: one command of each client is enough.

The registry's deadline is short here, so that builds which outlast it twice do not
make the tests long.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.end_to_end.case import (
    EndToEndCase,
    Once,
    containerd,
    docker,
    podman,
    skopeo,
    watched_set,
)
from tests.end_to_end.daemon import Daemon
from tests.end_to_end.package_sets import WatchedSet
from tests.end_to_end.processes import Finished, wait_until

DEADLINE = 2

impatient_registry = Once(
    lambda: Daemon(
        watched_set().path, name="impatient", options=[f"--pull-wait-timeout={DEADLINE}"]
    ).start()
)
"""A registry that sends clients away soon."""


class SlowBuildTests(EndToEndCase):
    """An image that is not ready when the deadline has passed."""

    def setUp(self) -> None:
        super().setUp()
        self.daemon = impatient_registry()

    def answers(self, package: str) -> list[str]:
        """The statuses of the answers about an image so far, from the access log."""
        marks = (f" /v2/{package}/manifests/latest ", " HEAD ", " GET ")
        return [
            line.split(marks[0], 1)[1].split()[0]
            for line in self.daemon.log().splitlines()
            if marks[0] in line
        ]

    def pull(self, package: str, pull: Callable[[str], Finished], sent_away: int) -> Finished:
        """
        Pull an image whose build ends when clients have been sent away ``sent_away``
        times.
        """
        image = f"{self.daemon.address}/{package}"
        with ThreadPoolExecutor(1) as pool:
            pulled = pool.submit(pull, image)
            watched_set().wait_for(package)
            wait_until(
                lambda: pulled.done() or self.answers(package).count("429") >= sent_away,
                "the client to be sent away",
            )
            watched_set().let(package)
            finished = pulled.result()
        self.assertEqual(watched_set().builds(package), 1)
        return finished

    def test_podman_comes_back_by_itself(self) -> None:
        """podman comes back by itself."""
        self.pull("slow-podman", podman().pull, 2).checked()

    def test_skopeo_comes_back_by_itself(self) -> None:
        """So does skopeo."""
        self.pull("slow-skopeo", skopeo().inspect, 2).checked()

    def test_containerd_comes_back_without_a_pause(self) -> None:
        """So does containerd, without a pause: it is held each time."""
        self.pull("slow-ctr", containerd().pull, 2).checked()

    def test_docker_which_would_give_up_is_never_sent_away_and_waits(self) -> None:
        """Docker, which would give up, is never sent away, and waits."""
        engine = docker()
        http = self.daemon.registry
        image = f"{self.daemon.address}/slow-docker"
        with ThreadPoolExecutor(1) as pool:
            pulled = pool.submit(engine.pull, image)
            watched_set().wait_for("slow-docker")
            for _ in range(2):
                self.assertEqual(http.get("/v2/slow-docker/manifests/latest").status, 429)
            self.assertFalse(pulled.done())
            watched_set().let("slow-docker")
            pulled.result().checked()

    def test_client_that_gets_a_429_can_follow_the_build(self) -> None:
        """A client that gets a 429 is told where to watch, and can follow the build to its end."""
        http = self.daemon.registry
        for method in ("HEAD", "GET"):
            answer = http.request(method, "/v2/slow-http/manifests/latest")
            self.assertEqual(answer.status, 429)
            self.assertGreaterEqual(int(answer.headers["retry-after"]), 1)
        self.assertEqual(answer.error["code"], "TOOMANYREQUESTS")
        url = answer.error["detail"]["watch"]
        self.assertIn(url, answer.message)
        path = url.removeprefix(f"http://{self.daemon.address}")
        build = http.get(path).json()
        self.assertEqual((build["image"], build["state"]), ("slow-http", "running"))
        # It is expected to retry, and is one client however often it does.
        self.assertEqual((build["clients"], build["also"]), (1, []))
        self.assertEqual(build["stages"][-1]["phase"], "building")
        self.assertIn("-slow-http-1.0.drv", build["derivation"])
        with ThreadPoolExecutor(1) as pool:
            events = pool.submit(self.listen, f"{path}/events")
            watched_set().let("slow-http")
            kind, last = events.result()[-1]
        self.assertEqual((kind, last["state"]), ("build", "succeeded"))
        answer = http.manifest("slow-http")
        self.assertEqual(answer.headers["docker-content-digest"], last["digest"])
        images = [each["image"] for each in http.get("/builds").json()["builds"]]
        self.assertIn("slow-http", images)

    def listen(self, path: str) -> list[tuple[str, dict[str, Any]]]:
        """The events of a stream, to its end."""
        connection = http.client.HTTPConnection("127.0.0.1", self.daemon.registry.port, timeout=60)
        try:
            connection.request("GET", path, headers={"Accept": "text/event-stream"})
            response = connection.getresponse()
            text = response.read().decode("ascii")
        finally:
            connection.close()
        events = []
        for block in text.split("\n\n"):
            fields = dict(line.split(": ", 1) for line in block.splitlines())
            if "data" in fields:
                events.append((fields["event"], json.loads(fields["data"])))
        return events


class StopTests(EndToEndCase):
    """Tests of the remains of a build when the registry ends."""

    def setUp(self) -> None:
        super().setUp()
        self.packages = WatchedSet()

    def start(self, *options: str) -> Daemon:
        daemon = Daemon(self.packages.path, name="stopping", options=options).start()
        self.addCleanup(daemon.kill)
        return daemon

    def build(self, daemon: Daemon, pool: ThreadPoolExecutor) -> Callable[[], int]:
        """Begin a build that does not end by itself; its request's status, later."""
        asked = pool.submit(daemon.registry.manifest, "crowded")
        self.packages.wait_for("crowded")
        return lambda: asked.result().status

    def left_over(self, daemon: Daemon) -> list[str]:
        """Processes, roots and half-written files that belong to a registry."""
        state = daemon.directory / "state"
        left = self.processes(daemon)
        for directory in (state / "gcroots", daemon.storage / "tmp"):
            left += [str(each) for each in directory.iterdir()]
        return left

    def processes(self, daemon: Daemon) -> list[str]:
        """Processes that work on a registry's directories, itself among them."""
        marks = [str(each).encode() for each in (self.packages.directory, daemon.directory)]
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                text = b"".join((process / name).read_bytes() for name in ("cmdline", "environ"))
            except OSError:
                continue
            if any(mark in text for mark in marks):
                found.append(f"{process.name}: {text[:200]!r}")
        return found

    def test_build_that_outlasts_its_grace_is_ended(self) -> None:
        """A build that has not ended after its grace is ended, and nothing is left of it."""
        daemon = self.start("--shutdown-timeout=0.5")
        with ThreadPoolExecutor(1) as pool:
            status = self.build(daemon, pool)
            self.assertNotEqual(self.left_over(daemon), [])
            daemon.stop()
            self.assertEqual(status(), 503)
        self.assertEqual(self.left_over(daemon), [])
        self.packages.let("crowded")
        daemon.start()
        self.assertEqual(daemon.registry.manifest("crowded").status, 200)
        self.assertEqual(self.packages.builds("crowded"), 2)

    def test_build_that_ends_within_its_grace_is_answered_stored_and_known_later(self) -> None:
        """A build that ends within its grace is answered, stored, and known later."""
        daemon = self.start("--shutdown-timeout=25")
        with ThreadPoolExecutor(2) as pool:
            status = self.build(daemon, pool)
            stopped = pool.submit(daemon.stop)
            wait_until(lambda: "waiting up to" in daemon.log(), "the registry to wait")
            self.packages.let("crowded")
            self.assertEqual(status(), 200)
            stopped.result()
        self.assertEqual(self.left_over(daemon), [])
        daemon.start()
        self.assertEqual(daemon.registry.manifest("crowded").status, 200)
        self.assertEqual(self.packages.builds("crowded"), 1)

    def test_children_of_a_registry_that_is_killed_end_with_it(self) -> None:
        """
        The children of a registry that is killed end with it, and the next one sweeps
        what they leave.
        """
        daemon = self.start()
        with ThreadPoolExecutor(1) as pool:
            asked = pool.submit(daemon.registry.manifest, "crowded")
            self.packages.wait_for("crowded")
            daemon.kill()
            self.assertIsInstance(asked.exception(), OSError)
        wait_until(lambda: self.processes(daemon) == [], "its children to end")
        daemon.start()
        self.packages.let("crowded")
        self.assertEqual(daemon.registry.manifest("crowded").status, 200)
        self.assertEqual(self.packages.builds("crowded"), 2)
        daemon.stop()
        self.assertEqual(self.left_over(daemon), [])
