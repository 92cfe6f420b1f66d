"""
Evaluate names to packages.

Names that a package set is known not to have are answered without Nix.  Package sets are
kept in memory, and most questions are answered by an evaluator that has read the set
(:mod:`nixery.nix.resident_evaluators`); commands answer the others
(:mod:`nixery.nix.command_evaluator`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from twisted.internet.defer import DeferredSemaphore

from nixery.errors import UnexpectedOutput
from nixery.image.errors import PackagesRefused
from nixery.image.names import PackageRequest
from nixery.image.packages import Evaluation, LookupResult, make_evaluation, refused_problems
from nixery.nix.command_evaluator import CommandEvaluator, FetchForbidden
from nixery.nix.context import NixContext
from nixery.nix.fetch_policy import FetchPolicy
from nixery.nix.fetched_roots import FetchedRoots
from nixery.nix.package_indexes import PackageIndexes
from nixery.nix.repl import parse_string
from nixery.nix.resident_evaluators import Reply, ResidentEvaluators
from nixery.nix.resolve_arguments import Lookup
from nixery.nix.resolve_output import missing_result, parse_results, throws
from nixery.nix.suggestions import NameIndexes
from nixery.sources.source import PackageSet

__all__ = ["Evaluator"]


class Evaluator:
    """
    Looks packages up in package sets.

    :param context: the commands run in it.
    :param resolve: the path of ``nix/resolve.nix``, without symlinks.
    """

    def __init__(self, context: NixContext, *, resolve: Path) -> None:
        self._context = context
        self._resolve = resolve
        # Limits the memory of all evaluations: each may use up to ``max_eval_memory``.
        self._slots = DeferredSemaphore(context.settings.evaluations)
        self._indexes = NameIndexes(context.settings.refused)
        self._policy = FetchPolicy(context.settings)
        self._roots = FetchedRoots(context)
        self._commands = CommandEvaluator(context, self._indexes, self._roots)
        self._residents = ResidentEvaluators(context, on_fetched=self._roots.keep)
        # They know the names of package sets that were listed before.
        self.package_indexes: PackageIndexes | None = None

    def keep_evaluators(self) -> None:
        """See :meth:`nixery.nix.commands.NixCommands.keep_evaluators`."""
        self._residents.enable()

    def prepare_evaluation(self, package_set: PackageSet, system: str) -> None:
        """See :meth:`nixery.nix.commands.NixCommands.prepare_evaluation`."""
        self._residents.prepare(self.lookup(package_set, system))

    async def recall_names(self, package_set: PackageSet, system: str) -> None:
        """See :meth:`nixery.nix.commands.NixCommands.recall_names`."""
        if self.package_indexes is not None:
            await self.package_indexes.recall_names(self._indexes, package_set.revision, system)

    async def stop(self) -> None:
        """Stop the evaluators that are kept, and the commands that make roots."""
        await self._residents.stop()
        await self._roots.stop()

    def lookup(self, package_set: PackageSet, system: str) -> Lookup:
        """Return the arguments of look-ups in a package set."""
        return Lookup(
            settings=self._context.settings,
            resolve=self._resolve,
            package_set=package_set,
            system=system,
            fetches=self._policy.fetches(package_set.revision),
        )

    async def evaluate(
        self, package_set: PackageSet, system: str, requests: Sequence[PackageRequest]
    ) -> Evaluation:
        """See :meth:`nixery.nix.interface.Nix.evaluate`."""
        refused = refused_problems(requests, self._context.settings.refused)
        if refused:
            raise PackagesRefused(problems=refused)
        missing = await self._known_missing(package_set, system, requests)
        if missing and all(item.optional or item in missing for item in requests):
            return make_evaluation(missing.values(), system)
        results = await self._evaluate_others(package_set, system, requests, missing)
        return make_evaluation(results, system)

    async def look_up(
        self, package_set: PackageSet, system: str, requests: Sequence[PackageRequest]
    ) -> Sequence[LookupResult]:
        """
        Return a result for each requested package, in their order; problems are results too.

        :raises EvaluationFailed: the package set itself does not evaluate.
        :raises EvaluationTimedOut: it took too long.
        :raises NixUnusable: Nix itself failed.
        """
        problems = refused_problems(requests, self._context.settings.refused)
        refused = {problem.name: problem for problem in problems}
        rest = [item for item in requests if item.name not in refused]
        known = await self._known_missing(package_set, system, rest)
        for item in requests:
            if item.name in refused:
                known[item] = LookupResult(request=item, result=refused[item.name])
        return await self._evaluate_others(package_set, system, requests, known)

    async def _known_missing(
        self, package_set: PackageSet, system: str, requests: Sequence[PackageRequest]
    ) -> dict[PackageRequest, LookupResult]:
        """Return results for the packages that are known to be missing."""
        await self.recall_names(package_set, system)
        names = self._indexes.top_level(package_set.revision, system)
        if names is None:
            return {}
        results = (missing_result(item, names) for item in requests if not item.optional)
        return {result.request: result for result in results if result is not None}

    async def _evaluate_others(
        self,
        package_set: PackageSet,
        system: str,
        requests: Sequence[PackageRequest],
        known: Mapping[PackageRequest, LookupResult],
    ) -> Sequence[LookupResult]:
        """Return the results in the order of the requests, of which some are known already."""
        rest = [item for item in requests if item not in known]
        evaluates = rest or not known
        results = iter(await self._evaluate(package_set, system, rest) if evaluates else ())
        return [known.get(item) or next(results) for item in requests]

    async def _evaluate(
        self, package_set: PackageSet, system: str, requests: Sequence[PackageRequest]
    ) -> Sequence[LookupResult]:
        """Evaluate packages in the turn of this evaluation."""
        await self._slots.acquire()
        try:
            return await self._run_lookup(self.lookup(package_set, system), requests)
        except FetchForbidden:
            self._policy.allow_pinned(package_set.revision)
            return await self._run_lookup(self.lookup(package_set, system), requests)
        finally:
            self._slots.release()

    async def _run_lookup(
        self, lookup: Lookup, requests: Sequence[PackageRequest]
    ) -> Sequence[LookupResult]:
        reply = await self._residents.answer(lookup, requests)
        await self._roots.settled()
        results = await self._parse_reply(reply, lookup, requests)
        if results is None:
            results = await self._commands.evaluate(lookup, requests)
            failed = [item.request.name for item in results if throws(item)]
            self._residents.judge(reply, requests, failed)
        return await self._commands.add_error_texts(lookup, results)

    async def _parse_reply(
        self, reply: Reply, lookup: Lookup, requests: Sequence[PackageRequest]
    ) -> Sequence[LookupResult] | None:
        """Return the results of a resident evaluator; ``None`` if there are none."""
        if reply.printed is None:
            return None

        def parse(printed: bytes) -> Sequence[LookupResult]:
            return parse_results(parse_string(printed), requests, self._indexes, lookup.names_key)

        try:
            return await self._context.workers.run(parse, reply.printed)
        except UnexpectedOutput:
            self._residents.reject(reply)
            return None
