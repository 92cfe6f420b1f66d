"""
Format values for pages: untrusted text and times. Sizes are formatted as everywhere else
(:func:`nixery.runtime.sizes.format_size`).

The scripts of the pages use the same formats (``web/static/text.js``): a value that is
updated on an open page must not change its format.
"""

from __future__ import annotations

import re
import unicodedata
from datetime import UTC, datetime
from urllib.parse import quote

from markupsafe import Markup

from nixery.runtime.clocks import WallTime

__all__ = [
    "short_time",
    "duration",
    "replace_term",
    "full_time",
    "escape_invisible",
    "stopwatch",
    "iso_time",
    "relative_time",
    "time_element",
]

_SPANS = (
    ("year", 365 * 86400),
    ("month", 30 * 86400),
    ("day", 86400),
    ("hour", 3600),
    ("minute", 60),
    ("second", 1),
)
"""The units of relative times, in seconds, the longest first."""


def escape_invisible(text: object) -> str:
    """
    Make untrusted text safe to display: invisible characters, and those that change the
    direction of the following text, are written as escapes.
    """
    text = str(text)
    if text.isprintable():
        return text
    return "".join(
        character if character in "\n\t" or character.isprintable() else _escaped(character)
        for character in text
    )


def _escaped(character: str) -> str:
    # Emoji and some scripts need these two joiners; they hide nothing.
    if unicodedata.category(character) == "Cf" and character in "\u200c\u200d":
        return character
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def replace_term(typed: str, name: str, other: str) -> str:
    """Return the typed text as a query, with ``name`` replaced by ``other``."""
    words = re.split(r"[\s,;/]+", typed.strip())
    return "+".join(quote(other if word == name else word, safe="") for word in words)


def duration(seconds: float) -> str:
    """Format a time span: ``0.42 s``, ``12 s``, ``3 min 05 s``, ``2 h 07 min``."""
    if seconds < 10:
        return f"{seconds:.2f} s" if seconds < 1 else f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def stopwatch(seconds: float) -> str:
    """Format the time since a build began: ``0:03.2``, ``12:05.0``, ``1:02:05.0``."""
    tenths = round(seconds * 10)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    clock = f"{rest // 10:02}.{rest % 10}"
    return f"{hours}:{minutes:02}:{clock}" if hours else f"{minutes}:{clock}"


def iso_time(time: WallTime) -> str:
    """Format a time as in RFC 3339, in UTC."""
    return datetime.fromtimestamp(time, UTC).isoformat(timespec="seconds")


def full_time(time: WallTime) -> str:
    """Format a time in UTC for a person: ``2026-11-23 21:05:07``."""
    return datetime.fromtimestamp(time, UTC).strftime("%Y-%m-%d %H:%M:%S")


def short_time(time: WallTime) -> str:
    """Format a time in UTC without its year: ``11-23 21:05:07``."""
    return datetime.fromtimestamp(time, UTC).strftime("%m-%d %H:%M:%S")


def relative_time(time: WallTime, now: WallTime) -> str:
    """Format a time for a person by its distance: ``3 hours ago``, ``in 1 minute``."""
    seconds = round(now - time)
    if abs(seconds) < 10:
        return "just now"
    unit, length = next(each for each in _SPANS if abs(seconds) >= each[1])
    count = abs(seconds) // length
    text = f"{count} {unit}" if count == 1 else f"{count} {unit}s"
    return f"{text} ago" if seconds > 0 else f"in {text}"


def time_element(time: WallTime, now: WallTime) -> Markup:
    """
    Format a time as an element of HTML: a relative one, with the exact one as its title. A
    script keeps it up to date.
    """
    return Markup('<time datetime="{}" title="{} UTC">{}</time>').format(
        iso_time(time), full_time(time), relative_time(time, now)
    )
