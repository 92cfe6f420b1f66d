"""
Map tags to references for each source, and decide which tags are allowed.

A tag is a revision of the package set.  ``latest`` is the one that the configuration
names.  Any other tag is looked up in the source:

    channel   another official channel (``nixos-25.05``), if there can be one of that name
              by now; a full nixpkgs commit only where the operator opted in
    git       a branch, else a tag, or a full commit in the history of one
    flake     the same of its repository; an archive and a path have none
    path      nothing: there is only ``latest``

A client that may name any commit can run any code in a build: hosts of repositories serve
the commits of forks and of pull requests as if they belonged to the repository.  Therefore
a commit has to be in the history of a branch or a tag, which only people with access can
move.

A tag cannot hold a slash, and branches are often called ``feature/x``.  Where there is
neither a branch nor a tag of the name ``feature--x``, it means ``feature/x``.
"""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

from attrs import frozen

from nixery.image.names import Tag, is_commit, is_referrers_tag
from nixery.sources.errors import UnknownRevision
from nixery.sources.git_urls import is_ref_name
from nixery.sources.source import (
    ChannelSource,
    GitSource,
    Source,
    has_revisions,
    repository_of,
)

__all__ = [
    "KNOWN_YEAR",
    "LATEST",
    "ChannelName",
    "GitCommit",
    "GitRefs",
    "NixpkgsCommit",
    "Reference",
    "TagPolicy",
    "configured_tags",
    "git_refs",
    "references",
    "unknown_revision",
]

LATEST = Tag("latest")

SLASH_REPLACEMENT = "--"
"""Replaces a slash of a branch's name in a tag."""

ANY_TAG = ("*",)

_OFFICIAL_CHANNEL = re.compile(
    r"nixos-unstable(?:-small)?|nixpkgs-unstable"
    r"|nixos-(?P<release>[0-9]{2}\.[0-9]{2})(?:-small|-aarch64)?"
    r"|nixpkgs-(?P<darwin>[0-9]{2}\.[0-9]{2})-darwin"
)

EARLY_RELEASES = ("13.10", "14.04", "14.12", "15.09")
"""The releases of NixOS until 2015; since then there are two a year, in the same months."""

KNOWN_YEAR = 26
"""The last two digits of a year that has begun, for machines whose clock is behind."""

# -- references ---------------------------------------------------------------


@frozen(kw_only=True)
class ChannelName:
    """The commit that a channel is at."""

    name: str

    def describe(self) -> str:
        return self.name


@frozen(kw_only=True)
class NixpkgsCommit:
    """A commit of nixpkgs, which needs no look-up."""

    commit: str

    def describe(self) -> str:
        return self.commit


@frozen(kw_only=True)
class GitRefs:
    """
    The first of several refs of a git repository that exists.

    :param names: full names (``refs/heads/main``), or ``HEAD``.
    """

    names: tuple[str, ...]

    def describe(self) -> str:
        return self.names[0].removeprefix("refs/heads/")


@frozen(kw_only=True)
class GitCommit:
    """
    A commit in a git repository.

    :param trusted: whether it is accepted even if it is in the history of no branch and no tag.
    """

    commit: str
    trusted: bool = False

    def describe(self) -> str:
        return self.commit


Reference = ChannelName | NixpkgsCommit | GitRefs | GitCommit
"""A reference to look up; the result is a :class:`nixery.sources.source.ResolvedRef`."""

# -- tags ---------------------------------------------------------------------


@frozen(kw_only=True)
class TagPolicy:
    """
    Decides which tags may be asked for, besides ``latest``.

    :param patterns: a tag has to match one of these, as a shell matches file names.
    :param any_commit: whether a commit is accepted without proof of its origin.
    """

    patterns: tuple[str, ...] = ANY_TAG
    any_commit: bool = False

    def allows(self, tag: str) -> bool:
        return tag == LATEST or any(fnmatchcase(tag, pattern) for pattern in self.patterns)

    def describe(self, source: Source) -> tuple[str, ...]:
        """Describe the allowed tags, for people."""
        if not has_revisions(source):
            return (LATEST,)
        if self.patterns != ANY_TAG:
            return (LATEST, *(pattern for pattern in self.patterns if pattern != LATEST))
        if not isinstance(source, ChannelSource):
            commits = "any full commit" if self.any_commit else "full commits in their history"
            return (LATEST, "branches", "tags", commits)
        configured = () if source.is_commit else (source.channel,)
        commits = "any full nixpkgs commit"
        return (
            LATEST,
            *configured,
            "official channels as nixos-25.05 and nixpkgs-unstable",
            *((commits,) if self.any_commit else ()),
        )


def references(
    source: Source, policy: TagPolicy, tag: Tag, *, year: int = KNOWN_YEAR
) -> tuple[Reference, ...]:
    """
    Return the references to look up for a tag.

    The tag's own reference comes first, then, if the source is an overlay, that of the
    nixpkgs below it.

    :param source: one that has revisions.
    :param year: the last two digits of this year; channels of later releases do not exist.
    :raises UnknownRevision: the tag names none, or one that is not served.
    """
    # Clients ask for signatures under such tags; no rule may turn them into revisions.
    if is_referrers_tag(tag) or not policy.allows(tag):
        raise unknown_revision(source, policy, tag)
    if isinstance(source, ChannelSource):
        return (_channel_reference(source, policy, tag, year),)
    repository = repository_of(source)
    if repository is not None:
        base = () if repository.base is None else (_configured_channel(repository.base),)
        return (_git_reference(source, repository, policy, tag), *base)
    raise unknown_revision(source, policy, tag)


def configured_tags(
    source: Source, policy: TagPolicy, *, year: int = KNOWN_YEAR
) -> tuple[str, ...]:
    """
    Return the tags that the configuration itself names, sorted.

    :param year: as in :func:`references`.
    """
    names: set[str] = {LATEST}
    repository = repository_of(source)
    if isinstance(source, ChannelSource):
        names.add(source.channel)
    elif repository is not None and repository.ref is not None:
        names.add(repository.ref)
    if has_revisions(source):
        names |= {pattern for pattern in policy.patterns if not set(pattern) & set("*?[")}
    return tuple(sorted(name for name in names if _is_served(source, policy, name, year)))


def unknown_revision(source: Source, policy: TagPolicy, tag: str) -> UnknownRevision:
    """Return the error that lists the revisions that are served."""
    return UnknownRevision(tag=tag, allowed=policy.describe(source), source=source.describe())


def git_refs(name: str) -> tuple[str, ...]:
    """Return the refs that a branch or tag name may mean, the likeliest first."""
    names = [name] if is_ref_name(name) else []
    with_slashes = name.replace(SLASH_REPLACEMENT, "/")
    if with_slashes != name and is_ref_name(with_slashes):
        names.append(with_slashes)
    return tuple(f"refs/{kind}/{each}" for each in names for kind in ("heads", "tags"))


def _is_served(source: Source, policy: TagPolicy, name: str, year: int) -> bool:
    try:
        if has_revisions(source):
            references(source, policy, Tag(name), year=year)
    except UnknownRevision:
        return False
    # The configured branch's name may not be a valid tag.
    return "/" not in name


def _configured_channel(source: ChannelSource) -> ChannelName | NixpkgsCommit:
    if source.is_commit:
        return NixpkgsCommit(commit=source.channel)
    return ChannelName(name=source.channel)


def _channel_reference(source: ChannelSource, policy: TagPolicy, tag: Tag, year: int) -> Reference:
    if tag in (LATEST, source.channel):
        return _configured_channel(source)
    if is_commit(tag) and policy.any_commit:
        return NixpkgsCommit(commit=tag)
    if _can_be_channel(tag, year):
        return ChannelName(name=tag)
    raise unknown_revision(source, policy, tag)


def _can_be_channel(name: str, year: int) -> bool:
    """True if there can be an official channel of this name in a year."""
    match = _OFFICIAL_CHANNEL.fullmatch(name)
    if match is None:
        return False
    release = match["release"] or match["darwin"]
    if release is None or release in EARLY_RELEASES:
        return True
    year_released, month = map(int, release.split("."))
    return 16 <= year_released <= year and month in ((3, 9) if year_released < 21 else (5, 11))


def _git_reference(source: Source, repository: GitSource, policy: TagPolicy, tag: Tag) -> Reference:
    ref = repository.ref
    if tag == LATEST:
        if ref is None:
            return GitRefs(names=("HEAD",))
        if is_commit(ref):
            # The operator has configured this commit, so it is trusted.
            return GitCommit(commit=ref, trusted=True)
        return GitRefs(names=tuple(f"refs/{kind}/{ref}" for kind in ("heads", "tags")))
    if is_commit(tag):
        return GitCommit(commit=tag, trusted=policy.any_commit or tag == ref)
    names = git_refs(tag)
    if not names:
        raise unknown_revision(source, policy, tag)
    return GitRefs(names=names)
