"""
Package sources, their revisions and the identities of these in cache keys.

A *source* is what the configuration names; a *revision* is what a tag of it has
been resolved to; a *package set* is a revision on this machine's disk, ready to be
evaluated.  :mod:`nixery.sources.tag_policy` defines the meaning of tags for each source.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from attrs import evolve, field, frozen

from nixery.image.names import is_commit
from nixery.sources.git_urls import public_url

__all__ = [
    "NIXPKGS_URL",
    "ChannelSource",
    "FlakeInput",
    "FlakeSource",
    "ResolvedRef",
    "GitSource",
    "PackageSet",
    "PathSource",
    "Revision",
    "Source",
    "STORE",
    "SourceTree",
    "commit_label",
    "has_revisions",
    "is_pinned_path",
    "overlay_paths",
    "path_revision",
    "repository_of",
    "revision_of",
]

NIXPKGS_URL = "https://github.com/NixOS/nixpkgs/archive/{commit}.tar.gz"
"""The URL of the archive of a nixpkgs commit."""

STORE = Path("/nix/store")
"""The directory of the Nix store, whose files never change."""


@frozen(kw_only=True)
class ChannelSource:
    """A nixpkgs channel (``nixos-unstable``) or a full nixpkgs commit."""

    channel: str

    @property
    def is_commit(self) -> bool:
        """True if it is a commit, which does not move."""
        return is_commit(self.channel)

    def describe(self) -> str:
        if self.is_commit:
            return f"the nixpkgs commit {self.channel}"
        return f"the channel {self.channel}"


@frozen(kw_only=True)
class GitSource:
    """
    A git repository with a package set, or with an overlay on nixpkgs.

    :param url: the URL as it was configured; it may hold a password.
    :param ref: the branch, tag or full commit that the tag ``latest`` means; ``None``
        for the repository's own default branch.
    :param base: the nixpkgs that the repository is an overlay on; ``None`` if it is a
        package set itself.
    :param submodules: whether the repository's submodules are part of it.
    :param lfs: whether the content of its files in Git LFS is part of it.
    """

    url: str = field(repr=False)
    ref: str | None = None
    base: ChannelSource | None = None
    submodules: bool = False
    lfs: bool = False

    @property
    def public_url(self) -> str:
        """The normalised URL, without secrets."""
        return public_url(self.url)

    def describe(self) -> str:
        return f"the git repository {self.public_url}"


@frozen(kw_only=True)
class PathSource:
    """A package set in a directory, or a file, of this machine."""

    path: Path

    def describe(self) -> str:
        return f"the package set at {self.path}"


@frozen(kw_only=True)
class FlakeSource:
    """
    A flake.

    :param kind: the way it is fetched, as Nix names it.
    :param location: the URL of the repository or of the archive, ``OWNER/NAME``, or the absolute
        path; a URL may hold a password.
    :param ref: the branch, tag or full commit that the tag ``latest`` means; ``None`` for the
        repository's own default branch.
    :param directory: the directory of its ``flake.nix``, below the top of the tree.
    :param host: the host of a repository that is named by owner and name.
    :param shallow: whether a git repository is fetched without its history.
    :param submodules: whether it is fetched with its submodules.
    :param nar_hash: the hash of the tree, if its URL has one.
    :param allow_unlocked: whether it may have inputs that its lock file does not fix.
    :param ttl: seconds for which an archive, and an input that moves, is not looked up again.
    """

    kind: Literal["git", "github", "gitlab", "path", "tarball"]
    location: str = field(repr=False)
    ref: str | None = None
    directory: str = ""
    host: str = ""
    shallow: bool = False
    submodules: bool = False
    nar_hash: str = ""
    allow_unlocked: bool = False
    ttl: float = 0.0

    @property
    def repository(self) -> GitSource | None:
        """The git repository whose branches and tags are the tags; paths and archives have none."""
        if self.kind == "git":
            return GitSource(url=self.location, ref=self.ref)
        if self.kind in ("github", "gitlab"):
            return GitSource(url=f"https://{self.host}/{self.location}.git", ref=self.ref)
        return None

    @property
    def public_url(self) -> str:
        """The URL without its secrets, the revision and the directory."""
        if self.kind == "git":
            return f"git+{public_url(self.location)}"
        host = f"?host={self.host}" if self.host not in ("", f"{self.kind}.com") else ""
        return self.location if self.kind == "tarball" else f"{self.kind}:{self.location}{host}"

    def describe(self) -> str:
        directory = f" (directory {self.directory})" if self.directory else ""
        return f"the flake {self.public_url}{directory}"


Source = ChannelSource | GitSource | PathSource | FlakeSource


def repository_of(source: Source) -> GitSource | None:
    """Return the git repository whose branches, tags and commits are the tags of a source."""
    if isinstance(source, FlakeSource):
        return source.repository
    return source if isinstance(source, GitSource) else None


def has_revisions(source: Source) -> bool:
    """True if a source has revisions to look up, and not only files as they are now."""
    return isinstance(source, ChannelSource) or repository_of(source) is not None


@frozen(kw_only=True)
class ResolvedRef:
    """
    The commit that a reference points to upstream.

    :param commit: 40 hexadecimal digits.
    :param ref: in a git repository, the full name of a ref that the commit can be
        fetched by, where one is known.
    """

    commit: str
    ref: str | None = None


@frozen(kw_only=True)
class Revision:
    """
    The revision that a tag of a source has been resolved to.

    :param identity: plain JSON data that distinguishes this revision from every other one
        of any source: it goes into cache keys.
    :param pinned: whether ``identity`` stands for the content: the same identity
        always evaluates to the same packages.
    :param label: a description for people: ``main at 3f786850e387``.
    :param ref: as in :class:`ResolvedRef`: used to fetch the commit, and not part of its
        identity.
    :param version: of a revision that is not pinned, the state of its files as this process has
        observed it, see :mod:`nixery.sources.tree_watch`; ``None`` if it is not known.  It means
        nothing to another process and goes into no key that is stored.
    """

    identity: Mapping[str, str] = field(hash=False)
    pinned: bool
    label: str = field(eq=False)
    ref: str | None = field(default=None, eq=False)
    version: str | None = None

    @property
    def is_fixed(self) -> bool:
        """True if whatever is equal to it has the same files, so that results can be kept."""
        return self.pinned or self.version is not None

    def without_version(self) -> Revision:
        """Return the revision for what does not depend on the state of its files."""
        return self if self.version is None else evolve(self, version=None)


@frozen(kw_only=True)
class FlakeInput:
    """
    An input of a flake, or of one of its inputs.

    :param name: its name in the lock file.
    :param rev: its commit, ``""`` if it has none.
    :param path: its store path.
    """

    name: str
    rev: str
    path: Path


@frozen(kw_only=True)
class PackageSet:
    """
    A revision on this machine's disk.

    :param path: the directory or file to evaluate; no component is a symlink,
        which restricted evaluation would refuse.
    :param overlays: files or directories with overlays on it, the first innermost;
        no component is a symlink.
    :param search_path: names and what they mean: ``<name>`` is the path, and evaluations may read
        it; no component is a symlink.
    :param flake: of a flake, the tree in the store with its hash, as JSON for
        ``nix/flake_set.nix``.
    :param inputs: those of a flake, and theirs.
    """

    revision: Revision
    path: Path
    overlays: tuple[Path, ...] = ()
    search_path: tuple[tuple[str, Path], ...] = ()
    flake: str = ""
    inputs: tuple[FlakeInput, ...] = field(default=(), eq=False)


@frozen(kw_only=True)
class SourceTree:
    """
    The files of one commit, to be fetched.

    :param kind: the way they are fetched: with git, as an archive by HTTP, as one that has to have
        a given hash, from a directory of this machine that another way has led to, or as a flake,
        with all its inputs.
    :param url: the URL of the repository, or of the archive, or the path of the directory.
    :param commit: the commit; of an archive with a hash, the SHA-256 of its files; ``""`` for a
        flake without revisions, which is fetched as it is now.
    :param ref: as in :class:`ResolvedRef`.
    :param submodules: with git, whether submodules are fetched too.
    :param lfs: with git, whether the content of files in Git LFS is fetched too.
    :param flake: the source, if it is a flake.
    :param info: what a flake sees of itself, if that is not to be what its tree says.
    """

    kind: Literal["git", "archive", "hashed", "directory", "flake"]
    url: str
    commit: str
    ref: str | None = field(default=None, eq=False)
    submodules: bool = False
    lfs: bool = False
    flake: FlakeSource | None = None
    info: Mapping[str, str | int] = field(factory=dict, hash=False)

    @property
    def is_fixed(self) -> bool:
        """True if what is fetched is always the same."""
        return bool(self.commit) and not (self.flake is not None and self.flake.allow_unlocked)

    @property
    def name(self) -> str:
        """
        A file name: the commit, and a part that depends on the origin, for a server may
        send other files under the same commit, and former versions of the registry applied
        the filters of ``git archive``.
        """
        way: str = "git without filters" if self.kind == "git" else self.kind
        way += " with submodules" * self.submodules + " with lfs" * self.lfs
        if self.flake is not None:
            way += f" {self.flake.directory} {self.flake.submodules} {self.flake.nar_hash}"
        origin = hashlib.sha256(f"{way} {self.url}".encode()).hexdigest()
        return f"{self.commit or 'current'}-{origin[:12]}"


def is_pinned_path(path: Path) -> bool:
    """
    True if the files at a path never change.

    All files in the Nix store are immutable, and named by their content or their recipe.

    :param path: a path without symlinks.
    """
    return STORE in path.parents and ".." not in path.parts


def path_revision(
    path: Path, overlays: Sequence[Path] = (), *, version: str | None = None
) -> Revision:
    """
    Return the revision of a package set at a path.

    :param path: a path without symlinks, like those of ``overlays``.
    :param version: as in :class:`Revision`.
    """
    pinned = is_pinned_path(path) and all(map(is_pinned_path, overlays))
    return Revision(
        identity={"kind": "path", "path": str(path), **_overlay_identity(overlays)},
        pinned=pinned,
        label=str(path),
        version=None if pinned else version,
    )


def revision_of(
    source: ChannelSource | GitSource,
    name: str,
    resolved: ResolvedRef,
    *,
    base: ResolvedRef | None = None,
    overlays: Sequence[Path] = (),
    nixpkgs_url: str = NIXPKGS_URL,
    version: str | None = None,
) -> Revision:
    """
    Return the revision that a reference to a source was resolved to.

    :param name: the name of the reference, for people.
    :param base: the nixpkgs below it, if the source is an overlay.
    :param overlays: those of the configuration, without symlinks.
    :param version: as in :class:`Revision`.
    """
    identity = {"commit": resolved.commit}
    if isinstance(source, ChannelSource):
        identity |= {"kind": "nixpkgs", "url": nixpkgs_url}
    elif base is None:
        identity |= {"kind": "git", "url": source.public_url}
    else:
        identity |= {"kind": "overlay", "url": source.public_url}
        identity |= {"base": base.commit, "base_url": nixpkgs_url}
    if isinstance(source, GitSource):
        identity |= {name: "true" for name in _GIT_PARTS if getattr(source, name)}
    pinned = all(map(is_pinned_path, overlays))
    return Revision(
        identity=identity | _overlay_identity(overlays),
        pinned=pinned,
        label=commit_label(name, resolved.commit),
        ref=resolved.ref,
        version=None if pinned else version,
    )


def commit_label(name: str, commit: str) -> str:
    """Return the label of a commit that was found by a name: ``main at 3f786850e387``."""
    short = commit[:12]
    return short if is_commit(name) else f"{name} at {short}"


def overlay_paths(revision: Revision) -> tuple[Path, ...]:
    """Return the overlays of the configuration that a revision has, in order."""
    count = sum(name.startswith(_OVERLAY) for name in revision.identity)
    return tuple(Path(revision.identity[f"{_OVERLAY}{number}"]) for number in range(count))


_OVERLAY = "overlay."

_GIT_PARTS = ("submodules", "lfs")
"""The parts of a git repository that are left out unless they are asked for."""


def _overlay_identity(overlays: Sequence[Path]) -> dict[str, str]:
    return {f"{_OVERLAY}{number}": str(path) for number, path in enumerate(overlays)}
