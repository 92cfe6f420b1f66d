"""Tests for :mod:`nixery.cli.progress_bar`."""

from __future__ import annotations

import io

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from nixery.cli.progress_bar import LOG_INTERVAL_SECONDS, ProgressBar


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class ProgressBarTests(SynchronousTestCase):
    """Tests for :class:`ProgressBar`."""

    def test_without_terminal_line_is_printed_now_and_then_and_one_at_end(self) -> None:
        """Without a terminal, a line is printed now and then, and one at the end."""
        clock, stream = Clock(), io.StringIO()
        meter = ProgressBar("asking", stream, clock.seconds, lines=True)
        for done in range(1, 31):
            clock.advance(1)
            meter.update(done, 40)
        self.assertEqual(
            [f"asking: {int(LOG_INTERVAL_SECONDS) * n} of 40" for n in (1, 2, 3)],
            stream.getvalue().splitlines(),
        )
        meter.close()
        self.assertEqual(3, len(stream.getvalue().splitlines()))
        meter.update(40, 40)
        meter.close()
        self.assertEqual("asking: 40 of 40", stream.getvalue().splitlines()[-1])

    def test_work_that_has_not_begun_prints_nothing(self) -> None:
        """Work that has not begun prints nothing."""
        stream = io.StringIO()
        ProgressBar("asking", stream, Clock().seconds).close()
        self.assertEqual("", stream.getvalue())

    def test_on_a_terminal_a_bar_that_knows_what_is_expected_even_if_that_grows(self) -> None:
        """On a terminal, a bar that knows what is expected, even if that grows."""
        stream = Terminal()
        meter = ProgressBar("asking", stream, Clock().seconds, lines=True)
        meter.update(1, 4)
        meter.update(8, 8)
        meter.close()
        self.assertIn("asking", stream.getvalue())
        self.assertIn("8/8", stream.getvalue())
        self.assertIn("\r", stream.getvalue())

    def test_without_a_terminal_short_commands_print_nothing(self) -> None:
        """A command that takes minutes, not hours, shows progress on a terminal alone."""
        clock, stream = Clock(), io.StringIO()
        meter = ProgressBar("verifying", stream, clock.seconds, unit="B")
        for done in range(100):
            clock.advance(1)
            meter.update(done, 100)
        meter.start("deleting")
        meter.update(0, None)
        meter.close()
        self.assertEqual("", stream.getvalue())

    def test_bar_is_gone_at_the_end_and_counts_each_part_anew(self) -> None:
        """The bar of a short command leaves no trace; each part of the work begins at 0."""
        stream = Terminal()
        meter = ProgressBar("reading", stream, Clock().seconds)
        meter.update(3, 3)
        meter.start("packing")
        meter.advance(2)
        meter.advance(2)
        meter.close()
        last = stream.getvalue().split("\r")
        self.assertEqual("", last[-1].strip())
        self.assertIn("packing", stream.getvalue())
        self.assertNotIn("4/", stream.getvalue())
