"""
Keep what builds print in files that have no names.

A file has the lines of one build that are not in memory any more
(:mod:`nixery.builds.build_output`).  It is unlinked as soon as it is open: whatever ends the
process, nothing is left on the disk.  That loses nothing that is listed, because the list of builds
ends with the process too; and Nix keeps the log of each derivation, as ``nix-store --read-log``
shows it.

All files together are bounded.  When they take too much, the one that was written to longest ago is
discarded.  A disk that is full must not harm a build: what cannot be written is discarded, too.
"""

from __future__ import annotations

import os
import tempfile
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path

from attrs import define, field
from twisted.internet.defer import Deferred, DeferredLock
from twisted.logger import Logger

from nixery.errors import ShuttingDown
from nixery.runtime.workers import Workers

__all__ = ["OutputFile", "OutputFiles"]

MAX_FILES = 64
"""The most files: each holds a descriptor."""

MAX_UNWRITTEN_BYTES = 16 * 2**20
"""The most bytes of a file that wait to be written; a disk that is slower loses lines."""


@define(kw_only=True, eq=False)
class OutputFiles:
    """
    Makes files, and bounds the space that they take.

    :param directory: a directory for what may be lost.
    :param workers: the pool for file systems.
    :param max_bytes: the most that all files take; one file takes half of it at most.
    """

    directory: Path
    workers: Workers
    max_bytes: int
    _sizes: OrderedDict[OutputFile, int] = field(factory=OrderedDict, init=False)
    _has_failed: bool = field(default=False, init=False)
    _log = Logger()

    def make(self) -> OutputFile:
        """Return a file; it is created when something is written to it."""
        return OutputFile(files=self)

    def reserve(self, file: OutputFile, size: int) -> bool:
        """
        Reserve space for bytes that are appended to a file; discard files that are older.

        :return: false if the file has all the space that it may have.
        """
        taken = self._sizes.get(file, 0) + size
        if taken > self.max_bytes // 2:
            return False
        self._sizes[file] = taken
        self._sizes.move_to_end(file)
        while sum(self._sizes.values()) > self.max_bytes or len(self._sizes) > MAX_FILES:
            next(iter(self._sizes)).discard()
        return True

    def release(self, file: OutputFile) -> None:
        """Release the space of a file that was discarded."""
        self._sizes.pop(file, None)

    def create(self) -> int:
        """Open a new file and return its descriptor.  Blocks."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=self.directory, prefix="build-log-") as file:
            return os.dup(file.fileno())

    def report(self, error: OSError) -> None:
        """Log that a file could not be written or read, once."""
        if self._has_failed:
            return
        self._has_failed = True
        self._log.warn(
            "Logs of builds cannot be kept in {directory}: {reason}. Only the last lines of each"
            " are shown until the registry is restarted.",
            directory=str(self.directory),
            reason=error.strerror or str(error),
        )


@define(kw_only=True, eq=False)
class _Block:
    """
    Lines that are written and read together.

    :param first: the number of the first line.
    :param offset: its place in the file.
    :param data: the lines, until they are written.
    """

    first: int
    count: int
    offset: int
    size: int
    data: bytes | None


@define(kw_only=True, eq=False)
class OutputFile:
    """
    The older lines of one build.

    All methods belong to the reactor thread.
    """

    files: OutputFiles
    _blocks: list[_Block] = field(factory=list, init=False)
    _unwritten: int = field(default=0, init=False)
    _descriptor: int | None = field(default=None, init=False)
    _is_discarded: bool = field(default=False, init=False)
    _is_writing: bool = field(default=False, init=False)
    # A descriptor must not be closed while a thread uses it.
    _lock: DeferredLock = field(factory=DeferredLock, init=False)

    @property
    def size(self) -> int:
        """The bytes that it has."""
        return self._blocks[-1].offset + self._blocks[-1].size if self._blocks else 0

    def append(self, first: int, lines: Sequence[bytes]) -> None:
        """
        Append lines, or drop them if there is no space for them.

        :param first: the number of the first of them.
        :param lines: with their ends.
        """
        data = b"".join(lines)
        if (
            self._is_discarded
            or self._unwritten + len(data) > MAX_UNWRITTEN_BYTES
            or not self.files.reserve(self, len(data))
        ):
            return
        self._blocks.append(
            _Block(first=first, count=len(lines), offset=self.size, size=len(data), data=data)
        )
        self._unwritten += len(data)
        if not self._is_writing:
            self._is_writing = True
            Deferred.fromCoroutine(self._write())

    async def read(self, after: int) -> tuple[int, Sequence[bytes]]:
        """
        Return some lines from number ``after`` on, or from the first after it that is kept.

        :return: the number of the first line, and the lines without their ends; none if there are
            no more.
        """
        index = max(bisect_right(self._blocks, after, key=lambda block: block.first) - 1, 0)
        while index < len(self._blocks):
            block = self._blocks[index]
            if after < block.first + block.count:
                lines = (await self._data(block)).split(b"\n")[:-1]
                skipped = max(after - block.first, 0)
                if len(lines) == block.count:
                    return block.first + skipped, lines[skipped:]
            index += 1
        return after, ()

    def discard(self) -> None:
        """Discard all lines, and take no more."""
        if self._is_discarded:
            return
        self._is_discarded = True
        self._blocks.clear()
        self._unwritten = 0
        self.files.release(self)
        Deferred.fromCoroutine(self._close())

    async def _data(self, block: _Block) -> bytes:
        if block.data is not None:
            return block.data
        await self._lock.acquire()
        try:
            if self._descriptor is None:
                return b""
            return await self.files.workers.run(
                os.pread, self._descriptor, block.size, block.offset
            )
        except OSError as error:
            self.files.report(error)
            return b""
        finally:
            self._lock.release()

    async def _write(self) -> None:
        """Write the blocks that are there, and those that come meanwhile."""
        await self._lock.acquire()
        try:
            while blocks := [block for block in self._blocks if block.data is not None]:
                if self._descriptor is None:
                    self._descriptor = await self.files.workers.run(self.files.create)
                await self.files.workers.run(
                    _write_all,
                    self._descriptor,
                    b"".join(block.data or b"" for block in blocks),
                    blocks[0].offset,
                )
                for block in blocks:
                    self._unwritten -= 0 if self._is_discarded else block.size
                    block.data = None
        except OSError as error:
            self.files.report(error)
            self.discard()
        except ShuttingDown:
            self.discard()
        finally:
            self._is_writing = False
            self._lock.release()

    async def _close(self) -> None:
        await self._lock.acquire()
        try:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None
        finally:
            self._lock.release()


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view = view[written:]
        offset += written
