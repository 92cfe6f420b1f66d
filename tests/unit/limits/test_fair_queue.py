"""Tests for :mod:`nixery.limits.fair_queue`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from attrs import define, field
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from nixery.errors import ShuttingDown
from nixery.limits.errors import QueueFull, WorkAbandoned
from nixery.limits.fair_queue import SWEEP_SECONDS, FairQueue


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
        self.clock = Clock()
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
            max_running=running, max_waiting=waiting, retry_after=7, clock=self.clock
        )

    def come(
        self, name: str, image: str | None = None, asking: Collection[str] | None = None
    ) -> Job:
        """
        Work called ``name`` comes, for the client of its first letter.

        :param image: the name by which the client's work takes turns.
        :param asking: the clients that ask for it, if there are others than this one.
        """
        job = Job(name[0], name)

        async def work() -> str:
            job.begun = True
            self.order.append(name)
            await job.gate
            return name

        self.jobs.append(job)
        job.result = Deferred.fromCoroutine(
            self.queue.run(
                job.lane,
                work,
                job.positions.append,
                name=image,
                clients=None if asking is None else lambda: asking,
            )
        )
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

    def test_clients_take_turns(self) -> None:
        """One client's flood does not come before another client's first."""
        running = self.come("x1")
        jobs = [self.come(name) for name in ("a1", "a2", "a3", "b1", "c1", "c2")]
        for job in [running, jobs[0], jobs[3], jobs[4], jobs[1], jobs[5], jobs[2]]:
            job.gate.callback(None)
        self.assertEqual(self.order, ["x1", "a1", "b1", "c1", "a2", "c2", "a3"])

    def test_client_with_least_work_running_is_next(self) -> None:
        """A client that comes waits for one of another's to end, and for no turn of its."""
        self.make(running=3, waiting=10)
        flood = [self.come(f"a{number}") for number in range(6)]
        other = self.come("b1")
        self.assertEqual(other.positions, [1])
        flood[1].gate.callback(None)
        self.assertTrue(other.running)

    def test_client_that_has_just_had_its_turn_comes_after_others(self) -> None:
        """The one place goes to the client that came, though the other has waited for longer."""
        running = self.come("a1")
        waiting, other = self.come("a2"), self.come("b1")
        running.gate.callback(None)
        self.assertTrue(other.running)
        self.assertTrue(waiting.waiting)

    def test_names_of_a_client_take_turns(self) -> None:
        """One image at many revisions does not come before the client's other images."""
        running = self.come("x1")
        for name, image in (("a1", "git"), ("a2", "git"), ("a3", "git"), ("a4", "vim")):
            self.come(name, image)
        self.assertEqual([job.positions[-1] for job in self.jobs[1:]], [1, 3, 4, 2])
        for job in [running, self.jobs[1], self.jobs[4], self.jobs[2], self.jobs[3]]:
            job.gate.callback(None)
        self.assertEqual(self.order, ["x1", "a1", "a4", "a2", "a3"])

    def test_full_queue_gives_the_place_of_a_name_with_many_to_one_with_none(self) -> None:
        """A client's own other image takes the last place of the one that has several."""
        self.make(running=1, waiting=2)
        for name in ("x1", "a1", "a2"):
            self.come(name, "git")
        self.assertTrue(self.come("a3", "vim").waiting)
        self.failureResultOf(self.jobs[2].result, QueueFull)
        self.failureResultOf(self.come("a4", "jq").result, QueueFull)

    def test_work_of_several_clients_has_the_best_of_their_places(self) -> None:
        """Work that a client asks for does not wait behind all that another one has queued."""
        self.come("x1")
        asking = ["a"]
        for number in range(4):
            self.come(f"a{number}")
        shared = self.come("a9", asking=asking)
        self.assertEqual(shared.positions, [5])
        asking.append("b")
        self.come("c1")
        self.assertEqual(shared.positions[-1], 2)

    def test_work_that_nobody_asks_for_leaves_the_queue(self) -> None:
        """Abandoned work is rejected after a moment, and those behind it move up."""
        running = self.come("x1")
        asking = ["a"]
        abandoned, other = self.come("a1", asking=asking), self.come("b1")
        asking.clear()
        self.clock.advance(SWEEP_SECONDS)
        self.failureResultOf(abandoned.result, WorkAbandoned)
        self.assertEqual(other.positions, [2, 1])
        running.gate.callback(None)
        other.gate.callback(None)
        self.assertEqual(self.order, ["x1", "b1"])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_abandoned_work_takes_no_place_from_what_comes(self) -> None:
        """A full queue of abandoned work refuses nobody."""
        self.make(running=1, waiting=1)
        self.come("x1")
        asking = ["a"]
        abandoned = self.come("a1", asking=asking)
        asking.clear()
        self.assertTrue(self.come("b1").waiting)
        self.failureResultOf(abandoned.result, WorkAbandoned)

    def test_work_that_runs_goes_on_though_nobody_asks_for_it(self) -> None:
        """Only what waits is given up."""
        asking = ["a"]
        running = self.come("a1", asking=asking)
        self.come("b1")
        asking.clear()
        self.clock.advance(SWEEP_SECONDS)
        self.assertTrue(running.running)

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
    def test_no_client_is_served_twice_while_another_has_nothing(
        self, running: int, waiting: int, steps: list[tuple[str, str, int]]
    ) -> None:
        """
        No more run or wait than may, nobody waits while there is room, no client is
        served twice while another one waits with nothing running, nor while one waits with less
        running, and a client's own order is kept.
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
            now_running = Counter(job.lane for job in jobs if job.running)
            for name in self.order[served:]:
                # It was served when each that still waits had no less.
                self.assertTrue(
                    all(now_running[name[0]] - 1 <= now_running[lane] for lane in lanes), name
                )
            idle = {lane for lane in lanes if not now_running[lane]}
            passed = {each: passed.get(each, Counter()) for each in idle}
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
