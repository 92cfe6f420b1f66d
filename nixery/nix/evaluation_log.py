"""
Parse the standard error of an evaluation with ``--log-format internal-json``.

Packages choose what they throw, and what traces say: none of it may be taken for words of Nix.
So the text of an error is read from the event, where it is apart from traces, source code and
locations, and messages of other kinds never decide anything.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrs import define, field

from nixery.nix.arguments import NixSettings
from nixery.nix.error_parsing import (
    MAX_TEXT_CHARACTERS,
    advised,
    error_text,
    memory_exceeded,
    unanswered_url,
)
from nixery.nix.internal_json import FILE_TRANSFER, LOG_LINE, QUOTED_LOG
from nixery.runtime.terminal import plain_text

__all__ = ["EvaluationLog", "fetched_path"]

MAX_MESSAGES = 100
"""The most messages and other lines that are kept."""

MAX_LOG_LINES = 20
"""The number of last lines that are kept of what builds of an evaluation print."""

_PREFIX = b"@nix "

# Nix prints these without a raw text, at last; nothing that an evaluation prints looks the same,
# since traces and warnings have a word before them.  Builders of an import from derivation can
# have them printed, but Nix's own error follows.
_OUT_OF_MEMORY = frozenset({"error: out of memory", "error: std::bad_alloc"})
_BUILD_FAILED = re.compile(r"builder for '|Cannot build '|\d+ dependenc(?:y|ies) of derivation")
_PARSE_ERROR = re.compile(r"syntax error|undefined variable")
# ``nix/guarded_fetches.nix`` prints these.
_FETCHED = re.compile(
    r"trace: nixery-fetched (?P<path>/nix/store/[0-9a-z]{32}-[0-9A-Za-z+\-._?=]+)"
)
_POSITION = re.compile(r":\d+:\d+\Z")


def fetched_path(message: str) -> str | None:
    """Return the store path of a message that it was fetched under guard."""
    fetched = _FETCHED.fullmatch(message)
    return None if fetched is None else fetched["path"]


@define(kw_only=True, eq=False)
class EvaluationLog:
    """
    Collects the lines of one evaluation.

    :param source: the package set; locations below it are told relative to it.
    :param on_fetched: called with each store path that was fetched under guard.
    """

    source: Path
    on_fetched: Callable[[str], object] = lambda _: None
    _lines: deque[str] = field(init=False, factory=lambda: deque(maxlen=MAX_MESSAGES))
    _log: deque[str] = field(init=False, factory=lambda: deque(maxlen=MAX_LOG_LINES))
    _downloads: set[str] = field(init=False, factory=set)
    _error: str | None = field(init=False, default=None)
    _location: str = field(init=False, default="")
    _out_of_memory: bool = field(init=False, default=False)

    def feed(self, line: bytes) -> None:
        """Parse a line, without its end.  Never raises."""
        if not line.startswith(_PREFIX):
            self._lines.append(plain_text(line))
            return
        try:
            event = json.loads(line[len(_PREFIX) :])
            if event["action"] == "msg" and event["level"] <= 1:
                self._message(event)
            elif event["action"] == "start" and event["type"] == FILE_TRANSFER:
                self._downloads.add(plain_text(event["fields"][0]))
            elif event["action"] == "result" and event["type"] == LOG_LINE:
                self._log.append(plain_text(event["fields"][0]))
        except (LookupError, ValueError, TypeError, AttributeError, RecursionError):
            return

    @property
    def error(self) -> str | None:
        """Nix's last error, alone; ``None`` where Nix did not tell it apart from its trace."""
        return self._error

    @property
    def is_unanswered(self) -> bool:
        """True if a host that Nix has asked gave no answer, which ended the evaluation."""
        return self._error is not None and unanswered_url(self._error) in self._downloads

    def text(self) -> str:
        """Return all messages as text."""
        return "\n".join(self._lines)

    def reason(self, settings: NixSettings) -> str:
        """Return why the evaluation failed."""
        if self._out_of_memory:
            return memory_exceeded(settings)
        if self._error is None:
            # Nix 2.3, or what no event says: a stack overflow, a crash.
            return advised(error_text(self.text(), settings))
        error, log = self._error, []
        if self._log and _BUILD_FAILED.match(error):
            # An import from derivation.
            error, log = QUOTED_LOG.sub("", error), ["The last lines of its log:", *self._log]
        lines = [line.strip() for line in error.splitlines() if line.strip()] + log
        text = "\n".join(lines)[:MAX_TEXT_CHARACTERS] or "Nix did not say why"
        if self._location and _PARSE_ERROR.match(text):
            return f"{text}, at {self._location}"
        return advised(text)

    def _message(self, event: Any) -> None:
        message = plain_text(event["msg"])
        if path := fetched_path(message):
            self.on_fetched(path)
            return
        self._lines.append(message)
        raw = event.get("raw_msg")
        if raw is not None and event["level"] == 0:
            self._error = plain_text(raw)
            # Nix prints nothing after it ran out of memory: a builder has said so.
            self._out_of_memory = False
            self._location = self._locate(event.get("file"), event.get("line"), event.get("column"))
        elif raw is None and message.strip() in _OUT_OF_MEMORY:
            self._out_of_memory = True

    def _locate(self, file: object, line: object, column: object) -> str:
        if not isinstance(file, str) or not isinstance(line, int):
            return ""
        # Newer versions have the position in the name as well.
        path = Path(_POSITION.sub("", plain_text(file)))
        root = self.source if self.source.suffix != ".nix" else self.source.parent
        # The operator's own files, as overlays, are told by their name only.
        place = path.relative_to(root) if path.is_relative_to(root) else path.name
        return f"{place}:{line}:{column}"
