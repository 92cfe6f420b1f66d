"""Tests of the bounded pools of threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Coroutine
from typing import TypeVar, cast

from twisted.internet import reactor as global_reactor
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.interfaces import IReactorFromThreads
from twisted.trial.unittest import TestCase

from nixery.errors import ShuttingDown
from nixery.runtime.workers import WorkerPool, Workers
from nixery.storage.errors import BlobUnknown

T = TypeVar("T")

reactor = cast(IReactorFromThreads, global_reactor)

PATIENCE = 20.0
"""Seconds after which a test whose threads never met fails instead of hanging."""


def begin(coroutine: Coroutine[Deferred[object], object, T]) -> Deferred[T]:
    return Deferred.fromCoroutine(coroutine)


class HeldCall:
    """A function that a test holds, on its thread, until it lets it go."""

    def __init__(self) -> None:
        self.entered: Deferred[None] = Deferred()
        self._open = threading.Event()

    def __call__(self) -> str:
        reactor.callFromThread(self.entered.callback, None)
        if not self._open.wait(PATIENCE):
            raise AssertionError("the call was never released")
        return threading.current_thread().name

    def open(self) -> None:
        self._open.set()


class WorkerPoolTests(TestCase):
    timeout = 2 * PATIENCE

    def pool(self, size: int = 1, *, start: bool = True) -> WorkerPool:
        pool = WorkerPool("test", size, reactor)
        if start:
            pool.startService()
        self.addCleanup(self._stop, pool)
        return pool

    def _stop(self, pool: WorkerPool) -> Deferred[None] | None:
        return pool.stopService() if pool.running else None

    async def test_pool_implements_the_interface_and_passes_arguments_and_results_on(self) -> None:
        """A pool implements the interface, and passes arguments and results on."""
        workers: Workers = self.pool()

        def describe(number: int, *, unit: str) -> str:
            return f"{number} {unit}"

        self.assertEqual("3 layers", await workers.run(describe, 3, unit="layers"))

    async def test_runs_on_threads_of_its_own(self) -> None:
        """Functions run on threads that carry the pool's name, not on the reactor's."""
        name = await self.pool().run(lambda: threading.current_thread().name)
        self.assertIn("test", name)

    async def test_errors_keep_their_type(self) -> None:
        """An exception of a function reaches the waiter as the same object."""
        error = BlobUnknown(digest="sha256:0")

        def fail() -> None:
            raise error

        with self.assertRaises(BlobUnknown) as caught:
            await self.pool().run(fail)
        self.assertIs(error, caught.exception)

    async def test_as_many_functions_run_at_once_as_the_pool_is_wide(self) -> None:
        """As many functions as the pool is wide run at once, and never more."""
        pool = self.pool(2)
        gates = [HeldCall() for _ in range(3)]
        results = [begin(pool.run(gate)) for gate in gates]
        await gatherResults([gates[0].entered, gates[1].entered])
        # A third thread would have to come from this pool: all that it has made
        # are held in the gates.
        self.assertEqual(2, sum("-test-" in thread.name for thread in threading.enumerate()))
        self.assertFalse(gates[2].entered.called)
        gates[0].open()
        await gates[2].entered
        gates[1].open()
        gates[2].open()
        names = await gatherResults(results)
        self.assertEqual(2, len(set(names)))

    async def test_no_thread_before_start(self) -> None:
        """A pool that has not started has no thread; what it is given waits."""
        pool = self.pool(start=False)
        before = threading.active_count()
        waiting = begin(pool.run(int, "7"))
        self.assertEqual(before, threading.active_count())
        self.assertNoResult(waiting)
        pool.startService()
        self.assertEqual(7, await waiting)

    async def test_cancelled_before_it_began(self) -> None:
        """A call cancelled while it is queued is never made."""
        pool = self.pool()
        gate, calls = HeldCall(), list[str]()
        running = begin(pool.run(gate))
        await gate.entered
        cancelled = begin(pool.run(calls.append, "cancelled"))
        kept = begin(pool.run(calls.append, "kept"))
        cancelled.cancel()
        self.failureResultOf(cancelled, CancelledError)
        gate.open()
        await running
        await kept
        self.assertEqual(["kept"], calls)

    async def _cancel_while_running(self, then: Callable[[], object]) -> None:
        pool = self.pool()
        gate = HeldCall()

        def function() -> object:
            gate()
            return then()

        running = begin(pool.run(function))
        await gate.entered
        running.cancel()
        self.failureResultOf(running, CancelledError)
        gate.open()
        # On the only thread, so behind the function that has no waiter.
        self.assertEqual(1, await pool.run(int, "1"))

    async def test_cancelled_while_running(self) -> None:
        """The result of a function whose waiter has gone is dropped."""
        await self._cancel_while_running(lambda: "result")

    async def test_cancelled_while_running_and_failing(self) -> None:
        """So is its error: trial would report an unhandled one."""
        await self._cancel_while_running(lambda: 1 / 0)
        self.assertEqual([], self.flushLoggedErrors())

    async def test_coroutine_that_is_closed_while_it_waits_counts_as_one_that_has_gone(
        self,
    ) -> None:
        """A coroutine that is closed while it waits counts as one that has gone."""
        pool = self.pool()
        gate = HeldCall()

        def fail() -> None:
            gate()
            raise BlobUnknown(digest="sha256:0")

        coroutine = pool.run(fail)
        coroutine.send(None)
        await gate.entered
        coroutine.close()
        gate.open()
        await pool.run(int)
        self.assertEqual([], self.flushLoggedErrors())

    async def test_refuses_after_stop(self) -> None:
        """A pool that has stopped takes nothing."""
        pool = self.pool()
        await pool.stopService()
        with self.assertRaises(ShuttingDown):
            await pool.run(int)

    async def test_stop_waits_for_what_runs(self) -> None:
        """Stopping waits for a running function, without blocking, and delivers its result."""
        pool = self.pool()
        gate = HeldCall()
        running = begin(pool.run(gate))
        await gate.entered
        stopped = pool.stopService()
        self.assertNoResult(stopped)
        refused = begin(pool.run(int))
        self.failureResultOf(refused, ShuttingDown)
        gate.open()
        name = await running
        await stopped
        self.assertNotIn(name, [thread.name for thread in threading.enumerate()])

    async def test_stop_waits_for_what_nobody_waits_for(self) -> None:
        """A running function whose waiter has gone holds the stop up as well."""
        pool = self.pool()
        gate, ended = HeldCall(), list[str]()
        running = begin(pool.run(lambda: ended.append(gate())))
        await gate.entered
        running.cancel()
        self.failureResultOf(running, CancelledError)
        stopped = pool.stopService()
        self.assertNoResult(stopped)
        gate.open()
        await stopped
        self.assertEqual(1, len(ended))

    async def test_stop_fails_what_is_queued(self) -> None:
        """A function that has not begun when the pool stops fails at once and is never called."""
        pool = self.pool()
        gate, calls = HeldCall(), list[str]()
        running = begin(pool.run(gate))
        await gate.entered
        queued = begin(pool.run(calls.append, "queued"))
        stopped = pool.stopService()
        self.failureResultOf(queued, ShuttingDown)
        gate.open()
        await running
        await stopped
        self.assertEqual([], calls)

    async def test_stop_again_on_failure(self) -> None:
        """A call that fails because the pool stops may stop the pool, too."""
        pool = self.pool()
        gate, stops = HeldCall(), list[Deferred[None]]()
        running = begin(pool.run(gate))
        await gate.entered
        queued = begin(pool.run(int))
        queued.addErrback(lambda _: stops.append(pool.stopService()))
        stops.append(pool.stopService())
        self.assertEqual(2, len(stops))
        gate.open()
        await running
        await gatherResults(stops)

    async def test_queued_and_running_functions_count_as_load(self) -> None:
        """Queued and running functions count as load; a cancelled one only while it runs."""
        pool = self.pool(start=False)
        gate = HeldCall()
        running, early = begin(pool.run(gate)), begin(pool.run(int))
        self.assertEqual(2, pool.load)
        early.cancel()
        self.failureResultOf(early, CancelledError)
        self.assertEqual(1, pool.load)
        pool.startService()
        await gate.entered
        queued = begin(pool.run(int))
        running.cancel()
        self.failureResultOf(running, CancelledError)
        self.assertEqual(2, pool.load)
        gate.open()
        await queued
        self.assertEqual(0, pool.load)

    async def test_two_stops_of_a_busy_pool_both_wait(self) -> None:
        """Two stops of a busy pool both wait; a third finds nothing to do."""
        pool = self.pool()
        gate = HeldCall()
        running = begin(pool.run(gate))
        await gate.entered
        stops = [pool.stopService(), pool.stopService()]
        gate.open()
        await running
        await gatherResults(stops)
        await pool.stopService()

    async def test_stop_before_start(self) -> None:
        """A pool that never started stops at once and fails what it was given."""
        pool = self.pool(start=False)
        waiting = begin(pool.run(int))
        await pool.stopService()
        self.failureResultOf(waiting, ShuttingDown)

    async def test_stopped_pool_can_start_again_with_new_threads(self) -> None:
        """A stopped pool can start again, with new threads."""
        pool = self.pool()
        await pool.run(int)
        await pool.stopService()
        pool.startService()
        self.assertEqual(5, await pool.run(int, "5"))

    async def test_every_one_of_many_calls_is_made_once(self) -> None:
        """Every one of many calls is made once, and its result goes to its own waiter."""
        pool = self.pool(4)
        results = await gatherResults([begin(pool.run(pow, n, 2)) for n in range(500)])
        self.assertEqual([n * n for n in range(500)], results)
