"""
What the parts of the daemon know of each other.

The orchestration (``builder``, ``cache``, ``singleflight``) is written against
these protocols and never against an adapter, so that each adapter can be
replaced by its verified fake (``nixery.testing``) or by another one.  No logic
here: values, method signatures, and the failures that each of them may raise.

Coroutines run on the reactor thread and never block it.  Whatever runs on
another thread says so.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import ParamSpec, Protocol, TypeVar

from attrs import frozen

from nixery.graph import RuntimeGraph
from nixery.names import Digest, Requirement, Tag
from nixery.packages import Evaluation, Package
from nixery.sources import Found, PackageSet, Revision, Tree
from nixery.upstream.revisions import Reference

__all__ = [
    "BlobInfo",
    "BlobSource",
    "BlobWriter",
    "ByteRange",
    "Commit",
    "Held",
    "Nix",
    "OpenFile",
    "Phase",
    "Progress",
    "Realisation",
    "Redirect",
    "Sources",
    "Storage",
    "Stream",
    "TreeFetcher",
    "Upstream",
    "Workers",
]

P = ParamSpec("P")
T = TypeVar("T")

# -- storage ------------------------------------------------------------------


@frozen(kw_only=True)
class BlobInfo:
    """
    A stored blob.

    :param digest: of its bytes.
    :param size: in bytes.
    :param media_type: as it was stored with.
    """

    digest: Digest
    size: int
    media_type: str


@frozen(kw_only=True)
class ByteRange:
    """
    A part of a blob, resolved against its size: ``0 <= start < stop <= size``.

    :param start: offset of the first byte.
    :param stop: offset after the last byte.
    """

    start: int
    stop: int


@frozen(kw_only=True)
class OpenFile:
    """
    A blob as a file of this machine.

    The reader closes ``descriptor``; because it is open already, a blob that is
    removed meanwhile is still read to its end.

    :param descriptor: a file descriptor, opened for reading, at offset 0.
    """

    info: BlobInfo
    descriptor: int


@frozen(kw_only=True)
class Redirect:
    """A blob to be fetched elsewhere, by GET only, within its URL's lifetime."""

    info: BlobInfo
    url: str


@frozen(kw_only=True)
class Stream:
    """A blob's bytes as they come; ``chunks`` is iterated once, then closed."""

    info: BlobInfo
    chunks: AsyncIterator[bytes]


BlobSource = OpenFile | Redirect | Stream


class BlobWriter(Protocol):
    """
    A blob that is being written and that nobody can see yet.

    Exactly one of :meth:`commit`, :meth:`Storage.commit_all` and :meth:`abort` ends it.
    """

    def write(self, data: bytes, /) -> int:
        """
        Append ``data``.  Called on a worker thread, never on the reactor's; may
        block until there is room (back-pressure).

        :return: ``len(data)``: all of it is taken.
        :raises StorageFull: there is no room left.
        :raises StorageError: the storage failed; only :meth:`abort` helps.
        """

    async def commit(self, digest: Digest, size: int, media_type: str) -> BlobInfo:
        """
        Make the blob visible under ``digest``, whole and durable, at once.

        A blob of this digest that exists already is kept, and this one dropped:
        that is success.

        :raises DigestMismatch: what was written is not ``size`` bytes long.
        :raises StorageError: the storage failed; nothing has become visible.
        """

    async def abort(self) -> None:
        """Drop what was written.  Never raises; harmless after an end."""


@frozen(kw_only=True)
class Commit:
    """
    A blob that is to become visible, and with it a record that may name it.

    :param writer: of the storage that it is committed to; has all of the blob.
    :param digest: of the blob.
    :param size: its number of bytes.
    :param media_type: what it is.
    :param record: kind, key and value.
    """

    writer: BlobWriter
    digest: Digest
    size: int
    media_type: str
    record: tuple[str, str, bytes]


class Storage(Protocol):
    """
    Content-addressed blobs, and small records by name.

    *Blobs* (layers, configs and manifests) are immutable.  *Records* are JSON
    documents of at most some kilobytes under a ``kind`` (a lower-case word) and a
    ``key`` (any text: implementations encode it).

    All methods raise :class:`nixery.errors.StorageError` when the storage fails.
    """

    async def stat(self, digest: Digest) -> BlobInfo:
        """:raises BlobUnknown: there is no such blob."""

    async def missing(self, digests: Collection[Digest]) -> frozenset[Digest]:
        """Those of ``digests`` that are not stored, found out in one go."""

    async def read(self, digest: Digest) -> bytes:
        """
        A small blob (a manifest, a config) as a whole.

        :raises BlobUnknown: there is no such blob.
        """

    async def open(self, digest: Digest, part: ByteRange | None = None) -> BlobSource:
        """
        A blob for sending.

        :param part: the part that will be read; an implementation that streams
            yields just this part, others ignore it.
        :raises BlobUnknown: there is no such blob.
        """

    async def create(self) -> BlobWriter:
        """Begin a blob whose digest is not known yet."""

    async def commit_all(self, commits: Sequence[Commit]) -> list[bytes]:
        """
        As :meth:`BlobWriter.commit` and then :meth:`add_record` for each of several blobs,
        in one go.

        :return: the records as they now are, in order.
        :raises DigestMismatch: of one was written another number of bytes than announced.
        :raises StorageError: the storage failed.  Any of the blobs may have become visible,
            with or without its record; no record is there without its blob.
        """

    async def put(self, data: bytes, media_type: str) -> BlobInfo:
        """Store a small blob as a whole; one that is there already is kept."""

    async def publish(
        self,
        blobs: Collection[tuple[bytes, str]],
        needs: Collection[Digest],
        record: tuple[str, str, bytes],
    ) -> None:
        """
        Store small blobs that name others, and a record that names them: an image.
        Nothing of it is named before what it names is there, and where something
        collects unused blobs, that does not come in between.

        :param blobs: bytes and media types, innermost first.
        :param needs: the blobs that they name besides each other.
        :param record: kind, key and value; it replaces what was there.
        :raises BlobsVanished: some of ``needs`` are not there; nothing is stored.
        """

    async def get_record(self, kind: str, key: str) -> bytes | None:
        """The record, ``None`` when there is none."""

    async def get_records(self, kind: str, keys: Collection[str]) -> Mapping[str, bytes]:
        """Those of the records that there are, by their keys, found out in one go."""

    async def add_record(self, kind: str, key: str, value: bytes) -> bytes:
        """
        Create the record only if it is absent, atomically, also between
        processes.

        :return: the record as it now is: ``value``, or what was there first.
        """

    async def set_record(self, kind: str, key: str, value: bytes) -> None:
        """Create or replace the record; readers see the old or the new one."""

    async def delete_record(self, kind: str, key: str) -> None:
        """Remove the record; one that is absent is no error."""

    async def list_records(self, kind: str, prefix: str = "") -> Sequence[str]:
        """The keys of a kind that begin with ``prefix``, sorted."""


# -- work ---------------------------------------------------------------------


class Workers(Protocol):
    """A bounded pool of threads."""

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """
        Call ``function`` on a thread of the pool and wait for what it returns.

        Cancelling the wait does not interrupt a function that runs already; one
        that has not begun is never called.

        :raises ShuttingDown: the pool has stopped or is stopping.
        """


class Phase(Enum):
    """The stages of a build, in order; ``FETCHING`` and others may be left out."""

    RESOLVING = "resolving"
    FETCHING = "fetching"
    EVALUATING = "evaluating"
    DOWNLOADING = "downloading"
    BUILDING = "building"
    PACKING = "packing"
    STORING = "storing"


class Progress(Protocol):
    """
    Where a build tells how far it is.  Called on the reactor thread; never
    raises; what nobody listens to costs next to nothing.
    """

    def phase(self, phase: Phase, /) -> None:
        """A stage begins."""

    def count(self, phase: Phase, done: int, expected: int, unit: str, /) -> None:
        """``done`` of ``expected`` units (``bytes``, ``builds``, ``paths``, ``layers``)."""

    def derivation(self, derivation: str, /) -> None:
        """The store path of a derivation whose build begins."""

    def log(self, line: str, /) -> None:
        """A line of a build's log, without terminal escapes and line end."""


# -- package sources ----------------------------------------------------------


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


class Upstream(Protocol):
    """Whoever knows what the references to a source point to."""

    async def check(self) -> None:
        """
        Find out whether it can be asked, without asking it.

        :raises CommandMissing: there is no program to do it with.
        """

    async def find(self, reference: Reference) -> Found | None:
        """
        What a reference points to now, ``None`` if to nothing.

        :raises SourceUnavailable: that cannot be found out, though it was tried
            repeatedly.
        """


class TreeFetcher(Protocol):
    """What brings commits into the Nix store."""

    async def fetch(self, tree: Tree) -> Path:
        """
        Fetch the files of a commit and root them, where that has not been done yet.

        :return: the store path.
        :raises UnknownRevision: there is no such commit.
        :raises SourceUnavailable: it cannot be fetched.
        :raises NixUnusable: Nix itself failed.
        """


# -- Nix ----------------------------------------------------------------------


@frozen(kw_only=True)
class Realisation:
    """
    Outputs that are valid in the store and protected from garbage collection.

    :param root: the identifier to give to :meth:`Nix.release`.
    :param outputs: their store paths, sorted.
    """

    root: str
    outputs: tuple[str, ...]


@frozen(kw_only=True)
class Held:
    """
    Outputs that were valid in the store already.

    :param realisation: they are protected from garbage collection.
    :param graph: their runtime closure.
    """

    realisation: Realisation
    graph: RuntimeGraph


class Nix(Protocol):
    """The Nix of this machine."""

    async def check(self) -> str:
        """
        Find out whether Nix can be used.

        :return: its version, ``2.8.0``.
        :raises NixUnusable: it cannot.
        """

    def evaluation_identity(self) -> Mapping[str, str]:
        """What shapes evaluations besides revisions and names, for cache keys."""

    async def evaluate(
        self, package_set: PackageSet, system: str, requirements: Sequence[Requirement]
    ) -> Evaluation:
        """
        Look packages up and instantiate their derivations.

        :raises PackagesRefused: some of them do not exist or may not be used.
        :raises EvaluationFailed: the package set itself does not evaluate.
        :raises EvaluationTimedOut: it took too long.
        :raises NixUnusable: Nix itself failed, or refuses the package set as too old.
        """

    def prepare(self) -> None:
        """There may soon be a use for :meth:`hold`."""

    async def hold(self, outputs: Sequence[str]) -> Held | None:
        """
        Protect outputs that are valid in the store already, and tell their closure.

        :param outputs: store paths.
        :return: ``None`` where something has to be built first, or where that cannot be
            told in this way: the other methods then say what is wrong.
        """

    async def realise(self, packages: Sequence[Package], progress: Progress) -> Realisation:
        """
        Build or download the chosen outputs of the packages, and root them.

        :raises BuildFailed: a derivation failed.
        :raises BuildTimedOut: a derivation took too long or was silent.
        :raises WrongSystem: no builder for the system of a derivation.
        :raises MissingDerivations: a garbage collection took the derivations, which
            nothing protects between an evaluation and this.
        :raises NixUnusable: Nix itself failed.
        """

    async def realise_anew(
        self,
        package_set: PackageSet,
        requirements: Sequence[Requirement],
        evaluation: Evaluation,
        progress: Progress,
    ) -> Realisation:
        """
        As :meth:`realise`, with derivations that are made again and protected from
        then on: this takes as long as an evaluation longer.

        :param evaluation: what the other parameters have led to, and what has to be
            built.
        :raises MissingDerivations: the package set has been changed since, so that
            others are built; evaluate again.  It is possible, and unlikely, that a
            garbage collection is the reason.
        """

    async def closure(self, outputs: Sequence[str]) -> RuntimeGraph:
        """
        The runtime closure of valid store paths.

        :raises NixUnusable: Nix itself failed.
        """

    def lost(self, realisation: Realisation) -> bool:
        """
        Whether what protects the outputs has ended before it should.  What was read of
        them since may have been on its way into the bin.
        """

    async def release(self, realisation: Realisation) -> None:
        """Give outputs free for garbage collection; never raises."""
