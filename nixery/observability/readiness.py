"""
Checks whether the services and disks that the daemon needs can be used, and caches the results.

Load balancers ask every second, from several places. The answers are up to some seconds old; each
check runs once for all concurrent requests; and a check that does not return, because a disk or a
daemon hangs, is not begun a second time until it does.
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

RETRY_SECONDS = 2.0
"""Seconds for which a negative result is used."""


@frozen(kw_only=True)
class Check:
    """
    A check of one thing that the daemon depends on.

    :param name: the thing, as the beginning of a sentence.
    :param check: returns if the thing can be used, and fails if it cannot.
    :param ttl: seconds for which a positive result is used; a negative one is used for
        at most :data:`RETRY_SECONDS`.
    """

    name: str
    check: Callable[[], Awaitable[object]]
    ttl: float


@define(kw_only=True, eq=False)
class Readiness:
    """
    The readiness of the daemon, from all its checks.

    :param checks: run on demand if the last result is too old.
    :param clock: measures the age of results.
    :param timeout: maximum wait for a result, in seconds.
    """

    checks: Sequence[Check]
    clock: IReactorTime
    timeout: float = 5.0

    _states: dict[str, _State] = field(factory=dict, init=False)
    _log = Logger()

    async def faults(self) -> Sequence[str]:
        """Return the faults found, a sentence each, in order; an empty result: ready."""
        faults = await gather(self._current_fault(check) for check in self.checks)
        return [fault for fault in faults if fault is not None]

    def last_results(self) -> Sequence[tuple[str, bool]]:
        """Return the names of the checks, each with the success of its last run."""
        return [
            (check.name, (state := self._states.get(check.name)) is None or state.fault is None)
            for check in self.checks
        ]

    async def _current_fault(self, check: Check) -> str | None:
        state = self._states.setdefault(check.name, _State())
        if state.valid_until is None or self.clock.seconds() >= state.valid_until:
            if state.waiters is None:
                state.waiters = []
                Deferred.fromCoroutine(self._run_check(check, state))
            if state.waiters is not None:
                try:
                    await with_timeout(self.timeout, self.clock, _wait(state.waiters))
                except TimedOut:
                    fault = f"{check.name}: there was no answer for {self.timeout:g} s"
                    self._record_result(check, state, fault)
        return state.fault

    async def _run_check(self, check: Check, state: _State) -> None:
        fault = None
        try:
            await check.check()
        except NixeryError as error:
            fault = f"{check.name}: {error.message}"
        except Exception as error:  # noqa: BLE001  # whatever it is, it cannot be used
            self._log.failure("the check of {what} failed", what=check.name)
            fault = f"{check.name}: the check failed ({type(error).__name__}), see the log"
        waiters, state.waiters = state.waiters or [], None
        # A fault is checked again soon: it may be fixed by then.
        ttl = check.ttl if fault is None else min(RETRY_SECONDS, check.ttl)
        state.valid_until = self.clock.seconds() + ttl
        self._record_result(check, state, fault)
        for waiter in waiters:
            if not waiter.called:
                waiter.callback(None)

    def _record_result(self, check: Check, state: _State, fault: str | None) -> None:
        """Keep a result, and log changes."""
        if fault is not None and state.fault != fault:
            self._log.warn("not ready: {fault}", fault=fault)
        elif fault is None and state.fault is not None:
            self._log.info("ready again: {what}", what=check.name)
        state.fault = fault


@define(eq=False)
class _State:
    """The state of a check: its last fault, the time until which that is used, and its waiters."""

    fault: str | None = None
    valid_until: float | None = None
    waiters: list[Deferred[None]] | None = None


async def _wait(waiters: list[Deferred[None]]) -> None:
    waiter: Deferred[None] = Deferred()
    waiters.append(waiter)
    await waiter
