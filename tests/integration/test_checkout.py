"""The top level of the repository: what is settled, and what tools insist on."""

from __future__ import annotations

import subprocess
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

CHECKOUT = Path(__file__).resolve().parents[2]

TOP_LEVEL = {
    ".ci",
    ".dockerignore",
    ".gitignore",
    "LICENSE",
    "MANIFEST.in",
    "README.md",
    "default.nix",
    "nix",
    "nixery",
    "nixery.service",
    "pyproject.toml",
    "setup.py",
    "tests",
    "tox.ini",
    "twisted",
    "web",
}


class CheckoutTests(SynchronousTestCase):
    """The files of the repository."""

    def test_top_level_has_what_is_settled_and_nothing_that_tests_have_left(self) -> None:
        """Nothing but the settled files is committed at the top level."""
        if not (CHECKOUT / ".git").exists():
            raise SkipTest("this is not a checkout of the repository")
        listed = subprocess.run(
            ["git", "-c", "safe.directory=*", "ls-files", "-z"],
            cwd=CHECKOUT,
            capture_output=True,
            check=True,
        ).stdout.decode()
        names = {path.partition("/")[0] for path in listed.split("\0") if path}
        self.assertEqual(TOP_LEVEL, names)
