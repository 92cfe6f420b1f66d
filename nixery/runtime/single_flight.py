"""
One job for everyone who asks for the same thing.

Docker asks HEAD, then GET, and twenty nodes of a cluster ask at once: the work
is done once.  A job belongs to nobody who waits for it.  Klein cancels the
Deferred of a request whose client has left, and a Deferred shared by several
requests would then hand ``None`` to all the others: therefore every waiter has a
Deferred of its own, and the job stands apart.
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
    """What is running, and who waits for it."""

    waiters: list[Deferred[V]] = Factory(list)
    task: Deferred[None] | None = None


@define(eq=False)
class SingleFlight(Generic[K, V]):
    """Runs at most one job for a key at any time."""

    # Those that may be joined, and all that run.
    _jobs: dict[K, _Job[V]] = field(factory=dict, init=False)
    _running: set[_Job[V]] = field(factory=set, init=False)

    def run(self, key: K, work: Callable[[], Coroutine[Deferred[Any], Any, V]]) -> Deferred[V]:
        """
        The result of the job of ``key``: of the one that is running, else of
        ``work()``, which is then started before this returns.

        :param key: what the work is for.
        :param work: is called only when no job of this key is running.
        :return: a Deferred of the caller's own.  Cancelling it leaves the job and
            the other waiters alone.
        """
        job = self._jobs.get(key)
        if job is not None:
            return self._wait(job)
        job = self._jobs[key] = _Job()
        self._running.add(job)
        # The first waiter is there before the work begins: work that ends at
        # once must find it.
        waiter = self._wait(job)
        job.task = Deferred.fromCoroutine(work()).addBoth(self._finish, key, job)
        return waiter

    def close(self, key: K) -> None:
        """
        Let nobody join the job of ``key`` any more: whoever asks from now on starts
        another one.  For a job that has looked at something that may have changed.
        """
        self._jobs.pop(key, None)

    def __len__(self) -> int:
        """How many jobs are running."""
        return len(self._running)

    def __contains__(self, key: object) -> bool:
        """Whether there is a job of this key that can be joined."""
        return key in self._jobs

    async def settled(self) -> None:
        """Wait until the jobs that run now have ended; cancelling stops none of them."""
        for ended in [when_finished(task) for task in self._tasks()]:
            await ended

    def stop(self) -> Deferred[None]:
        """
        Cancel every job; fires when the last of them has ended.

        Those who wait get what the job makes of its cancellation.
        """
        tasks = self._tasks()
        # The results were handed to the waiters; what is waited for here is the
        # end itself, on Deferreds that never fail.
        ended = DeferredList([when_finished(task) for task in tasks])
        for task in tasks:
            task.cancel()
        return ended.addCallback(lambda _: None)

    def _tasks(self) -> list[Deferred[None]]:
        return [job.task for job in self._running if job.task is not None]

    def _wait(self, job: _Job[V]) -> Deferred[V]:
        waiter: Deferred[V] = Deferred(job.waiters.remove)
        job.waiters.append(waiter)
        return waiter

    def _finish(self, result: V | Failure, key: K, job: _Job[V]) -> None:
        # Forgotten before anyone is told: a waiter that asks again at once starts
        # a new job instead of joining one that is over.
        self._running.discard(job)
        if self._jobs.get(key) is job:
            del self._jobs[key]
        waiters, job.waiters = job.waiters, []
        for waiter in waiters:
            # A waiter may have been cancelled by what an earlier one did.
            if not waiter.called:
                waiter.callback(result)
