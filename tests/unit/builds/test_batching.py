"""Tests for :mod:`nixery.builds.batching`."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Event

from attrs import define, field
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from nixery.builds.batching import (
    MAX_BATCH_BYTES,
    MAX_BATCH_JOBS,
    MIN_BATCH_BYTES,
    PER_JOB_COST,
    BatchQueue,
)

MIB = 2**20


@define(eq=False)
class RunningBatch:
    """A batch that ends when the test ends it."""

    jobs: list[str]
    stop: Event
    end: Deferred[None] = field(factory=Deferred)


@define(eq=False)
class BatchRunner:
    """Runs batches; the result of a job is its name in upper case."""

    batches: list[RunningBatch] = field(factory=list)
    failing_jobs: set[str] = field(factory=set)
    ends_at_once: bool = False

    async def __call__(self, jobs: Sequence[str], stop: Event) -> list[str]:
        batch = RunningBatch(list(jobs), stop)
        self.batches.append(batch)
        if not self.ends_at_once:
            await batch.end
        for job in jobs:
            if job in self.failing_jobs:
                raise ValueError(job)
        return [job.upper() for job in jobs]

    @property
    def jobs(self) -> list[list[str]]:
        return [making.jobs for making in self.batches]


class BatchQueueTests(SynchronousTestCase):
    """Tests of batches that the test ends one by one."""

    def setUp(self) -> None:
        self.runner = BatchRunner()
        self.queue = BatchQueue(run_batch=self.runner, max_running=1)

    def run_job(self, name: str, size: int = 1) -> Deferred[str]:
        return Deferred.fromCoroutine(self.queue.run(name, size))

    def end_batch(self, number: int = -1) -> None:
        self.runner.batches[number].end.callback(None)

    def test_job_that_comes_when_there_is_room_begins_at_once(self) -> None:
        """A job that comes when there is room begins at once."""
        done = self.run_job("a")
        self.assertEqual([["a"]], self.runner.jobs)
        self.assertNoResult(done)
        self.end_batch()
        self.assertEqual("A", self.successResultOf(done))

    def test_small_jobs_that_wait_are_made_together(self) -> None:
        """Small jobs that had to wait are made together, each with its own result."""
        done = [self.run_job(name) for name in "abcd"]
        self.end_batch()
        self.assertEqual([["a"], ["b", "c", "d"]], self.runner.jobs)
        self.end_batch()
        self.assertEqual(["A", "B", "C", "D"], [self.successResultOf(each) for each in done])

    def test_large_ones_are_made_by_themselves_in_turn(self) -> None:
        """Large jobs get a batch each, in turn."""
        for name in "abc":
            self.run_job(name, MAX_BATCH_BYTES)
        self.end_batch()
        self.end_batch()
        self.assertEqual([["a"], ["b"], ["c"]], self.runner.jobs)

    def test_small_job_behind_a_large_one_does_not_overtake_it(self) -> None:
        """A small job behind a large one does not overtake it."""
        for name, size in (("a", 1), ("b", 1), ("c", MAX_BATCH_BYTES), ("d", 1)):
            self.run_job(name, size)
        self.end_batch()
        self.end_batch()
        self.end_batch()
        self.assertEqual([["a"], ["b"], ["c"], ["d"]], self.runner.jobs)

    def test_as_many_batches_are_made_as_there_are_slots(self) -> None:
        """At most ``max_running`` batches run at once."""
        self.queue = BatchQueue(run_batch=self.runner, max_running=2)
        for name in "abcd":
            self.run_job(name, MAX_BATCH_BYTES)
        self.assertEqual([["a"], ["b"]], self.runner.jobs)
        self.end_batch(1)
        self.assertEqual([["a"], ["b"], ["c"]], self.runner.jobs)

    def test_smaller_and_smaller(self) -> None:
        """Each batch is a share of what is left, so that the last ones are small."""
        self.queue = BatchQueue(run_batch=self.runner, max_running=6)
        for number in range(6 + 40):
            self.run_job(str(number), MIB - PER_JOB_COST)
        for number in range(6 + 40):
            if number < len(self.runner.batches):
                self.end_batch(number)
        counts = [len(jobs) for jobs in self.runner.jobs[6:]]
        self.assertEqual(40, sum(counts))
        self.assertEqual(sorted(counts, reverse=True), counts)
        self.assertEqual(40 // 3, counts[0])
        self.assertLessEqual(counts[-1], MIN_BATCH_BYTES // MIB)

    def test_batch_has_a_bounded_number_of_jobs_however_small_they_are(self) -> None:
        """A batch has a bounded number of jobs, however small they are."""
        self.run_job("first")
        for number in range(3 * MAX_BATCH_JOBS):
            self.run_job(str(number), 0)
        self.end_batch()
        self.assertEqual(MAX_BATCH_JOBS, len(self.runner.jobs[1]))

    def test_ends_at_once(self) -> None:
        """Any number of jobs that never wait can be made, one after the other."""
        self.runner.ends_at_once = True
        blocked = RunningBatch(["x"], Event())
        self.queue.run_batch = lambda jobs, stop: self.block(blocked, jobs, stop)
        done = [self.run_job(str(number), MAX_BATCH_BYTES) for number in range(2000)]
        blocked.end.callback(None)
        self.assertEqual("1999", self.successResultOf(done[-1]))

    async def block(self, making: RunningBatch, jobs: Sequence[str], stop: Event) -> list[str]:
        await making.end
        return await self.runner(jobs, stop)

    @settings(max_examples=50)
    @given(st.lists(st.integers(0, 40 * MIB), max_size=60), st.integers(1, 8))
    def test_jobs_of_any_size_are_all_made_each_once_in_order(
        self, sizes: list[int], slots: int
    ) -> None:
        """Jobs of any size are all made, each once, in order."""
        maker = BatchRunner()
        parcels = BatchQueue(run_batch=maker, max_running=slots)
        done = [
            Deferred.fromCoroutine(parcels.run(f"job {number}", size))
            for number, size in enumerate(sizes)
        ]
        while waiting := [making for making in maker.batches if not making.end.called]:
            self.assertLessEqual(len(waiting), slots)
            waiting[0].end.callback(None)
        self.assertEqual(
            [f"job {number}" for number in range(len(sizes))],
            [job for jobs in maker.jobs for job in jobs],
        )
        for number, each in enumerate(done):
            self.assertEqual(f"JOB {number}", self.successResultOf(each))

    # -- failures -----------------------------------------------------------------------

    def test_job_that_fails_alone_fails_and_the_next_one_is_made(self) -> None:
        """A job that fails alone fails, and the next one is made."""
        self.runner.failing_jobs = {"a"}
        first, second = self.run_job("a"), self.run_job("b")
        self.end_batch()
        self.failureResultOf(first, ValueError)
        self.end_batch()
        self.assertEqual("B", self.successResultOf(second))

    def test_failing_job_of_a_batch_does_not_fail_the_others(self) -> None:
        """One failing job of a batch does not fail the others."""
        self.runner.failing_jobs = {"c"}
        done = [self.run_job(name) for name in "abcd"]
        for _ in range(5):
            self.end_batch()
        self.assertEqual([["a"], ["b", "c", "d"], ["b"], ["c"], ["d"]], self.runner.jobs)
        self.assertEqual("B", self.successResultOf(done[1]))
        self.assertEqual("c", str(self.failureResultOf(done[2], ValueError).value))
        self.assertEqual("D", self.successResultOf(done[3]))
        self.run_job("e")
        self.assertEqual(["e"], self.runner.jobs[-1])

    # -- leaving -------------------------------------------------------------------------

    def test_leaves_the_queue(self) -> None:
        """A job that is cancelled before it has begun is never made."""
        self.run_job("a")
        second, third = self.run_job("b"), self.run_job("c")
        second.cancel()
        self.failureResultOf(second, CancelledError)
        self.end_batch()
        self.end_batch()
        self.assertEqual([["a"], ["c"]], self.runner.jobs)
        self.assertEqual("C", self.successResultOf(third))

    def test_leaves_the_making(self) -> None:
        """A running batch that no caller waits for is told to stop, and its end is awaited."""
        done = self.run_job("a")
        done.cancel()
        self.assertNoResult(done)
        self.assertTrue(self.runner.batches[0].stop.is_set())
        self.end_batch()
        self.failureResultOf(done, CancelledError)

    def test_leaves_the_others(self) -> None:
        """A batch is not stopped while a caller waits for one of its jobs."""
        self.run_job("a")
        second, third = self.run_job("b"), self.run_job("c")
        self.end_batch()
        second.cancel()
        self.assertFalse(self.runner.batches[1].stop.is_set())
        self.end_batch()
        self.failureResultOf(second, CancelledError)
        self.assertEqual("C", self.successResultOf(third))

    def test_job_that_was_stopped_is_not_made_again(self) -> None:
        """A batch that was stopped is not run again job by job."""
        self.run_job("a")
        self.runner.failing_jobs = {"b"}
        done = [self.run_job(name) for name in "bc"]
        self.end_batch()
        for each in done:
            each.cancel()
        self.assertTrue(self.runner.batches[1].stop.is_set())
        self.end_batch()
        for each in done:
            self.failureResultOf(each, CancelledError)
        self.assertEqual(2, len(self.runner.batches))
