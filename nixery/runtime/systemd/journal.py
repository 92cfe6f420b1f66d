"""
Formats the log for the journal of systemd, which reads it from standard output.

A line begins with its priority (``<3>``, see sd-daemon(3)), so that ``journalctl -p err`` finds it,
and has no time of day, which the journal knows. The journal removes the priority, so that a line of
JSON is stored unchanged.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from twisted.logger import LogEvent, LogLevel, eventAsText

__all__ = ["journal_line", "to_journal", "with_priority"]

_PRIORITIES = {
    LogLevel.debug: 7,
    LogLevel.info: 6,
    LogLevel.warn: 4,
    LogLevel.error: 3,
    LogLevel.critical: 2,
}


def to_journal(environ: Mapping[str, str], descriptor: int = 1) -> bool:
    """
    Tell whether what is written to a descriptor ends in the journal. ``JOURNAL_STREAM`` alone does
    not tell: children inherit it whose output goes elsewhere.
    """
    stream = environ.get("JOURNAL_STREAM")
    if not stream:
        return False
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return stream == f"{status.st_dev}:{status.st_ino}"


def journal_line(event: LogEvent) -> str:
    """Format an event as lines, each with its priority: the journal makes an entry of each line."""
    text = eventAsText(event, includeTimestamp=False, includeSystem=False)
    prefix = _prefix(event)
    return "".join(f"{prefix}{line}\n" for line in text.splitlines() if line)


def with_priority(line: Callable[[LogEvent], str]) -> Callable[[LogEvent], str]:
    """
    Put the priority of an event before its line.

    :param line: makes one line of an event.
    """
    return lambda event: f"{_prefix(event)}{line(event)}"


def _prefix(event: LogEvent) -> str:
    # Events without a level come from programs older than levels.
    return f"<{_PRIORITIES.get(event.get('log_level', LogLevel.info), 6)}>"
