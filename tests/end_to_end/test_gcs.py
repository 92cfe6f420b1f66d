"""
Registries that share a bucket, and nothing else; clients that are sent there.

The bucket is the tests' own service: it verifies every signature.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.request import urlopen

from tests.end_to_end.case import (
    EndToEndCase,
    containerd,
    docker,
    podman,
    skopeo,
    watched_set,
)
from tests.end_to_end.daemon import Daemon
from tests.end_to_end.engines import Engine
from tests.end_to_end.images import CheckedImage, check_image, digest_of
from tests.end_to_end.package_sets import PlatformSet, demo_set
from tests.end_to_end.processes import private_directory, wait_until
from tests.end_to_end.wire import OCI_MANIFEST, Registry
from tests.support.fake_gcs.process import FakeBucket, fake_gcs
from tests.support.partial_pulls import PREFIX, parse_parts

OCI_INDEX = "application/vnd.oci.image.index.v1+json"

CLIENTS = 20


def registry_on(
    bucket: FakeBucket, package_set: Path, name: str, options: Sequence[str] = ()
) -> Daemon:
    """A registry whose images are in a bucket."""
    key = bucket.server.key_file(private_directory("key") / "key.json")
    return Daemon(
        package_set,
        name=name,
        environ={
            "NIXERY_STORAGE_BACKEND": "gcs",
            "GCS_BUCKET": bucket.name,
            "GOOGLE_APPLICATION_CREDENTIALS": str(key),
        },
        # Small chunks, so that small packages are uploaded in several.
        options=["--gcs-endpoint", bucket.server.url, *options],
        constants={"nixery.storage.gcs.client.CHUNK_SIZE": 2**20},
    )


def blob(registry: Registry, name: str, digest: str) -> bytes:
    """A blob from where a registry says that it is."""
    answer = registry.get(f"/v2/{name}/blobs/{digest}")
    if answer.status == 307:
        with urlopen(answer.headers["location"], timeout=60) as there:
            body: bytes = there.read()
    else:
        body = answer.body
    if digest_of(body) != digest:
        raise AssertionError(f"{digest} is answered with {answer.status}, {digest_of(body)}")
    return body


class GcsCase(EndToEndCase):
    """A bucket of its own, and registries on it."""

    def setUp(self) -> None:
        super().setUp()
        self.bucket = fake_gcs().make_bucket()

    def registry(self, *options: str, package_set: Path | None = None) -> Daemon:
        daemon = registry_on(
            self.bucket, package_set or watched_set().path, f"gcs-{self._testMethodName}", options
        )
        self.addCleanup(daemon.kill)
        return daemon.start()

    def pull(self, daemon: Daemon, name: str) -> CheckedImage:
        """Pull an image, which has to be whole."""
        answer = daemon.registry.manifest(name)
        self.assertEqual(answer.status, 200, answer.body)
        return check_image(answer.body, lambda digest: blob(daemon.registry, name, digest))

    def assert_stored_once(self) -> None:
        """Every blob is what its name says and was published once; nothing is staged."""
        things = self.bucket.things()
        layers = {name: thing for name, thing in things.items() if name.startswith("layers/")}
        self.assertNotEqual({}, layers)
        for name, thing in layers.items():
            self.assertEqual((name, 1), ("layers/" + thing["sha256"], thing["published"]))
            self.assertIn("immutable", thing["cache"])
        self.assertEqual([], [name for name in things if name.startswith("staging/")])


class EngineTests(GcsCase):
    """Real clients follow the redirects, and what they pull runs."""

    def check(self, engine: Engine) -> None:
        daemon = self.registry(package_set=demo_set())
        # No other test pulls it: an engine does not ask for the layers that it has.
        image = f"{daemon.address}/hello/tree"
        engine.pull(image).checked()
        self.assertIn("Hello, world!", engine.run(image, "hello").checked().stdout)
        self.assert_redirected(daemon)
        engine.remove(image)

    def assert_redirected(self, daemon: Daemon) -> None:
        """All blobs came from the bucket, by signed URLs."""
        fetched = [status for _, status in self.bucket.log("signed")]
        self.assertEqual({200}, set(fetched))
        self.assertIn(" 307 ", daemon.log())
        self.assert_stored_once()

    def test_docker_pulls_from_a_bucket(self) -> None:
        """Docker."""
        self.check(docker())

    def test_podman_pulls_from_a_bucket(self) -> None:
        """podman."""
        self.check(podman())

    def test_containerd_pulls_from_a_bucket(self) -> None:
        """containerd."""
        self.check(containerd())

    def test_skopeo_copies_every_byte(self) -> None:
        """skopeo copies every byte."""
        daemon = self.registry(package_set=demo_set())
        layout = skopeo().directory / "gcs"
        skopeo().copy(f"{daemon.address}/hello", f"oci:{layout}:latest").checked()
        self.assertGreater(len(json.loads((layout / "index.json").read_bytes())["manifests"]), 0)
        self.assert_redirected(daemon)


class InstanceTests(GcsCase):
    """Tests of registries that share nothing but the bucket."""

    def test_instance_with_an_empty_disk_answers_with_what_another_one_has_made(self) -> None:
        """An instance with an empty disk answers with what another one has made."""
        first = self.registry()
        image = self.pull(first, "plain/large")
        builds = watched_set().builds("large")
        first.stop()
        second = self.registry()
        self.bucket.heal()
        self.assertEqual(image.digest, self.pull(second, "plain/large").digest)
        self.assertEqual(builds, watched_set().builds("large"))
        self.assertNotIn("was built", second.log())
        log = {name for name, _ in self.bucket.log()}
        self.assertEqual(set(), log & {"start", "chunk", "final", "move", "patch"})
        self.assertFalse(second.storage.exists())
        by_digest = second.registry.manifest("plain/large", image.digest)
        self.assertEqual(image.digest, digest_of(by_digest.body))
        self.assert_stored_once()

    def test_head_is_answered_here_with_what_the_redirect_leads_to(self) -> None:
        """A HEAD is answered here, with what the redirect leads to."""
        daemon = self.registry()
        image = self.pull(daemon, "plain")
        for layer in (*image.manifest["layers"], image.manifest["config"]):
            head = daemon.registry.head(f"/v2/plain/blobs/{layer['digest']}")
            self.assertEqual(
                (200, str(layer["size"])), (head.status, head.headers["content-length"])
            )

    def test_registry_may_pass_blobs_on_itself_whole_and_in_parts(self) -> None:
        """A registry may pass blobs on itself, whole and in parts."""
        daemon = self.registry("--gcs-redirect", "false")
        image = self.pull(daemon, "large")
        self.assertEqual([], self.bucket.log("signed"))
        (largest,) = (item for item in image.manifest["layers"] if item["size"] > 1_000_000)
        url = f"/v2/large/blobs/{largest['digest']}"
        whole = daemon.registry.get(url).body
        for span, start, stop in (
            ("bytes=0-0", 0, 1),
            ("bytes=1000000-2000000", 1_000_000, 2_000_001),
            ("bytes=-4096", len(whole) - 4096, len(whole)),
        ):
            part = daemon.registry.get(url, range=span)
            self.assertEqual(206, part.status)
            self.assertEqual(
                f"bytes {start}-{stop - 1}/{len(whole)}", part.headers["content-range"]
            )
            self.assertEqual(digest_of(whole[start:stop]), digest_of(part.body))

    def test_partial_pull_is_answered_from_the_bucket_by_every_instance(self) -> None:
        """Several ranges are answered here from the bucket; annotations are in its records."""
        first = self.registry("--compression", "zstd-chunked")
        image = self.pull(first, "plain/large")
        second = self.registry("--compression", "zstd-chunked")
        self.assertEqual(image.digest, self.pull(second, "plain/large").digest)
        for layer in image.manifest["layers"]:
            url = f"/v2/plain/large/blobs/{layer['digest']}"
            annotations = layer["annotations"]
            ranges = []
            for name in ("manifest", "tarsplit"):
                start, size, *_ = map(int, annotations[f"{PREFIX}{name}-position"].split(":"))
                ranges.append((start, start + size))
            whole = blob(second.registry, "plain/large", layer["digest"])
            spans = ",".join(f"{start}-{stop - 1}" for start, stop in ranges)
            answer = second.registry.get(url, range=f"bytes={spans}")
            self.assertEqual(206, answer.status)
            parts = parse_parts(answer.headers["content-type"], answer.body)
            self.assertEqual(
                [
                    (f"bytes {start}-{stop - 1}/{len(whole)}", whole[start:stop])
                    for start, stop in ranges
                ],
                parts,
            )
            self.assertEqual(annotations[f"{PREFIX}manifest-checksum"], digest_of(parts[0][1]))
        third = self.registry()
        other = self.pull(third, "plain/large")
        self.assertNotEqual(image.digest, other.digest)
        self.assertEqual(image.config["rootfs"], other.config["rootfs"])
        for layer in other.manifest["layers"]:
            self.assertNotIn("annotations", layer)

    def test_index_of_platforms_is_served_by_an_instance_that_has_made_none(self) -> None:
        """An index and its manifests are served by an instance that has made none of them."""
        host = f"{os.uname().machine}-linux"
        options = ("--system", host, "--platforms", "x86_64-linux,aarch64-linux")
        packages = PlatformSet().path
        first = self.registry(*options, package_set=packages)
        accept = f"{OCI_INDEX}, {OCI_MANIFEST}"
        made = first.registry.manifest("portable", accept=accept)
        self.assertEqual((200, OCI_INDEX), (made.status, made.headers["content-type"]))
        first.stop()
        second = self.registry(*options, package_set=packages)
        served = second.registry.manifest("portable", accept=accept)
        self.assertEqual(made.body, served.body)
        self.assertNotIn("was built", second.log())
        digests = [each["digest"] for each in made.json()["manifests"]]
        self.assertEqual(2, len(digests))
        for digest in (digest_of(made.body), *digests):
            answer = second.registry.manifest("portable", digest, accept=accept)
            self.assertEqual(digest, digest_of(answer.body))
        for digest in digests:
            manifest = second.registry.manifest("portable", digest, accept=accept).body
            check_image(manifest, lambda each: blob(second.registry, "portable", each))

    def test_two_registries_and_twenty_clients(self) -> None:
        """Two registries and twenty clients: every blob is stored once, and is right."""
        daemons = (self.registry(), self.registry())
        names = ("first", "second", "third", "first/second", "large/third")

        def client(number: int) -> tuple[str, str]:
            name, registry = names[number % len(names)], daemons[number % 2].registry
            manifest = registry.manifest(name)
            for item in (*manifest.json()["layers"], manifest.json()["config"]):
                self.assertEqual(item["size"], len(blob(registry, name, item["digest"])))
            return name, digest_of(manifest.body)

        with ThreadPoolExecutor(CLIENTS) as threads:
            pulled = list(threads.map(client, range(CLIENTS)))
        self.assertEqual(len(names), len(set(pulled)))
        self.assert_stored_once()
        for daemon in daemons:
            daemon.stop()

    def test_killed_while_uploading(self) -> None:
        """A registry that is killed in the middle of an upload is made good by another."""
        self.bucket.fail("chunk", "slow", 60_000, skip=3)
        first = self.registry()
        with ThreadPoolExecutor(1) as threads:
            asked = threads.submit(first.registry.manifest, "large")
            wait_until(lambda: len(self.bucket.log("chunk")) > 3, "the upload to hang")
            first.kill()
            self.assertIsNotNone(asked.exception())
        # Small layers may be there, the one that was under way is not.
        sizes = [thing["size"] for thing in self.bucket.things().values()]
        self.assertLess(max(sizes, default=0), 1_000_000)
        second = self.registry()
        self.pull(second, "large")
        self.assert_stored_once()

    def test_killed_before_publishing(self) -> None:
        """A registry that is killed between upload and publication, too."""
        self.bucket.fail("move", "stall")
        first = self.registry()
        with ThreadPoolExecutor(1) as threads:
            asked = threads.submit(first.registry.manifest, "large")
            wait_until(lambda: bool(self.bucket.log("move")), "the publication to hang")
            first.kill()
            self.assertIsNotNone(asked.exception())
        (left,) = self.bucket.things("staging/")
        second = self.registry()
        self.pull(second, "large")
        # It may still be a running upload: a start of tomorrow will remove it.
        self.bucket.remove(left)
        self.assert_stored_once()

    def test_stopped_while_uploading(self) -> None:
        """A registry that is stopped in the middle of an upload ends it."""
        self.bucket.fail("chunk", "slow", 1000, times=1000)
        first = self.registry("--shutdown-timeout", "0")
        with ThreadPoolExecutor(1) as threads:
            asked = threads.submit(first.registry.manifest, "large")
            wait_until(lambda: len(self.bucket.log("chunk")) > 1, "the upload to begin")
            first.stop()
            asked.exception()
        state = self.bucket.state()
        self.assertEqual(0, state["sessions"])
        self.assertEqual([], [name for name in state["things"] if name.startswith("staging/")])
        self.bucket.heal()
        self.pull(self.registry(), "large")
        self.assert_stored_once()

    def test_while_the_bucket_fails_clients_are_told(self) -> None:
        """While the bucket fails, clients are told; afterwards they are served."""
        daemon = self.registry()
        self.pull(daemon, "plain")
        self.bucket.fail("*", "status", 403, times=10**6)
        refused = daemon.registry.manifest("known")
        self.assertEqual(500, refused.status)
        self.assertIn("Storage Object Admin", refused.message)
        self.bucket.heal()
        self.pull(daemon, "known")
        self.assert_stored_once()
