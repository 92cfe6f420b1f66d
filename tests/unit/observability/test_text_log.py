"""Tests for :mod:`nixery.observability.text_log`: the same lines as twistd's own."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.logger import LogLevel, formatEventAsClassicLogText
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from nixery.observability.log_service import in_foreground
from nixery.observability.text_log import text_line

EVENT: dict[str, Any] = {
    "log_format": "{line}",
    "log_level": LogLevel.info,
    "log_namespace": "nixery.http.server.RegistrySite",
    "log_time": 1764000000.75,
    "line": "127.0.0.1 GET /v2/ 200 2 B 0.000 s 1-1 curl/8",
    "status": 200,
}


class TextLineTests(SynchronousTestCase):
    """Lines, as they are compared with what Twisted makes of the same event."""

    def check(self, event: dict[str, Any]) -> str:
        line = text_line(event)
        self.assertEqual(formatEventAsClassicLogText(dict(event)) or "", line)
        return line

    def test_line_that_is_finished_is_written_with_its_time_and_where_it_is_from(self) -> None:
        """A line that is finished is written with its time and where it is from."""
        line = self.check(EVENT)
        self.assertTrue(line.endswith(f"[nixery.http.server.RegistrySite#info] {EVENT['line']}\n"))
        instants = (1764000000.0, 1764000000.999, 1764000001.0, 1764000000.5, 0.5)
        rounded = (1764000000.9999998, 1.9999994, 1.9999995, 1.9999999, 0.9999995, 2.9999995)
        for when in (*instants, *rounded):
            self.check(EVENT | {"log_time": when})

    def test_events_of_others_are_left_to_twisted(self) -> None:
        """All others are left to Twisted."""
        try:
            raise ValueError("odd")
        except ValueError:
            failure = Failure()
        for changed in (
            {"log_format": "{status} is what it is", "line": "another"},
            {"log_failure": failure},
            {"log_level": LogLevel.error},
            {"log_level": None},
            {"log_time": None},
            {"line": ""},
            {"line": 7},
            {"log_format": None},
            {"log_system": "-", "log_format": "x"},
        ):
            self.check(EVENT | changed)

    @settings(max_examples=50)
    @given(st.text(), st.floats(min_value=0, max_value=4e9))
    def test_line_with_any_text_is_written_as_twistd_writes_it(
        self, line: str, when: float
    ) -> None:
        """A line with any text is written as twistd writes it."""
        self.check(EVENT | {"line": line, "log_time": when})

    def test_format_applies_only_in_the_foreground(self) -> None:
        """The format applies only in the foreground; otherwise twistd handles the log."""
        self.assertTrue(in_foreground({"nodaemon": True, "syslog": False}))
        self.assertFalse(in_foreground({"nodaemon": True, "syslog": True}))
        self.assertFalse(in_foreground({"nodaemon": False}))
        self.assertFalse(in_foreground({}))
