"""
Tests that each build is done once, for all clients that ask, also if clients
disconnect or programs are restarted meanwhile.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from tests.end_to_end.case import (
    EndToEndCase,
    containerd,
    docker,
    podman,
    skopeo,
    watched_registry,
    watched_set,
)
from tests.end_to_end.daemon import Daemon, private_environment, single_user_nix
from tests.end_to_end.engines import require
from tests.end_to_end.images import check_image, digest_of
from tests.end_to_end.multiuser_nix import start_stranger
from tests.end_to_end.package_sets import WatchedSet
from tests.end_to_end.processes import run, wait_until
from tests.end_to_end.wire import DOCKER_MANIFEST, OCI_MANIFEST, Registry
from tests.support.trees import below

SHARED_SIZE = 16_000_000
"""Bytes of the incompressible package that two others share."""


class BuildTests(EndToEndCase):
    """Tests of how often things are built, on a registry that all tests share."""

    def nix(self, *argv: str) -> None:
        """Run a command of Nix's by hand."""
        environ = {**private_environment(watched_set().directory), **single_user_nix()}
        run(argv, environ=environ).checked()

    def test_twenty_pulls_of_one_cold_image_at_once_by_all_clients_build_it_once(self) -> None:
        """Twenty pulls of one cold image at once, by all clients, build it once."""
        image = f"{watched_registry().address}/crowded"
        http = watched_registry().registry
        engines = (docker(), podman(), containerd())
        pulls: list[Callable[[], int]] = [
            *((lambda engine=each: engine.pull(image).status) for each in engines),
            *((lambda: skopeo().inspect(image).status) for _ in range(3)),
        ]
        kinds = [OCI_MANIFEST, DOCKER_MANIFEST] * 7
        with ThreadPoolExecutor(20) as pool:
            clients = [pool.submit(pull) for pull in pulls]
            asked = [pool.submit(http.manifest, "crowded", accept=kind) for kind in kinds]
            watched_set().wait_for("crowded")
            wait_until(lambda: http.connections() >= 20, "all clients to ask")
            watched_set().let("crowded")
            self.assertEqual([client.result() for client in clients], [0] * 6)
            answers = [each.result() for each in asked]
        self.assertEqual({answer.status for answer in answers}, {200})
        self.assertEqual(len({answer.body for answer in answers}), 2)
        self.assertEqual(watched_set().builds("crowded"), 1)

    def test_client_that_leaves_in_the_middle_of_a_build_does_not_stop_it(self) -> None:
        """A client that leaves in the middle of a build does not stop it."""
        http = watched_registry().registry
        with socket.create_connection(("127.0.0.1", http.port)) as client:
            client.sendall(b"GET /v2/left-alone/manifests/latest HTTP/1.1\r\nHost: x\r\n\r\n")
            watched_set().wait_for("left-alone")
        watched_set().let("left-alone")
        self.assertEqual(http.manifest("left-alone").status, 200)
        self.assertEqual(watched_set().builds("left-alone"), 1)

    def test_clients_that_join_a_build_are_counted_and_make_no_row_of_their_own(self) -> None:
        """Two clients of one build are one row, in whatever order they have the names."""
        http = watched_registry().registry

        def rows() -> list[tuple[str, list[str], str, int]]:
            builds = http.get("/builds?q=joined").json()["builds"]
            return [
                (each["image"], each["also"], each["state"], each["clients"]) for each in builds
            ]

        names, others = "joined/plain", ["plain/joined:latest"]
        with ThreadPoolExecutor(1) as pool:
            first = pool.submit(http.manifest, names)
            watched_set().wait_for("joined")
            self.assertEqual([(names, [], "running", 1)], rows())
            with socket.create_connection(("127.0.0.1", http.port)) as client:
                client.sendall(b"GET /v2/plain/joined/manifests/latest HTTP/1.1\r\nHost: x\r\n\r\n")
                expected = [(names, others, "running", 2)]
                wait_until(lambda: rows() == expected, "the other client to be counted")
            wait_until(lambda: rows() == [(names, others, "running", 1)], "it to be gone")
            watched_set().let("joined")
            self.assertEqual(200, first.result().status)
        self.assertEqual([(names, others, "succeeded", 0)], rows())
        self.assertEqual(200, http.manifest("plain/joined").status)
        self.assertEqual(1, len(rows()))

    def test_layer_shared_by_two_concurrent_builds_is_packed_once(self) -> None:
        """
        Of two images that share a package, asked for at once, one packs it, and a
        later one packs only what is new.
        """
        daemon = watched_registry()
        # What the builders write would be counted too.
        for name in ("first", "second", "third"):
            self.nix("nix-build", "--no-out-link", str(watched_set().path), "-A", name)
        before = daemon.written()
        with ThreadPoolExecutor(2) as pool:
            answers = list(pool.map(daemon.registry.manifest, ("first/second", "second/third")))
        self.assertEqual([answer.status for answer in answers], [200, 200])
        self.assertLess(daemon.written() - before, 1.5 * SHARED_SIZE)
        blobs = _blobs(daemon)

        before = daemon.written()
        later = daemon.registry.manifest("third/first")
        self.assertLess(daemon.written() - before, SHARED_SIZE / 4)
        layers = [
            {layer["digest"]: layer["size"] for layer in answer.json()["layers"]}
            for answer in (*answers, later)
        ]
        (shared,) = set.intersection(*(set(each) for each in layers))
        self.assertGreaterEqual(layers[0][shared], SHARED_SIZE)
        # All that is new is its own: layers, its config, its two manifests, and their documents.
        self.assertEqual(
            _blobs(daemon) - blobs, self.blobs_of(daemon.registry, "third/first") - blobs
        )

    def blobs_of(self, http: Registry, name: str) -> set[str]:
        """Return the digests of all blobs of an image, and of what refers to it, without sha256."""
        answers = [http.manifest(name, accept=accept) for accept in (OCI_MANIFEST, DOCKER_MANIFEST)]
        for digest in [digest_of(answer.body) for answer in answers]:
            index = http.get(f"/v2/{name}/referrers/{digest}").json()
            self.assertNotEqual([], index["manifests"])
            answers += [http.manifest(name, each["digest"]) for each in index["manifests"]]
        named = {digest_of(answer.body) for answer in answers}
        for answer in answers:
            manifest = answer.json()
            named |= {each["digest"] for each in (manifest["config"], *manifest["layers"])}
        return {digest.removeprefix("sha256:") for digest in named}

    def test_image_that_was_built_before_is_served_without_the_nix_stores_help(self) -> None:
        """An image that was built before is served without the Nix store's help."""
        http = watched_registry().registry
        answer = http.manifest("known")
        image = check_image(answer.body, lambda digest: http.blob("known", digest))
        output = next(
            f"/{member.name}" for member, _ in image.members() if member.name.endswith("-known-1.0")
        )
        self.nix("nix-store", "--delete", output)
        again = http.manifest("known")
        self.assertEqual(again.body, answer.body)
        check_image(again.body, lambda digest: http.blob("known", digest))
        self.assertEqual(watched_set().builds("known"), 1)

    def test_failure_is_remembered(self) -> None:
        """A build that has failed is not tried again by the next request."""
        http = watched_registry().registry
        for method in ("HEAD", "GET", "GET"):
            answer = http.request(method, "/v2/failing-http/manifests/latest")
            self.assertEqual(answer.status, 422)
        self.assertEqual(watched_set().builds("failing-http"), 1)
        self.assertEqual(answer.error["code"], "MANIFEST_INVALID")


class FailureTests(EndToEndCase):
    """Tests of builds whose failure could be taken for another one."""

    def _check(self, packages: WatchedSet, daemon: Daemon) -> None:
        for name, reason, line in (
            ("talking-of-timeout", "builder failed with exit code 1", "FAIL: test_login timed out"),
            ("talking-of-collection", "builder failed with exit code 1", "failed to obtain"),
            ("forbidding", "is not allowed to refer to", "compiling"),
            ("fifo", "has an unsupported type", "compiling"),
            ("directory", "should be a non-executable regular file", "compiling"),
            ("killed", "signal 9 (Killed)", "compiling"),
        ):
            for method in ("HEAD", "GET", "GET"):
                answer = daemon.registry.request(method, f"/v2/{name}/manifests/latest")
                self.assertEqual(answer.status, 422, name)
            message = answer.error["message"]
            self.assertIn(f"-{name}-1.0.drv failed to build: ", message)
            self.assertIn(reason, message)
            self.assertIn(line, message)
            self.assertIn("/builds/", message)
            self.assertEqual(packages.builds(name), 1, name)

    def test_failure_is_told_with_reason_and_log_and_remembered(self) -> None:
        """A failure is told with its reason, its log and its page, and is remembered."""
        self._check(watched_set(), watched_registry())

    def test_behind_a_daemon_of_nix_it_is_the_same(self) -> None:
        """Behind a daemon of Nix, which quotes logs, a failure is told in the same way."""
        packages = WatchedSet()
        self._check(packages, start_stranger(self, packages.path))


class RestartTests(EndToEndCase):
    """Tests of the state that a registry keeps over a restart."""

    def setUp(self) -> None:
        super().setUp()
        self.packages = WatchedSet()
        self.daemon = Daemon(
            self.packages.path, name="restarted", options=["--shutdown-timeout=1"]
        ).start()
        self.addCleanup(self.daemon.kill)

    def _restart_between(self, end: Callable[[], object]) -> None:
        http = self.daemon.registry
        before = http.manifest("plain")
        self.assertEqual(before.status, 200)
        end()
        self.daemon.start()
        digest = before.headers["docker-content-digest"]
        # Blobs first: this process has not been asked for the image.
        check_image(before.body, lambda digest: http.blob("plain", digest))
        self.assertEqual(http.manifest("plain", digest).body, before.body)
        self.assertEqual(http.manifest("plain").body, before.body)
        self.assertEqual(self.packages.builds("plain"), 1)

    def test_restart_between_manifest_and_blobs(self) -> None:
        """A restart between the manifest and the blobs is not noticed."""
        self._restart_between(self.daemon.stop)
        docker().pull(f"{self.daemon.address}/plain").checked()
        self.assertEqual(self.packages.builds("plain"), 1)

    def test_power_failure_between_manifest_and_blobs(self) -> None:
        """Neither is a process that was killed."""
        self._restart_between(self.daemon.kill)

    def test_killed_while_building(self) -> None:
        """A build that was cut off is done again, and leaves nothing half-made."""
        http = self.daemon.registry
        with ThreadPoolExecutor(1) as pool:
            client = pool.submit(http.manifest, "crowded")
            self.packages.wait_for("crowded")
            self.daemon.kill()
            self.assertIsInstance(client.exception(), OSError)
        self.packages.let("crowded")
        self.daemon.start()
        answer = http.manifest("crowded")
        self.assertEqual(answer.status, 200)
        check_image(answer.body, lambda digest: http.blob("crowded", digest))

    def test_stopped_while_building(self) -> None:
        """A client that waits for a build when the registry is stopped is told to retry."""
        with ThreadPoolExecutor(1) as pool:
            client = pool.submit(self.daemon.registry.manifest, "crowded")
            self.packages.wait_for("crowded")
            self.daemon.stop()
            self.assertEqual(client.result().status, 503)
        self.packages.let("crowded")
        self.daemon.start()
        self.assertEqual(self.daemon.registry.manifest("crowded").status, 200)


class TimeoutTests(EndToEndCase):
    """Builds that take too long."""

    def test_build_that_takes_too_long_is_stopped_and_setting_to_change_is_named(self) -> None:
        """A build that takes too long is stopped, and the setting to change is named."""
        require("docker")
        packages = WatchedSet()
        daemon = Daemon(packages.path, name="timeout", environ={"NIX_TIMEOUT": "2"}).start()
        self.addCleanup(daemon.kill)
        pulled = docker().pull(f"{daemon.address}/endless")
        self.assertNotEqual(pulled.status, 0)
        self.assertIn("-endless-1.0.drv", pulled.stderr)
        self.assertIn("nix_timeout", pulled.stderr.lower())
        self.assertEqual(daemon.registry.manifest("endless").status, 422)
        self.assertEqual(packages.builds("endless"), 1)


def _blobs(daemon: Daemon) -> set[str]:
    """The names of the files that hold blobs: their digests, without more."""
    names = (path.name for path in below(daemon.storage / "blobs"))
    return {name for name in names if re.fullmatch(r"[0-9a-f]{64}", name)}
