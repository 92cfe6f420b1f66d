"""
Look packages up in one process that has read the package set and keeps what it has evaluated.

Nearly all of the time of an evaluation is spent on what the packages of a set share.  Here a
second package takes a small part of the time of the first one, and a package that was evaluated
before takes none.

An answer depends on the package set and on the question alone: what was evaluated does not change,
and what failed is evaluated again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from attrs import frozen
from twisted.internet.defer import Deferred, DeferredLock

from nixery.errors import NixeryError
from nixery.image.names import PackageRequest
from nixery.nix import resolve_arguments
from nixery.nix.context import NixContext
from nixery.nix.repl import Repl
from nixery.nix.resolve_arguments import Lookup
from nixery.runtime.deferreds import TimedOut, shield, with_timeout

__all__ = ["EvaluatorBusy", "EvaluatorLost", "ResidentEvaluator"]

CHECK_TIMEOUT_SECONDS = 20.0
"""Timeout in seconds of the start of a process, which takes 0.05 s on a machine that is idle."""

MAX_WAIT_SECONDS = 1.0
"""
Seconds that a question waits for those before it: by then, an evaluation of its own has often
ended.  Behind one that has taken as long already, it does not wait.
"""

SHARE_OF_TIMEOUT = 0.5
"""
The share of ``eval_timeout`` that an answer may take.  A question that was not answered is then
evaluated in the ordinary way, with a deadline of its own.
"""


class EvaluatorBusy(NixeryError):
    """An evaluator has other questions to answer."""

    @property
    def message(self) -> str:
        return "the evaluator is busy"


@frozen(kw_only=True)
class EvaluatorLost(NixeryError):
    """
    An evaluator has ended, or was stopped, without an answer.

    :param understood: whether it had answered as an evaluator does, before this question.
    """

    reason: str
    understood: bool = True

    @property
    def message(self) -> str:
        return self.reason


class ResidentEvaluator:
    """
    Answers questions about one package set and system, one after the other.

    :param context: the process runs in it.
    :param lookup: what the questions are about.
    :param process: has been started, and was asked nothing.
    :param on_lost: called with the question that has ended the process, or during which it has
        ended, whether or not its asker still waits.
    """

    def __init__(
        self,
        context: NixContext,
        lookup: Lookup,
        process: Repl,
        *,
        on_lost: Callable[[ResidentEvaluator, Sequence[PackageRequest], EvaluatorLost], None],
    ) -> None:
        self.lookup = lookup
        self.process = process
        self.started = context.clock.seconds()
        self.answers = 0
        self._on_lost = on_lost
        self._clock = context.clock
        self._timeout = context.settings.eval_timeout * SHARE_OF_TIMEOUT
        self._turn = DeferredLock()
        self._turn_began = 0.0
        self._understood = False
        self._retired = False

    @property
    def is_retired(self) -> bool:
        """True if it was told to end."""
        return self._retired

    @property
    def has_ended(self) -> bool:
        """True if it answers no more questions."""
        return self._retired or self.process.has_exited

    async def ask(self, requests: Sequence[PackageRequest]) -> bytes | None:
        """
        Look packages up.

        Cancelling does not stop the process, which keeps what it has evaluated.

        :return: the output of ``nix/lookup.nix`` as it was printed, for
            :func:`nixery.nix.repl.parse_string`; ``None`` if Nix printed an error instead.
        :raises EvaluatorBusy: other questions took too long.
        :raises EvaluatorLost: the process has ended without an answer.
        """
        if self._turn.locked and self._clock.seconds() >= self._turn_began + MAX_WAIT_SECONDS:
            raise EvaluatorBusy
        try:
            await with_timeout(MAX_WAIT_SECONDS, self._clock, self._take_turn())
        except TimedOut:
            raise EvaluatorBusy from None
        return await shield(Deferred.fromCoroutine(self._ask_in_turn(requests)))

    def retire(self) -> None:
        """End the process as soon as it has answered the question that it was asked last."""
        self._retired = True
        self.process.close_stdin()

    async def _take_turn(self) -> None:
        await self._turn.acquire()

    async def _ask_in_turn(self, requests: Sequence[PackageRequest]) -> bytes | None:
        self._turn_began = self._clock.seconds()
        try:
            if self._retired:
                raise EvaluatorBusy
            try:
                await self._begin()
                printed = await self._ask_process(requests)
            except EvaluatorLost as error:
                self.process.kill()
                self._on_lost(self, requests, error)
                raise
        finally:
            self._turn.release()
        self.answers += printed is not None
        return printed

    async def _begin(self) -> None:
        """
        Bind the package set before the first question.

        :raises EvaluatorLost: the process does not answer as it should.
        """
        if self._understood:
            return
        try:
            await with_timeout(CHECK_TIMEOUT_SECONDS, self._clock, self.process.check())
        except TimedOut:
            raise EvaluatorLost(reason="it does not answer", understood=False) from None
        except NixeryError as error:
            raise EvaluatorLost(reason=error.message, understood=False) from error
        self.process.bind(resolve_arguments.binding(self.lookup))
        self._understood = True

    async def _ask_process(self, requests: Sequence[PackageRequest]) -> bytes | None:
        question = resolve_arguments.question(requests)
        try:
            return await with_timeout(self._timeout, self._clock, self.process.ask(question))
        except TimedOut:
            raise EvaluatorLost(reason=f"no answer within {self._timeout:g} s") from None
        except NixeryError as error:
            raise EvaluatorLost(reason=error.message) from error
