"""Remember what has ended evaluators, so that it is not asked of one more."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Sequence

from cachetools import TTLCache

from nixery.image.names import PackageRequest

__all__ = ["Suspects"]

MAX_LOSSES = 2
"""The evaluators that a question may end."""

TTL_SECONDS = 3600.0
"""Seconds for which that is remembered, since the last of them."""

MAX_REMEMBERED = 4096


class Suspects:
    """
    Counts the evaluators that were lost, by question and by package.

    :param seconds: the monotonic time, as the reactor's ``seconds``.
    """

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._losses: TTLCache[tuple[Hashable, frozenset[str]], int] = TTLCache(
            MAX_REMEMBERED, TTL_SECONDS, timer=seconds
        )

    def add_question(self, scope: Hashable, requests: Sequence[PackageRequest]) -> None:
        """
        Count an evaluator that was lost with a question.

        :param scope: the package set, and whatever else makes the same question another one.
        """
        self._add(scope, _names(requests))

    def add_packages(
        self, scope: Hashable, requests: Sequence[PackageRequest], failed: Iterable[str]
    ) -> None:
        """
        Count it for the packages of the question that are known to fail, too.

        :param failed: their names.
        """
        if len(requests) > 1:
            for name in failed:
                self._add(scope, frozenset({name}))

    def has(self, scope: Hashable, requests: Sequence[PackageRequest]) -> bool:
        """True if a question, or a package in it, has ended too many evaluators."""
        if not self._losses:
            return False
        names = _names(requests)
        return any(
            self._losses.get((scope, each), 0) >= MAX_LOSSES
            for each in (names, *(frozenset({name}) for name in names))
        )

    def _add(self, scope: Hashable, names: frozenset[str]) -> None:
        self._losses[scope, names] = self._losses.get((scope, names), 0) + 1


def _names(requests: Collection[PackageRequest]) -> frozenset[str]:
    return frozenset(item.name for item in requests)
