"""The events that Nix prints of builds, as real ones do with and without a daemon."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from attrs import define, field

__all__ = ["NixEvents"]

_COUNTER = 1
_RED_ERROR = "\x1b[31;1merror:\x1b[0m "


@define(eq=False)
class NixEvents:
    """
    Prints what Nix 2.8 and 2.26 were seen to print.

    :param feed: takes each line of standard error.
    :param daemon: whether a daemon builds: it quotes logs, and its errors lack the raw text.
    """

    feed: Callable[[bytes], None]
    daemon: bool = field(default=False, kw_only=True)
    _next: int = field(default=10, init=False)
    _done: int = field(default=0, init=False)
    _failed: int = field(default=0, init=False)

    def build_starts(self, derivation: str, lines: Sequence[str] = ()) -> int:
        """Start a build that prints lines; :return: its activity."""
        self._print(action="start", id=_COUNTER, type=104, level=0, text="", parent=0)
        self._next += 1
        self._print(action="start", id=self._next, type=105, fields=[derivation, "", 1, 1])
        for line in lines:
            self._print(action="result", id=self._next, type=101, fields=[line])
        return self._next

    def build_succeeds(self, derivation: str) -> None:
        """Start a build that succeeds."""
        activity = self.build_starts(derivation)
        self._done += 1
        self._count()
        self._print(action="stop", id=activity)

    def build_fails(
        self, derivation: str, lines: Sequence[str] = (), text: str = "", *, needed_by: str = ""
    ) -> None:
        """
        Start a build that fails.

        :param text: Nix's error; none is printed if it is empty.
        :param needed_by: the derivation that was to be built, if this is only a dependency.
        """
        self._end(self.build_starts(derivation, lines), text, needed_by)

    def builder_fails(
        self, derivation: str, lines: Sequence[str], *, forge: bool = False, needed_by: str = ""
    ) -> None:
        """
        Start a build whose builder prints lines and exits with 1.

        :param forge: whether the builder prints them as events of Nix, which Nix passes on.
        """
        logged = [] if forge else lines
        activity = self.build_starts(derivation, logged)
        for line in lines if forge else ():
            self.message(0, line)
        text = f"builder for '{derivation}' failed with exit code 1"
        if self.daemon and logged:
            quoted = "".join(f"       > {line}\n" for line in logged[-10:])
            text += f";\n       last {len(logged[-10:])} log lines:\n{quoted}"
            text += f"       For full logs, run 'nix log {derivation}'."
        self._end(activity, text, needed_by)

    def build_stops(self, activity: int) -> None:
        """Stop a build because another one has failed."""
        self._print(action="stop", id=activity)

    def error(self, text: str) -> None:
        """Print an error of the command itself."""
        raw = text.removeprefix("error: ")
        self._print(action="msg", level=0, msg=_RED_ERROR + raw, raw_msg=raw, file=None)

    def message(self, level: int, text: str) -> None:
        """Print a message as a builder or a daemon can have it printed."""
        self._print(action="msg", level=level, msg=text)

    def _end(self, activity: int, text: str, needed_by: str) -> None:
        self._failed += 1
        self._count()
        if needed_by and text:
            if self.daemon:
                self.message(0, _RED_ERROR + text)
            else:
                self.error(text)
        self._print(action="stop", id=activity)
        if needed_by:
            self.error(f"1 dependencies of derivation '{needed_by}' failed to build")
        elif text:
            self.error(text)

    def _count(self) -> None:
        fields = [self._done, self._done + self._failed + 1, 0, self._failed]
        self._print(action="result", id=_COUNTER, type=105, fields=fields)

    def _print(self, **event: object) -> None:
        # As Nix prints it: its bytes are searched before anything is decoded.
        self.feed(b"@nix " + json.dumps(event, separators=(",", ":")).encode())
