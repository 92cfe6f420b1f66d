"""
Whether what the daemon stands on can be used: asked now and then, told at once.

Load balancers ask every second, from several places.  What they are told is up to
some seconds old; however many ask at the same time, each check runs once; and one
that does not come back, because a disk or a daemon hangs, is not begun a second time
until it does.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from attrs import define, field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from nixery.errors import NixeryError
from nixery.runtime.deferreds import TimedOut, gather, with_timeout

__all__ = ["Check", "Readiness"]

RETRY = 2.0
"""Seconds for which a bad answer stands."""


@frozen(kw_only=True)
class Check:
    """
    One thing that the daemon stands on.

    :param name: what it is, as the beginning of a sentence.
    :param ask: returns if it can be used, and fails if it cannot.
    :param ttl: for how many seconds a good answer stands; a bad one does for
        :data:`RETRY`.
    """

    name: str
    ask: Callable[[], Awaitable[object]]
    ttl: float


@define(kw_only=True, eq=False)
class Readiness:
    """
    All of it.

    :param checks: are made when somebody asks and the last answer is too old.
    :param clock: measures how old.
    :param patience: seconds that an answer is waited for.
    """

    checks: Sequence[Check]
    clock: IReactorTime
    patience: float = 5.0

    _states: dict[str, _State] = field(factory=dict, init=False)
    _log = Logger()

    async def faults(self) -> Sequence[str]:
        """What cannot be used, a sentence each, in order; nothing: all can."""
        found = await gather(self._fault(check) for check in self.checks)
        return [fault for fault in found if fault is not None]

    def known(self) -> Sequence[tuple[str, bool]]:
        """The names of the checks, and whether each went well when it was made last."""
        return [
            (check.name, (state := self._states.get(check.name)) is None or state.fault is None)
            for check in self.checks
        ]

    async def _fault(self, check: Check) -> str | None:
        state = self._states.setdefault(check.name, _State())
        if state.until is None or self.clock.seconds() >= state.until:
            if state.running is None:
                state.running = []
                Deferred.fromCoroutine(self._make(check, state))
            if state.running is not None:
                try:
                    await with_timeout(self.patience, self.clock, _wait(state.running))
                except TimedOut:
                    fault = f"{check.name}: there was no answer for {self.patience:g} s"
                    self._settle(check, state, fault)
        return state.fault

    async def _make(self, check: Check, state: _State) -> None:
        fault = None
        try:
            await check.ask()
        except NixeryError as error:
            fault = f"{check.name}: {error.message}"
        except Exception as error:  # noqa: BLE001  # whatever it is, it cannot be used
            self._log.failure("the check of {what} failed", what=check.name)
            fault = f"{check.name}: the check failed ({type(error).__name__}), see the log"
        waiting, state.running = state.running or [], None
        # What is wrong is looked at again soon: somebody may be mending it.
        ttl = check.ttl if fault is None else min(RETRY, check.ttl)
        state.until = self.clock.seconds() + ttl
        self._settle(check, state, fault)
        for waiter in waiting:
            if not waiter.called:
                waiter.callback(None)

    def _settle(self, check: Check, state: _State, fault: str | None) -> None:
        """Keep what was found; the log hears of changes."""
        if fault is not None and state.fault != fault:
            self._log.warn("not ready: {fault}", fault=fault)
        elif fault is None and state.fault is not None:
            self._log.info("ready again: {what}", what=check.name)
        state.fault = fault


@define(eq=False)
class _State:
    """What is known of a check: its fault until a time; and who waits for it to end."""

    fault: str | None = None
    until: float | None = None
    running: list[Deferred[None]] | None = None


async def _wait(waiting: list[Deferred[None]]) -> None:
    waiter: Deferred[None] = Deferred()
    waiting.append(waiter)
    await waiter
