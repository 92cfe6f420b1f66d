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
    """Where packages come from."""

    async def resolve(self, tag: Tag) -> Revision:
        """
        What a tag stands for now, or did a short while ago.

        :raises UnknownRevision: nothing, or nothing that is served.
        :raises SourceUnavailable: that cannot be found out.
        :raises SourceMissing: there is no package set at the configured path.
        """

    async def fetch(self, revision: Revision) -> PackageSet:
        """
        Bring a revision to this machine, where garbage collection leaves it alone.

        :raises UnknownRevision: there is no such commit.
        :raises SourceUnavailable: it cannot be fetched.
        :raises NixUnusable: Nix itself failed.
        """

    async def tags(self) -> Sequence[str]:
        """The tags that the configuration names, sorted: there may be many more."""


class RefSource(Protocol):
    """Whoever knows what the references to a source point to."""

    async def check(self) -> None:
        """
        Find out whether it can be asked, without asking it.

        :raises CommandMissing: there is no program to do it with.
        """

    async def find(self, reference: Reference) -> ResolvedRef | None:
        """
        What a reference points to now, ``None`` if to nothing.

        :raises SourceUnavailable: that cannot be found out, though it was tried
            repeatedly.
        """


class TreeFetcher(Protocol):
    """What brings commits into the Nix store."""

    async def fetch(self, tree: SourceTree) -> Path:
        """
        Fetch the files of a commit and root them, where that has not been done yet.

        :return: the store path.
        :raises UnknownRevision: there is no such commit.
        :raises SourceUnavailable: it cannot be fetched.
        :raises NixUnusable: Nix itself failed.
        """
