"""Wrappers that record metrics of storage operations and commands."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from inspect import iscoroutinefunction
from types import SimpleNamespace
from typing import Any, TypeVar, cast

from attrs import evolve
from twisted.internet.defer import CancelledError

from nixery.errors import NixeryError, ShuttingDown
from nixery.image.names import Digest
from nixery.observability.metrics import Metrics
from nixery.process.errors import CommandMissing, OutputTooLarge, ProcessTimedOut
from nixery.process.spawner import Command, ProcessResult, Spawner
from nixery.storage.errors import BlobsMissing, BlobUnknown
from nixery.storage.interface import BlobInfo, BlobWriter, PendingBlob, Storage

__all__ = ["MeasuredSpawner", "measured_storage"]

T = TypeVar("T")

_METHODS = tuple(name for name in vars(Storage) if iscoroutinefunction(getattr(Storage, name)))

_LABELS = {name: name for name in _METHODS} | {"commit_many": "commit", "read_part": "read"}
"""The names of operations in metrics, by those of the methods."""

Seconds = Callable[[], float]


class _Meter:
    """Measures the operations of a storage; all of them are shown from the start."""

    def __init__(self, metrics: Metrics, seconds: Seconds) -> None:
        self._seconds = seconds
        self._durations = {name: metrics.storage_seconds.labels(name) for name in _LABELS.values()}
        self._errors = {name: metrics.storage_errors.labels(name) for name in _LABELS.values()}

    def wrap(
        self, name: str, method: Callable[..., Awaitable[Any]]
    ) -> Callable[..., Awaitable[Any]]:
        """Wrap a method, so that its calls are measured."""

        async def call(*args: object, **kwargs: object) -> Any:
            return await self.measure(name, method(*args, **kwargs))

        return call

    async def measure(self, name: str, operation: Awaitable[T]) -> T:
        started = self._seconds()
        try:
            return await operation
        except (BlobUnknown, BlobsMissing, CancelledError, GeneratorExit, ShuttingDown):
            # Expected answers, and failures that have nothing to do with the storage.
            raise
        except BaseException:
            self._errors[name].inc()
            raise
        finally:
            self._durations[name].observe(self._seconds() - started)


def measured_storage(storage: Storage, metrics: Metrics, seconds: Seconds) -> Storage:
    """
    Wrap a storage, so that each of its methods is measured.

    :param storage: does the work.
    :param metrics: record the duration, and whether the operation failed.
    :param seconds: the monotonic time, as the reactor's ``seconds``.
    """
    meter = _Meter(metrics, seconds)
    wrapped = {name: meter.wrap(_LABELS[name], getattr(storage, name)) for name in _METHODS}

    async def create() -> BlobWriter:
        return _MeasuredWriter(await wrapped["create"](), meter)

    async def commit_many(commits: Sequence[PendingBlob]) -> Sequence[bytes]:
        # A storage accepts only its own writers.
        unwrapped = [_unwrap_writer(each) for each in commits]
        return cast("Sequence[bytes]", await wrapped["commit_many"](unwrapped))

    return cast(
        "Storage", SimpleNamespace(**wrapped | {"create": create, "commit_many": commit_many})
    )


def _unwrap_writer(commit: PendingBlob) -> PendingBlob:
    if isinstance(commit.writer, _MeasuredWriter):
        return evolve(commit, writer=commit.writer.writer)
    return commit


class _MeasuredWriter:
    """
    A writer whose commit is measured; the time of its writes belongs to packing.

    :ivar writer: the storage's own writer.
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
    Implements :class:`nixery.process.spawner.Spawner` by another one, and measures it.

    :param spawner: runs the commands.
    :param metrics: record the duration, and the outcome.
    :param seconds: the monotonic time, as the reactor's ``seconds``.
    """

    def __init__(self, spawner: Spawner, metrics: Metrics, seconds: Seconds) -> None:
        self._spawner = spawner
        self._metrics = metrics
        self._seconds = seconds

    async def run(self, command: Command) -> ProcessResult:
        # The label is bounded: the code runs a handful of programs, and no client chooses one.
        program = command.argv[0].rpartition("/")[2]
        started = self._seconds()
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
            self._metrics.commands.labels(program, outcome).inc()
            # An interactive process runs as long as it is needed: its duration says nothing of the
            # command.
            if command.stdio_handler is None:
                self._metrics.command_seconds.labels(program).observe(self._seconds() - started)
        return result


_OUTCOMES: dict[type[NixeryError], str] = {
    CommandMissing: "missing",
    OutputTooLarge: "output_too_large",
    ProcessTimedOut: "timed_out",
}
