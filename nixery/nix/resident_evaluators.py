"""
Keep evaluators of the package sets that are in use.

Each of them costs memory.  So they are few, and none is kept for ever: the one that was used least
recently goes when there are too many, one that is not used for a while ends, and one that has
answered many questions, is old, or has grown large is replaced by another one, which has read the
package set by then.

A package set that may change at any time is read anew for each question, and one whose changes are
seen after each change.  A spare process is kept ready for that, since a process takes about as long
to start as to evaluate a few packages; it has read nothing but the settings of Nix.

Only answers are used.  A question that gets none is evaluated in the ordinary way, so that errors
are told in the same words with and without an evaluator.  What has ended evaluators twice is not
asked of another one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from typing import Any

from attrs import frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from nixery.errors import NixeryError
from nixery.image.names import DEFAULT_PACKAGES, PackageRequest
from nixery.nix.context import NixContext
from nixery.nix.repl_starter import START_DELAY_SECONDS, ReplStarter
from nixery.nix.resident_evaluator import EvaluatorBusy, EvaluatorLost, ResidentEvaluator
from nixery.nix.resolve_arguments import Fetches, Lookup
from nixery.nix.suspects import Suspects
from nixery.runtime.sizes import format_size
from nixery.sources.source import PackageSet

__all__ = ["Reply", "ResidentEvaluators"]

IDLE_SECONDS = 900.0
"""Seconds after which an evaluator that was not asked again ends."""

MAX_AGE_SECONDS = 3600.0
"""Seconds after which an evaluator is replaced: Nix reads its settings when it starts."""

MAX_ANSWERS = 2000
"""The answers after which an evaluator is replaced."""

MAX_MEMORY_SHARE = 0.5
"""The share of ``max_eval_memory`` beyond which an evaluator is replaced."""

MAX_FAILED_STARTS = 3
"""The most processes in a row that do not answer as they should; then no more are asked."""

RETRY_SECONDS = 600.0
"""
Seconds after which another process is tried, for the fault may pass: while the Nix daemon is
restarted, no process starts.
"""

WARM_UP = tuple(PackageRequest(name=name, exact=True, optional=True) for name in DEFAULT_PACKAGES)
"""The question for an evaluator that no client has asked yet: these are in each image."""

Key = tuple[PackageSet, str, Fetches]


@frozen(kw_only=True)
class Reply:
    """
    The reply to a question.

    :param printed: the answer, for :func:`nixery.nix.repl.parse_string`; ``None`` if there is
        none, and the packages have to be evaluated in the ordinary way.
    :param evaluator: the evaluator that was asked, if one was.
    :param lost: whether the question has ended it.
    """

    printed: bytes | None = None
    evaluator: ResidentEvaluator | None = None
    lost: bool = False


class ResidentEvaluators:
    """
    Keeps evaluators, and asks them.

    :param context: the processes run in it.
    :param on_fetched: called with each store path that was fetched under guard.
    """

    _log = Logger()

    def __init__(
        self, context: NixContext, *, on_fetched: Callable[[str], object] = lambda _: None
    ) -> None:
        self._context = context
        self._starter = ReplStarter(context, on_fetched)
        self._suspects = Suspects(context.clock.seconds)
        # In the order in which they were used.
        self._evaluators: OrderedDict[Key, ResidentEvaluator] = OrderedDict()
        # Each has one: it ends, or is replaced.
        self._timers: dict[ResidentEvaluator, IDelayedCall] = {}
        self._outworn: set[ResidentEvaluator] = set()
        self._failed_starts = 0
        # While it is set, processes do not work, and none is asked for a client.
        self._next_try: IDelayedCall | None = None
        self._enabled = False

    def enable(self) -> None:
        """Keep evaluators from now on, until :meth:`stop`."""
        self._enabled = self._context.settings.evaluators > 0

    def prepare(self, lookup: Lookup) -> None:
        """Prepare for a first question, which is expected."""
        if not self._can_keep(lookup):
            return
        if _is_constant(lookup):
            self._warm(self._evaluator(lookup))
        else:
            self._starter.keep_spare(lookup, 0)

    async def answer(self, lookup: Lookup, requests: Sequence[PackageRequest]) -> Reply:
        """
        Ask an evaluator, unless this question has ended too many.

        Cancelling ends the evaluation of a package set that may change.  Otherwise the evaluator
        goes on, and the next question finds what it has evaluated.
        """
        if not self._can_keep(lookup) or self._suspects.has(_key(lookup), requests):
            return Reply()
        evaluator = self._evaluator(lookup)
        try:
            printed = await evaluator.ask(requests)
        except EvaluatorBusy:
            return Reply()
        except EvaluatorLost:
            return Reply(evaluator=evaluator, lost=True)
        except CancelledError:
            if not _is_constant(lookup):
                evaluator.retire()
                evaluator.process.kill()
            raise
        finally:
            self._settle(evaluator)
        return Reply(printed=printed, evaluator=evaluator)

    def judge(
        self, reply: Reply, requests: Sequence[PackageRequest], failed: Collection[str]
    ) -> None:
        """
        Learn from the ordinary evaluation of a question that was not answered.

        :param failed: the names of the packages that do not evaluate.
        """
        if reply.evaluator is None:
            return
        if reply.lost:
            self._suspects.add_packages(_key(reply.evaluator.lookup), requests, failed)
        elif not failed:
            self._log.info("an evaluator printed an unexpected error, and is stopped")
            self._discard(reply.evaluator)

    def reject(self, reply: Reply) -> None:
        """End the evaluator whose answer is no output of ``nix/lookup.nix``."""
        if reply.evaluator is not None:
            self._log.info("an evaluator printed unexpected output, and is stopped")
            self._discard(reply.evaluator)

    async def stop(self) -> None:
        """Stop all processes, and wait until they have ended."""
        self._enabled = False
        for evaluator in (*self._evaluators.values(), *self._timers):
            self._discard(evaluator)
        if self._next_try is not None and self._next_try.active():
            self._next_try.cancel()
        await self._starter.stop()

    # -- evaluators ---------------------------------------------------------------

    def _can_keep(self, lookup: Lookup) -> bool:
        # The repl of Nix 2.8 does not heed that the evaluation of a flake is to be pure.
        return self._enabled and self._next_try is None and not lookup.package_set.flake

    def _evaluator(self, lookup: Lookup) -> ResidentEvaluator:
        """Return the evaluator of a package set, a new one if there is none."""
        key = _key(lookup)
        kept = self._evaluators.get(key)
        if kept is not None and not kept.has_ended:
            self._evaluators.move_to_end(key)
            return kept
        evaluator = self._start(lookup)
        if _is_constant(lookup):
            for other in tuple(self._evaluators.values()):
                if other is kept or _is_superseded(other.lookup, lookup):
                    self._discard(other)
            while len(self._evaluators) >= self._context.settings.evaluators:
                self._discard(next(iter(self._evaluators.values())))
            self._evaluators[key] = evaluator
        return evaluator

    def _start(self, lookup: Lookup) -> ResidentEvaluator:
        return ResidentEvaluator(
            self._context, lookup, self._starter.take(lookup), on_lost=self._lost
        )

    def _settle(self, evaluator: ResidentEvaluator) -> None:
        """Decide what becomes of an evaluator that was asked."""
        if evaluator.answers:
            self._failed_starts = 0
        can_keep = self._can_keep(evaluator.lookup)
        if can_keep and not evaluator.lookup.package_set.revision.pinned:
            # For the next question, or for what the files are after their next change.
            self._starter.keep_spare(evaluator.lookup)
        if not _is_constant(evaluator.lookup):
            evaluator.retire()
        elif can_keep and self._is_kept(evaluator) and evaluator not in self._outworn:
            reason = self._outworn_reason(evaluator)
            if reason:
                self._log.debug("an evaluator is replaced: {reason}", reason=reason)
                self._outworn.add(evaluator)
                self._call_later(evaluator, START_DELAY_SECONDS, self._replace)
            else:
                self._call_later(evaluator, IDLE_SECONDS, self._discard)

    def _outworn_reason(self, evaluator: ResidentEvaluator) -> str:
        """Return why an evaluator has to be replaced; empty if it need not be."""
        memory = evaluator.process.memory
        if memory > self._context.settings.max_eval_memory * MAX_MEMORY_SHARE:
            return f"it uses {format_size(memory)} of memory"
        if evaluator.answers >= MAX_ANSWERS:
            return f"it has given {evaluator.answers} answers"
        age = self._context.clock.seconds() - evaluator.started
        return f"it is {age:.0f} s old" if age > MAX_AGE_SECONDS else ""

    def _replace(self, old: ResidentEvaluator) -> None:
        successor = self._start(old.lookup)

        def take_over(_: object) -> None:
            if not self._is_kept(old):
                successor.retire()
                return
            if not successor.has_ended:
                # It takes the place of the old one in the order, too.
                self._evaluators[_key(old.lookup)] = successor
                self._settle(successor)
            self._discard(old)

        self._warm(successor).addBoth(take_over)

    def _warm(self, evaluator: ResidentEvaluator) -> Deferred[Any]:
        """Have an evaluator read its package set; the Deferred does not fail."""

        async def ask() -> None:
            try:
                await evaluator.ask(WARM_UP)
            except NixeryError as error:
                self._log.debug("an evaluator is not prepared: {error}", error=error)
            self._settle(evaluator)

        return Deferred.fromCoroutine(ask())

    def _lost(
        self,
        evaluator: ResidentEvaluator,
        requests: Sequence[PackageRequest],
        error: EvaluatorLost,
    ) -> None:
        if not self._enabled or evaluator.is_retired:
            # It was stopped on purpose.
            return
        self._discard(evaluator)
        self._log.info(
            "an evaluator of {package_set} is lost: {reason}",
            package_set=evaluator.lookup.package_set.revision.label,
            reason=error.reason,
        )
        if error.understood:
            self._suspects.add_question(_key(evaluator.lookup), requests)
            return
        self._failed_starts += 1
        if self._failed_starts >= MAX_FAILED_STARTS:
            self._give_up(evaluator.lookup, error.reason)

    def _give_up(self, lookup: Lookup, reason: str) -> None:
        """Ask no evaluator until one has answered that no client waits for."""
        if self._next_try is None:
            self._log.warn(
                "nix repl does not work as expected ({reason}): no package set is kept in memory,"
                " and each evaluation reads it again",
                reason=reason,
            )
        elif self._next_try.active():
            return
        self._next_try = self._context.clock.callLater(RETRY_SECONDS, self._try_again, lookup)

    def _try_again(self, lookup: Lookup) -> None:
        failed_starts = self._failed_starts
        evaluator = self._start(lookup)

        def tried(_: object) -> None:
            evaluator.retire()
            if self._enabled and self._failed_starts <= failed_starts:
                self._failed_starts = 0
                self._next_try = None
                self._log.info("nix repl works again: package sets are kept in memory")

        self._warm(evaluator).addBoth(tried)

    def _discard(self, evaluator: ResidentEvaluator) -> None:
        """Have an evaluator end once it has answered what it was asked."""
        if self._is_kept(evaluator):
            del self._evaluators[_key(evaluator.lookup)]
        self._outworn.discard(evaluator)
        timer = self._timers.pop(evaluator, None)
        if timer is not None and timer.active():
            timer.cancel()
        evaluator.retire()

    def _is_kept(self, evaluator: ResidentEvaluator) -> bool:
        return self._evaluators.get(_key(evaluator.lookup)) is evaluator

    def _call_later(
        self, evaluator: ResidentEvaluator, delay: float, call: Callable[[ResidentEvaluator], None]
    ) -> None:
        timer = self._timers.get(evaluator)
        if timer is not None and timer.active():
            timer.cancel()
        self._timers[evaluator] = self._context.clock.callLater(delay, call, evaluator)


def _key(lookup: Lookup) -> Key:
    return lookup.package_set, lookup.system, lookup.fetches


def _is_constant(lookup: Lookup) -> bool:
    """True if a package set cannot have changed since another question about it."""
    return lookup.package_set.revision.is_fixed


def _is_superseded(old: Lookup, new: Lookup) -> bool:
    """True if ``new`` is the same package set on the disk, changed since or evaluated otherwise."""
    return (
        old.package_set.path == new.package_set.path
        and old.package_set.overlays == new.package_set.overlays
        and old.system == new.system
    )
