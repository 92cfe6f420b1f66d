"""
Evaluate names by commands, and isolate packages whose evaluation fails.

All names of an image are evaluated by one command.  Nix catches `throw` and failed
assertions of a package, and ``nix/resolve.nix`` reports them as results; but an
`abort`, a missing attribute, a type error, a stack overflow or too little memory
ends the command, and with it the evaluation of all other packages.  Then the names
are bisected until each failing name is evaluated alone: k failing names among n take
about 2 k log n commands.

A package may throw any text, also that of an error of Nix itself.  So a text only raises the
suspicion that Nix has failed; it has if it cannot store a file either.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import uuid4

from attrs import evolve, frozen

from nixery.errors import NixeryError
from nixery.image.names import PackageRequest
from nixery.image.packages import LookupResult
from nixery.nix import arguments, resolve_arguments
from nixery.nix.context import NixContext
from nixery.nix.error_parsing import (
    command_missing,
    fault_of,
    fetch_forbidden,
    flake_refusal,
    too_old,
)
from nixery.nix.errors import EvaluationFailed, EvaluationTimedOut
from nixery.nix.evaluation_log import EvaluationLog
from nixery.nix.fetched_roots import FetchedRoots
from nixery.nix.resolve_arguments import Fetches, Lookup
from nixery.nix.resolve_output import parse_results, thrown, throws_silently, with_reason
from nixery.nix.suggestions import NameIndexes
from nixery.process.errors import CommandMissing, OutputTooLarge, ProcessFailed, ProcessTimedOut
from nixery.process.spawner import Command
from nixery.sources.errors import SourceUnavailable

__all__ = ["CommandEvaluator", "FetchForbidden"]

MAX_EXPLAINED_NAMES = 5
"""The most throwing packages of an image that are evaluated again to get Nix's text."""

PROBE_TIMEOUT_SECONDS = 60.0
"""Timeout in seconds of the check that Nix works; long, for it may wait for a lock."""


@frozen(kw_only=True)
class _EvaluationError(ProcessFailed):
    """
    An evaluation failed, and not because of Nix itself.

    :param reason: the reason, for users.
    """

    reason: str


@frozen(kw_only=True)
class FetchForbidden(NixeryError):
    """An evaluation that may not fetch tried to."""

    reason: str

    @property
    def message(self) -> str:
        return f"the package set may not fetch: {self.reason}"


class CommandEvaluator:
    """
    Evaluates names by commands.

    :param context: the commands run in it.
    :param indexes: receive the names of package sets, which results tell.
    :param roots: keep what evaluations fetch.
    """

    def __init__(self, context: NixContext, indexes: NameIndexes, roots: FetchedRoots) -> None:
        self._context = context
        self._indexes = indexes
        self._roots = roots

    async def evaluate(
        self, lookup: Lookup, requests: Sequence[PackageRequest]
    ) -> Sequence[LookupResult]:
        """
        Evaluate packages by one command, or by several if some of them end it.

        :return: a result for each request, in their order.
        :raises EvaluationFailed: the package set itself does not evaluate.
        :raises EvaluationTimedOut: it took too long.
        :raises FetchForbidden: it has to be repeated with a guard of its fetches.
        :raises NixUnusable: Nix itself failed.
        :raises SourceUnavailable: a host from which it fetches gave no answer.
        """
        try:
            return await self._evaluate_once(lookup, requests, self._deadline())
        except _EvaluationError as failure:
            # The bisection gets a new deadline: most of the first one may be used up,
            # and a timeout would hide the failing package.
            deadline = self._deadline()
            await self._check_source(lookup, deadline)
            return await self._bisect(lookup, requests, deadline, failure)

    async def add_error_texts(
        self, lookup: Lookup, results: Sequence[LookupResult]
    ) -> Sequence[LookupResult]:
        """
        Add Nix's text to the results of packages that throw.

        When Nix catches an error, it does not pass on its text; so these packages are
        evaluated again, one by one, without catching.
        """
        silent = [result for result in results if throws_silently(result)][:MAX_EXPLAINED_NAMES]
        if not silent:
            return results
        deadline = self._deadline()
        reasons: dict[PackageRequest, str] = {}
        for result in silent:
            try:
                await self._evaluate_once(lookup, (result.request,), deadline, guard=False)
            except _EvaluationError as failure:
                reasons[result.request] = failure.reason
            except EvaluationTimedOut:
                break
        return [with_reason(result, reasons.get(result.request, "")) for result in results]

    async def _check_source(self, lookup: Lookup, deadline: float) -> None:
        """
        Evaluate the package set without requesting a package.

        :raises EvaluationFailed: that fails.
        """
        try:
            await self._evaluate_once(lookup, (), deadline)
        except _EvaluationError as failure:
            # Only the package set as a whole knows which Nix it needs.
            refused = too_old(failure.reason, failure.output) or (
                flake_refusal(failure.reason, failure.output) if lookup.package_set.flake else None
            )
            raise (
                refused or EvaluationFailed(reason=failure.reason, output=failure.output)
            ) from failure

    async def _bisect(
        self,
        lookup: Lookup,
        requests: Sequence[PackageRequest],
        deadline: float,
        failure: _EvaluationError,
    ) -> tuple[LookupResult, ...]:
        """Bisect names that could not be evaluated together because of ``failure``."""
        if len(requests) == 1:
            return (thrown(requests[0], failure.reason),)
        middle = len(requests) // 2
        results: tuple[LookupResult, ...] = ()
        for half in (requests[:middle], requests[middle:]):
            try:
                results += await self._evaluate_once(lookup, half, deadline)
            except _EvaluationError as error:
                results += await self._bisect(lookup, half, deadline, error)
        return results

    async def _evaluate_once(
        self,
        lookup: Lookup,
        requests: Sequence[PackageRequest],
        deadline: float,
        *,
        guard: bool = True,
    ) -> tuple[LookupResult, ...]:
        """
        Run one evaluation.

        :param deadline: a time on the clock.
        :param guard: without it, Nix has caught what the packages throw before, so that their
            texts are known to be their own.
        :raises _EvaluationError: it failed, and not because of Nix itself.
        """
        argv = resolve_arguments.evaluate(lookup, requests, guard=guard)
        try:
            try:
                output = await self._run(lookup, argv, deadline)
            except _EvaluationError as failure:
                fault = fault_of(failure.reason, failure.output)
                if fault is None or not guard:
                    raise
                if not await self._works():
                    raise fault from failure
                # It was a fault that has passed, or a package says the same again.
                output = await self._run(lookup, argv, deadline)
        except CommandMissing as error:
            raise command_missing(error) from error
        except ProcessTimedOut as error:
            raise EvaluationTimedOut(
                names=tuple(item.name for item in requests),
                seconds=self._context.settings.eval_timeout,
                setting="eval_timeout",
            ) from error
        except OutputTooLarge as error:
            raise EvaluationFailed(reason=error.message, output=error.output) from error
        return await self._context.workers.run(
            parse_results, output, requests, self._indexes, lookup.names_key
        )

    async def _run(self, lookup: Lookup, argv: tuple[str, ...], deadline: float) -> bytes:
        """
        Run a command that evaluates; :return: its output.

        :raises _EvaluationError: it failed.
        :raises FetchForbidden: it has to be repeated with a guard of its fetches.
        :raises SourceUnavailable: a host from which it fetches gave no answer.
        """
        log = EvaluationLog(source=lookup.package_set.path, on_fetched=self._roots.keep)
        timeout = max(0.0, deadline - self._context.clock.seconds())
        command = self._context.evaluation(argv, timeout)
        try:
            result = await self._context.spawner.run(evolve(command, on_stderr_line=log.feed))
        except ProcessFailed as failure:
            if not log.text():
                # It was not started.
                for line in failure.output.stderr.splitlines():
                    log.feed(line.encode())
            output = evolve(failure.output, stderr=log.text())
            if output.signal is not None:
                reason = output.describe()
            else:
                reason = log.reason(self._context.settings)
            if lookup.fetches is Fetches.FORBIDDEN and fetch_forbidden(reason):
                raise FetchForbidden(reason=reason) from failure
            if log.is_unanswered:
                raise SourceUnavailable(
                    source="a host", what="what the package set pins", reason=reason, output=output
                ) from failure
            raise _EvaluationError(output=output, reason=reason) from failure
        finally:
            await self._roots.settled()
        return result.stdout

    async def _works(self) -> bool:
        """True if Nix can store a file, whatever an evaluation said."""
        command = Command(
            argv=arguments.store_text(uuid4().hex),
            environment=self._context.environment,
            timeout=PROBE_TIMEOUT_SECONDS,
        )
        try:
            await self._context.spawner.run(command)
        except (ProcessFailed, ProcessTimedOut):
            return False
        return True

    def _deadline(self) -> float:
        return self._context.clock.seconds() + self._context.settings.eval_timeout
