"""
A fair queue: run a bounded number of builds at once, and queue a bounded number.

A build can take hours, so that the order in which builds begin matters.  First
come, first served would let one client, or one image that is asked for at many revisions,
keep all others waiting.  Here the clients share what runs, and the places in the queue:

    waiting    alice: git, git:v1, htop    bob: vim    carol: jq, jq:v1
    order      git vim jq htop jq:v1 git:v1

- Next is the client with the least work running; of several, the one whose work ended longest
  ago.  So a client that comes with its first build waits for one other to end, however many
  another client has running and waiting.
- Of one client's work, the names of images take turns.
- Work that several clients ask for has a place among the work of each, and the best one counts.
- When the queue is full, a new item takes the place of the last one in the order if
  the client of that has more work before it, or the name more items; otherwise the new item is
  rejected.
- Work that nobody asks for any more leaves the queue.

Requests for an image that is being built, or is queued, join that build
(:mod:`nixery.runtime.single_flight`) and take no place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Coroutine, Hashable, Iterable, Iterator, Mapping
from itertools import count
from typing import Any, Generic, NamedTuple, TypeVar

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from nixery.errors import ShuttingDown
from nixery.limits.errors import QueueFull, WorkAbandoned

__all__ = ["FairQueue"]

SWEEP_SECONDS = 5.0
"""Seconds between two looks for work that nobody asks for any more."""

C = TypeVar("C", bound=Hashable)
T = TypeVar("T")


@define(eq=False)
class _Waiter(Generic[C]):
    """A coroutine that waits for its turn, which fires with the client that it runs for."""

    client: C
    asking: Callable[[], Collection[C]] | None
    name: Hashable
    on_position: Callable[[int], None] | None
    turn: Deferred[C]
    last_position: int = 0

    def clients(self) -> Collection[C]:
        """Return the clients that ask for it now."""
        return (self.client,) if self.asking is None else self.asking()


class _Place(NamedTuple):
    """
    The place of a waiter among the work of one of its clients; places sort in their order.

    :param before: how much work of the client comes before, with what runs.
    :param rank: of the client; no other has the same.
    :param same_name: how much of the waiting work before has the same name.
    """

    before: int
    rank: int
    same_name: int


@define(kw_only=True, eq=False)
class FairQueue(Generic[C]):
    """
    Lets a bounded number of coroutines run at once.

    :param max_running: the number that run at once, at least 1.
    :param max_waiting: the number that may wait, 0 or more.
    :param what: the things that wait, for :exc:`QueueFull`.
    :param retry_after: the ``retry_after`` of :exc:`QueueFull`, in seconds.
    :param clock: times the looks for work that nobody asks for any more; ``None``: it is only
        noticed when other work comes or ends.
    """

    max_running: int
    max_waiting: int
    what: str = "images wait to be built"
    retry_after: float = 30.0
    clock: IReactorTime | None = None

    _running: Counter[C] = field(factory=Counter, init=False)
    _waiters: list[_Waiter[C]] = field(factory=list, init=False)
    # The order of clients with as much running work, and of one client's names.
    _client_ranks: dict[C, int] = field(factory=dict, init=False)
    _name_ranks: dict[tuple[C, Hashable], int] = field(factory=dict, init=False)
    _new_rank: Iterator[int] = field(factory=count, init=False)
    _admitting: bool = field(default=False, init=False)
    _stopped: bool = field(default=False, init=False)
    _sweep: IDelayedCall | None = field(default=None, init=False)

    @property
    def running(self) -> int:
        """The number of coroutines that run."""
        return self._running.total()

    @property
    def waiting(self) -> int:
        """The number of coroutines that wait."""
        return len(self._waiters)

    async def run(
        self,
        client: C,
        work: Callable[[], Coroutine[Deferred[Any], Any, T]],
        on_position: Callable[[int], None] | None = None,
        *,
        name: Hashable = None,
        clients: Callable[[], Collection[C]] | None = None,
    ) -> T:
        """
        Call ``work()`` when its turn has come, at once if fewer than ``max_running`` run,
        and return its result.

        Cancelling gives up the place in the queue, or cancels the work.

        :param client: the client that the work is for.
        :param on_position: called with the place in the queue, 1 for the next, when it is taken
            and each time that it changes; never called if the work can run at once.
        :param name: the name of the work; a client's names take turns.
        :param clients: returns the clients that ask for the work now; while it waits, none means
            that it leaves the queue.  By default, ``client`` asks for it until it is cancelled.
        :raises QueueFull: too many wait already, or this one lost its place to another client's.
        :raises WorkAbandoned: nobody asked for it any more before the turn came.
        :raises ShuttingDown: the queue was stopped before the turn came.
        """
        waiter = _Waiter(client, clients, name, on_position, Deferred())
        client = await self._wait_for_turn(waiter)
        try:
            return await work()
        finally:
            self._running[client] -= 1
            self._running += Counter()  # without those that have none
            # Clients that have joined waiting work since the last look come before this one.
            self._group(self._waiters)
            self._client_ranks[client] = next(self._new_rank)
            self._admit()

    def stop(self) -> None:
        """Reject all that wait and all that come later; those that run continue."""
        self._stopped = True
        self._reject(tuple(self._waiters), ShuttingDown)

    async def _wait_for_turn(self, waiter: _Waiter[C]) -> C:
        """Wait for a turn; :return: the client that the coroutine is counted for from now on."""
        if self._stopped:
            raise ShuttingDown
        self._drop_abandoned()
        if self.running < self.max_running and not self._waiters:
            self._running[waiter.client] += 1
            return waiter.client
        if self.waiting >= self.max_waiting:
            self._make_room_for(waiter)
        waiter.turn = Deferred(lambda _: self._remove(waiter))
        self._waiters.append(waiter)
        self._report_positions()
        return await waiter.turn

    def _make_room_for(self, new: _Waiter[C]) -> None:
        """
        Reject the last waiter in the order.

        :raises QueueFull: a place of its own would be the last, or as good as that.
        """
        order = self._order([*self._waiters, new])
        own = next((place for place, _, waiter in order if waiter is new), None)
        if own is None or not self._waiters:
            raise self._full(self.waiting)
        last, _, waiter = order[-1]
        # Without a real difference, the two would take each other's place in turns.
        if last.rank == own.rank:
            worse = last.same_name > own.same_name
        else:
            worse = last.before > own.before
        if not worse:
            raise self._full(self.waiting)
        self._reject((waiter,), lambda: self._full(self.max_waiting))

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
            while self._waiters and self.running < self.max_running:
                self._drop_abandoned()
                order = self._order(self._waiters)
                if not order:
                    break
                _, client, waiter = order[0]
                self._waiters.remove(waiter)
                self._running[client] += 1
                self._name_ranks[client, waiter.name] = next(self._new_rank)
                self._report_positions()
                waiter.turn.callback(client)
        finally:
            self._admitting = False
        self._schedule_sweep()

    # -- who asks -----------------------------------------------------------------------

    def _drop_abandoned(self) -> None:
        """Reject the work that nobody asks for."""
        self._reject(
            tuple(each for each in self._waiters if each.asking is not None and not each.asking()),
            WorkAbandoned,
        )

    def _schedule_sweep(self) -> None:
        """Look for abandoned work in a while, for as long as any waits."""
        if not self._waiters and self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        elif self._waiters and self._sweep is None and self.clock is not None:
            self._sweep = self.clock.callLater(SWEEP_SECONDS, self._sweep_now)

    def _sweep_now(self) -> None:
        self._sweep = None
        self._drop_abandoned()
        self._schedule_sweep()

    def _reject(self, waiters: Collection[_Waiter[C]], make_error: Callable[[], Exception]) -> None:
        if not waiters:
            return
        for waiter in waiters:
            self._waiters.remove(waiter)
        self._report_positions()
        for waiter in waiters:
            waiter.turn.errback(make_error())

    def _remove(self, waiter: _Waiter[C]) -> None:
        if waiter in self._waiters:
            self._waiters.remove(waiter)
            self._report_positions()

    # -- the order ----------------------------------------------------------------------

    def _order(self, waiters: Iterable[_Waiter[C]]) -> list[tuple[_Place, C, _Waiter[C]]]:
        """Return waiters in their order, each with its best place and the client that gives it."""
        best: dict[int, tuple[_Place, C, _Waiter[C]]] = {}
        for client, by_name in self._group(waiters).items():
            ranks = {name: self._name_ranks[client, name] for name in by_name}
            turns = _take_turns([by_name[name] for name in sorted(by_name, key=ranks.__getitem__)])
            rank, running = self._client_ranks[client], self._running[client]
            for before, (same_name, waiter) in enumerate(turns, running):
                place = _Place(before, rank, same_name)
                known = best.get(id(waiter))
                if known is None or place < known[0]:
                    best[id(waiter)] = place, client, waiter
        return sorted(best.values(), key=lambda each: each[0])

    def _group(
        self, waiters: Iterable[_Waiter[C]]
    ) -> Mapping[C, Mapping[Hashable, list[_Waiter[C]]]]:
        """
        Group waiters by their clients, and by their names.

        Clients and names that are new get a rank; those that are gone are forgotten.
        """
        by_client: dict[C, dict[Hashable, list[_Waiter[C]]]] = {}
        for waiter in waiters:
            for client in waiter.clients():
                by_client.setdefault(client, {}).setdefault(waiter.name, []).append(waiter)
        for client, names in by_client.items():
            if client not in self._client_ranks:
                self._client_ranks[client] = next(self._new_rank)
            for name in names:
                if (client, name) not in self._name_ranks:
                    self._name_ranks[client, name] = next(self._new_rank)
        for client in self._client_ranks.keys() - by_client.keys():
            if not self._running[client]:
                del self._client_ranks[client]
        for key in [key for key in self._name_ranks if key[1] not in by_client.get(key[0], ())]:
            del self._name_ranks[key]
        return by_client

    def _report_positions(self) -> None:
        """Report the new places of those that wait and have moved."""
        self._schedule_sweep()
        if all(waiter.on_position is None for waiter in self._waiters):
            return
        for position, (_, _, waiter) in enumerate(self._order(self._waiters), 1):
            if waiter.on_position is not None and waiter.last_position != position:
                waiter.last_position = position
                waiter.on_position(position)


def _take_turns(lanes: list[list[_Waiter[C]]]) -> Iterator[tuple[int, _Waiter[C]]]:
    """Yield the first of each lane, then the second of each, with their numbers from 0."""
    for number in range(max(map(len, lanes), default=0)):
        for lane in lanes:
            if number < len(lane):
                yield number, lane[number]
