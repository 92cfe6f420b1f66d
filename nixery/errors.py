"""
The tree of typed errors.

Every failure that a person may read is a type here, with the facts as fields
and one sentence or more that says what happened and what to do
(:attr:`NixeryError.message`).  The types know nothing of HTTP: which status a
failure is answered with is decided in one place, ``nixery.web.registry``.
"""

from __future__ import annotations

from enum import Enum

from attrs import field, frozen

__all__ = [
    "AccessDenied",
    "AdminRefused",
    "BlobUnknown",
    "BlobsVanished",
    "BuildFailed",
    "BuildTimedOut",
    "BuildsExceeded",
    "CacheIncomplete",
    "CertificateUnusable",
    "CollectionRunning",
    "CommandMissing",
    "CommitMissing",
    "ConfigError",
    "ConfigProblem",
    "DemoFailed",
    "DigestMismatch",
    "DiskSpaceLow",
    "EvaluationFailed",
    "EvaluationTimedOut",
    "Evidence",
    "FetchFailed",
    "ImageLimitExceeded",
    "ImageTimedOut",
    "ImageTooLarge",
    "InvalidDigest",
    "InvalidName",
    "InvalidReference",
    "LayerLimitExceeded",
    "ListeningFailed",
    "LogInUse",
    "LoginFailed",
    "LoginRequired",
    "LoginThrottled",
    "ManifestUnknown",
    "MissingDerivations",
    "MissingPath",
    "NixDiskFull",
    "NixMisconfigured",
    "NixUnusable",
    "NixeryError",
    "NotSubstitutable",
    "OutputTooLarge",
    "PackageProblem",
    "PackagesDenied",
    "PackagesRefused",
    "PasswordFileUnusable",
    "ProblemKind",
    "ProcessFailed",
    "ProcessTimedOut",
    "QueueFull",
    "RangeNotSatisfiable",
    "RememberedFailure",
    "RequestsExceeded",
    "ResourceMissing",
    "ShuttingDown",
    "SourceMissing",
    "SourceUnavailable",
    "StateInUse",
    "StillBuilding",
    "StorageError",
    "StorageFull",
    "StorageRefused",
    "StorageUnavailable",
    "TokenInvalid",
    "TooManyConnections",
    "TokenKeyUnusable",
    "UnexpectedOutput",
    "UnknownRevision",
    "UnknownSystem",
    "UnreadableImage",
    "UploadLost",
    "WrongSystem",
]


class NixeryError(Exception):
    """The root of the tree: a failure that says what to do about it."""

    @property
    def message(self) -> str:
        """What a user reads: complete sentences, without markup."""
        raise NotImplementedError

    def __str__(self) -> str:
        return self.message


@frozen(kw_only=True)
class Evidence:
    """
    What a child process left behind when it failed.

    :param argv: the command as it was run.
    :param status: its exit status, ``None`` when a signal ended it, or when it could
        not be started.
    :param signal: the signal that ended it, if one did.
    :param stderr: the tail of its standard error, bounded, decoded and without
        terminal escapes.
    """

    argv: tuple[str, ...]
    status: int | None = None
    signal: int | None = None
    stderr: str = ""

    def describe(self) -> str:
        """One line: how the command ended."""
        if self.signal is not None:
            return f"{self.argv[0]} was ended by signal {self.signal}"
        if self.status is None:
            return f"{self.argv[0]} did not start"
        return f"{self.argv[0]} exited with status {self.status}"


# -- configuration ------------------------------------------------------------


@frozen(kw_only=True)
class ConfigProblem:
    """
    One thing wrong with the configuration.

    :param setting: the setting as its layer spells it.
    :param value: the value that was given, as text; ``None`` where there is
        none to show (an unknown setting, a secret).
    :param layer: where it was given: ``command line``, ``environment``, or the
        path of a file.
    :param expected: what would be right.
    """

    setting: str
    value: str | None
    layer: str
    expected: str

    def describe(self) -> str:
        shown = "" if self.value is None else f" = {self.value!r}"
        return f"{self.setting}{shown} ({self.layer}): {self.expected}"


@frozen(kw_only=True)
class ConfigError(NixeryError):
    """The configuration is unusable; all that is wrong with it, at once."""

    problems: tuple[ConfigProblem, ...]

    @property
    def message(self) -> str:
        return "\n".join(problem.describe() for problem in self.problems)


@frozen(kw_only=True)
class ListeningFailed(NixeryError):
    """An endpoint that cannot be listened on, usually because another program does."""

    endpoint: str
    reason: str

    @property
    def message(self) -> str:
        return (
            f"cannot listen on {self.endpoint}: {self.reason};"
            " end the program that uses it, or choose another port with --port or --listen"
        )


@frozen(kw_only=True)
class CertificateUnusable(NixeryError):
    """The TLS certificate, or its key, cannot be shown to clients."""

    path: str
    reason: str

    @property
    def message(self) -> str:
        return (
            f"TLS cannot be spoken with {self.path}: {self.reason};"
            " tls_certificate and tls_key name the files"
        )


@frozen(kw_only=True)
class StateInUse(NixeryError):
    """Another daemon has the state directory."""

    directory: str

    @property
    def message(self) -> str:
        return (
            f"another process uses the state directory {self.directory}: end it, or give this one"
            " a directory of its own (state_directory, --state-directory)"
        )


@frozen(kw_only=True)
class SourceMissing(NixeryError):
    """The package set, or an overlay on it, is not where the configuration says."""

    path: str
    reason: str
    what: str = "package set"
    setting: str = "pkgs_path (NIXERY_PKGS_PATH, --pkgs-path)"

    @property
    def message(self) -> str:
        return (
            f"the {self.what} at {self.path} cannot be read: {self.reason};"
            f" {self.setting} says where it is"
        )


@frozen(kw_only=True)
class SourceUnavailable(NixeryError):
    """
    Where packages come from cannot be asked for them, and what it said before is not
    known or not enough.

    :param source: what was asked, as a person would say it.
    :param what: what it was asked for.
    :param reason: in its own words, or in those of the program that asked it.
    :param advice: what to do, in the imperative.
    """

    source: str
    what: str
    reason: str
    advice: str = "try again later; its operator finds more in the registry's log"
    evidence: Evidence | None = None

    @property
    def message(self) -> str:
        return f"{self.source} cannot be asked for {self.what}: {self.reason}; {self.advice}"


@frozen(kw_only=True)
class CommitMissing(NixeryError):
    """There is no such commit where it was to be fetched from."""

    url: str
    commit: str

    @property
    def message(self) -> str:
        return f"there is no commit {self.commit} at {self.url}"


@frozen(kw_only=True)
class ResourceMissing(NixeryError):
    """Files that belong to the program are not where it was installed."""

    name: str
    places: tuple[str, ...]

    @property
    def message(self) -> str:
        return (
            f"the installation is incomplete: its {self.name} files are not in"
            f" {' or '.join(self.places)}; install the package again"
        )


# -- who may pull -------------------------------------------------------------


@frozen(kw_only=True)
class PasswordFileUnusable(NixeryError):
    """The file of passwords cannot be read, or not be trusted; ``line`` counts from 1."""

    path: str
    reason: str
    line: int | None = None

    @property
    def message(self) -> str:
        place = self.path if self.line is None else f"{self.path}, line {self.line}"
        return f"the passwords are not usable ({place}): {self.reason}"


@frozen(kw_only=True)
class TokenKeyUnusable(NixeryError):
    """The key that tokens are signed with cannot be used."""

    path: str
    reason: str

    @property
    def message(self) -> str:
        return (
            f"tokens cannot be signed with the key at {self.path}: {self.reason};"
            " openssl genpkey -algorithm ed25519 makes one"
        )


@frozen(kw_only=True)
class LoginRequired(NixeryError):
    """
    Nothing is for whoever has not logged in.

    :param challenge: how to log in, as the header ``WWW-Authenticate`` has it.
    :param reason: why what was sent to that end is worth nothing; empty: nothing was.
    """

    challenge: str
    reason: str = ""

    @property
    def message(self) -> str:
        return self.reason or "this registry is for those who have logged in: docker login"


@frozen(kw_only=True)
class LoginFailed(NixeryError):
    """A password that is not the user's, or a user that there is not."""

    @property
    def message(self) -> str:
        return "there is no such user, or the password is another one"


@frozen(kw_only=True)
class LoginThrottled(NixeryError):
    """
    Nothing is checked now, because too much was wrong before.

    :param retry_after: seconds after which it will be.
    """

    retry_after: float

    @property
    def message(self) -> str:
        return (
            "too many log-ins have failed or wait: try again in"
            f" {max(1, round(self.retry_after))} s, with the right password"
        )


@frozen(kw_only=True)
class TokenInvalid(NixeryError):
    """A token that proves nothing, or nothing any more."""

    reason: str

    @property
    def message(self) -> str:
        return f"the token is not accepted: {self.reason}"


@frozen(kw_only=True)
class AccessDenied(NixeryError):
    """
    An image that is not for the user who asks for it.

    :param user: who has logged in.
    :param packages: those of the image that are not for them, as they were asked for.
    """

    user: str
    packages: tuple[str, ...]

    @property
    def message(self) -> str:
        return (
            f"{self.user} may not pull {', '.join(self.packages)} from here:"
            " the registry's operator decides who may have what"
        )


# -- what a client asked for --------------------------------------------------


@frozen(kw_only=True)
class InvalidName(NixeryError):
    """A repository name outside the grammar or without meaning."""

    name: str
    reason: str

    @property
    def message(self) -> str:
        return f"{self.name!r} is not an image name: {self.reason}"


@frozen(kw_only=True)
class InvalidReference(NixeryError):
    """A tag outside the grammar of tags."""

    reference: str

    @property
    def message(self) -> str:
        return (
            f"{self.reference!r} is not a tag: a tag is a letter, digit or underscore, followed"
            " by at most 127 letters, digits, underscores, dots and dashes"
        )


@frozen(kw_only=True)
class InvalidDigest(NixeryError):
    """A digest that is not ``sha256:`` and 64 lower-case hexadecimal digits."""

    digest: str

    @property
    def message(self) -> str:
        return f"{self.digest!r} is not a digest: write sha256: and 64 lower-case hex digits"


@frozen(kw_only=True)
class UnknownRevision(NixeryError):
    """
    A tag that names no revision of the package source.

    :param tag: the tag.
    :param allowed: the tags or patterns of tags that would be served.
    :param source: what the tag was looked up in, as a person would say it.
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
class ManifestUnknown(NixeryError):
    """No manifest of this digest is stored."""

    name: str
    digest: str

    @property
    def message(self) -> str:
        return (
            f"no manifest {self.digest} is stored here for {self.name}:"
            " pull the image by its tag to have it built"
        )


@frozen(kw_only=True)
class BlobUnknown(NixeryError):
    """No blob of this digest is stored."""

    digest: str

    @property
    def message(self) -> str:
        return (
            f"no blob {self.digest} is stored here:"
            " pull the image by its tag to have its layers made again"
        )


@frozen(kw_only=True)
class RangeNotSatisfiable(NixeryError):
    """A byte range outside the blob.  ``size`` is the blob's size in bytes."""

    digest: str
    size: int

    @property
    def message(self) -> str:
        return f"the range lies outside {self.digest}, which has {self.size} bytes"


# -- packages -----------------------------------------------------------------


class ProblemKind(Enum):
    """Why a package cannot be put into an image."""

    NOT_FOUND = "not-found"
    AMBIGUOUS = "ambiguous"
    NOT_A_PACKAGE = "not-a-package"
    NO_SUCH_OUTPUT = "no-such-output"
    UNFREE = "unfree"
    BROKEN = "broken"
    INSECURE = "insecure"
    UNSUPPORTED = "unsupported"
    REFUSED = "refused"
    EVALUATION = "evaluation"


@frozen(kw_only=True)
class PackageProblem:
    """
    One package that cannot be put into an image.

    :param name: the name as it was asked for.
    :param kind: why.
    :param message: one sentence on this package, complete in itself.
    :param candidates: names that exist and may have been meant, best first.
    """

    name: str
    kind: ProblemKind
    message: str
    candidates: tuple[str, ...] = ()

    def describe(self) -> str:
        # What is ambiguous names its candidates itself, with what tells them apart.
        if not self.candidates or self.kind is ProblemKind.AMBIGUOUS:
            return self.message
        return f"{self.message} (did you mean {', '.join(self.candidates)}?)"


@frozen(kw_only=True)
class PackagesRefused(NixeryError):
    """Packages of an image that do not exist or may not be used: all of them."""

    problems: tuple[PackageProblem, ...]

    @property
    def message(self) -> str:
        return "; ".join(problem.describe() for problem in self.problems)

    @property
    def not_found(self) -> bool:
        """Whether at least one of the packages does not exist."""
        return any(problem.kind is ProblemKind.NOT_FOUND for problem in self.problems)


# -- children -----------------------------------------------------------------


@frozen(kw_only=True)
class CommandMissing(NixeryError):
    """A program is not on PATH."""

    command: str

    @property
    def message(self) -> str:
        return f"{self.command} was not found on PATH: install it or extend PATH"


@frozen(kw_only=True)
class ProcessFailed(NixeryError):
    """A child ended otherwise than with status 0."""

    evidence: Evidence

    @property
    def message(self) -> str:
        return f"{self.evidence.describe()}: {self.evidence.stderr.strip() or 'it said nothing'}"


@frozen(kw_only=True)
class ProcessTimedOut(NixeryError):
    """A child was stopped at its deadline, ``seconds`` after its start."""

    evidence: Evidence
    seconds: float

    @property
    def message(self) -> str:
        return f"{self.evidence.argv[0]} was stopped after {self.seconds:g} s"


@frozen(kw_only=True)
class OutputTooLarge(NixeryError):
    """A child was stopped because it printed more than ``limit`` bytes."""

    evidence: Evidence
    limit: int

    @property
    def message(self) -> str:
        return f"{self.evidence.argv[0]} was stopped: it printed more than {self.limit} bytes"


# -- downloads ----------------------------------------------------------------


@frozen(kw_only=True)
class FetchFailed(NixeryError):
    """
    A URL that could not be fetched.

    :param url: without what it may hold of secrets.
    :param status: the status that was answered, ``None`` when nothing was.
    :param retry_after: seconds after which the server wants to be asked again.
    """

    url: str
    reason: str
    status: int | None = None
    retry_after: float | None = None

    @property
    def message(self) -> str:
        return f"{self.url} could not be fetched: {self.reason}"


@frozen(kw_only=True)
class CacheIncomplete(NixeryError):
    """
    A binary cache that has so little of a package set that counting it is no use.

    :param found: how many store paths it has.
    :param missing: how many it does not have.
    :param unusable: how many it describes in a way that cannot be.
    """

    cache: str
    found: int
    missing: int
    unusable: int

    @property
    def message(self) -> str:
        return (
            f"{self.cache} has {self.found} of the store paths, lacks {self.missing}, and what it"
            f" says of {self.unusable} makes no sense: name the cache that belongs to the channel"
            " with --cache"
        )


@frozen(kw_only=True)
class LogInUse(NixeryError):
    """Another process writes to a log that only one may write to."""

    path: str

    @property
    def message(self) -> str:
        return f"another process uses {self.path}: wait until it has ended"


# -- Nix ----------------------------------------------------------------------


@frozen(kw_only=True)
class NixUnusable(NixeryError):
    """Nix is missing, too old, or cannot open its store."""

    reason: str
    evidence: Evidence | None = None

    @property
    def message(self) -> str:
        return f"Nix cannot be used: {self.reason}"


@frozen(kw_only=True)
class NixDiskFull(NixUnusable):
    """There is no room for what Nix makes, or for its garbage collection roots."""

    @property
    def message(self) -> str:
        return (
            f"the disk is full, and Nix cannot write: {self.reason}. Free some space;"
            " nix-store --gc removes packages that are not in use"
        )


@frozen(kw_only=True)
class NixMisconfigured(NixUnusable):
    """Nix stays unusable until somebody changes how it is installed or configured."""


@frozen(kw_only=True)
class EvaluationFailed(NixeryError):
    """The package set itself does not evaluate, whatever is asked of it."""

    reason: str
    evidence: Evidence

    @property
    def message(self) -> str:
        return f"the package set does not evaluate: {self.reason}"


@frozen(kw_only=True)
class EvaluationTimedOut(NixeryError):
    """An evaluation was stopped at its deadline.  ``setting`` would raise it."""

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
    """

    derivation: str
    log: tuple[str, ...]
    evidence: Evidence

    @property
    def message(self) -> str:
        what = self.derivation or "a derivation"
        tail = "\n".join(self.log)
        return f"{what} failed to build. The last lines of its log:\n{tail}"


@frozen(kw_only=True)
class NotSubstitutable(BuildFailed):
    """
    Everything has to come from binary caches, and they do not have all of it.

    :param missing: the names of some derivations that they do not have.
    :param count: how many there are, 0 when Nix did not say.
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
    :param seconds: the limit that was passed.
    :param setting: the setting that would raise the limit.
    :param silent: whether silence, and not duration, ended it.
    """

    derivation: str
    seconds: float
    setting: str
    log: tuple[str, ...]
    evidence: Evidence
    silent: bool = False

    @property
    def message(self) -> str:
        what = self.derivation or "a build"
        how = "printed nothing for" if self.silent else "took longer than"
        tail = "\n".join(self.log)
        said = f" The last lines of its log:\n{tail}" if tail else ""
        return (
            f"{what} {how} {self.seconds:g} s and was stopped; {self.setting} sets the limit.{said}"
        )


@frozen(kw_only=True)
class MissingDerivations(NixeryError):
    """A garbage collection took derivations between evaluation and build."""

    evidence: Evidence

    @property
    def message(self) -> str:
        return (
            "a garbage collection removed derivations while they were needed, again and again:"
            " try again later"
        )


@frozen(kw_only=True)
class WrongSystem(NixeryError):
    """A derivation needs a builder of a system that this machine has none for."""

    derivation: str
    required: str
    available: str
    evidence: Evidence

    @property
    def message(self) -> str:
        return (
            f"{self.derivation} has to be built on {self.required}, and this machine builds for"
            f" {self.available} only: name a remote builder in Nix's `builders` setting, or"
            " register an emulator (binfmt) and list the system in `extra-platforms`"
        )


@frozen(kw_only=True)
class UnexpectedOutput(NixeryError):
    """A child succeeded and printed what nobody can make sense of."""

    what: str
    excerpt: str = field(repr=False)

    @property
    def message(self) -> str:
        return f"{self.what} was not understood: {self.excerpt[:200]!r}"


# -- images -------------------------------------------------------------------


@frozen(kw_only=True)
class LayerLimitExceeded(NixeryError):
    """A layer budget that leaves no room for an image."""

    budget: int

    @property
    def message(self) -> str:
        return f"an image cannot be cut into {self.budget} layers: the budget is at least 1"


@frozen(kw_only=True)
class ImageLimitExceeded(NixeryError):
    """
    An image that container engines would refuse.

    :param what: what there is too much of, in the plural.
    :param value: how much of it.
    :param limit: the most that engines take.
    """

    what: str
    value: int
    limit: int

    @property
    def message(self) -> str:
        return (
            f"the image has {self.value} {self.what}, and engines take at most {self.limit}:"
            " ask for fewer packages"
        )


@frozen(kw_only=True)
class ImageTooLarge(NixeryError):
    """
    An image that takes more than one image may take here.

    :param what: what there is too much of, in the plural.
    :param value: how much of it.
    :param limit: the most that is taken.
    :param setting: what says so.
    """

    what: str
    value: int
    limit: int
    setting: str

    @property
    def message(self) -> str:
        return (
            f"the image has {self.value} {self.what}, and this registry makes images of at most"
            f" {self.limit} ({self.setting}): ask for fewer packages"
        )


@frozen(kw_only=True)
class PackagesDenied(NixeryError):
    """Packages that the operator does not want to be served; by the names asked for."""

    packages: tuple[str, ...]

    @property
    def message(self) -> str:
        return (
            f"this registry does not serve {', '.join(self.packages)}: its operator has said so"
            " (allow_packages, deny_packages)"
        )


@frozen(kw_only=True)
class UnknownSystem(NixeryError):
    """A Nix system that container images have no name for."""

    system: str
    known: tuple[str, ...]

    @property
    def message(self) -> str:
        return (
            f"there are no images for the system {self.system!r};"
            f" there are for {', '.join(self.known)}"
        )


@frozen(kw_only=True)
class UnreadableImage(NixeryError):
    """An image whose layers the client that asks for it cannot unpack."""

    reason: str

    @property
    def message(self) -> str:
        return (
            f"the layers of this image are compressed with zstd: {self.reason}."
            " Pull with a newer client, or set compression to gzip on the registry"
        )


@frozen(kw_only=True)
class MissingPath(NixeryError):
    """A store path vanished, or was unreadable, while it was being packed."""

    path: str
    reason: str

    @property
    def message(self) -> str:
        return f"{self.path} could not be packed: {self.reason}"


@frozen(kw_only=True)
class RememberedFailure(NixeryError):
    """
    A build that failed a short while ago is not tried again yet.

    :param original: how it failed.
    :param retry_after: seconds until it will be tried again.
    """

    original: NixeryError
    retry_after: float

    @property
    def message(self) -> str:
        return (
            f"{self.original.message}\n(this is remembered from a moment ago;"
            f" it will be tried again in {max(1, round(self.retry_after))} s)"
        )


@frozen(kw_only=True)
class ImageTimedOut(NixeryError):
    """
    The making of an image was stopped because all of it together took too long.

    :param image: its name.
    :param phase: what was being done when it was stopped: ``packing``.
    :param seconds: the limit that was passed.
    :param setting: the setting that would raise the limit.
    """

    image: str
    phase: str
    seconds: float
    setting: str

    @property
    def message(self) -> str:
        return (
            f"{self.image} was not ready after {self.seconds:g} s and was stopped while"
            f" {self.phase}; {self.setting} sets the limit"
        )


@frozen(kw_only=True)
class StillBuilding(NixeryError):
    """
    An image that is not ready yet; the build goes on.

    :param image: its name.
    :param doing: how far it is, as a person would say it: ``packing``.
    :param seconds: since the build began.
    :param retry_after: seconds after which asking again is worth while.
    :param watch: the URL of a page that shows the build; ``None`` where pages are
        switched off.
    """

    image: str
    doing: str
    seconds: float
    retry_after: float
    watch: str | None = None

    @property
    def message(self) -> str:
        where = "" if self.watch is None else f"; watch it at {self.watch}"
        return (
            f"{self.image} is still being built ({self.doing}, {self.seconds:.0f} s so far):"
            f" pull it again in a moment{where}"
        )


@frozen(kw_only=True)
class QueueFull(NixeryError):
    """
    Too many images wait to be built already.

    :param waiting: how many.
    :param retry_after: seconds after which asking again is worth while.
    """

    waiting: int
    retry_after: float

    @property
    def message(self) -> str:
        return (
            f"{self.waiting} images wait to be built already: pull it again in"
            f" {max(1, round(self.retry_after))} s"
        )


@frozen(kw_only=True)
class RequestsExceeded(NixeryError):
    """
    A client sends more requests than one client may.

    :param rate: how many it may send in a second, in the long run.
    :param burst: how many at once.
    :param retry_after: seconds after which one more is answered.
    """

    rate: int
    burst: int
    retry_after: float

    @property
    def message(self) -> str:
        return (
            f"too many requests: this registry answers {self.burst} of one client at once, and"
            f" {self.rate} a second in the long run; try again in"
            f" {max(1, round(self.retry_after))} s"
        )


@frozen(kw_only=True)
class BuildsExceeded(NixeryError):
    """
    A client has more built than one client may.

    :param client: what stands for it.
    :param limit: how many builds it may have.
    :param period: in which time.
    :param setting: what says so.
    :param retry_after: seconds after which asking again is worth while.
    """

    client: tuple[str, ...]
    limit: int
    period: str
    setting: str
    retry_after: float

    @property
    def message(self) -> str:
        return (
            f"too many builds: this registry makes at most {self.limit} images {self.period} for"
            f" one client ({self.setting}); pull it again in"
            f" {max(1, round(self.retry_after))} s"
        )


@frozen(kw_only=True)
class TooManyConnections(NixeryError):
    """There are as many connections as the daemon can have."""

    limit: int

    @property
    def message(self) -> str:
        return (
            f"the registry has {self.limit} connections, which is all that it takes"
            " (max_connections): try again"
        )


@frozen(kw_only=True)
class ShuttingDown(NixeryError):
    """The daemon is stopping and takes no new builds."""

    @property
    def message(self) -> str:
        return "the registry is shutting down: try again in a moment"


# -- storage ------------------------------------------------------------------


@frozen(kw_only=True)
class StorageError(NixeryError):
    """
    The storage failed.

    :param operation: what was being done, as a verb phrase.
    :param reason: the operating system's or the service's own words.
    """

    operation: str
    reason: str

    @property
    def message(self) -> str:
        return f"storage failed to {self.operation}: {self.reason}"


@frozen(kw_only=True)
class StorageFull(StorageError):
    """There is no room left."""

    @property
    def message(self) -> str:
        return (
            f"storage failed to {self.operation}: {self.reason};"
            " free some space or point the storage at a larger disk"
        )


@frozen(kw_only=True)
class StorageUnavailable(StorageError):
    """The storage cannot be reached, or fails, for the moment: another try may succeed."""

    @property
    def message(self) -> str:
        return f"storage failed to {self.operation}: {self.reason}; try again in a moment"


@frozen(kw_only=True)
class BlobsVanished(NixeryError):
    """
    Layers were removed from the storage while an image was made of them, again and
    again: by hand, by a rule of a bucket, or by a collection that keeps too little.
    """

    digests: tuple[str, ...]

    @property
    def message(self) -> str:
        return (
            f"{len(self.digests)} layers of the image were removed from the storage while it was"
            " being made: try again in a moment, and let collections keep what is recent"
        )


@frozen(kw_only=True)
class DiskSpaceLow(StorageFull):
    """
    So little room is left that no image is made any more; those that are stored are
    served on.

    :param path: the file system in question, by a directory of it.
    :param free: how much is left, in bytes.
    :param needed: how much has to be, in bytes.
    """

    path: str
    free: int
    needed: int

    @property
    def message(self) -> str:
        return (
            f"nothing is built while the disk of {self.path} is nearly full: {self.free >> 20} MiB"
            f" are free, and min_free asks for {self.needed >> 20} MiB. Images that are stored are"
            " still served. Free some space, or let nixery-admin gc --max-bytes remove old images"
        )


@frozen(kw_only=True)
class AdminRefused(NixeryError):
    """Something that ``nixery-admin`` was asked for and cannot do."""

    reason: str

    @property
    def message(self) -> str:
        return f"nothing was done: {self.reason}"


@frozen(kw_only=True)
class CollectionRunning(NixeryError):
    """Another collection is removing things from the storage."""

    path: str

    @property
    def message(self) -> str:
        return f"a collection of {self.path} is going on already: wait until it has ended"


@frozen(kw_only=True)
class StorageRefused(StorageError):
    """
    The storage service does not let the daemon do what it has to do.

    :param advice: what the operator has to do about it, in the imperative.
    """

    advice: str

    @property
    def message(self) -> str:
        return f"storage failed to {self.operation}: {self.reason}; {self.advice}"


@frozen(kw_only=True)
class UploadLost(StorageError):
    """
    What was sent of a blob is lost, and no longer here to be sent again: whoever
    makes the blob may make it once more.
    """


@frozen(kw_only=True)
class DigestMismatch(StorageError):
    """Bytes that do not hash to the digest they were announced with."""

    expected: str
    actual: str


# -- the demo package set -----------------------------------------------------


@frozen(kw_only=True)
class DemoFailed(NixeryError):
    """
    The demo package set cannot be made ready.

    :param reason: what is missing or wrong.
    :param advice: what to do, in the imperative.
    """

    reason: str
    advice: str

    @property
    def message(self) -> str:
        return f"{self.reason}: {self.advice}"
