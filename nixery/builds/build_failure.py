"""Describe the failure of a build: what failed, why, what to do, and when it is tried again."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import frozen

from nixery.builds.errors import CachedFailure, ImageTimedOut
from nixery.errors import NixeryError, StorageError
from nixery.image.closure import package_label
from nixery.image.errors import ImageLimitExceeded
from nixery.layers.errors import ReservedName
from nixery.limits.errors import ImageTooLarge
from nixery.nix.errors import (
    BuildFailed,
    BuildTimedOut,
    EvaluationFailed,
    EvaluationTimedOut,
    FlakeRefused,
    MissingDerivations,
    NixDiskFull,
    NixUnusable,
    NotSubstitutable,
    WrongSystem,
)
from nixery.runtime.clocks import WallTime
from nixery.sources.errors import SourceUnavailable
from nixery.storage.errors import BlobsMissing, DiskSpaceLow, StorageFull

__all__ = ["ADVICE", "Advice", "BuildFailure", "describe_failure"]


@frozen
class Advice:
    """
    Advice about a kind of failure.

    :param text: what to do, in one or two sentences.
    :param heading: the heading of the page "Troubleshooting" that says more.
    """

    text: str
    heading: str

    @property
    def anchor(self) -> str:
        """The anchor of the heading."""
        return self.heading.lower().replace(" ", "-")


_FREE_SPACE = "Free some space on the disk of the registry; stored images are still served."

ADVICE: Mapping[type[NixeryError], Advice] = {
    BuildFailed: Advice(
        "Read the end of the log. If the package is from nixpkgs, try another tag; if it is yours,"
        " fix its recipe.",
        "A package does not build",
    ),
    NotSubstitutable: Advice(
        "Try an older tag, which binary caches have in full; or allow builds (substitute_only).",
        "Builds are not allowed",
    ),
    BuildTimedOut: Advice(
        "Raise the limit that the message names, or give Nix a faster builder.",
        "A build takes too long",
    ),
    ImageTimedOut: Advice(
        "Pull again: what is finished is kept, and the next build continues from there.",
        "A build takes too long",
    ),
    EvaluationFailed: Advice(
        "Try another tag, or fix the package set.", "The package set does not evaluate"
    ),
    FlakeRefused: Advice("Do what the message says.", "The flake cannot be evaluated"),
    EvaluationTimedOut: Advice(
        "Pull fewer packages in one image, or raise the limit that the message names.",
        "An evaluation takes too long",
    ),
    WrongSystem: Advice(
        "Give Nix a builder for this system, or pull the image for another one.",
        "No builder for this system",
    ),
    ReservedName: Advice(
        "Leave out the package that has the file, or rename the file in its recipe.",
        "A file has a reserved name",
    ),
    ImageLimitExceeded: Advice(
        "Pull fewer packages in one image.", "The image is too large for engines"
    ),
    ImageTooLarge: Advice(
        "Pull fewer packages, or raise the limit that the message names.",
        "The image is too large for this registry",
    ),
    MissingDerivations: Advice("Pull again.", "Garbage collection deletes what a build needs"),
    NixUnusable: Advice(
        "The operator has to look at Nix: see the message and the log.", "Nix cannot be used"
    ),
    NixDiskFull: Advice(_FREE_SPACE, "The disk of Nix is full"),
    StorageError: Advice(
        "The operator has to look at the storage: see the message and the log.",
        "The storage failed",
    ),
    StorageFull: Advice(_FREE_SPACE, "The disk is full"),
    DiskSpaceLow: Advice(_FREE_SPACE, "The disk is full"),
    BlobsMissing: Advice("Pull again.", "Layers vanished during a build"),
    SourceUnavailable: Advice(
        "Pull again later, or pull a tag that was pulled before.", "The source cannot be reached"
    ),
}
"""The advice about failures, by error; an error that is not listed has that of its base class."""


@frozen(kw_only=True)
class BuildFailure:
    """
    The failure of a build.

    :param message: for a person.
    :param title: what failed, in a few words, with the name of the package and not its path;
        empty if the message says it best.
    :param derivation: the derivation that failed, if one did.
    :param log: the last lines of that derivation's log.
    :param advice: what to do; ``None`` if there is no advice.
    :param retry_at: the time before which it is not tried again; ``None`` if the next pull tries
        it again, whenever that comes.
    """

    message: str
    title: str = ""
    derivation: str | None = None
    log: tuple[str, ...] = ()
    advice: Advice | None = None
    retry_at: WallTime | None = None

    @property
    def summary(self) -> str:
        """The message without the log, if it has one."""
        if not self.log:
            return self.message
        return self.message.partition("\n")[0].removesuffix("The last lines of its log:").rstrip()

    @property
    def cause(self) -> tuple[str | None, str]:
        """The same for all attempts that fail in the same way, whatever they have logged."""
        return self.derivation, self.summary

    @property
    def package(self) -> str | None:
        """The name and the version of the package whose derivation failed: ``git 2.47.0``."""
        return None if self.derivation is None else package_label(self.derivation)


def describe_failure(error: BaseException, retry_at: WallTime | None) -> BuildFailure:
    """
    Describe the failure that ended a build, as clients may know it.

    :param retry_at: as of :class:`BuildFailure`.
    """
    original = error.original if isinstance(error, CachedFailure) else error
    if not isinstance(original, NixeryError):
        # Details of unexpected errors are only logged; the client got a reference to the log.
        return BuildFailure(message="the registry failed; its log has the reason")
    derivation: str | None = None
    log: tuple[str, ...] = ()
    if isinstance(original, BuildFailed | BuildTimedOut):
        derivation, log = original.derivation or None, original.log
    elif isinstance(original, WrongSystem):
        derivation = original.derivation
    return BuildFailure(
        message=original.message,
        title=_title(original, package_label(derivation) if derivation else ""),
        derivation=derivation,
        log=log,
        advice=next((ADVICE[kind] for kind in type(original).__mro__ if kind in ADVICE), None),
        retry_at=retry_at,
    )


def _title(error: NixeryError, package: str) -> str:
    match error:
        case NotSubstitutable():
            return f"No binary cache has {package or 'a part of the image'}"
        case BuildFailed():
            return f"{package or 'A derivation'} failed to build"
        case BuildTimedOut():
            how = "printed nothing for too long" if error.silent else "took too long to build"
            return f"{package or 'A derivation'} {how}"
        case WrongSystem():
            return f"{package} cannot be built on this machine"
    return ""
