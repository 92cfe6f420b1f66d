"""
Package sources, and what of a source the caches may remember.

A *source* is what the configuration names; a *revision* is what a tag of it has
been resolved to; a *package set* is a revision on this machine's disk, ready to be
evaluated.  What a tag means for each source is in :mod:`nixery.sources.tag_policy`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from attrs import field, frozen

from nixery.image.names import is_commit
from nixery.sources.git_urls import public_url

__all__ = [
    "NIXPKGS_URL",
    "ChannelSource",
    "ResolvedRef",
    "GitSource",
    "PackageSet",
    "PathSource",
    "Revision",
    "Source",
    "SourceTree",
    "is_pinned_path",
    "overlay_paths",
    "path_revision",
    "revision_of",
    "source_trees",
]

NIXPKGS_URL = "https://github.com/NixOS/nixpkgs/archive/{commit}.tar.gz"
"""Where the archive of a nixpkgs commit is."""

STORE = Path("/nix/store")


@frozen(kw_only=True)
class ChannelSource:
    """A nixpkgs channel (``nixos-unstable``) or a full nixpkgs commit."""

    channel: str

    @property
    def is_commit(self) -> bool:
        """Whether it is a commit, and does not move."""
        return is_commit(self.channel)

    def describe(self) -> str:
        if self.is_commit:
            return f"the nixpkgs commit {self.channel}"
        return f"the channel {self.channel}"


@frozen(kw_only=True)
class GitSource:
    """
    A git repository with a package set, or with an overlay on nixpkgs.

    :param url: as it was configured; it may hold a password.
    :param ref: the branch, tag or full commit that the tag ``latest`` means; ``None``
        for the repository's own default branch.
    :param base: the nixpkgs that the repository is an overlay on; ``None`` if it is a
        package set itself.
    """

    url: str = field(repr=False)
    ref: str | None = None
    base: ChannelSource | None = None

    @property
    def public_url(self) -> str:
        """The URL in one spelling, and without what is secret."""
        return public_url(self.url)

    def describe(self) -> str:
        return f"the git repository {self.public_url}"


@frozen(kw_only=True)
class PathSource:
    """A package set in a directory, or a file, of this machine."""

    path: Path

    def describe(self) -> str:
        return f"the package set at {self.path}"


Source = ChannelSource | GitSource | PathSource


@frozen(kw_only=True)
class ResolvedRef:
    """
    What a reference points to upstream.

    :param commit: 40 hexadecimal digits.
    :param ref: in a git repository, the full name of a ref that the commit can be
        fetched by, where one is known.
    """

    commit: str
    ref: str | None = None


@frozen(kw_only=True)
class Revision:
    """
    What a tag of a source has been resolved to.

    :param identity: what distinguishes this revision from every other one of any
        source, as plain JSON data: it goes into cache keys.
    :param pinned: whether ``identity`` stands for the content: the same identity
        always evaluates to the same packages.
    :param label: for people: ``main at 3f786850e387``.
    :param ref: as in :class:`ResolvedRef`: a way to fetch the commit, and no part of what it
        is.
    """

    identity: Mapping[str, str] = field(hash=False)
    pinned: bool
    label: str = field(eq=False)
    ref: str | None = field(default=None, eq=False)


@frozen(kw_only=True)
class PackageSet:
    """
    A revision on this machine's disk.

    :param path: the directory or file to evaluate; no component is a symlink,
        which restricted evaluation would refuse.
    :param overlays: files or directories with overlays on it, the first innermost;
        no component is a symlink.
    """

    revision: Revision
    path: Path
    overlays: tuple[Path, ...] = ()


@frozen(kw_only=True)
class SourceTree:
    """
    The files of one commit, somewhere on the network.

    :param kind: how they are fetched: with git, or as an archive by HTTP.
    :param url: of the repository, or of the archive.
    :param ref: as in :class:`ResolvedRef`.
    """

    kind: Literal["git", "archive"]
    url: str
    commit: str
    ref: str | None = field(default=None, eq=False)

    @property
    def name(self) -> str:
        """
        A file name for it: the commit, and what tells its origin apart from others,
        for a name alone proves nothing about what somebody's server sends.
        """
        origin = hashlib.sha256(f"{self.kind} {self.url}".encode()).hexdigest()
        return f"{self.commit}-{origin[:12]}"


def is_pinned_path(path: Path) -> bool:
    """
    Whether what lies at a path never changes: all that is in the Nix store is
    immutable, and named by its content or its recipe.

    :param path: without symlinks.
    """
    return STORE in path.parents and ".." not in path.parts


def path_revision(path: Path, overlays: Sequence[Path] = ()) -> Revision:
    """
    The revision of a package set at a path.

    :param path: without symlinks, as those of ``overlays``.
    """
    return Revision(
        identity={"kind": "path", "path": str(path), **_overlay_identity(overlays)},
        pinned=is_pinned_path(path) and all(map(is_pinned_path, overlays)),
        label=str(path),
    )


def revision_of(
    source: ChannelSource | GitSource,
    name: str,
    found: ResolvedRef,
    *,
    base: ResolvedRef | None = None,
    overlays: Sequence[Path] = (),
    nixpkgs_url: str = NIXPKGS_URL,
) -> Revision:
    """
    The revision that a reference to a source was found to be.

    :param name: how people call the reference.
    :param base: the nixpkgs below it, where the source is an overlay.
    :param overlays: those of the configuration, without symlinks.
    """
    identity = {"commit": found.commit}
    if isinstance(source, ChannelSource):
        identity |= {"kind": "nixpkgs", "url": nixpkgs_url}
    elif base is None:
        identity |= {"kind": "git", "url": source.public_url}
    else:
        identity |= {"kind": "overlay", "url": source.public_url}
        identity |= {"base": base.commit, "base_url": nixpkgs_url}
    short = found.commit[:12]
    return Revision(
        identity=identity | _overlay_identity(overlays),
        pinned=all(map(is_pinned_path, overlays)),
        label=short if is_commit(name) else f"{name} at {short}",
        ref=found.ref,
    )


def source_trees(revision: Revision) -> tuple[SourceTree, ...]:
    """
    What has to be fetched of a revision: the package set, then an overlay on it where
    the source is one.  Nothing of a path.
    """
    identity = revision.identity
    match identity["kind"]:
        case "nixpkgs":
            return (_archive(identity["url"], identity["commit"]),)
        case "git":
            return (_git_tree(revision),)
        case "overlay":
            return (_archive(identity["base_url"], identity["base"]), _git_tree(revision))
    return ()


def overlay_paths(revision: Revision) -> tuple[Path, ...]:
    """The overlays of the configuration that a revision has, in order."""
    count = sum(name.startswith(_OVERLAY) for name in revision.identity)
    return tuple(Path(revision.identity[f"{_OVERLAY}{number}"]) for number in range(count))


_OVERLAY = "overlay."


def _overlay_identity(overlays: Sequence[Path]) -> dict[str, str]:
    return {f"{_OVERLAY}{number}": str(path) for number, path in enumerate(overlays)}


def _archive(url: str, commit: str) -> SourceTree:
    return SourceTree(kind="archive", url=url.replace("{commit}", commit), commit=commit)


def _git_tree(revision: Revision) -> SourceTree:
    identity = revision.identity
    return SourceTree(kind="git", url=identity["url"], commit=identity["commit"], ref=revision.ref)
