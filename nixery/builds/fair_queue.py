"""
Whose turn it is: a bounded number of builds at once, and a bounded queue.

A build can take hours, so that the order in which builds begin matters.  First
come, first served would let one image, asked for at many revisions, keep all
others waiting; here every *lane* (an image's name) has a queue of its own, and the
lanes take turns:

    waiting    a: a1 a2 a3    b: b1    c: c1 c2
    order      a1 b1 c1 a2 c2 a3

The same goes for the room in the queue.  When it is full, a lane that has less
waiting than another takes the place of the last that waits in the longest lane,
and only if there is no such lane is the newcomer turned away.  So a flood in one
lane costs that lane its last places, and nobody else anything.

Requests for an image that is being built, or waits to be, join that one
(:mod:`nixery.runtime.single_flight`) and take no place.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Coroutine, Hashable
from typing import Any, Generic, TypeVar

from attrs import define, field
from twisted.internet.defer import Deferred

from nixery.builds.errors import QueueFull
from nixery.errors import ShuttingDown

__all__ = ["FairQueue"]

L = TypeVar("L", bound=Hashable)
T = TypeVar("T")


@define(eq=False)
class _Place(Generic[L]):
    """One that waits."""

    lane: L
    turn: Deferred[None]
    moved: Callable[[int], None]
    told: int = 0


@define(kw_only=True, eq=False)
class FairQueue(Generic[L]):
    """
    Lets a bounded number of coroutines run at once.

    :param max_running: how many run at once, at least 1.
    :param max_waiting: how many wait, 0 or more.
    :param retry_after: what those who are turned away are told, in seconds.
    """

    max_running: int
    max_waiting: int
    retry_after: float = 30.0

    _running: int = field(default=0, init=False)
    # The lanes that have somebody waiting, the one whose turn is next first.
    _lanes: OrderedDict[L, deque[_Place[L]]] = field(factory=OrderedDict, init=False)
    _admitting: bool = field(default=False, init=False)
    _stopped: bool = field(default=False, init=False)

    @property
    def running(self) -> int:
        """How many run."""
        return self._running

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(map(len, self._lanes.values()))

    async def run(
        self,
        lane: L,
        work: Callable[[], Coroutine[Deferred[Any], Any, T]],
        moved: Callable[[int], None] = lambda _position: None,
    ) -> T:
        """
        The result of ``work()``, which is called when its turn has come: at once,
        if there is room.

        Cancelling gives the place up, or cancels the work.

        :param lane: what it is to be fair between.
        :param moved: told the place in the queue, 1 for the next, when it is taken
            and whenever it changes; never called when there is room at once.
        :raises QueueFull: too many wait already; or did, and this one had to make
            room.
        :raises ShuttingDown: the queue has been stopped before its turn came.
        """
        await self._turn(lane, moved)
        try:
            return await work()
        finally:
            self._running -= 1
            self._admit()

    def stop(self) -> None:
        """Turn away all that wait, and all that come; those that run go on."""
        self._stopped = True
        lanes, self._lanes = self._lanes, OrderedDict()
        for places in lanes.values():
            for place in places:
                place.turn.errback(ShuttingDown())

    async def _turn(self, lane: L, moved: Callable[[int], None]) -> None:
        """Wait for a turn, and take it."""
        if self._stopped:
            raise ShuttingDown
        if self._running < self.max_running and not self._lanes:
            self._running += 1
            return
        if self.waiting >= self.max_waiting:
            self._make_room(lane)
        place = _Place(lane, Deferred(lambda _: self._leave(place)), moved)
        self._lanes.setdefault(lane, deque()).append(place)
        self._tell()
        await place.turn

    def _make_room(self, lane: L) -> None:
        """:raises QueueFull: no lane has more waiting than ``lane`` would have."""
        # Of several, the one that was served last: its turn is the furthest away.
        longest = max(reversed(self._lanes), key=lambda each: len(self._lanes[each]), default=None)
        own = len(self._lanes.get(lane, ()))
        if longest is None or len(self._lanes[longest]) <= own + 1:
            raise QueueFull(waiting=self.waiting, retry_after=self.retry_after)
        last = self._lanes[longest][-1]
        self._leave(last)
        last.turn.errback(QueueFull(waiting=self.max_waiting, retry_after=self.retry_after))

    def _admit(self) -> None:
        """Give free room to those whose turn it is."""
        # What begins may end at once, and lead back here: a loop, not a recursion
        # as deep as the queue is long.
        if self._admitting:
            return
        self._admitting = True
        try:
            while self._lanes and self._running < self.max_running:
                lane, places = next(iter(self._lanes.items()))
                place = places.popleft()
                if places:
                    self._lanes.move_to_end(lane)
                else:
                    del self._lanes[lane]
                self._running += 1
                self._tell()
                place.turn.callback(None)
        finally:
            self._admitting = False

    def _leave(self, place: _Place[L]) -> None:
        places = self._lanes.get(place.lane)
        if places is None or place not in places:
            return
        places.remove(place)
        if not places:
            del self._lanes[place.lane]
        self._tell()

    def _tell(self) -> None:
        """Tell those that wait where they are now."""
        rounds = [deque(places) for places in self._lanes.values()]
        position = 0
        while rounds:
            for places in rounds:
                position += 1
                place = places.popleft()
                if place.told != position:
                    place.told = position
                    place.moved(position)
            rounds = [places for places in rounds if places]
