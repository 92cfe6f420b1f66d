"""
Runs one job for all callers that ask for the same thing at the same time.

Docker asks HEAD, then GET, and twenty nodes of a cluster ask at once: the work is done once. A job
does not belong to any of its waiters. Klein cancels the Deferred of a request whose client has
disconnected, and a Deferred shared by several requests would then return ``None`` to all the
others: therefore every waiter has a Deferred of its own, separate from the job's.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

from attrs import Factory, define, field
from twisted.internet.defer import Deferred, DeferredList
from twisted.python.failure import Failure

from nixery.runtime.deferreds import when_finished

__all__ = ["SingleFlight"]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


@define(eq=False)
class _Job(Generic[V]):
    """
    A running job and its waiters.

    :param kept: whether it goes on when the last waiter has left.
    """

    kept: bool
    waiters: list[Deferred[V]] = Factory(list)
    task: Deferred[None] | None = None


@define(eq=False)
class SingleFlight(Generic[K, V]):
    """
    Runs at most one job for a key at any time.

    :param cancel_abandoned: whether a job is cancelled when its last waiter has left, unless it
        called :meth:`keep` before.
    """

    cancel_abandoned: bool = field(default=False, kw_only=True)

    # The jobs that may be joined, and all that run.
    _jobs: dict[K, _Job[V]] = field(factory=dict, init=False)
    _running: set[_Job[V]] = field(factory=set, init=False)

    def run(self, key: K, work: Callable[[], Coroutine[Deferred[Any], Any, V]]) -> Deferred[V]:
        """
        Return the result of the job of ``key``: of the running one, else of ``work()``, which is
        then started before this method returns.

        :param key: identifies the work.
        :param work: is called only when no job of this key is running.
        :return: a Deferred of the caller's own.  Cancelling it leaves the job and
            the other waiters alone.
        """
        job = self._jobs.get(key)
        if job is not None:
            return self._wait(key, job)
        job = self._jobs[key] = _Job(kept=not self.cancel_abandoned)
        self._running.add(job)
        # The first waiter is there before the work begins: work that ends at
        # once must find it.
        waiter = self._wait(key, job)
        job.task = Deferred.fromCoroutine(work()).addBoth(self._finish, key, job)
        return waiter

    def close(self, key: K) -> None:
        """
        Let no further caller join the job of ``key``: the next caller starts another one. For a job
        that has read something that may have changed since.
        """
        self._jobs.pop(key, None)

    def keep(self, key: K) -> None:
        """Let the job of ``key`` go on from now on, even if nobody waits for it any longer."""
        job = self._jobs.get(key)
        if job is not None:
            job.kept = True

    def __len__(self) -> int:
        """Return the number of running jobs."""
        return len(self._running)

    def __contains__(self, key: object) -> bool:
        """Tell whether there is a job of this key that can be joined."""
        return key in self._jobs

    async def settled(self) -> None:
        """Wait until the jobs that run now have ended; cancelling stops none of them."""
        for ended in [when_finished(task) for task in self._tasks()]:
            await ended

    def stop(self) -> Deferred[None]:
        """
        Cancel every job; fires when the last of them has ended.

        The waiters get the outcome of the cancelled job.
        """
        tasks = self._tasks()
        # The waiters have the results already; this waits for the end of the jobs itself, on
        # Deferreds that never fail.
        ended = DeferredList([when_finished(task) for task in tasks])
        for task in tasks:
            task.cancel()
        return ended.addCallback(lambda _: None)

    def _tasks(self) -> list[Deferred[None]]:
        return [job.task for job in self._running if job.task is not None]

    def _wait(self, key: K, job: _Job[V]) -> Deferred[V]:
        waiter: Deferred[V] = Deferred(lambda waiter: self._leave(waiter, key, job))
        job.waiters.append(waiter)
        return waiter

    def _leave(self, waiter: Deferred[V], key: K, job: _Job[V]) -> None:
        if waiter not in job.waiters:
            return  # the job has ended, and its waiters are being told
        job.waiters.remove(waiter)
        if job.waiters or job.kept or job.task is None:
            return
        # A caller that comes before the job has ended would get its cancellation.
        if self._jobs.get(key) is job:
            del self._jobs[key]
        job.task.cancel()

    def _finish(self, result: V | Failure, key: K, job: _Job[V]) -> None:
        # Removed before any waiter is notified: a waiter that asks again at once starts a new job
        # instead of joining one that is over.
        self._running.discard(job)
        if self._jobs.get(key) is job:
            del self._jobs[key]
        waiters, job.waiters = job.waiters, []
        for waiter in waiters:
            # An earlier waiter's callback may have cancelled this one.
            if not waiter.called:
                waiter.callback(result)
