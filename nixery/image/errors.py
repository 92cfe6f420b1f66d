"""
Errors of names, packages and limits of an image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum

from attrs import field, frozen

from nixery.errors import NixeryError

__all__ = [
    "ImageLimitExceeded",
    "InvalidDigest",
    "InvalidName",
    "InvalidReference",
    "PackageProblem",
    "PackagesRefused",
    "PlatformMissing",
    "ProblemKind",
    "UnknownSystem",
]


@frozen(kw_only=True)
class InvalidName(NixeryError):
    """A repository name is outside the grammar or has no meaning."""

    name: str
    reason: str

    @property
    def message(self) -> str:
        return f"{self.name!r} is not an image name: {self.reason}"


@frozen(kw_only=True)
class InvalidReference(NixeryError):
    """A tag is outside the grammar of tags."""

    reference: str

    @property
    def message(self) -> str:
        return (
            f"{self.reference!r} is not a tag: a tag is a letter, digit or underscore, followed"
            " by at most 127 letters, digits, underscores, dots and dashes"
        )


@frozen(kw_only=True)
class InvalidDigest(NixeryError):
    """A digest is not ``sha256:`` and 64 lower-case hexadecimal digits."""

    digest: str

    @property
    def message(self) -> str:
        return f"{self.digest!r} is not a digest: write sha256: and 64 lower-case hex digits"


class ProblemKind(Enum):
    """The reasons why a package cannot be put into an image."""

    NOT_FOUND = "not-found"
    AMBIGUOUS = "ambiguous"
    NOT_A_PACKAGE = "not-a-package"
    NO_SUCH_OUTPUT = "no-such-output"
    UNFREE = "unfree"
    BROKEN = "broken"
    INSECURE = "insecure"
    UNSUPPORTED = "unsupported"
    CONTENT_ADDRESSED = "content-addressed"
    REFUSED = "refused"
    EVALUATION = "evaluation"


_SUMMARIES = {
    ProblemKind.NOT_FOUND: "not found",
    ProblemKind.AMBIGUOUS: "ambiguous",
    ProblemKind.NOT_A_PACKAGE: "not packages",
    ProblemKind.NO_SUCH_OUTPUT: "without the output",
    ProblemKind.UNFREE: "unfree",
    ProblemKind.BROKEN: "broken",
    ProblemKind.INSECURE: "insecure",
    ProblemKind.UNSUPPORTED: "not for {system}",
    ProblemKind.CONTENT_ADDRESSED: "content-addressed",
    ProblemKind.REFUSED: "not served here",
    ProblemKind.EVALUATION: "not evaluated",
}
"""The reasons in a few words, before the names of the packages."""


@frozen(kw_only=True)
class PackageProblem:
    """
    One package that cannot be put into an image.

    :param name: the name as it was requested.
    :param kind: the reason.
    :param message: one sentence on this package, complete in itself.
    :param candidates: existing names that may have been meant, best first.
    :param find_candidates: finds ``candidates``, where that was left to be done.  It takes some
        milliseconds: call it on a worker thread, with a function that tells when to end early.
    """

    name: str
    kind: ProblemKind
    message: str
    candidates: tuple[str, ...] = ()
    find_candidates: Callable[[Callable[[], bool]], Sequence[str]] | None = field(
        default=None, eq=False, repr=False
    )

    def describe(self) -> str:
        # The message on an ambiguous name lists the candidates itself, with their differences.
        if not self.candidates or self.kind is ProblemKind.AMBIGUOUS:
            return self.message
        return f"{self.message} (did you mean {', '.join(self.candidates)}?)"


@frozen(kw_only=True)
class PackagesRefused(NixeryError):
    """Packages of an image do not exist or may not be used; lists all of them."""

    problems: tuple[PackageProblem, ...]

    @property
    def message(self) -> str:
        return "; ".join(problem.describe() for problem in self.problems)

    def summary(self, system: str) -> str:
        """
        Return the message in a few words: the names of several packages by the reasons.

        :param system: the Nix system that they were requested for.
        """
        if len(self.problems) == 1:
            return self.message
        names: dict[ProblemKind, list[str]] = {}
        for problem in self.problems:
            names.setdefault(problem.kind, []).append(problem.name)
        return "; ".join(
            f"{_SUMMARIES[kind].format(system=system)}: {', '.join(refused)}"
            for kind, refused in names.items()
        )

    @property
    def not_found(self) -> bool:
        """True if at least one of the packages does not exist."""
        return any(problem.kind is ProblemKind.NOT_FOUND for problem in self.problems)


@frozen(kw_only=True)
class ImageLimitExceeded(NixeryError):
    """
    An image exceeds a limit of container engines, or of this registry if a setting is named.

    :param what: the things that it has too many of, in the plural.
    :param value: their number.
    :param limit: the maximum.
    :param setting: the setting that sets the limit.
    """

    what: str
    value: int
    limit: int
    setting: str | None = None

    @property
    def message(self) -> str:
        bound = f"engines take at most {self.limit}"
        if self.setting is not None:
            bound = f"this registry makes images of at most {self.limit} ({self.setting})"
        return f"the image has {self.value} {self.what}, and {bound}: pull fewer packages"


@frozen(kw_only=True)
class PlatformMissing(NixeryError):
    """
    An index lacks the platform that a client without support for indexes needs.

    :param platform: the platform, ``amd64``.
    :param reason: why it was left out.
    """

    platform: str
    reason: str

    @property
    def message(self) -> str:
        return (
            f"there is no image for {self.platform}: {self.reason}."
            " Pull with a client that accepts indexes, or pull another platform by its name"
        )


@frozen(kw_only=True)
class UnknownSystem(NixeryError):
    """Container images have no name for a Nix system."""

    system: str
    known: tuple[str, ...]

    @property
    def message(self) -> str:
        return (
            f"there are no images for the system {self.system!r};"
            f" available: {', '.join(self.known)}"
        )
