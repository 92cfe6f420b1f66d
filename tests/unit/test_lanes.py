"""Tests for :mod:`tests.lanes`."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.lanes import Finished, Lane, run_lanes


class LaneTests(SynchronousTestCase):
    """Commands beside each other, which meet at named pipes."""

    def setUp(self) -> None:
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.directory = Path(directory.name)
        for name in ("one", "two"):
            os.mkfifo(self.directory / name)
        self.shown = ""
        self.finished: list[Finished] = []
        self.closed = 0

    def lane(self, *commands: tuple[str, ...]) -> Lane:
        try:
            for number, argv in enumerate(commands):
                process = subprocess.Popen(
                    argv,
                    cwd=self.directory,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                )
                self.finished.append((yield f"== {number}\n", process))
        finally:
            self.closed += 1

    def shell(self, *scripts: str) -> Lane:
        return self.lane(*(("sh", "-c", script) for script in scripts))

    def show(self, text: str) -> None:
        self.shown += text

    def test_commands_of_a_lane_follow_each_other(self) -> None:
        """Each begins when the one before has ended, whose output and status its lane gets."""
        run_lanes([self.shell("echo a > file; exit 3", "cat file; echo \\\\344 >&2")], self.show)
        self.assertEqual("== 0\n== 1\na\n\ufffd\n", self.shown.replace("\\344", "\ufffd"))
        self.assertEqual([3, 0], [each.status for each in self.finished])
        self.assertEqual("== 0\n", self.finished[0].output)

    def test_output_stays_in_one_piece(self) -> None:
        """Two commands that print by turns are shown one after the other, none left out."""
        run_lanes(
            [
                self.shell("echo a; echo > one; read x < two; echo b", "echo c"),
                self.shell("read x < one; echo d; echo > two; echo e"),
                self.shell(),
            ],
            self.show,
        )
        for piece in ("== 0\na\nb\n", "== 1\nc\n", "== 0\nd\ne\n"):
            self.assertIn(piece, self.shown)
        self.assertEqual(3, self.closed)

    def test_first_lane_is_shown_as_it_comes(self) -> None:
        """A command of the first lane is shown while it runs."""

        def show(text: str) -> None:
            self.show(text)
            if "ready" in text:
                # Without which the command would not end.
                (self.directory / "one").write_text("go\n")

        run_lanes([self.shell("echo ready; read x < one; echo $x")], show)
        self.assertEqual("== 0\nready\ngo\n", self.shown)

    def test_last_one_is_shown_as_it_comes(self) -> None:
        """Once the first lane is done, the other is shown while it runs."""
        scripts = "echo early; echo > one; read x < two; echo late", "read x < one; echo first"

        def show(text: str) -> None:
            self.show(text)
            if "early" in text:
                (self.directory / "two").write_text("go\n")

        run_lanes([self.shell(scripts[1]), self.shell(scripts[0])], show)
        self.assertEqual("== 0\nfirst\n== 0\nearly\nlate\n", self.shown)

    def test_interrupt_ends_all_commands(self) -> None:
        """An interrupt asks all to end, waits for them, and shows them."""
        program = (
            "import signal, sys\n"
            "signal.signal(signal.SIGINT, lambda *_: sys.exit('interrupted'))\n"
            "print('ready', flush=True)\n"
            "open(sys.argv[1], 'w').close()\n"
            "signal.pause()\n"
        )

        def show(text: str) -> None:
            self.show(text)
            if "both" in text:
                raise KeyboardInterrupt

        waiting = [self.lane((sys.executable, "-c", program, name)) for name in ("one", "two")]
        lanes = [self.shell("read x < one; read x < two; echo both", "echo never"), *waiting]
        self.assertRaises(KeyboardInterrupt, run_lanes, lanes, show)
        self.assertEqual(2, self.shown.count("ready\ninterrupted\n"))
        self.assertNotIn("never", self.shown)
        self.assertEqual(3, self.closed)
