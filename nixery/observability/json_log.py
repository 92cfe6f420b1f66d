"""
Formats the log as JSON: one object a line.

The text of an event for people is its ``message``; the values that the text was made of are fields
of the same object, and so is the traceback of a failure. An object is ASCII without line ends: no
logged text, from any origin, can begin a line of its own.

A line that is written during the work for a request has the request's id, see
:mod:`nixery.observability.context`: the lines of a build that fails are found by the id
that the client was given.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import PurePath

from twisted.logger import LogEvent, formatEvent

from nixery.observability.context import current_request

__all__ = ["json_line"]

MAX_TEXT_CHARACTERS = 16 * 1024
"""The longest text in a line, in characters: a traceback is the longest."""

MAX_ITEMS = 64
"""The most items of a list or a mapping."""

_RESERVED_FIELDS = frozenset({"time", "level", "namespace", "message", "traceback"})

_OMITTED_FIELDS = frozenset(
    # The keys that Twisted uses to format messages, and those that its older log adds to each
    # event.
    {"line", "shown", "format", "isError", "failure", "why", "system"}
)

# Other objects are meant for code that reads events: the output of a command has its command line.
_LOGGED_TYPES = (float, str, bytes, Mapping, list, tuple, set, frozenset, BaseException, PurePath)

# Twice as fast as json.dumps with options, which makes an encoder each time.
_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def json_line(event: LogEvent) -> str:
    """
    Format an event as a line, with its line end. Never fails: an event that cannot be formatted
    becomes a line that says so.
    """
    try:
        return _encode(_document(event)) + "\n"
    # An event may hold any object, and a failing log is noticed too late.
    except Exception as error:  # noqa: BLE001
        return (
            _encode(
                {
                    "time": _time(0.0),
                    "level": "error",
                    "namespace": __name__,
                    "message": f"an event could not be logged: {type(error).__name__}",
                }
            )
            + "\n"
        )


def _document(event: LogEvent) -> dict[str, object]:
    level = event.get("log_level")
    document: dict[str, object] = {
        "time": _time(event.get("log_time", 0.0)),
        "level": getattr(level, "name", "info"),
        "namespace": str(event.get("log_namespace", "")),
        # Access lines are formatted already.
        "message": event["line"]
        if event.get("log_format") == "{line}"
        else formatEvent(event)[:MAX_TEXT_CHARACTERS],
    }
    for name, value in event.items():
        if name in _OMITTED_FIELDS or name in _RESERVED_FIELDS or name.startswith("log_"):
            continue
        kind = type(value)
        if kind is int or kind is bool or value is None:
            document[name] = value
        elif kind is str:
            document[name] = (
                value if len(value) <= MAX_TEXT_CHARACTERS else value[:MAX_TEXT_CHARACTERS]
            )
        elif isinstance(value, _LOGGED_TYPES):
            document[name] = _to_json(value)
    failure = event.get("log_failure")
    if failure is not None:
        # The end of a traceback says what went wrong.
        document["traceback"] = failure.getTraceback()[-MAX_TEXT_CHARACTERS:]
    if "request_id" not in document:
        request = current_request.get()
        if request:
            document["request_id"] = request
    return document


def _to_json(value: object, depth: int = 3) -> object:
    """Return a value that JSON can represent; other values become text."""
    if isinstance(value, float):
        return round(value, 6) if abs(value) < 1e300 else str(value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, bytes):
        value = value[:MAX_TEXT_CHARACTERS].decode("utf-8", "backslashreplace")
    if isinstance(value, str):
        return value[:MAX_TEXT_CHARACTERS]
    if depth and isinstance(value, Mapping):
        items = list(value.items())[:MAX_ITEMS]
        return {str(key)[:MAX_TEXT_CHARACTERS]: _to_json(each, depth - 1) for key, each in items}
    if depth and isinstance(value, Sequence | set | frozenset):
        return [_to_json(each, depth - 1) for each in list(value)[:MAX_ITEMS]]
    return str(value)[:MAX_TEXT_CHARACTERS]


def _time(seconds: float) -> str:
    """Format a time as RFC 3339 does, in UTC and to the millisecond."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
