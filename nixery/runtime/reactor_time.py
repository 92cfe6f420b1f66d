"""
Makes a reactor measure time with a monotonic clock.

Twisted's ``reactor.seconds`` is the wall clock: when that is set back by a month, no timer
fires for a month, and when it is set forward, all fire at once.  Every timer of Twisted's
(``callLater``, ``LoopingCall``, the timeouts of connections and endpoints) reads the
reactor's attribute, so that replacing it there covers them all, with any reactor that
``twistd --reactor`` can choose.

Twisted shows ``reactor.seconds`` as a time of day in two features, which are not used here: the
access log of ``HTTPFactory`` (:mod:`nixery.http.server` has its own) and sessions.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

from twisted.internet.task import react  # noqa: TID251  # the one place that uses it

__all__ = ["run_reactor", "run_reactor_and_return", "use_monotonic_time"]


# Any: the global reactor has no type, and its class none of the attributes.
def use_monotonic_time(reactor: Any, seconds: Callable[[], float] = time.monotonic) -> None:
    """
    Make a reactor measure durations with a monotonic clock; harmless if it already does.

    Calls that were delayed before keep the time that is left to them.

    :param seconds: the clock.
    """
    before: Callable[[], float] = reactor.seconds
    if before == seconds:
        return
    # A reactor keeps the calls in a heap by their times: all are shifted by the same, which
    # leaves their order as it was.
    shift = seconds() - before()
    reactor.seconds = seconds
    for call in reactor.getDelayedCalls():
        call.seconds = seconds
        call.time += shift


def run_reactor(main: Callable[[Any], Awaitable[None]]) -> None:
    """
    Run a command on the global reactor; see :func:`twisted.internet.task.react`.

    :param main: is given the reactor, whose time is monotonic.
    :raises SystemExit: when the command has ended.
    """

    def begin(reactor: Any) -> Any:  # react takes a Deferred or a coroutine
        use_monotonic_time(reactor)
        return main(reactor)

    react(begin)


def run_reactor_and_return(main: Callable[[Any], Awaitable[None]]) -> None:
    """
    Do a part of a command on the global reactor, which can be run only once.

    :param main: as in :func:`run_reactor`.
    :raises SystemExit: it failed or was interrupted, which has been reported already.
    """
    try:
        run_reactor(main)
    except SystemExit as end:
        if end.code:
            raise
