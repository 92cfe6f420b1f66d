"""
Bounded pools of threads, as services.

Twisted has one pool of its own, which also resolves host names; packing and storage I/O get
separate pools, so that neither starves the other or DNS. These pools know which calls have begun: a
daemon that stops waits for running calls and for nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ParamSpec, Protocol, TypeVar

from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.logger import Logger
from twisted.python.failure import Failure

from nixery.errors import ShuttingDown

__all__ = ["WorkerPool", "Workers"]

P = ParamSpec("P")
T = TypeVar("T")


class Workers(Protocol):
    """A bounded pool of threads."""

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """
        Call ``function`` on a thread of the pool and wait for what it returns.

        Cancelling the wait does not interrupt a function that runs already; one
        that has not begun is never called.

        :raises ShuttingDown: the pool has stopped or is stopping.
        """


class WorkerPool(Service):
    """
    An implementation of :class:`nixery.runtime.workers.Workers`.

    Calls wait in a queue until a thread is free. The queue has no bound of its own: each call
    belongs to a coroutine, and the code that admits work bounds their number. Threads are made when
    they are first needed, never before
    :meth:`startService`, since twistd forks before it; calls made earlier wait for it.

    All methods belong to the reactor thread.

    :param name: part of the names of the threads, as debuggers show them.
    :param size: the most threads that run at a time, at least 1.
    :param reactor: results are delivered on its thread.
    """

    _log = Logger()

    def __init__(self, name: str, size: int, reactor: IReactorFromThreads) -> None:
        self.name = name
        self._size = size
        self._reactor = reactor
        self._stopping = False
        self._executor: ThreadPoolExecutor | None = None
        # Calls that were made before there were threads.
        self._early: list[Deferred[ThreadPoolExecutor]] = []
        # The calls after that, and the waiter of each: ``None`` once there is none.
        self._calls: dict[Future[Any], Deferred[Any] | None] = {}
        self._waiting_for_end: list[Deferred[None]] = []

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """
        Call ``function`` on a thread of the pool and wait for what it returns.

        Cancelling the wait does not interrupt a function that runs already, and drops what it
        returns or raises; one that has not begun is never called. A function that acquires a
        resource must expect that its result is dropped.

        :raises ShuttingDown: the pool has stopped, or stopped before the
            function had begun.
        """
        if self._stopping:
            raise ShuttingDown
        executor = self._executor or await self._start()
        future = executor.submit(function, *args, **kwargs)
        result: Deferred[T] = Deferred()
        self._calls[future] = result
        future.add_done_callback(self._done)
        try:
            return await result
        finally:
            if future in self._calls:
                self._calls[future] = None
                future.cancel()

    @property
    def size(self) -> int:
        """The maximum number of threads that run at a time."""
        return self._size

    @property
    def load(self) -> int:
        """The number of calls that run or wait for a thread."""
        return len(self._early) + len(self._calls)

    def startService(self) -> None:
        """Let threads begin to work.  A pool that has stopped can start again."""
        super().startService()
        if self._executor is None or self._stopping:
            # A name in the style of Twisted's pools, and the number behind it.
            self._executor = ThreadPoolExecutor(self._size, f"PoolThread-{self.name}-")
        self._stopping = False
        for waiting in self._take_early():
            waiting.callback(self._executor)

    def stopService(self) -> Deferred[None]:
        """
        Take no more calls, and fail those that have not begun.

        :return: fires when the last running function has returned, even if nothing waits for its
            result any more, and the threads have ended.
        """
        super().stopService()
        self._stopping = True
        for waiting in self._take_early():
            waiting.errback(ShuttingDown())
        # Not by shutdown(cancel_futures=True): it calls back while it holds a lock, which a second
        # stop would wait for.
        for future in tuple(self._calls):
            future.cancel()
        ended: Deferred[None] = Deferred()
        self._waiting_for_end.append(ended)
        self._end_when_drained()
        return ended

    async def _start(self) -> ThreadPoolExecutor:
        """Wait for the start of the pool."""
        waiting: Deferred[ThreadPoolExecutor] = Deferred()
        self._early.append(waiting)
        try:
            return await waiting
        finally:
            if waiting in self._early:
                self._early.remove(waiting)

    def _take_early(self) -> list[Deferred[ThreadPoolExecutor]]:
        early, self._early = self._early, []
        return early

    def _done(self, future: Future[Any]) -> None:
        """
        Runs on a worker thread; on the reactor's if the call was cancelled, which only the reactor
        thread does.
        """
        if future.cancelled():
            self._finished(future)
        else:
            self._reactor.callFromThread(self._finished, future)

    def _finished(self, future: Future[Any]) -> None:
        result = self._calls.pop(future)
        error = ShuttingDown() if future.cancelled() else future.exception()
        if result is not None:
            result.callback(future.result() if error is None else Failure(error))
        elif error is not None and not future.cancelled():
            self._log.debug(
                "{pool}: a call without a waiter failed: {error}",
                pool=self.name,
                error=Failure(error),
            )
        if self._stopping:
            self._end_when_drained()

    def _end_when_drained(self) -> None:
        if self._calls or not self._waiting_for_end:
            return
        if self._executor is not None:
            # Joins the threads. They have delivered their last results and are about to end, so
            # that this takes microseconds on the reactor.
            self._executor.shutdown()
            self._executor = None
        waiting, self._waiting_for_end = self._waiting_for_end, []
        for ended in waiting:
            ended.callback(None)
