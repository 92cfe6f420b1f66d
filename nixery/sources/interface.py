"""
Declares the interfaces of package sources: tags to revisions, revisions to files.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from nixery.image.names import Tag
from nixery.sources.source import PackageSet, ResolvedRef, Revision, SourceTree
from nixery.sources.tag_policy import Reference

__all__ = ["Sources", "TreeFetcher", "RefSource"]


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

    async def find(self, reference: Reference) -> ResolvedRef | None:
        """
        Look up the commit of a reference.

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
