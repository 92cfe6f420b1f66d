"""
A fair queue: run a bounded number of builds at once, and queue a bounded number.

A build can take hours, so that the order in which builds begin matters.  First
come, first served would let one image, asked for at many revisions, keep all
others waiting; here every *lane* (an image's name) has a queue of its own, and the
lanes take turns:

    waiting    a: a1 a2 a3    b: b1    c: c1 c2
    order      a1 b1 c1 a2 c2 a3

The places in the queue are shared in the same way.  When the queue is full, a new item whose
lane would still be shorter than the longest lane takes the place of the last item in the
longest lane, which is rejected; if there is no such lane, the new item is rejected.  So a
flood in one lane costs that lane its last places, and the other lanes nothing.

Requests for an image that is being built, or is queued, join that build
(:mod:`nixery.runtime.single_flight`) and take no place.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

from attrs import define, field
from twisted.internet.defer import Deferred

from nixery.errors import ShuttingDown
from nixery.limits.errors import QueueFull

__all__ = ["FairQueue"]

L = TypeVar("L", bound=Hashable)
T = TypeVar("T")


@define(eq=False)
class _Waiter(Generic[L]):
    """A coroutine that waits for its turn."""

    lane: L
    turn: Deferred[None]
    on_position: Callable[[int], None]
    last_position: int = 0


@define(kw_only=True, eq=False)
class FairQueue(Generic[L]):
    """
    Lets a bounded number of coroutines run at once.

    :param max_running: the number that run at once, at least 1.
    :param max_waiting: the number that may wait, 0 or more.
    :param what: the things that wait, for :exc:`QueueFull`.
    :param retry_after: the ``retry_after`` of :exc:`QueueFull`, in seconds.
    """

    max_running: int
    max_waiting: int
    what: str = "images wait to be built"
    retry_after: float = 30.0

    _running: int = field(default=0, init=False)
    # The lanes that are not empty; the one whose turn is next comes first.
    _lanes: OrderedDict[L, deque[_Waiter[L]]] = field(factory=OrderedDict, init=False)
    _admitting: bool = field(default=False, init=False)
    _stopped: bool = field(default=False, init=False)

    @property
    def running(self) -> int:
        """The number of coroutines that run."""
        return self._running

    @property
    def waiting(self) -> int:
        """The number of coroutines that wait."""
        return sum(map(len, self._lanes.values()))

    async def run(
        self,
        lane: L,
        work: Callable[[], Coroutine[Deferred[Any], Any, T]],
        on_position: Callable[[int], None] = lambda _position: None,
    ) -> T:
        """
        Call ``work()`` when its turn has come, at once if fewer than ``max_running`` run,
        and return its result.

        Cancelling gives up the place in the queue, or cancels the work.

        :param lane: the lane to queue in; lanes take turns.
        :param on_position: called with the place in the queue, 1 for the next, when it is taken
            and each time that it changes; never called if the work can run at once.
        :raises QueueFull: too many wait already, or this one lost its place to a shorter
            lane.
        :raises ShuttingDown: the queue was stopped before the turn came.
        """
        await self._wait_for_turn(lane, on_position)
        try:
            return await work()
        finally:
            self._running -= 1
            self._admit()

    def stop(self) -> None:
        """Reject all that wait and all that come later; those that run continue."""
        self._stopped = True
        lanes, self._lanes = self._lanes, OrderedDict()
        for waiters in lanes.values():
            for waiter in waiters:
                waiter.turn.errback(ShuttingDown())

    async def _wait_for_turn(self, lane: L, on_position: Callable[[int], None]) -> None:
        """Wait for a turn, and count this coroutine as running."""
        if self._stopped:
            raise ShuttingDown
        if self._running < self.max_running and not self._lanes:
            self._running += 1
            return
        if self.waiting >= self.max_waiting:
            self._evict_from_longest_lane(lane)
        waiter = _Waiter(lane, Deferred(lambda _: self._remove(waiter)), on_position)
        self._lanes.setdefault(lane, deque()).append(waiter)
        self._report_positions()
        await waiter.turn

    def _evict_from_longest_lane(self, lane: L) -> None:
        """
        Reject the last item of the longest lane.

        :raises QueueFull: no lane is longer than ``lane`` would become.
        """
        # Of several equally long lanes the one that was served last: its turn is the
        # furthest away.
        longest = max(reversed(self._lanes), key=lambda each: len(self._lanes[each]), default=None)
        own_length = len(self._lanes.get(lane, ()))
        if longest is None or len(self._lanes[longest]) <= own_length + 1:
            raise self._full(self.waiting)
        last = self._lanes[longest][-1]
        self._remove(last)
        last.turn.errback(self._full(self.max_waiting))

    def _full(self, waiting: int) -> QueueFull:
        return QueueFull(what=self.what, waiting=waiting, retry_after=self.retry_after)

    def _admit(self) -> None:
        """Start waiting coroutines in turn while fewer than ``max_running`` run."""
        # A coroutine that starts may end at once and call this again: a loop avoids a
        # recursion as deep as the queue is long.
        if self._admitting:
            return
        self._admitting = True
        try:
            while self._lanes and self._running < self.max_running:
                lane, waiters = next(iter(self._lanes.items()))
                waiter = waiters.popleft()
                if waiters:
                    self._lanes.move_to_end(lane)
                else:
                    del self._lanes[lane]
                self._running += 1
                self._report_positions()
                waiter.turn.callback(None)
        finally:
            self._admitting = False

    def _remove(self, waiter: _Waiter[L]) -> None:
        waiters = self._lanes.get(waiter.lane)
        if waiters is None or waiter not in waiters:
            return
        waiters.remove(waiter)
        if not waiters:
            del self._lanes[waiter.lane]
        self._report_positions()

    def _report_positions(self) -> None:
        """Report the new places of those that wait and have moved."""
        lanes = [deque(waiters) for waiters in self._lanes.values()]
        position = 0
        while lanes:
            for waiters in lanes:
                position += 1
                waiter = waiters.popleft()
                if waiter.last_position != position:
                    waiter.last_position = position
                    waiter.on_position(position)
            lanes = [waiters for waiters in lanes if waiters]
