"""
Bounded pools of threads, as services.

Twisted has one pool of its own, which also resolves host names; packing and
storage I/O get pools apart, so that neither starves the other or DNS.  These
pools know what has begun and what has not: a daemon that stops waits for what
runs already and for nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Any, Generic, ParamSpec, TypeVar

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.python.threadpool import ThreadPool

from nixery.errors import ShuttingDown

__all__ = ["WorkerPool"]

P = ParamSpec("P")
T = TypeVar("T")


class WorkerPool(Service):
    """
    An implementation of :class:`nixery.interfaces.Workers`.

    Calls wait in a queue until a thread is free.  The queue has no bound of its
    own: each call belongs to a coroutine, and their number is bounded by whoever
    admits work.  Threads are made when they are first needed, never before
    :meth:`startService`; calls made earlier wait for it.

    All methods belong to the reactor thread.

    :param name: part of the names of the threads, as debuggers show them.
    :param size: the most threads that run at a time, at least 1.
    :param reactor: where results are delivered.
    """

    _log = Logger()

    def __init__(self, name: str, size: int, reactor: IReactorFromThreads) -> None:
        self.name = name
        self._size = size
        self._reactor = reactor
        self._stopping = False
        self._calls: set[_Call[Any]] = set()  # whatever each of them returns
        self._waiting_for_end: list[Deferred[None]] = []
        self._pool = self._make_pool()

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """
        Call ``function`` on a thread of the pool and wait for what it returns.

        Cancelling the wait does not interrupt a function that runs already, and
        drops what it returns or raises; one that has not begun is never called.
        A function that acquires something has to expect that nobody takes it.

        :raises ShuttingDown: the pool has stopped, or stopped before the
            function had begun.
        """
        if self._stopping:
            raise ShuttingDown
        call: _Call[T] = _Call(lambda: function(*args, **kwargs))
        self._calls.add(call)
        self._pool.callInThreadWithCallback(
            lambda ok, result: self._reactor.callFromThread(self._finished, call, ok, result),
            call.perform,
        )
        try:
            return await call.result
        finally:
            call.leave()

    @property
    def size(self) -> int:
        """The most threads that run at a time."""
        return self._size

    @property
    def load(self) -> int:
        """How many calls run or wait for a thread."""
        return len(self._calls)

    def startService(self) -> None:
        """Let threads begin to work.  A pool that has stopped can start again."""
        super().startService()
        if self._pool.joined:
            self._pool = self._make_pool()
        self._stopping = False
        self._pool.start()

    def stopService(self) -> Deferred[None]:
        """
        Take no more calls, and fail those that have not begun.

        :return: fires when the last function that runs has returned, whether or
            not somebody still waits for it, and the threads have ended.
        """
        super().stopService()
        self._stopping = True
        for call in tuple(self._calls):
            if call.withdraw():
                call.result.errback(ShuttingDown())
        ended: Deferred[None] = Deferred()
        self._waiting_for_end.append(ended)
        if not self._pool.started:
            # Nothing has ever begun, and the queue is never looked at again.
            self._calls.clear()
        self._end_when_drained()
        return ended

    def _make_pool(self) -> ThreadPool:
        return ThreadPool(minthreads=0, maxthreads=self._size, name=self.name)

    def _finished(self, call: _Call[T], ok: bool, result: T | Failure) -> None:
        self._calls.discard(call)
        if call.awaited:
            call.result.callback(result)  # a Failure goes to the errbacks
        elif not ok:
            self._log.debug(
                "{pool}: a call that nobody waits for failed: {error}", pool=self.name, error=result
            )
        if self._stopping:
            self._end_when_drained()

    def _end_when_drained(self) -> None:
        if self._calls or not self._waiting_for_end:
            return
        if not self._pool.joined:
            # Joins the threads.  They have delivered their last results and are
            # on their way out, so that this takes microseconds on the reactor.
            self._pool.stop()
        waiting, self._waiting_for_end = self._waiting_for_end, []
        for ended in waiting:
            ended.callback(None)


class _Call(Generic[T]):
    """
    A call on its way through the pool.

    Whether it has begun is decided once, under a lock, between the thread that
    would perform it and the reactor, which may withdraw it.
    """

    def __init__(self, function: Callable[[], T]) -> None:
        self._lock = Lock()
        self._function: Callable[[], T] | None = function
        self.awaited = True
        self.result: Deferred[T] = Deferred()

    def perform(self) -> T | None:
        """On a worker thread: call the function, unless it has been withdrawn."""
        with self._lock:
            function, self._function = self._function, None
        return function() if function is not None else None

    def withdraw(self) -> bool:
        """:return: whether the function had not begun; it never will."""
        with self._lock:
            function, self._function = self._function, None
        if function is not None:
            self.awaited = False
        return function is not None

    def leave(self) -> None:
        """The waiter has its result, or has gone."""
        self.awaited = False
        self.withdraw()
