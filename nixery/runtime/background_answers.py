"""
Wait a limited time for an answer, and let the work for it go on for the next try.

A page has to appear soon, though what it tells may take Nix half a minute.  A page that appears
without it is loaded again; if the work had been cancelled with the first page, no later one would
have its result either.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Hashable, MutableMapping
from typing import Any, Generic, TypeVar

from attrs import define, field
from cachetools import TTLCache
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from nixery.errors import NixeryError
from nixery.runtime.deferreds import TimedOut, shield, with_timeout
from nixery.runtime.single_flight import SingleFlight

__all__ = ["BackgroundAnswers"]

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

LATE_TTL_SECONDS = 60.0
"""The time for which an answer is kept that came too late for the page that asked, in seconds."""

MAX_LATE_ANSWERS = 256
"""The number of such answers that are kept."""


@define(kw_only=True, eq=False)
class BackgroundAnswers(Generic[K, V]):
    """
    Answers to questions that clients ask repeatedly, each worked out once for all of them.

    The work ends with the last client that waits for it.  What was not ready in time goes on, but
    for each client only the last such work: many pages that nobody loads again cost no more
    than one.

    :param clock: measures the time.
    """

    clock: IReactorTime

    _jobs: SingleFlight[K, V] = field(
        factory=lambda: SingleFlight(cancel_abandoned=True), init=False
    )
    # By client, its share in the work that goes on.
    _late: dict[str, Deferred[V]] = field(factory=dict, init=False)
    _outcomes: MutableMapping[K, V | NixeryError] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._outcomes = TTLCache(MAX_LATE_ANSWERS, LATE_TTL_SECONDS, timer=self.clock.seconds)

    async def get(
        self,
        client: str,
        key: K,
        work: Callable[[], Coroutine[Deferred[Any], Any, V]],
        *,
        seconds: float,
    ) -> V:
        """
        Return an answer.  Cancelling ends the work, unless another client waits for it.

        :param client: identifies the client.
        :param key: identifies the question.
        :param work: finds the answer; is called only if that is not being done yet.
        :param seconds: the time that the client waits.
        :raises TimedOut: it takes longer; the client is to ask again after a while.
        :raises NixeryError: the work failed.
        """
        known = self._outcomes.get(key)
        if isinstance(known, NixeryError):
            raise known
        if known is not None:
            return known
        job = self._jobs.run(key, work)
        is_late = False

        def note(outcome: V | Failure) -> V | Failure:
            if self._late.get(client) is job:
                del self._late[client]
            if is_late:
                self._keep(key, outcome)
            return outcome

        job.addBoth(note)
        answer = shield(job)

        async def wait() -> V:
            return await answer

        try:
            return await with_timeout(seconds, self.clock, wait())
        except TimedOut:
            is_late = True
            former = self._late.pop(client, None)
            self._late[client] = job
            if former is not None:
                former.cancel()
            raise
        except CancelledError:
            job.cancel()
            raise

    def stop(self) -> Deferred[None]:
        """Cancel all work; fires when it has ended."""
        return self._jobs.stop()

    def _keep(self, key: K, outcome: V | Failure) -> None:
        if not isinstance(outcome, Failure):
            self._outcomes[key] = outcome
        elif isinstance(outcome.value, NixeryError):
            self._outcomes[key] = outcome.value
