"""Tests for :mod:`nixery.limits.fair_queue`."""

from __future__ import annotations

from collections import Counter

from attrs import define, field
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from nixery.errors import ShuttingDown
from nixery.limits.errors import QueueFull
from nixery.limits.fair_queue import FairQueue


@define(eq=False)
class Job:
    """Work that ends when the test says so."""

    lane: str
    name: str
    result: Deferred[str] = field(factory=Deferred)
    gate: Deferred[None] = field(factory=Deferred)
    positions: list[int] = field(factory=list)
    begun: bool = False

    @property
    def running(self) -> bool:
        return self.begun and not self.gate.called

    @property
    def waiting(self) -> bool:
        return not self.begun and not self.result.called


class QueueTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.order: list[str] = []
        self.jobs: list[Job] = []
        self.make(running=1, waiting=10)
        self.addCleanup(self.finish)

    def finish(self) -> None:
        """
        Let everything end.  A job that is left hanging would go on when it is
        collected as garbage, in the midst of another test.
        """
        while running := [job for job in self.jobs if job.running]:
            running[0].gate.callback(None)
        for job in self.jobs:
            job.result.addErrback(lambda failure: failure.trap(QueueFull))
        self.jobs.clear()

    def make(self, *, running: int, waiting: int) -> None:
        self.queue: FairQueue[str] = FairQueue(
            max_running=running, max_waiting=waiting, retry_after=7
        )

    def come(self, name: str) -> Job:
        """Work called ``name`` comes, in the lane of its first letter."""
        job = Job(name[0], name)

        async def work() -> str:
            job.begun = True
            self.order.append(name)
            await job.gate
            return name

        self.jobs.append(job)
        job.result = Deferred.fromCoroutine(self.queue.run(job.lane, work, job.positions.append))
        return job


class FairQueueTests(QueueTestCase):
    """Tests of the order in which jobs run."""

    def test_as_many_run_at_once_as_may(self) -> None:
        """As many run at once as may, and the next begins when one ends."""
        self.make(running=2, waiting=10)
        first, _, third = (self.come(name) for name in ("a1", "b1", "c1"))
        self.assertEqual(self.order, ["a1", "b1"])
        self.assertEqual(self.queue.running, 2)
        self.assertEqual(third.positions, [1])
        first.gate.callback(None)
        self.assertEqual(self.successResultOf(first.result), "a1")
        self.assertEqual(self.order, ["a1", "b1", "c1"])

    def test_lanes_take_turns(self) -> None:
        """One lane's flood does not come before another lane's first."""
        running = self.come("x1")
        jobs = [self.come(name) for name in ("a1", "a2", "a3", "b1", "c1", "c2")]
        for job in [running, jobs[0], jobs[3], jobs[4], jobs[1], jobs[5], jobs[2]]:
            job.gate.callback(None)
        self.assertEqual(self.order, ["x1", "a1", "b1", "c1", "a2", "c2", "a3"])

    def test_waiting_job_is_told_its_place_when_it_comes_and_when_place_changes(self) -> None:
        """A waiting job is told its place when it comes and when the place changes."""
        running = self.come("x1")
        first, second, other = (self.come(name) for name in ("a1", "a2", "b1"))
        self.assertEqual((first.positions, second.positions), ([1], [2, 3]))
        self.assertEqual(other.positions, [2])
        running.gate.callback(None)
        self.assertEqual((first.positions, second.positions), ([1], [2, 3, 2]))
        self.assertEqual(other.positions, [2, 1])

    def test_place_that_is_given_up_is_free_again_and_its_work_never_begins(self) -> None:
        """A place that is given up is free again, and its work never begins."""
        running = self.come("x1")
        first, second = self.come("a1"), self.come("b1")
        first.result.cancel()
        self.failureResultOf(first.result, CancelledError)
        self.assertEqual(second.positions, [2, 1])
        running.gate.callback(None)
        self.assertEqual(self.order, ["x1", "b1"])

    def test_cancelling_what_runs(self) -> None:
        """Cancelling work that runs makes room."""
        running, waiting = self.come("a1"), self.come("b1")
        running.result.cancel()
        self.failureResultOf(running.result, CancelledError)
        self.assertTrue(waiting.running)

    def test_failures_make_room(self) -> None:
        """Work that fails makes room like any other."""
        running, waiting = self.come("a1"), self.come("b1")
        running.gate.errback(KeyError())
        self.failureResultOf(running.result, KeyError)
        self.assertTrue(waiting.running)

    def test_job_that_comes_to_full_queue_is_refused_and_told_when_to_come_back(self) -> None:
        """A job that comes to a full queue is refused and told when to come back."""
        self.make(running=1, waiting=2)
        for name in ("x1", "a1", "b1"):
            self.come(name)
        refused = self.failureResultOf(self.come("c1").result, QueueFull).value
        self.assertEqual((refused.waiting, refused.retry_after), (2, 7))
        self.assertEqual(self.queue.waiting, 2)

    def test_queue_without_places_lets_run_what_has_room_and_nothing_wait(self) -> None:
        """A queue without places lets run what has room, and nothing wait."""
        self.make(running=1, waiting=0)
        self.come("a1")
        self.failureResultOf(self.come("b1").result, QueueFull)

    def test_a_flood_makes_room(self) -> None:
        """A lane that fills the queue loses its last place to one that has none."""
        self.make(running=1, waiting=3)
        self.come("x1")
        flood = [self.come(name) for name in ("a1", "a2", "a3")]
        other = self.come("b1")
        self.assertTrue(other.waiting)
        self.failureResultOf(flood[2].result, QueueFull)
        # Two and one: taking one more would only turn it round.
        self.failureResultOf(self.come("b2").result, QueueFull)
        self.failureResultOf(self.come("a4").result, QueueFull)

    def test_stopping_refuses_jobs_that_wait_or_come(self) -> None:
        """Stopping refuses jobs that wait or come; running jobs go on."""
        running, waiting = self.come("a1"), self.come("b1")
        self.queue.stop()
        self.failureResultOf(waiting.result, ShuttingDown)
        self.failureResultOf(self.come("c1").result, ShuttingDown)
        running.gate.callback(None)
        self.assertEqual(self.successResultOf(running.result), "a1")

    def test_long_queues_of_short_work(self) -> None:
        """Work that ends at once does not make the stack as deep as the queue."""
        self.make(running=1, waiting=5000)
        gate = self.come("x1")

        async def nothing() -> None:
            pass

        results = [
            Deferred.fromCoroutine(self.queue.run(f"{number % 7}", nothing))
            for number in range(1200)
        ]
        gate.gate.callback(None)
        for result in results:
            self.assertIsNone(self.successResultOf(result))
        self.assertEqual((self.queue.running, self.queue.waiting), (0, 0))


class FairnessTests(QueueTestCase):
    """Tests of invariants that hold for any sequence of arrivals, ends and cancellations."""

    @given(
        st.integers(1, 3),
        st.integers(0, 6),
        st.lists(
            st.tuples(
                st.sampled_from(["come", "come", "come", "end", "leave"]),
                st.sampled_from("abcd"),
                st.integers(0, 100),
            ),
            max_size=60,
        ),
    )
    @settings(max_examples=150)
    def test_no_lane_is_served_twice_while_another_waits(
        self, running: int, waiting: int, steps: list[tuple[str, str, int]]
    ) -> None:
        """
        No more run or wait than may, nobody waits while there is room, no lane is
        served twice while another one waits, and a lane's own order is kept.
        """
        self.order = []
        self.make(running=running, waiting=waiting)
        jobs: list[Job] = []
        # For each lane that waits, who was served since it began to, or was served.
        passed: dict[str, Counter[str]] = {}
        for action, lane, pick in steps:
            served = len(self.order)
            busy = [job for job in jobs if job.running]
            queued = [job for job in jobs if job.waiting]
            if action == "come":
                jobs.append(self.come(f"{lane}{len(jobs)}"))
            elif action == "end" and busy:
                busy[pick % len(busy)].gate.callback(None)
            elif action == "leave" and queued:
                job = queued[pick % len(queued)]
                job.result.cancel()
                self.failureResultOf(job.result, CancelledError)
            for name in self.order[served:]:
                for others in passed.values():
                    others[name[0]] += 1
                passed.pop(name[0], None)
            lanes = {job.lane for job in jobs if job.waiting}
            passed = {each: passed.get(each, Counter()) for each in lanes}
            for each, others in passed.items():
                self.assertTrue(all(times == 1 for times in others.values()), (each, others))
            self.assertLessEqual(self.queue.running, running)
            self.assertEqual(self.queue.running, sum(job.running for job in jobs))
            self.assertLessEqual(self.queue.waiting, waiting)
            self.assertEqual(self.queue.waiting, sum(job.waiting for job in jobs))
            self.assertTrue(self.queue.running == running or not lanes)
            places = sorted(job.positions[-1] for job in jobs if job.waiting)
            self.assertEqual(places, list(range(1, len(places) + 1)))
        self.finish()
        self.assertEqual((self.queue.running, self.queue.waiting), (0, 0))
        for each in "abcd":
            numbers = [int(name[1:]) for name in self.order if name[0] == each]
            self.assertEqual(numbers, sorted(numbers))
