"""
Package sources: what a tag means, and what of a source the caches may remember.

A *source* is what the configuration names; a *revision* is what a tag of it has
been resolved to, ready to be evaluated.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from attrs import field, frozen

from nixery.errors import UnknownRevision
from nixery.names import Tag

__all__ = ["ChannelSource", "GitSource", "PathSource", "Revision", "Source", "resolve_path"]


@frozen(kw_only=True)
class ChannelSource:
    """A nixpkgs channel (``nixos-unstable``) or a full nixpkgs commit."""

    channel: str

    def describe(self) -> str:
        return f"the channel {self.channel}"


@frozen(kw_only=True)
class GitSource:
    """A git repository with a package set."""

    url: str

    def describe(self) -> str:
        return f"the git repository {self.url}"


@frozen(kw_only=True)
class PathSource:
    """A package set in a directory, or a file, of this machine."""

    path: Path

    def describe(self) -> str:
        return f"the package set at {self.path}"


Source = ChannelSource | GitSource | PathSource


@frozen(kw_only=True)
class Revision:
    """
    A package set on this machine's disk.

    :param path: the directory or file to evaluate; no component is a symlink,
        which restricted evaluation would refuse.
    :param identity: what distinguishes this revision from every other one of
        any source, as plain JSON data: it goes into cache keys.
    :param pinned: whether ``identity`` stands for the content: the same identity
        always evaluates to the same packages.
    """

    path: Path
    identity: Mapping[str, str] = field(hash=False)
    pinned: bool


def resolve_path(source: PathSource, tag: Tag) -> Revision:
    """
    The revision of a package set at a path: there is one, ``latest``.

    Touches the file system to resolve symlinks; call it on a worker thread.

    :raises UnknownRevision: any other tag.
    """
    if tag != "latest":
        raise UnknownRevision(tag=tag, allowed=("latest",), source=source.describe())
    path = source.path.resolve()
    # Whatever lies in the Nix store is immutable and named by its content or
    # its recipe: the path is the revision.
    return Revision(
        path=path,
        identity={"type": "path", "path": str(path)},
        pinned=Path("/nix/store") in path.parents,
    )
