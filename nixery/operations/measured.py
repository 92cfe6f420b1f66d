"""
Storage and commands that are measured, for whoever uses them none the wiser.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import TypeVar

from attrs import evolve
from twisted.internet.defer import CancelledError

from nixery.errors import (
    BlobsVanished,
    BlobUnknown,
    CommandMissing,
    NixeryError,
    OutputTooLarge,
    ProcessTimedOut,
    ShuttingDown,
)
from nixery.interfaces import BlobInfo, BlobSource, BlobWriter, ByteRange, Commit, Storage
from nixery.names import Digest
from nixery.operations.measures import Measures
from nixery.process import Command, ProcessResult, Spawner

__all__ = ["MeasuredSpawner", "MeasuredStorage"]

T = TypeVar("T")

_OPERATIONS = (
    "stat",
    "missing",
    "read",
    "open",
    "create",
    "commit",
    "put",
    "publish",
    "get_record",
    "get_records",
    "add_record",
    "set_record",
    "delete_record",
    "list_records",
)

Seconds = Callable[[], float]


class _Meter:
    """Measures operations of a storage; all of them are shown from the start."""

    def __init__(self, measures: Measures, seconds: Seconds) -> None:
        self._seconds = seconds
        self._durations = {name: measures.storage_seconds.labels(name) for name in _OPERATIONS}
        self._errors = {name: measures.storage_errors.labels(name) for name in _OPERATIONS}

    async def measure(self, name: str, operation: Awaitable[T]) -> T:
        begun = self._seconds()
        try:
            return await operation
        except (BlobUnknown, BlobsVanished, CancelledError, GeneratorExit, ShuttingDown):
            # Answers, and ends that have nothing to do with the storage.
            raise
        except BaseException:
            self._errors[name].inc()
            raise
        finally:
            self._durations[name].observe(self._seconds() - begun)


class MeasuredStorage:
    """
    An implementation of :class:`nixery.interfaces.Storage` by another one.

    :param storage: does the work.
    :param measures: are told how long it took, and whether it failed.
    :param seconds: tells the time, as a reactor's ``seconds`` does.
    """

    def __init__(self, storage: Storage, measures: Measures, seconds: Seconds) -> None:
        self._storage = storage
        self._meter = _Meter(measures, seconds)

    async def stat(self, digest: Digest) -> BlobInfo:
        return await self._meter.measure("stat", self._storage.stat(digest))

    async def missing(self, digests: Collection[Digest]) -> frozenset[Digest]:
        return await self._meter.measure("missing", self._storage.missing(digests))

    async def read(self, digest: Digest) -> bytes:
        return await self._meter.measure("read", self._storage.read(digest))

    async def open(self, digest: Digest, part: ByteRange | None = None) -> BlobSource:
        return await self._meter.measure("open", self._storage.open(digest, part))

    async def create(self) -> BlobWriter:
        writer = await self._meter.measure("create", self._storage.create())
        return _MeasuredWriter(writer, self._meter)

    async def commit_all(self, commits: Sequence[Commit]) -> list[bytes]:
        bare = [
            evolve(each, writer=each.writer.writer)
            if isinstance(each.writer, _MeasuredWriter)
            else each
            for each in commits
        ]
        return await self._meter.measure("commit", self._storage.commit_all(bare))

    async def put(self, data: bytes, media_type: str) -> BlobInfo:
        return await self._meter.measure("put", self._storage.put(data, media_type))

    async def publish(
        self,
        blobs: Collection[tuple[bytes, str]],
        needs: Collection[Digest],
        record: tuple[str, str, bytes],
    ) -> None:
        await self._meter.measure("publish", self._storage.publish(blobs, needs, record))

    async def get_record(self, kind: str, key: str) -> bytes | None:
        return await self._meter.measure("get_record", self._storage.get_record(kind, key))

    async def get_records(self, kind: str, keys: Collection[str]) -> Mapping[str, bytes]:
        return await self._meter.measure("get_records", self._storage.get_records(kind, keys))

    async def add_record(self, kind: str, key: str, value: bytes) -> bytes:
        return await self._meter.measure("add_record", self._storage.add_record(kind, key, value))

    async def set_record(self, kind: str, key: str, value: bytes) -> None:
        await self._meter.measure("set_record", self._storage.set_record(kind, key, value))

    async def delete_record(self, kind: str, key: str) -> None:
        await self._meter.measure("delete_record", self._storage.delete_record(kind, key))

    async def list_records(self, kind: str, prefix: str = "") -> Sequence[str]:
        return await self._meter.measure("list_records", self._storage.list_records(kind, prefix))


class _MeasuredWriter:
    """
    A writer whose commit is measured; its writes are the packing's own time.

    :ivar writer: the storage's own.
    """

    def __init__(self, writer: BlobWriter, meter: _Meter) -> None:
        self.writer = writer
        self._meter = meter

    def write(self, data: bytes, /) -> int:
        return self.writer.write(data)

    async def commit(self, digest: Digest, size: int, media_type: str) -> BlobInfo:
        return await self._meter.measure("commit", self.writer.commit(digest, size, media_type))

    async def abort(self) -> None:
        await self.writer.abort()


class MeasuredSpawner:
    """
    An implementation of :class:`nixery.process.Spawner` by another one.

    :param spawner: runs the commands.
    :param measures: as above.
    :param seconds: as above.
    """

    def __init__(self, spawner: Spawner, measures: Measures, seconds: Seconds) -> None:
        self._spawner = spawner
        self._measures = measures
        self._seconds = seconds

    async def run(self, command: Command) -> ProcessResult:
        # The code has a handful of programs, and no client chooses one.
        program = command.argv[0].rpartition("/")[2]
        begun = self._seconds()
        outcome = "failed"
        try:
            result = await self._spawner.run(command)
            outcome = "succeeded"
        except NixeryError as error:
            outcome = _OUTCOMES.get(type(error), outcome)
            raise
        except CancelledError:
            outcome = "cancelled"
            raise
        finally:
            self._measures.commands.labels(program, outcome).inc()
            # A dialogue lasts as long as it is wanted: that says nothing of the command.
            if command.dialogue is None:
                self._measures.command_seconds.labels(program).observe(self._seconds() - begun)
        return result


_OUTCOMES: dict[type[NixeryError], str] = {
    CommandMissing: "missing",
    OutputTooLarge: "output_too_large",
    ProcessTimedOut: "timed_out",
}
