"""
The log for people, as twistd writes it.

Nearly all lines of a busy daemon tell of requests, and are texts already when they come
here.  To twistd's own formatter they are events like others, with a dozen fields that
might be wanted and a time of day that is worked out each time: that takes a seventh of
all that a warm manifest costs.  What it would write for them is written here.
"""

from __future__ import annotations

from functools import lru_cache

from twisted.logger import LogEvent, formatEventAsClassicLogText, formatTime

__all__ = ["text_line"]


def text_line(event: LogEvent) -> str:
    """
    An event as twistd writes it, with its end; nothing for one that says nothing.

    :param event: of an access line, which says so by its format, or any other.
    """
    if event.get("log_format") == "{line}" and "log_failure" not in event:
        line, level, when = event.get("line"), event.get("log_level"), event.get("log_time")
        if isinstance(line, str) and line and level is not None and isinstance(when, float):
            system = f"{event.get('log_namespace', '-')}#{level.name}"
            shown = line.replace("\n", "\n\t") if "\n" in line else line
            seconds = int(when)
            # Twisted rounds to microseconds, and the last half one belongs to what follows.
            if round((when - seconds) * 1e6) >= 1_000_000:
                seconds += 1
            return f"{_time(seconds)} [{system}] {shown}\n"
    return formatEventAsClassicLogText(event) or ""


# Requests end many to a second, on threads of their own at times.
@lru_cache(maxsize=4)
def _time(seconds: int) -> str:
    return formatTime(seconds)
