"""
The units as documented, on a Debian with systemd and Debian's own Nix.

The checks themselves are in :mod:`tests.guest.inside` and run there, one after the other.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import sys
import tarfile
from pathlib import Path
from typing import Any, ClassVar

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.end_to_end.processes import private_directory, run
from tests.guest.container import Booted
from tests.guest.image import debian

CHECKOUT = Path(__file__).resolve().parent.parent.parent

PROGRAMS = ("busybox", "debootstrap", "ip", "nsenter", "setpriv", "unshare")

SECONDS = 3600

LOAD = """
mkdir /run/checks
tar -xf /checks.tar -C /run/checks
/opt/nixery/bin/pip install --quiet --no-index --no-deps --force-reinstall /run/checks/nixery-*.whl
"""


@functools.cache
def results() -> dict[str, dict[str, Any]]:
    """
    Return the result of each check.

    :raises SkipTest: no such system can be made here.
    """
    if os.geteuid() != 0:
        raise SkipTest("only root can make a container")
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        raise SkipTest(f"not installed: {', '.join(missing)}")
    if run(["unshare", "--mount", "--pid", "--fork", "--cgroup", "true"]).status != 0:
        raise SkipTest("this machine lets nobody make a container")
    directory = private_directory("guest")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    run([*pip, "--wheel-dir", str(directory), str(CHECKOUT)], seconds=900).checked()
    [wheel] = directory.glob("*.whl")
    below = debian(wheel)
    (directory / "files").mkdir()
    _pack(directory / "files" / "checks.tar", wheel)
    system = Booted(below, directory)
    system.run(["sh", "-euc", LOAD], seconds=600).checked()
    done = system.run(["python3", "/run/checks/inside.py"], seconds=SECONDS)
    said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"check"')]
    if not said or said[-1]["check"] != "end":
        raise AssertionError(done.describe())
    return {each["check"]: each for each in said}


def _pack(archive: Path, wheel: Path) -> None:
    """Make an archive of what the checks need of this checkout."""
    busybox = shutil.which("busybox")
    assert busybox is not None
    with tarfile.open(archive, "w", dereference=True) as tar:
        for path in (wheel, CHECKOUT / "nixery.service"):
            tar.add(path, path.name)
        tar.add(CHECKOUT / "nix" / "systemd", "systemd")
        tar.add(Path(__file__).with_name("inside.py"), "inside.py")
        tar.add(Path(__file__).with_name("set"), "set")
        tar.add(busybox, "set/bin/busybox")


class UnitTests(SynchronousTestCase):
    """One system, in which each check has changed what the next one finds."""

    timeout: ClassVar[int] = 3 * SECONDS

    def succeeds(self, check: str) -> None:
        """See that a check found nothing."""
        problem = results()[check]["problem"]
        self.assertIsNone(problem, f"\n{problem}")

    def test_without_the_group(self) -> None:
        """Whom Nix does not let in ends once, and says whose the Nix daemon is."""
        self.succeeds("without_the_group")

    def test_with_the_group(self) -> None:
        """The documented drop-in lets the registry use Debian's Nix."""
        self.succeeds("with_the_group")

    def test_from_a_dynamic_user(self) -> None:
        """State of a unit with a dynamic user goes over to the static one."""
        self.succeeds("from_a_dynamic_user")

    def test_reload(self) -> None:
        """It is reloaded and not restarted."""
        self.succeeds("reload")

    def test_hardening(self) -> None:
        """systemd gives it a score of 1.3 at most."""
        self.succeeds("hardening")

    def test_commands(self) -> None:
        """``nixery-admin`` runs with the service's environment."""
        self.succeeds("commands")

    def test_unusable_configuration(self) -> None:
        """With a wrong setting it ends once."""
        self.succeeds("unusable_configuration")

    def test_socket(self) -> None:
        """The documented order lets systemd listen."""
        self.succeeds("passed_socket")

    def test_waiting_client(self) -> None:
        """A waiting client does not start a service for ever that cannot start."""
        self.succeeds("waiting_client")

    def test_instances(self) -> None:
        """Two instances serve beside each other, and see nothing of each other."""
        self.succeeds("instances")

    def test_storage_elsewhere(self) -> None:
        """Images may lie elsewhere."""
        self.succeeds("storage_elsewhere")

    def test_disk(self) -> None:
        """The state may be a disk of its own."""
        self.succeeds("disk")
