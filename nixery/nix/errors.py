"""
Errors of evaluating and building with Nix.
"""

from __future__ import annotations

from attrs import frozen

from nixery.errors import NixeryError
from nixery.image.closure import package_label
from nixery.process.errors import CommandOutput

__all__ = [
    "BuildFailed",
    "BuildTimedOut",
    "EvaluationFailed",
    "EvaluationTimedOut",
    "FlakeRefused",
    "MissingDerivations",
    "NixDiskFull",
    "NixMisconfigured",
    "NixUnusable",
    "NotSubstitutable",
    "WrongSystem",
]


@frozen(kw_only=True)
class NixUnusable(NixeryError):
    """Nix is missing, too old, or cannot open its store."""

    reason: str
    output: CommandOutput | None = None

    @property
    def message(self) -> str:
        return f"Nix cannot be used: {self.reason}"


@frozen(kw_only=True)
class NixDiskFull(NixUnusable):
    """The disk has no space for Nix's outputs or garbage collection roots."""

    @property
    def message(self) -> str:
        return (
            f"the disk is full, and Nix cannot write: {self.reason}. Free some space;"
            " nix-store --gc removes packages that are not in use"
        )


@frozen(kw_only=True)
class NixMisconfigured(NixUnusable):
    """Nix is unusable until its installation or configuration is changed."""


@frozen(kw_only=True)
class EvaluationFailed(NixeryError):
    """The package set itself does not evaluate, whichever package is requested."""

    reason: str
    output: CommandOutput

    @property
    def message(self) -> str:
        return f"the package set does not evaluate: {self.reason}"


@frozen(kw_only=True)
class FlakeRefused(EvaluationFailed):
    """
    A flake is not evaluated, for what it is made of is not fixed, or is missing.

    :param advice: what to do, in the imperative.
    """

    advice: str

    @property
    def message(self) -> str:
        return f"the flake cannot be evaluated: {self.reason}; {self.advice}"


@frozen(kw_only=True)
class EvaluationTimedOut(NixeryError):
    """An evaluation was stopped at its deadline, which ``setting`` configures."""

    names: tuple[str, ...]
    seconds: float
    setting: str

    @property
    def message(self) -> str:
        return (
            f"evaluating {', '.join(self.names)} was stopped after {self.seconds:g} s;"
            f" {self.setting} sets the limit"
        )


@frozen(kw_only=True)
class BuildFailed(NixeryError):
    """
    A derivation did not build.

    :param derivation: its store path (``/nix/store/...drv``), ``""`` when Nix
        did not say which.
    :param log: the last lines of its log.
    :param reason: Nix's own words, ``builder failed with exit code 1``, ``""`` when it said
        nothing.
    """

    derivation: str
    log: tuple[str, ...]
    output: CommandOutput
    reason: str = ""

    @property
    def message(self) -> str:
        what = _with_package(self.derivation) if self.derivation else "a derivation"
        reason = f": {self.reason}" if self.reason else ""
        tail = "\n".join(("The last lines of its log:", *self.log)) if self.log else ""
        # Tools match the words "failed to build".
        return f"{what} failed to build{reason}. {tail}".rstrip()


@frozen(kw_only=True)
class NotSubstitutable(BuildFailed):
    """
    Builds are not allowed, and the binary caches do not have all outputs.

    :param missing: the names of some derivations that they do not have.
    :param count: the number of these derivations, 0 when Nix did not say.
    """

    missing: tuple[str, ...]
    count: int

    @property
    def message(self) -> str:
        names = ", ".join(self.missing) or "a part of the image"
        more = self.count - len(self.missing)
        others = f" and {more} more" if more > 0 else ""
        said = "\n".join(("", *self.log))
        return (
            f"no binary cache has {names}{others}, and this registry builds nothing itself"
            f" (substitute_only){said}"
        )


@frozen(kw_only=True)
class BuildTimedOut(NixeryError):
    """
    A build was stopped because it took too long or was silent for too long.

    :param derivation: as in :class:`BuildFailed`.
    :param seconds: the limit that was exceeded.
    :param setting: the setting that configures the limit.
    :param silent: whether the limit was of silence, and not of duration.
    """

    derivation: str
    seconds: float
    setting: str
    log: tuple[str, ...]
    output: CommandOutput
    silent: bool = False

    @property
    def message(self) -> str:
        what = _with_package(self.derivation) if self.derivation else "a build"
        how = "printed nothing for" if self.silent else "took longer than"
        tail = "\n".join(self.log)
        said = f" The last lines of its log:\n{tail}" if tail else ""
        return (
            f"{what} {how} {self.seconds:g} s and was stopped; {self.setting} sets the limit.{said}"
        )


@frozen(kw_only=True)
class MissingDerivations(NixeryError):
    """
    A garbage collection removed derivations between evaluation and build.

    :param builds: the number of builds that had begun until then.
    """

    output: CommandOutput
    builds: int = 0

    @property
    def message(self) -> str:
        return (
            "a garbage collection removed derivations while they were needed, again and again:"
            " try again later"
        )


@frozen(kw_only=True)
class WrongSystem(NixeryError):
    """
    A derivation needs a builder that this machine has none for.

    :param required: the system, with the features that the derivation requires.
    :param available: the system of this machine.
    :param features: the system features that are missing, if the system is not what is missing.
    """

    derivation: str
    required: str
    available: str
    output: CommandOutput
    features: tuple[str, ...] = ()

    @property
    def message(self) -> str:
        if self.features:
            return (
                f"{self.derivation} needs a builder with the system feature"
                f" {', '.join(self.features)}, and this machine has none: if it can do that, add"
                " the feature to Nix's `system-features` setting; otherwise name a remote builder"
                " that has it in `builders`"
            )
        if self.required.partition(" ")[0] == self.available:
            return (
                f"{self.derivation} has to be built, and this machine builds nothing: Nix's"
                " `max-jobs` setting is 0, and no remote builder in `builders` takes it"
            )
        return (
            f"{self.derivation} has to be built on {self.required}, and this machine builds for"
            f" {self.available} only: name a remote builder in Nix's `builders` setting, or"
            " register an emulator (binfmt) and list the system in `extra-platforms`"
        )


def _with_package(derivation: str) -> str:
    """Put the name and the version of a package before the store path of its derivation."""
    return f"{package_label(derivation)}: {derivation}"
