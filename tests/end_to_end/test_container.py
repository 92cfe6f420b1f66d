"""
The registry in a container of its own, as Kubernetes would run it: made by podman
from our Dockerfile, and pulled from by the same podman.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from urllib.request import urlopen

from tests.end_to_end.case import EndToEndCase, podman
from tests.end_to_end.engines import Podman, require
from tests.end_to_end.package_sets import demo_set
from tests.end_to_end.processes import at_end, free_port, private_directory, run, wait_until

CHECKOUT = Path(__file__).resolve().parents[2]

USER = 10001
"""Whom the Dockerfile lets the registry run as."""


class ContainerTests(EndToEndCase):
    """A registry without any privilege, on a read-only root, with volumes of the host's."""

    def test_registry_in_a_container(self) -> None:
        """It builds with a Nix of its own, and its images are pulled and run."""
        engine = podman()
        engine.build(_context(), "nix/container/Dockerfile", "nixery", BASE=_base(engine))
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
        owners = {path.stat().st_uid for path in (volumes / "nix" / "store").iterdir()}
        self.assertEqual(owners, {USER})

        engine.stop(container).checked()
        self.assertIn("Server Shut Down.", engine.logs(container).output)


def _base(engine: Podman) -> str:
    """The image of a small Debian: what ``debian:bookworm-slim`` is elsewhere."""
    require("debootstrap")
    if sys.version_info[:2] != (3, 11):
        raise AssertionError("the wheels are for this Python, and Debian 12 has version 3.11")
    root = private_directory("debian")
    run(["debootstrap", "--variant=minbase", "bookworm", str(root)], seconds=600).checked()
    # As Debian's own images have it.
    (root / "etc/dpkg/dpkg.cfg.d/docker-apt-speedup").write_text("force-unsafe-io\n")
    archive = private_directory("archive") / "debian.tar"
    run(["tar", "-C", str(root), "-cf", str(archive), "."]).checked()
    engine.load(archive, "localhost/debian")
    shutil.rmtree(root)
    archive.unlink()
    return "localhost/debian"


def _context() -> Path:
    """The build context of the image, with all that it needs of PyPI at hand."""
    context = private_directory("context")
    wanted = (CHECKOUT / ".dockerignore").read_text().split()
    for name in [each[1:] for each in wanted if each.startswith("!")]:
        source = CHECKOUT / name
        if source.is_dir():
            shutil.copytree(source, context / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.exists():
            shutil.copy(source, context / name)
    shutil.copy(CHECKOUT / ".dockerignore", context)
    run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "-w", str(context / "wheels"), "."],
        cwd=context,
        seconds=600,
    ).checked()
    return context
