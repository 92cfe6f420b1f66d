"""
Errors of package sources.
"""

from __future__ import annotations

from attrs import frozen

from nixery.errors import NixeryError, UnusableFile
from nixery.process.errors import CommandOutput

__all__ = [
    "CommitMissing",
    "LookupsExceeded",
    "SourceMissing",
    "SourceUnavailable",
    "UnknownRevision",
]


@frozen(kw_only=True)
class SourceMissing(UnusableFile):
    """The package set, or an overlay on it, is not at the configured path."""

    problem = "the {kind} at {path} cannot be read"
    advice = "{setting} says where it is"
    kind: str = "package set"
    setting: str = "pkgs_path (NIXERY_PKGS_PATH, --pkgs-path)"


@frozen(kw_only=True)
class SourceUnavailable(NixeryError):
    """
    A package source cannot be reached, and its last answer is not known or does not
    suffice.

    :param source: a description of the source, for people.
    :param what: a description of the requested thing.
    :param reason: the error text of the source, or of the program that asked it.
    :param advice: what to do, in the imperative.
    """

    source: str
    what: str
    reason: str
    advice: str = "try again later; its operator finds more in the registry's log"
    output: CommandOutput | None = None

    @property
    def message(self) -> str:
        return f"{self.source}: {self.what} cannot be looked up: {self.reason}; {self.advice}"


@frozen(kw_only=True)
class CommitMissing(NixeryError):
    """The repository or archive host does not have the commit."""

    url: str
    commit: str

    @property
    def message(self) -> str:
        return f"there is no commit {self.commit} at {self.url}"


@frozen(kw_only=True)
class UnknownRevision(NixeryError):
    """
    A tag names no revision of the package source.

    :param tag: the tag.
    :param allowed: the tags or patterns of tags that would be served.
    :param source: a description, for people, of the source that the tag was looked up in.
    """

    tag: str
    allowed: tuple[str, ...]
    source: str

    @property
    def message(self) -> str:
        return (
            f"there is no revision {self.tag!r} of {self.source};"
            f" this registry serves: {', '.join(self.allowed)}"
        )


@frozen(kw_only=True)
class LookupsExceeded(NixeryError):
    """
    A client has had too many revisions looked up that were not known.

    :param limit: how many are looked up in a minute.
    :param retry_after: seconds after which the client should retry.
    """

    limit: int
    retry_after: float

    @property
    def message(self) -> str:
        return (
            f"too many unknown revisions: this registry looks up {self.limit} a minute for one"
            f" client; pull again in {max(1, round(self.retry_after))} s"
        )
