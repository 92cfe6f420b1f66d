"""
Runs clients that verify signatures, in a Debian tree that has them.

Debian 12 has none of cosign, oras and crane, and its podman cannot verify.  Where
``NIXERY_TEST_BASES`` names a directory with a tree ``sid`` that has them, the programs of that tree
are run: in namespaces of their own, with the machine's network, and without writing to the tree.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from twisted.trial.unittest import SkipTest

from tests.clean_roots.root import BASES
from tests.end_to_end.processes import Finished, run
from tests.programs import PATH

__all__ = ["ClientTree"]

ENTER = Path(__file__).parents[1] / "clean_roots" / "enter.sh"

PREPARE = """
set -eu
export HOME=/run/home TMPDIR=/run/tmp
mkdir -p /run/home /run/tmp /run/containers
mount --bind /run/containers /etc/containers
"""
"""Writes go to a file system in memory, which ends with the command."""


class ClientTree:
    """
    The tree with the clients.

    :raises SkipTest: there is none here.
    """

    programs = ("cosign", "crane", "oras", "podman", "skopeo")

    def __init__(self) -> None:
        bases = os.environ.get(BASES)
        if not bases:
            raise SkipTest(f"{BASES} names no directory with a tree of clients that verify")
        self.path = Path(bases) / "sid"
        self.require(*(f"usr/bin/{each}" for each in self.programs))

    def require(self, *files: str) -> None:
        """
        Check that the tree has these files.

        :raises SkipTest: it has not.
        """
        missing = [each for each in files if not (self.path / each).exists()]
        if missing:
            raise SkipTest(f"{self.path} has no {', '.join(missing)}")

    def run(self, script: str, environ: Mapping[str, str]) -> Finished:
        """Run a script of sh in the tree, to its end."""
        return run(
            [
                *("unshare", "--mount", "--pid", "--ipc", "--uts", "--propagation", "private"),
                *("--fork", "--kill-child", "--"),
                *("sh", str(ENTER), str(self.path)),
                *("env", "--ignore-environment"),
                "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                *(f"{name}={value}" for name, value in environ.items()),
                *("sh", "-c", PREPARE + script),
            ],
            environ={"PATH": PATH},
            seconds=600,
        )
