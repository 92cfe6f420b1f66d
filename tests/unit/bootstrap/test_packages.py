"""Tests for :mod:`bootstrap.packages`."""

from __future__ import annotations

from io import StringIO

from twisted.trial.unittest import SynchronousTestCase

from bootstrap.children import Children, Finished
from bootstrap.console import Console
from bootstrap.packages import _Apt, _failure


class ReasonTests(SynchronousTestCase):
    """The reason for which packages could not be installed."""

    def test_only_what_says_that_a_lock_is_held_is_tried_again(self) -> None:
        """Only what says that a lock is held is tried again."""
        outputs = iter(
            [
                Finished(
                    100,
                    "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 7"
                    " (apt-get)\nE: Unable to lock directory /var/lib/apt/lists/",
                ),
                Finished(100, "E: Could not get lock /l - open (11: Resource unavailable)"),
                Finished(100, "E: Unable to locate package x"),
            ]
        )
        err = StringIO()
        children = Children(Console("start"))
        self.patch(children, "run", lambda *_, **__: next(outputs))
        self.patch(children, "wait", lambda _: True)
        done = _Apt(children, Console("start", err)).run(["update"])
        self.assertIn("Unable to locate", done.output)
        self.assertIn(
            "waiting for another run of apt (/var/lib/apt/lists/lock, which process 7 (apt-get)"
            " holds)",
            err.getvalue(),
        )

    def test_failed_installation_has_the_reason_of_the_update(self) -> None:
        """Without a network, apt's update says why, although it is the installation that fails."""
        update = Finished(100, "Err:1 http://m x\n  Could not resolve 'm'\nE: Failed to fetch")
        install = Finished(100, "E: Unable to locate package nix-bin")
        self.assertIn("(Could not resolve 'm')", _failure(["nix-bin"], update, install).message)

    def test_with_a_network_it_is_apts_sources_that_lack_the_package(self) -> None:
        """With a network, it is apt's sources that lack the package."""
        install = Finished(100, "E: Unable to locate package nix-bin")
        reason = _failure(["nix-bin"], Finished(0, ""), install).message
        self.assertIn("no source of apt's has them", reason)
        self.assertNotIn("network", reason)
