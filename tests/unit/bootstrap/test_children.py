"""Tests for :mod:`bootstrap.children`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from io import StringIO
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

import bootstrap
from bootstrap.children import Children, Finished
from bootstrap.console import Console

_INTERRUPTED = """
import signal, sys
sys.path.insert(0, {path!r})
from bootstrap.children import Children, Interrupted
from bootstrap.console import Console
signal.signal(signal.SIGHUP, signal.{hangup})
# A shell that runs tests in the background has this one ignored.
signal.signal(signal.SIGINT, signal.SIG_DFL)
with Children(Console("test")) as children:
    try:
        done = children.run(["sh", "-c", {script!r}], interruptible={interruptible})
    except Interrupted as error:
        print(error)
    else:
        print(done.status, done.output)
"""


class ChildrenTests(SynchronousTestCase):
    """Programs that are run, and signals meanwhile."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()

    def interrupt(
        self, script: str, number: int, *, interruptible: bool = True, hangup: str = "SIG_DFL"
    ) -> str:
        """Return the output of a program that gets a signal once the child wrote ``begun``."""
        os.mkfifo(self.directory / "begun")
        program = _INTERRUPTED.format(
            path=str(Path(bootstrap.__file__).parents[1]),
            script=script,
            interruptible=interruptible,
            hangup=hangup,
        )
        with subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=self.directory,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            (self.directory / "begun").read_text()
            process.send_signal(number)
            printed, _ = process.communicate(timeout=60)
        return printed

    def test_both_streams_are_kept_but_for_progress(self) -> None:
        """Both streams are kept, but for what was shown as progress."""
        shown = StringIO()
        console = Console("test", shown, monotonic=iter(range(0, 9999, 60)).__next__)
        console.begin("stepping")
        with Children(console) as children:
            done = children.run(
                ["sh", "-c", "echo one; echo step 2 >&2; printf three; exit 4"],
                detail=lambda line: line if line.startswith("step") else None,
            )
        self.assertEqual(done, Finished(4, "one\nthree"))
        self.assertIn("step 2", shown.getvalue())

    def test_signal_ends_the_child_with_its_own_children_before_it_is_told(self) -> None:
        """A signal ends the child, with its own children, before it is told."""
        script = "echo $$ > child; sleep 1000 & echo $! > grandchild; echo > begun; wait"
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            printed = self.interrupt(script, number)
            self.assertEqual(printed, f"interrupted by {number.name}\n")
            child = int((self.directory / "child").read_text())
            self.assertRaises(ProcessLookupError, os.kill, child, 0)
            (self.directory / "begun").unlink()

    def test_child_that_must_not_be_interrupted_ends_by_itself(self) -> None:
        """A child that must not be interrupted ends by itself; then the signal is reported."""
        script = "echo > begun; sleep 0.5; echo done > result"
        printed = self.interrupt(script, signal.SIGINT, interruptible=False)
        self.assertEqual(printed, "interrupted by SIGINT\n")
        self.assertEqual((self.directory / "result").read_text(), "done\n")

    def test_hang_up_that_was_ignored_at_the_start_stays_so(self) -> None:
        """A hang-up that was ignored at the start stays so."""
        script = "echo > begun; sleep 0.5; echo done"
        self.assertEqual(self.interrupt(script, signal.SIGHUP, hangup="SIG_IGN"), "0 done\n")

    def test_service_that_package_starts_is_not_waited_for_although_it_has_pipe(self) -> None:
        """A service that a package starts is not waited for, although it has the pipe."""
        with Children(Console("test", StringIO())) as children:
            done = children.run(["sh", "-c", "sleep 1000 & echo $!"])
        os.kill(int(done.output), signal.SIGKILL)
        self.assertEqual(done.status, 0)
