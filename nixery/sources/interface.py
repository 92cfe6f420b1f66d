"""
Declares the interfaces of package sources: tags to revisions, revisions to files.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Protocol

from twisted.internet.defer import Deferred

from nixery.image.names import Tag
from nixery.sources.source import PackageSet, ResolvedRef, Revision, SourceTree
from nixery.sources.tag_policy import Reference

__all__ = ["InTurn", "RefSource", "Sources", "TreeFetcher"]

LookUp = Callable[[], Coroutine[Deferred[Any], Any, ResolvedRef | None]]

InTurn = Callable[[LookUp], Coroutine[Deferred[Any], Any, ResolvedRef | None]]
"""
Runs a look-up when the turn of the client that caused it has come, and returns its result.

It raises :exc:`nixery.limits.errors.QueueFull` if too many wait already, and
:exc:`nixery.sources.errors.LookupsExceeded` if the client has caused too many.
"""


class Sources(Protocol):
    """Resolves tags to revisions, and fetches package sets."""

    async def resolve(self, tag: Tag) -> Revision:
        """
        Resolve a tag to its current revision, or to a recent one from the cache.

        :raises UnknownRevision: the tag names no revision, or none that is served.
        :raises SourceUnavailable: the source cannot be asked.
        :raises SourceMissing: there is no package set at the configured path.
        """

    async def fetch(self, revision: Revision) -> PackageSet:
        """
        Fetch a revision to this machine, and protect it from garbage collection.

        :raises UnknownRevision: there is no such commit.
        :raises SourceUnavailable: it cannot be fetched.
        :raises NixUnusable: Nix itself failed.
        """

    async def tags(self) -> Sequence[str]:
        """Return the tags that the configuration names, sorted; many more may be valid."""


class RefSource(Protocol):
    """Looks up references in an upstream source."""

    async def check(self) -> None:
        """
        Check the prerequisites for look-ups, without making a request.

        :raises CommandMissing: a program that look-ups need is not on PATH.
        """

    async def stop(self) -> None:
        """Cancel the requests that several look-ups share; returns when they have ended."""

    async def find(self, reference: Reference, in_turn: InTurn | None = None) -> ResolvedRef | None:
        """
        Look up the commit of a reference.

        :param in_turn: runs the part of the look-up that costs the upstream or this machine
            something for this reference alone; ``None``: the configuration names the
            reference, and it is looked up at once.
        :return: ``None`` if the reference does not exist.
        :raises SourceUnavailable: the look-up failed, repeated attempts included.
        """


class TreeFetcher(Protocol):
    """Fetches commits into the Nix store."""

    async def fetch(self, tree: SourceTree) -> Path:
        """
        Fetch the files of a commit and root them, unless that has been done already.

        :return: the store path.
        :raises UnknownRevision: there is no such commit.
        :raises SourceUnavailable: it cannot be fetched.
        :raises NixUnusable: Nix itself failed.
        """
