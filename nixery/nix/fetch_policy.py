"""
Decide what the evaluations of a revision may fetch.

Most package sets fetch nothing, and are evaluated without a guard of fetches, which costs a little.
One that tries to is evaluated with it from then on.
"""

from __future__ import annotations

from cachetools import LRUCache

from nixery.nix.arguments import NixSettings
from nixery.nix.resolve_arguments import Fetches
from nixery.sources.source import Revision

__all__ = ["FetchPolicy"]

MAX_REVISIONS = 4096
"""The most revisions of which it is remembered that their evaluation fetches."""


class FetchPolicy:
    """
    The network fetches that evaluations may do.

    :param settings: the settings of Nix commands.
    """

    def __init__(self, settings: NixSettings) -> None:
        self._any = settings.allow_unpinned_fetches
        self._fetching: LRUCache[Revision, None] = LRUCache(MAX_REVISIONS)

    def fetches(self, revision: Revision) -> Fetches:
        """Return what evaluations of a revision may fetch."""
        if self._any:
            return Fetches.ANY
        return Fetches.PINNED if revision.without_version() in self._fetching else Fetches.FORBIDDEN

    def allow_pinned(self, revision: Revision) -> None:
        """Remember that an evaluation of a revision has tried to fetch."""
        self._fetching[revision.without_version()] = None
