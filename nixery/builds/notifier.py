"""
Notify listeners of changes at a limited rate.

A build that prints a hundred thousand lines in a second calls :meth:`ThrottledNotifier.notify`
a hundred thousand times; with an interval of 0.1 s each listener is called ten times.
Without listeners a call only tests an empty mapping.
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
    Calls listeners after changes, at most once per interval.

    :param clock: schedules the calls.
    :param interval: the least time between two notifications, in seconds.
    """

    clock: IReactorTime
    interval: float
    _listeners: dict[object, Callable[[], None]] = field(factory=dict, init=False)
    _pending: IDelayedCall | None = field(default=None, init=False)
    _last_notified: float | None = field(default=None, init=False)
    _log = Logger()

    def notify(self) -> None:
        """
        Schedule one call of each listener; none is called before this returns.

        If the last notification is at least ``interval`` ago, they are called in the
        reactor's next iteration.
        """
        if self._pending is not None or not self._listeners:
            return
        delay = 0.0
        if self._last_notified is not None:
            delay = max(0.0, self._last_notified + self.interval - self.clock.seconds())
        self._pending = self.clock.callLater(delay, self._call_listeners)

    @property
    def has_listeners(self) -> bool:
        """True if there is a listener to call."""
        return bool(self._listeners)

    def subscribe(self, listener: Callable[[], None]) -> Callable[[], None]:
        """
        Call ``listener`` after each :meth:`notify` from now on, subject to the rate limit.

        :return: unsubscribes the listener; may be called again.
        """
        key = object()
        self._listeners[key] = listener

        def unsubscribe() -> None:
            self._listeners.pop(key, None)
            if not self._listeners and self._pending is not None:
                self._pending.cancel()
                self._pending = None

        return unsubscribe

    def _call_listeners(self) -> None:
        self._pending = None
        self._last_notified = self.clock.seconds()
        # A listener may unsubscribe itself or others while it is called.
        for key in tuple(self._listeners):
            listener = self._listeners.get(key)
            if listener is None:
                continue
            try:
                listener()
            except Exception:  # noqa: BLE001  # the others must still be called
                self._log.failure("a listener failed")
