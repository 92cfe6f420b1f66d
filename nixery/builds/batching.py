"""
Run small jobs in batches.

A layer of some kilobytes is packed in less time than it takes to hand it from thread to
thread, and half of the layers of most images are as small as that.  So the packer takes a
*batch* (a ``_Batch``): several layers that are packed without a pause and stored in one
operation.  Large layers get a batch each.

The size of a batch is a share of the work that is left, so that batches get smaller towards
the end and all threads end at about the same time: *guided self-scheduling*, Polychronopoulos
and Kuck, IEEE Transactions on Computers C-36 (1987), 1425-1439.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from threading import Event
from typing import Generic, TypeVar

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from nixery.runtime.deferreds import shield, when_finished

__all__ = ["BatchQueue"]

J = TypeVar("J")
R = TypeVar("R")

QUEUE_SHARE = 2.0
"""A batch takes the share of this many slots in the work left: some slots wait for the disk."""

MAX_BATCH_BYTES = 16 * 2**20
"""The largest batch of more than one job, in bytes: more would be lost in a crash."""

MIN_BATCH_BYTES = 2 * 2**20
"""The smallest batch, in bytes, if that much is queued: some milliseconds' work."""

MAX_BATCH_JOBS = 32
"""The most jobs in a batch; each holds a file open."""

PER_JOB_COST = 256 * 2**10
"""The fixed cost of a job besides the bytes that it reads, in bytes."""


@define(kw_only=True, eq=False)
class BatchQueue(Generic[J, R]):
    """
    Runs jobs in batches, first come, first served.

    :param run_batch: runs a batch of jobs, given an event that tells it to stop because no caller
        waits for any of them; returns their results in order.
    :param max_running: the number of batches that run at once.
    """

    run_batch: Callable[[Sequence[J], Event], Awaitable[Sequence[R]]]
    max_running: int

    _queue: deque[_QueuedJob[J, R]] = field(factory=deque, init=False)
    _running: int = field(default=0, init=False)
    _starting: bool = field(default=False, init=False)

    async def run(self, job: J, size: int) -> R:
        """
        Run a job when its turn comes.

        Cancelling drops a job that has not begun.  Otherwise it takes effect when the job's
        batch has ended; the batch is told to stop if no caller waits for any of its jobs.

        :param size: the size of the job's input, in bytes.
        :raises Exception: the error that ``make`` has raised for this job alone: the jobs of
            a batch that fails are run again one by one.
        """
        item: _QueuedJob[J, R] = _QueuedJob(job=job, cost=size + PER_JOB_COST)
        self._queue.append(item)
        self._start_batches()
        try:
            return await shield(item.result)
        except CancelledError:
            if item.batch is None:
                self._queue.remove(item)
            else:
                await item.batch.abandon_job()
            raise

    def _start_batches(self) -> None:
        # A batch that ends at once calls this again: the flag prevents recursion.
        if self._starting:
            return
        self._starting = True
        try:
            while self._queue and self._running < self.max_running:
                self._running += 1
                batch = self._next_batch()
                batch.task = Deferred.fromCoroutine(self._run_and_continue(batch))
        finally:
            self._starting = False

    def _next_batch(self) -> _Batch[J, R]:
        share = QUEUE_SHARE / self.max_running * sum(item.cost for item in self._queue)
        budget = max(MIN_BATCH_BYTES, min(MAX_BATCH_BYTES, share))
        items: list[_QueuedJob[J, R]] = []
        while self._queue and len(items) < MAX_BATCH_JOBS:
            if items and self._queue[0].cost > budget:
                break
            items.append(self._queue.popleft())
            budget -= items[-1].cost
        batch = _Batch(items=items, waiters=len(items))
        for item in items:
            item.batch = batch
        return batch

    async def _run_and_continue(self, batch: _Batch[J, R]) -> None:
        try:
            await self._run_jobs(batch, batch.items)
        finally:
            self._running -= 1
            self._start_batches()

    async def _run_jobs(self, batch: _Batch[J, R], items: Sequence[_QueuedJob[J, R]]) -> None:
        try:
            results = await self.run_batch([item.job for item in items], batch.stop)
        except Exception:  # noqa: BLE001  # passed to the waiters
            failure = Failure()
        else:
            for item, result in zip(items, results, strict=True):
                item.result.callback(result)
            return
        if len(items) > 1 and not batch.stop.is_set():
            # A job must not fail because of the error of another one.
            for item in items:
                await self._run_jobs(batch, [item])
        else:
            for item in items:
                item.result.errback(failure)


@define(kw_only=True, eq=False)
class _QueuedJob(Generic[J, R]):
    """A job, and the Deferred of its caller."""

    job: J
    cost: float
    result: Deferred[R] = field(factory=Deferred)
    batch: _Batch[J, R] | None = None


@define(kw_only=True, eq=False)
class _Batch(Generic[J, R]):
    """
    A batch of jobs that are run together.

    :param waiters: the number of its jobs that a caller still waits for.
    """

    items: Sequence[_QueuedJob[J, R]]
    waiters: int
    stop: Event = field(factory=Event)
    task: Deferred[None] | None = None

    async def abandon_job(self) -> None:
        """Note that a caller has given up one of the jobs; return when the batch has ended."""
        self.waiters -= 1
        if self.waiters == 0:
            self.stop.set()
        if self.task is not None:
            await when_finished(self.task)
