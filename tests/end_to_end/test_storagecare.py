"""
Taking care of what is stored beside a daemon that serves it: collections while a real
client pulls, a disk that has no room, images made ahead.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from threading import Event, Thread

from nixery.builds.documents import DOCUMENTS
from nixery.storage.filesystem.records import Records
from tests.end_to_end.case import EndToEndCase, Once, docker, podman, skopeo
from tests.end_to_end.daemon import (
    RECHECK,
    Daemon,
    checkout,
    private_environment,
    single_user_nix,
)
from tests.end_to_end.images import check_image, read_oci_layout
from tests.end_to_end.package_sets import demo_set
from tests.end_to_end.processes import private_directory

PULLS = 6

TRIES = 20
"""
Tries of a pull that a collection without any grace has met: each time
with a chance of more than a half to miss it.
"""


daemon = Once(lambda: Daemon(demo_set(), name="storage-care", constants={RECHECK: 0}).start())
"""A registry whose images no other test uses."""


def admin(*arguments: str, of: Daemon | None = None) -> subprocess.CompletedProcess[str]:
    """
    ``nixery-admin``, in a process of its own, on the storage of a daemon.

    :param of: the daemon, if not :data:`daemon`.
    """
    command, *rest = arguments
    served = daemon() if of is None else of
    return subprocess.run(
        [
            sys.executable,
            "-c",
            "from nixery.cli.admin.command import admin; admin()",
            command,
            "--storage-path",
            str(served.storage),
            *rest,
        ],
        env={
            **private_environment(served.directory / "home"),
            **checkout(),
            **single_user_nix(),
            "NIXERY_PKGS_PATH": str(demo_set()),
            "CACHE_DIRECTORY": str(served.directory / "cache"),
        },
        cwd=served.directory,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


class CollectionTests(EndToEndCase):
    """Removing images that are being pulled."""

    def test_pulls_beside_collections(self) -> None:
        """A client gets whole images while all of them are removed again and again."""
        name = f"{daemon().address}/hello"
        with collecting() as ended:
            for number in range(PULLS):
                layout = skopeo().directory / f"care-{number}"
                for _ in range(TRIES):
                    done = skopeo().copy(name, f"oci:{layout}:latest")
                    if done.status == 0:
                        break
                done.checked()
                check_image(*read_oci_layout(layout))
        self.assertTrue(ended)
        self.assertTrue(all(status == 0 for status in ended), ended)
        daemon().registry.manifest("hello")
        verified = admin("verify")
        self.assertEqual(0, verified.returncode, verified.stdout)

    def test_running_download_survives_the_removal_of_its_layer(self) -> None:
        """A download that has begun ends well although its layer is removed meanwhile."""
        registry = daemon().registry
        layers = registry.manifest("shell/git").json()["layers"]
        layer = max(layers, key=lambda each: each["size"])
        host, _, port = daemon().address.partition(":")
        connection = HTTPConnection(host, int(port), timeout=60)
        connection.request("GET", f"/v2/shell/git/blobs/{layer['digest']}")
        answer = connection.getresponse()
        hashed = hashlib.sha256(answer.read(1))
        self.assertEqual(0, admin("purge", "shell/git").returncode)
        name = layer["digest"].removeprefix("sha256:")
        self.assertFalse((daemon().storage / "blobs" / "sha256" / name[:2] / name).exists())
        while piece := answer.read(65536):
            hashed.update(piece)
        connection.close()
        self.assertEqual(layer["digest"], f"sha256:{hashed.hexdigest()}")
        # Known in memory, and made again all the same.
        made = registry.manifest("shell/git").json()["layers"]
        self.assertEqual([each["digest"] for each in layers], [each["digest"] for each in made])
        self.assertEqual(layer["size"], len(registry.blob("shell/git", layer["digest"])))

    def test_images_are_made_ahead_from_a_list_and_shown_with_their_names(self) -> None:
        """Images are made ahead from a list, and shown with their names."""
        wanted = daemon().directory / "images"
        wanted.write_text("htop  # for monitoring\n\nhello\n")
        base = f"http://{daemon().address}"
        done = admin("warm", "--from", str(wanted), "--url", base, "--json")
        self.assertEqual(0, done.returncode, done.stderr)
        self.assertEqual(["htop", "hello"], [each["image"] for each in json.loads(done.stdout)])
        self.assertIn("htop:latest", admin("list").stdout)
        done = admin("warm", "no-such-package", "htop", "--url", base)
        self.assertEqual(1, done.returncode)
        self.assertIn("1 of 2 images are ready", done.stdout)
        (seen,) = json.loads(admin("inspect", "htop").stdout)
        self.assertIn("htop=", seen["labels"]["nixery.image.packages"])

    def test_price_is_told_before_an_image_is_built_and_after(self) -> None:
        """The price of an image is told before it is built and after; asking builds nothing."""
        base = f"http://{daemon().address}"
        daemon().registry.manifest("hello")
        done = admin("estimate", "hello/htop", "--with", "hello", "--url", base, "--json")
        self.assertEqual(0, done.returncode, done.stderr)
        before = json.loads(done.stdout)
        self.assertFalse(before["ready"])
        self.assertEqual("hello:latest", before["with"])
        self.assertNotIn("hello/htop:latest", admin("list").stdout)
        layers = daemon().registry.manifest("hello/htop").json()["layers"]
        done = admin("estimate", "hello/htop", "--with", "hello", "--url", base, "--json")
        [platform] = json.loads(done.stdout)["platforms"]
        self.assertTrue(platform["ready"])
        size = sum(layer["size"] for layer in layers)
        self.assertEqual(
            (len(layers), size), (platform["pull"]["layers"], platform["pull"]["size"])
        )
        self.assertGreater(platform["shared"]["layers"], 0)
        self.assertIn("ready", admin("estimate", "hello/htop", "--url", base).stdout)
        done = admin("estimate", "no-such-package", "--url", base)
        self.assertEqual((1, ""), (done.returncode, done.stdout))
        self.assertIn("no-such-package", done.stderr)

    def test_bills_of_materials_are_made_of_an_image_that_has_none(self) -> None:
        """An image of an older version gets the bills of materials that it would have now."""
        registry = daemon().registry
        registry.manifest("hello")
        # The report of an image is written a moment after it was built; its page waits for that.
        self.assertEqual(200, registry.get("/images/hello:latest").status)
        places = [f"/images/hello:latest/{name}" for name in ("sbom.cdx.json", "sbom.spdx.json")]
        before = [registry.get(place).body for place in places]
        (shown,) = json.loads(admin("inspect", "hello").stdout)
        self.assertEqual(3, len(shown["documents"]))
        records = Records(str(daemon().storage / "records"), str(daemon().storage / "tmp"))
        for each in shown["manifests"]:
            records.delete(DOCUMENTS, each["digest"])
        self.assertEqual(404, registry.get(places[0]).status)
        done = admin("sbom", "hello")
        self.assertEqual((0, "hello:latest: made\n"), (done.returncode, done.stdout), done.stderr)
        self.assertEqual(before, [registry.get(place).body for place in places])
        # Nobody knows any more where it came from.
        self.assertEqual(404, registry.get("/images/hello:latest/provenance.json").status)
        self.assertEqual("hello:latest: there already\n", admin("sbom", "hello").stdout)
        self.assertEqual(0, admin("verify").returncode)

    def test_layers_of_several_kinds_lie_beside_each_other_and_are_verified(self) -> None:
        """Layers of another compression stay, are found again, and are verified like others."""
        directory = private_directory("kinds")
        digests, annotated = [], []
        for kind in ("zstd-chunked", "gzip", "zstd-chunked"):
            other = Daemon(demo_set(), directory=directory, options=["--compression", kind]).start()
            answer = other.registry.manifest("hello")
            digests.append(answer.headers["docker-content-digest"])
            layers = answer.json()["layers"]
            annotated.append(all("annotations" in layer for layer in layers))
            other.stop()
        self.assertEqual([True, False, True], annotated)
        self.assertEqual(digests[0], digests[2])
        self.assertNotEqual(digests[0], digests[1])
        verified = admin("verify", of=other)
        self.assertEqual(0, verified.returncode, verified.stdout)

        digest = layers[0]["digest"].removeprefix("sha256:")
        blob = other.storage / "blobs" / "sha256" / digest[:2] / digest
        data = bytearray(blob.read_bytes())
        # The end of the file is the footer, behind the tables.
        data[-100] ^= 1
        blob.chmod(0o600)
        blob.write_bytes(data)
        verified = admin("verify", of=other)
        self.assertEqual(1, verified.returncode, verified.stdout)
        self.assertIn(digest, verified.stdout)

    def test_without_room_nothing_is_built_and_the_answer_says_why(self) -> None:
        """Without room nothing is built, and the answer says why; what is stored is served."""
        daemon().registry.manifest("hello")
        full = Daemon(
            demo_set(),
            name="full",
            options=["--storage-path", str(daemon().storage), "--min-free-space", "99.99%"],
        ).start()
        self.assertEqual(200, full.registry.manifest("hello").status)
        refused = full.registry.get("/v2/hello/htop/git/manifests/latest")
        self.assertEqual(507, refused.status)
        self.assertIn("min_free_space", refused.body.decode())
        # Of the body, engines show nothing.
        image = f"{full.address}/hello/htop/git"
        for engine in (docker(), podman()):
            self.assertIn("the disk of the registry is full", engine.pull(image).output)
        copied = skopeo().copy(image, f"dir:{private_directory('full')}")
        self.assertIn("the disk of the registry is full", copied.output)
        self.assertEqual(503, full.registry.get("/readyz").status)
        self.assertEqual(200, full.registry.get("/healthz").status)
        full.stop()


@contextmanager
def collecting() -> Iterator[list[int]]:
    """Removes everything meanwhile, in another process; yields its exit statuses."""
    stop, statuses = Event(), []

    def work() -> None:
        while not stop.is_set():
            statuses.append(admin("gc", "--max-storage-size=0", "--grace=0").returncode)

    thread = Thread(target=work)
    thread.start()
    try:
        yield statuses
    finally:
        stop.set()
        thread.join()
