"""
Tests of packages with links out of the store and with odd names: containers of such images
start and have what they need, whatever the machine has that made them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.end_to_end.case import EndToEndCase, Once, containerd, docker, podman
from tests.end_to_end.daemon import Daemon
from tests.end_to_end.engines import Docker, Podman
from tests.end_to_end.package_sets import ContentsSet
from tests.end_to_end.processes import private_directory

if TYPE_CHECKING:
    Mixin = EndToEndCase
else:
    # What is mixed into test cases uses their methods, and is none itself.
    Mixin = object

contents_set = Once(ContentsSet)
contents_registry = Once(lambda: Daemon(contents_set().path, name="contents").start())

ASTRAY = "astray/astray-all/tools"

CHECK = """
set -eu
id -un
touch "/tmp/$(id -un)"
test -d /var/empty
test -d /root
grep -q ^nobody: /etc/passwd
grep -q ^nobody: /etc/group
test -x /usr/bin/env
test -x /bin/bash
cat "$SSL_CERT_FILE" /etc/ssl/certs/ca-certificates.crt
ls /share/fonts
"""

ODD = """
set -eu
cd /share/odd
for each in * .*; do
  case "$each" in
    .|..|link|odd|deep*) ;;
    *) test "$(cat "./$each")" = "$each" ;;
  esac
done
cat link
"""


class EngineTests(Mixin):
    """The tests that Docker and podman have to pass."""

    def engine(self) -> Docker | Podman:
        raise NotImplementedError

    def pull(self, name: str) -> str:
        image = f"{contents_registry().address}/{name}"
        self.engine().pull(image).checked()
        return image

    def test_container_has_what_it_needs_as_root_and_as_nobody(self) -> None:
        """Containers have users, certificates and places for files, also with volumes there."""
        image = self.pull(ASTRAY)
        volume = private_directory("volume")
        for directory in (volume, volume / "empty"):
            directory.mkdir(exist_ok=True)
            directory.chmod(0o1777)
        passwd = volume / "passwd"
        passwd.write_text("root:x:0:0::/:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n")
        volumes: tuple[tuple[str, list[str]], ...] = (
            ("own", []),
            ("passwd", [f"--volume={volume}:/share/fonts", f"--volume={volume}:/tmp"]),
            ("own", ["--tmpfs=/tmp", f"--volume={passwd}:/etc/passwd"]),
            ("own", [f"--volume={volume}:/var", f"--volume={volume}:/host"]),
        )
        for user in ("root", "nobody"):
            for font, options in volumes:
                finished = self.engine().run(
                    image, "sh", "-c", CHECK, options=[f"--user={user}", *options]
                )
                said = finished.checked().stdout.split()
                self.assertEqual(said[:3], [user, "certificate", "certificate"])
                self.assertIn(font, said[3:])

    def test_odd_names_arrive_as_they_are(self) -> None:
        """Names arrive byte for byte, and so do long ones."""
        image = self.pull("odd/tools")
        said = self.engine().run(image, "sh", "-c", ODD).checked().stdout
        self.assertEqual(said, "deep\n")


class DockerTests(EngineTests, EndToEndCase):
    """Docker's daemon and client."""

    def engine(self) -> Docker:
        return docker()


class PodmanTests(EngineTests, EndToEndCase):
    """podman."""

    def engine(self) -> Podman:
        return podman()


class RegistryTests(EndToEndCase):
    """The registry alone."""

    def test_containerd_unpacks_odd_names(self) -> None:
        """containerd unpacks odd names as the others do."""
        image = f"{contents_registry().address}/odd/tools"
        containerd().pull(image).checked()
        said = containerd().run(image, "sh", "-c", ODD).checked().stdout
        self.assertEqual(said, "deep\n")

    def test_machine_that_has_everything_in_the_way_makes_the_same_images(self) -> None:
        """Images are the same on a machine that has all files to which the links lead."""
        names = ("astray", ASTRAY, "astray-all")
        before = [contents_registry().registry.manifest(name) for name in names]
        contents_set().make_host()
        other = Daemon(contents_set().path, name="other-host").start()
        after = [other.registry.manifest(name) for name in names]
        self.assertEqual([200] * 6, [answer.status for answer in (*before, *after)])
        self.assertEqual([each.body for each in before], [each.body for each in after])
        said = other.log()
        self.assertIn(f"{ASTRAY}: /tmp of ", said)
        self.assertIn(f"{ASTRAY}: /etc/passwd is the image's own, not ", said)
        page = other.registry.get(f"/images/{ASTRAY}:latest", accept="text/html").body
        self.assertIn(b"it is a link to its own place in the image", page)

    def test_name_that_deletes_files_is_refused_before_anything_is_stored(self) -> None:
        """A name that begins with ``.wh.`` is a 422 with package and file."""
        daemon = contents_registry()
        blobs = daemon.storage / "blobs"
        stored = sorted(blobs.rglob("*"))
        for name, package, file in (
            ("whiteout", "whiteout", ".wh.nix"),
            ("whiteout-within/odd", "whiteout-within", "share/t/.wh..aaa"),
            ("whiteout-opaque", "whiteout-opaque", "share/t/.wh..wh..opq"),
            ("whiteout-of-nothing", "whiteout-of-nothing", "share/.wh."),
            ("needs-whiteout", "needs-whiteout", ".wh.nix"),
        ):
            answer = daemon.registry.manifest(name)
            self.assertEqual(answer.status, 422)
            self.assertIn(f"-1.0/{file} (needed by {package})", answer.message)
        self.assertEqual(stored, sorted(blobs.rglob("*")))
