"""
The daemon under the restrictions of its unit: what it makes then is what it makes without.
"""

from __future__ import annotations

import sys
from pathlib import Path

from twisted.trial.unittest import SkipTest

from tests.end_to_end.case import EndToEndCase, demo_registry
from tests.end_to_end.engines import require
from tests.end_to_end.multiuser_nix import NOBODY, start_stranger
from tests.end_to_end.package_sets import demo_set
from tests.end_to_end.processes import run

CHECKOUT = Path(__file__).resolve().parent.parent.parent

# What the unit does by ProtectSystem=strict, User=, CapabilityBoundingSet= and
# NoNewPrivileges=; then come the filters. What must stay writable is bound to itself first,
# and so has a mount of its own.
CONFINE = """
theirs=${STATE_DIRECTORY%/*}
mkdir -p "$theirs/tmp"
chown nobody:nogroup "$theirs/tmp"
mount --bind "$theirs" "$theirs"
mount -o remount,bind,ro /
export TMPDIR="$theirs/tmp"
exec setpriv $IDENTITY --bounding-set=-all,+dac_read_search --no-new-privs -- \\
    "$0" "$CONFINED" "$UNIT" "$0" "$@"
"""


class ConfinedTests(EndToEndCase):
    """A daemon that may do no more than ``nixery.service`` lets it."""

    def test_makes_the_same(self) -> None:
        """A package is looked up, built by the Nix daemon, packed and served."""
        require("nix-daemon", "systemd-analyze", "unshare")
        tried = run(["unshare", "--mount", "mount", "-o", "remount,bind,ro", "/"])
        if tried.status != 0:
            raise SkipTest("this machine lets nobody mount anything")
        daemon = start_stranger(
            self,
            demo_set(),
            interpreter=[
                *("unshare", "--mount", "--propagation=private"),
                *("sh", "-eu", "-c", CONFINE, sys.executable),
            ],
            environ={
                "IDENTITY": " ".join(NOBODY),
                "CONFINED": str(CHECKOUT / "tests" / "end_to_end" / "confined.py"),
                "UNIT": str(CHECKOUT / "nixery.service"),
            },
        )
        status = dict(
            line.split(":\t", 1)
            for line in Path(f"/proc/{daemon.pid}/status").read_text().splitlines()
            if ":\t" in line
        )
        self.assertEqual(("2", "1"), (status["Seccomp"], status["NoNewPrivs"]))
        self.assertNotEqual("0", status["Uid"].split("\t")[0])
        confined, free = (
            each.registry.manifest("shell/hello").json() for each in (daemon, demo_registry())
        )
        self.assertEqual(free["layers"], confined["layers"])
        for layer in confined["layers"]:
            daemon.registry.blob("shell/hello", layer["digest"])
        daemon.stop()
