"""
Tests of the units as documented, on a Debian with systemd and Debian's own Nix.

The checks themselves run there, one after the other: :mod:`tests.guest.container_checks` and
:mod:`tests.guest.machine_checks`.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tarfile
from pathlib import Path
from typing import Any, ClassVar

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.clean_roots.root import CHECKOUT
from tests.clean_roots.test_commands import WITHIN
from tests.end_to_end.case import Once
from tests.end_to_end.processes import private_directory, run
from tests.guest.container import Container
from tests.guest.image import debian
from tests.guest.machine import run_in_machine
from tests.programs import PATH

CHECKS_SECONDS = 3600
"""Timeout of all checks in a guest."""

UNPACK = "mkdir /run/checks && tar -xf /checks.tar -C /run/checks"

INSTALL = """
/opt/nixery/bin/pip install --quiet --no-index --no-deps --force-reinstall \\
    /run/checks/nixery-*.whl
cd /run/checks
"""

Results = dict[str, dict[str, Any]]


def _make_archive() -> Path:
    """
    Make an archive of what the checks need of this checkout.

    :raises SkipTest: no guest can be made here.
    """
    if os.environ.get(WITHIN):
        raise SkipTest("a clean root makes no others")
    if os.geteuid() != 0:
        raise SkipTest("only root can make a guest")
    directory = private_directory("guest")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    run([*pip, "--wheel-dir", str(directory), str(CHECKOUT)], seconds=900).checked()
    [wheel] = directory.glob("*.whl")
    for module in ("container_checks", "machine_checks"):
        script = f"{INSTALL}python3 -B -m tests.guest.{module}\n"
        (directory / f"{module}.sh").write_text(script)
    archive = directory / "checks.tar"
    own = Path(__file__).parent
    with tarfile.open(archive, "w", dereference=True) as tar:
        for path in (wheel, CHECKOUT / "nixery.service", *directory.glob("*.sh")):
            tar.add(path, path.name)
        tar.add(CHECKOUT / "nix" / "systemd", "systemd")
        tar.add(own / "set", "set")
        for path in (own.parent / "__init__.py", *own.glob("*.py")):
            tar.add(path, path.relative_to(CHECKOUT))
    return archive


def _require(*programs: str) -> None:
    """:raises SkipTest: a program is not installed."""
    missing = [program for program in programs if shutil.which(program, path=PATH) is None]
    if missing:
        raise SkipTest(f"not installed: {', '.join(missing)}")


def _results(output: str) -> Results:
    """
    Parse the output of the checks.

    :raises AssertionError: they did not come to their end.
    """
    reports = [json.loads(line) for line in output.splitlines() if line.startswith('{"check"')]
    if not reports or reports[-1]["check"] != "end":
        raise AssertionError(output[-20_000:])
    return {report["check"]: report for report in reports}


def _check_container() -> Results:
    _require("debootstrap", "nsenter", "setpriv", "unshare")
    if run(["unshare", "--mount", "--pid", "--fork", "--cgroup", "true"]).status != 0:
        raise SkipTest("this machine lets nobody make a container")
    archive = checks()
    [wheel] = archive.parent.glob("*.whl")
    root = debian(wheel)
    container = Container(root, archive.parent)
    shutil.copy(archive, container.files)
    container.start()
    container.run(["sh", "-euc", UNPACK], seconds=60).checked()
    script = ["sh", "-eu", "/run/checks/container_checks.sh"]
    return _results(container.run(script, seconds=CHECKS_SECONDS).output)


def _check_machine() -> Results:
    _require("debootstrap", "mke2fs", "qemu-system-x86_64", "setpriv")
    archive = checks()
    [wheel] = archive.parent.glob("*.whl")
    root = debian(wheel)
    return _results(run_in_machine(root, archive, "machine_checks.sh", seconds=CHECKS_SECONDS))


checks = Once(_make_archive)
in_container = Once(_check_container)
in_machine = Once(_check_machine)


class GuestCase(SynchronousTestCase):
    """One guest, in which each check has changed what the next one finds."""

    timeout: ClassVar[int] = 3 * CHECKS_SECONDS

    def check(self, results: Once[Results], check: str) -> None:
        """See that a check has found nothing."""
        problem = results()[check]["problem"]
        if problem:
            self.fail(problem)


class ContainerTests(GuestCase):
    """Tests with systemd as process 1 of a container."""

    def test_without_the_group(self) -> None:
        """A service that Nix does not let in ends once, and says which group to join."""
        self.check(in_container, "without_the_group")

    def test_with_the_group(self) -> None:
        """The documented drop-in lets the registry use Debian's Nix."""
        self.check(in_container, "with_the_group")

    def test_from_a_dynamic_user(self) -> None:
        """State of a unit with a dynamic user goes over to the static one."""
        self.check(in_container, "from_a_dynamic_user")

    def test_unit_is_reloaded_and_not_restarted(self) -> None:
        """It is reloaded and not restarted."""
        self.check(in_container, "reload")

    def test_score_of_systemds_own_analysis_is_1_3_at_most(self) -> None:
        """The score of systemd's own analysis is 1.3 at most."""
        self.check(in_container, "hardening")

    def test_nixery_admin_runs_with_the_services_environment(self) -> None:
        """``nixery-admin`` runs with the service's environment."""
        self.check(in_container, "commands")

    def test_with_a_wrong_setting_it_ends_once(self) -> None:
        """With a wrong setting it ends once."""
        self.check(in_container, "unusable_configuration")

    def test_documented_order_lets_systemd_listen_beside_a_configured_port(self) -> None:
        """The documented order lets systemd listen, beside a configured port."""
        self.check(in_container, "passed_socket")

    def test_unix_socket_that_belongs_to_root_is_served_on_and_stays_as_it_is(self) -> None:
        """A UNIX socket that belongs to root is served on, and stays as it is."""
        self.check(in_container, "passed_unix_socket")

    def test_waiting_client_does_not_keep_a_failing_service_starting_for_ever(self) -> None:
        """A waiting client does not have a service started for ever that cannot start."""
        self.check(in_container, "waiting_client")

    def test_two_instances_serve_beside_each_other_and_see_nothing_of_each_other(self) -> None:
        """Two instances serve beside each other, and see nothing of each other."""
        self.check(in_container, "instances")

    def test_key_that_only_root_can_read_reaches_the_service(self) -> None:
        """A key that only root can read reaches the service."""
        self.check(in_container, "credentials")

    def test_renewed_certificate_that_a_group_can_read_needs_a_reload_only(self) -> None:
        """A renewed certificate that a group can read needs a reload only."""
        self.check(in_container, "renewal")

    def test_package_set_may_be_in_a_home_directory(self) -> None:
        """A package set may be in a home directory."""
        self.check(in_container, "home_directory")

    def test_images_may_lie_elsewhere(self) -> None:
        """Images may lie elsewhere."""
        self.check(in_container, "storage_elsewhere")

    def test_state_may_be_a_disk_of_its_own(self) -> None:
        """The state may be a disk of its own."""
        self.check(in_container, "disk")


class MachineTests(GuestCase):
    """Tests in a virtual machine, whose clock is its own."""

    def test_service_starts_and_logs_no_warning(self) -> None:
        """The service starts, and logs no warning."""
        self.check(in_machine, "installation")

    def test_clock_that_is_set_forward_and_back_stops_nothing(self) -> None:
        """A clock that is set forward and back stops nothing."""
        self.check(in_machine, "clock")
