"""
Telling listeners that something is new, at a bearable rate.

A build that prints a hundred thousand lines in a second rings a hundred thousand
times; whoever listens hears it ten times.  A ring that nobody listens to costs the
look at an empty set.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, field
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

__all__ = ["ThrottledNotifier"]


@define(kw_only=True, eq=False)
class ThrottledNotifier:
    """
    :param clock: spaces the tellings.
    :param interval: the seconds between two of them, at least.
    """

    clock: IReactorTime
    interval: float
    _listeners: dict[object, Callable[[], None]] = field(factory=dict, init=False)
    _pending: IDelayedCall | None = field(default=None, init=False)
    _last: float | None = field(default=None, init=False)
    _log = Logger()

    def ring(self) -> None:
        """
        Something is new: each listener is called once, later, and never from here.

        After a while of silence, that is at the reactor's next turn.
        """
        if self._pending is not None or not self._listeners:
            return
        delay = 0.0
        if self._last is not None:
            delay = max(0.0, self._last + self.interval - self.clock.seconds())
        self._pending = self.clock.callLater(delay, self._sound)

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """
        Call ``listener`` after rings from now on.

        :return: ends it; may be called again.
        """
        key = object()
        self._listeners[key] = listener

        def leave() -> None:
            self._listeners.pop(key, None)
            if not self._listeners and self._pending is not None:
                self._pending.cancel()
                self._pending = None

        return leave

    def _sound(self) -> None:
        self._pending = None
        self._last = self.clock.seconds()
        # A listener may leave, or make others leave, while it is told.
        for key in tuple(self._listeners):
            listener = self._listeners.get(key)
            if listener is None:
                continue
            try:
                listener()
            except Exception:  # noqa: BLE001  # one must not cost the others theirs
                self._log.failure("a listener failed")
