"""
Checks that run in the virtual machine, as root: its clock is its own, and may be set.
"""

from __future__ import annotations

import time

from tests.guest.steps import (
    extend,
    get,
    install_units,
    join_nix_users,
    journal,
    make_user,
    pull,
    run,
    run_checks,
    shown,
    start,
)

WATCHDOG_SECONDS = 120
"""``WatchdogSec=`` of the unit."""


def installation() -> None:
    """The service starts, and nothing it says is a warning."""
    install_units()
    make_user()
    join_nix_users("nixery.service")
    # An emulated processor is slow.
    extend("nixery.service", "slow", "[Service]\nTimeoutStartSec=600\n")
    start("nixery")
    pull("hello")
    said = run("journalctl", "--unit=nixery", "--priority=warning", "--output=cat", "--quiet")
    assert not said, said


def clock() -> None:
    """A clock that is set forward and back does not stop the service."""
    begun = time.monotonic()
    before = shown("nixery", "MainPID")
    run("date", "--set", "+30 days")
    pull("other")
    run("date", "--set", "-30 days")
    for image in ("hello", "other", "third"):
        pull(image)
    # The watchdog's time passes once since each change.
    while time.monotonic() < begun + 1.25 * WATCHDOG_SECONDS:
        time.sleep(1)
        assert shown("nixery", "ActiveState") == "active", journal("nixery")
    for image in ("hello", "other", "third"):
        pull(image)
    status, _, body = get("/readyz")
    assert status == 200, body
    assert (shown("nixery", "MainPID"), shown("nixery", "NRestarts")) == (before, "0")
    run("systemctl", "reload", "nixery")
    run("systemctl", "stop", "nixery")
    assert shown("nixery", "Result") == "success", journal("nixery")


if __name__ == "__main__":
    run_checks((installation, clock))
