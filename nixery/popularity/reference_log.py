"""
Keeps the references of store paths that were looked up in a log on disk.

A set of 100,000 store paths means as many requests to a binary cache.  Answers are written
to the log soon after they arrive: an interrupted run continues where it was, and next month's
set needs requests for its new paths only, since the references of a store path never change.

A log is a text file for one binary cache.  Its first line names the format and the
cache; each further line is the base name of a path and those of its references.  Lines
are only ever appended.  A line that a crash cut short is removed before the next is written.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from nixery.errors import StorageError
from nixery.popularity.errors import LogInUse
from nixery.runtime.file_lock import open_locked

__all__ = ["ReferenceLog"]

_FORMAT = "nixery-references 1"


class ReferenceLog:
    """
    The log of one binary cache, to be used in a ``with`` block.  Its methods block.

    :param directory: the directory of logs; created if it does not exist.
    :param cache: the URL of the binary cache.
    """

    def __init__(self, directory: Path, cache: str) -> None:
        self.path = directory / f"{hashlib.sha256(cache.encode()).hexdigest()[:32]}.references"
        self._header = f"{_FORMAT} {cache}"
        self._descriptor = -1

    def __enter__(self) -> Self:
        """
        :raises LogInUse: another process has it open.
        :raises StorageError: it cannot be opened, or is not such a log.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = open_locked(self.path)
        except BlockingIOError:
            raise LogInUse(path=str(self.path)) from None
        except OSError as error:
            raise self._failed("open", error) from error
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._close()

    def read(self) -> dict[str, tuple[str, ...]]:
        """
        Return the references by the base names of paths; required before :meth:`append`.

        :raises StorageError: it cannot be read, or is not such a log.
        """
        # Share one string per name, however many paths refer to it.
        names: dict[str, str] = {}
        entries: dict[str, tuple[str, ...]] = {}
        complete_bytes = 0
        try:
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            with open(self._descriptor, "rb", closefd=False) as file:
                for number, line in enumerate(file):
                    if not line.endswith(b"\n"):
                        break
                    complete_bytes += len(line)
                    text = line.decode("ascii", "replace").rstrip("\n")
                    if number == 0:
                        self._check(text)
                        continue
                    name, *references = (names.setdefault(token, token) for token in text.split())
                    entries[name] = tuple(references)
            os.ftruncate(self._descriptor, complete_bytes)
            if not complete_bytes:
                os.lseek(self._descriptor, 0, os.SEEK_SET)
                os.write(self._descriptor, f"{self._header}\n".encode())
        except OSError as error:
            raise self._failed("read", error) from error
        return entries

    def append(self, references: Mapping[str, Iterable[str]]) -> None:
        """
        Append the references of further paths.

        :raises StorageError: it cannot be written.
        """
        lines = "".join(f"{' '.join([name, *names])}\n" for name, names in references.items())
        remaining = memoryview(lines.encode())
        try:
            os.lseek(self._descriptor, 0, os.SEEK_END)
            while remaining:
                remaining = remaining[os.write(self._descriptor, remaining) :]
        except OSError as error:
            raise self._failed("write", error) from error

    def _check(self, header: str) -> None:
        if header != self._header:
            raise StorageError(
                operation=f"read {self.path}", reason="it is something else; remove it"
            )

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _failed(self, verb: str, error: OSError) -> StorageError:
        return StorageError(operation=f"{verb} {self.path}", reason=error.strerror or str(error))
