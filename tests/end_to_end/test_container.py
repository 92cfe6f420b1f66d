"""
The registry in a container of its own, as Kubernetes would run it: made by podman
from our Dockerfile, and pulled from by the same podman.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from urllib.request import urlopen

from tests.clean_roots.machine import Machine
from tests.clean_roots.root import debootstrap, require_machine
from tests.end_to_end.case import EndToEndCase, podman
from tests.end_to_end.engines import Podman, require
from tests.end_to_end.package_sets import demo_set
from tests.end_to_end.processes import at_end, free_port, private_directory, run, wait_until
from tests.listing import statuses_below

CHECKOUT = Path(__file__).resolve().parents[2]

RELEASE = "trixie"
"""The Debian that the Dockerfile is made for; its Python and its Nix are in the image."""

USER = 10001
"""Whom the Dockerfile lets the registry run as."""


class ContainerTests(EndToEndCase):
    """A registry without any privilege, on a read-only root, with volumes of the host's."""

    def test_registry_in_a_container(self) -> None:
        """It builds with a Nix of its own, and its images are pulled and run."""
        engine = podman()
        machine = require_machine()
        root = _debian(machine)
        context = _context(root, machine)
        base = _load(engine, root)
        engine.build(context, "nix/container/Dockerfile", "nixery", BASE=base)
        volumes = private_directory("volumes")
        volumes.chmod(0o755)
        for name in ("nix", "state", "cache", "tmp"):
            # As Kubernetes makes an empty volume for a pod with an `fsGroup`.
            (volumes / name).mkdir()
            os.chown(volumes / name, 0, USER)
            (volumes / name).chmod(0o2777)
        port = free_port()
        container = engine.start(
            "nixery",
            {
                volumes / "nix": "/nix",
                volumes / "state": "/var/lib/nixery",
                volumes / "cache": "/var/cache/nixery",
                volumes / "tmp": "/tmp",
                demo_set(): "/packages:ro",
            },
            {"PORT": str(port), "NIXERY_PKGS_PATH": "/packages"},
        )
        at_end(lambda: engine.kill(container))
        wait_until(
            lambda: (
                "Pull with: docker pull" in engine.logs(container).output
                or "Server Shut Down" in engine.logs(container).output
            ),
            "the registry in the container",
        )
        with urlopen(f"http://127.0.0.1:{port}/readyz", timeout=30) as answer:
            self.assertEqual(answer.read(), b"ok\n")

        image = f"127.0.0.1:{port}/hello"
        finished = engine.pull(image)
        self.assertEqual(finished.status, 0, finished.output + engine.logs(container).output)
        self.assertIn("Hello, world!", engine.run(image, "hello").checked().stdout)
        owners = {status.st_uid for status in statuses_below(volumes / "nix" / "store")}
        self.assertEqual(owners, {USER})

        engine.stop(container).checked()
        self.assertIn("Server Shut Down.", engine.logs(container).output)


def _debian(machine: Machine) -> Path:
    """
    The root of a small Debian: what ``debian:trixie-slim`` is elsewhere.

    It has what is needed for making wheels, which are for its own Python: this machine's
    may be another.
    """
    require("debootstrap")
    root = private_directory("debian")
    debootstrap(RELEASE, root, machine, packages=("ca-certificates", "python3-venv")).checked()
    # As Debian's own images have it.
    (root / "etc/dpkg/dpkg.cfg.d/docker-apt-speedup").write_text("force-unsafe-io\n")
    return root


def _context(root: Path, machine: Machine) -> Path:
    """
    Make the build context of the image, with all that it needs of PyPI at hand.

    :param root: of the Debian that the image is made of; it has the wheels made in it.
    """
    context = private_directory("context")
    wanted = (CHECKOUT / ".dockerignore").read_text().split()
    for name in [each[1:] for each in wanted if each.startswith("!")]:
        source = CHECKOUT / name
        if source.is_dir():
            shutil.copytree(source, context / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            shutil.copy(source, context / name)
    shutil.copy(CHECKOUT / ".dockerignore", context)
    work = root / "tmp/work"
    shutil.copytree(context, work / "src")
    shutil.copy("/etc/resolv.conf", root / "etc")
    # The machine's own settings name files, which are copied: indexes, authorities, constraints.
    environ = {
        **machine.put_into(root, RELEASE),
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
    }
    for command in (
        ["python3", "-m", "venv", "/tmp/work/venv"],
        ["/tmp/work/venv/bin/pip", "wheel", "--quiet", "-w", "/tmp/work/wheels", "/tmp/work/src"],
    ):
        run(["chroot", str(root), *command], environ=environ, seconds=900).checked()
    (work / "wheels").rename(context / "wheels")
    shutil.rmtree(work)
    return context


def _load(engine: Podman, root: Path) -> str:
    """Make an image of a root, which is removed; its name."""
    archive = private_directory("archive") / "debian.tar"
    run(["tar", "-C", str(root), "-cf", str(archive), "."]).checked()
    engine.load(archive, "localhost/debian")
    shutil.rmtree(root)
    archive.unlink()
    return "localhost/debian"
