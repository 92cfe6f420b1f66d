"""
Reads and writes records in a directory, with blocking calls.

Like :mod:`nixery.storage.filesystem.blobs`, for worker threads of any number of processes.

A record is one entry in the directory of its kind, a symbolic link that has the record
for its target, or a file::

    KIND/KEY.json       the record; the key is percent-encoded
    KIND/SHA256.long    a record whose encoded key is too long for a file name:
                        a line with the encoded key, then the record

The suffixes distinguish the two, and keep keys such as ``..`` and the empty one
from being names with a special meaning for the file system.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from urllib.parse import quote_from_bytes, unquote_to_bytes

from twisted.logger import Logger

from nixery.storage.filesystem.atomic_files import (
    SmallTempFile,
    SymlinkRecord,
    write_symlink_record,
)
from nixery.storage.filesystem.batch_publish import publish_together
from nixery.storage.filesystem.files import (
    read_symlink_record,
    synchronise_directory,
    translate_os_errors,
)
from nixery.storage.filesystem.record_index import INDEXED_KINDS, RecordIndex
from nixery.storage.rules import check_kind, check_small

__all__ = ["RecordPlacement", "Records"]

SHORT_KEY_SUFFIX = ".json"
LONG_KEY_SUFFIX = ".long"

MAX_NAME_BYTES = 200
"""Maximum length in bytes of an encoded key as a file name; file systems allow 255."""

MAX_CREATE_ATTEMPTS = 8
"""Maximum attempts to create a record that is deleted concurrently."""


class Records:
    """
    The records of a directory.

    It has no state except its paths, so that any number of threads and processes
    may use it.  Methods raise :class:`nixery.errors.StorageError` or, if there is
    no free space left, its subclass :class:`nixery.storage.errors.StorageFull`.

    :param directory: the directory of the records; it exists.
    :param temp_directory: the directory they are written in, on the same file system.
    """

    _log = Logger()

    def __init__(self, directory: str, temp_directory: str) -> None:
        self._directory = directory
        self._temp_directory = temp_directory
        self._indexes = {
            kind: RecordIndex(directory, kind, encode=_encode, file_name=_file_name)
            for kind in INDEXED_KINDS
        }

    def get(self, kind: str, key: str) -> bytes | None:
        """Return the record, ``None`` when there is none."""
        path = self._path(kind, key)
        with translate_os_errors("read a record"):
            return self._read(path, key)

    def find(self, kind: str, keys: Iterable[str]) -> dict[str, bytes]:
        """Return those of the records that exist."""
        existing = ((key, self.get(kind, key)) for key in keys)
        return {key: record for key, record in existing if record is not None}

    def add(self, kind: str, key: str, value: bytes) -> bytes:
        """:return: the existing record, or ``value`` if it was created."""
        existing = self.get(kind, key)
        if existing is not None:
            return existing
        with ExitStack() as exit_stack, translate_os_errors("store a record"):
            record = self.prepare(exit_stack, kind, key, value)
            publish_together([record])
        return record.value

    def set(self, kind: str, key: str, value: bytes) -> None:
        """Create or replace the record."""
        with ExitStack() as exit_stack, translate_os_errors("store a record"):
            publish_together([self.prepare(exit_stack, kind, key, value, replace=True)])

    def prepare(
        self, exit_stack: ExitStack, kind: str, key: str, value: bytes, *, replace: bool = False
    ) -> RecordPlacement:
        """
        Prepare what :meth:`add` or :meth:`set` does, to become visible together with others.

        :param exit_stack: the stack whose exit ends everything that is made.
        """
        path = self._path(kind, key)
        check_small("store a record", len(value))
        data = _encode(key) + b"\n" + value if path.endswith(LONG_KEY_SUFFIX) else value
        temp_file = write_symlink_record(exit_stack, self._temp_directory, data)
        read_existing = None if replace else partial(self._read, path, key)
        index = self._indexes.get(kind)
        if index is None:
            return RecordPlacement(path, value, temp_file, read_existing)
        index.add(key)
        # Again when it is placed: the record that was there may be deleted meanwhile.
        return RecordPlacement(path, value, temp_file, read_existing, partial(index.add, key))

    def delete(self, kind: str, key: str) -> None:
        """Remove the record, if there is one."""
        path = self._path(kind, key)
        with translate_os_errors("delete a record"), suppress(FileNotFoundError):
            os.unlink(path)
            synchronise_directory(os.path.dirname(path))
            index = self._indexes.get(kind)
            if index is not None:
                index.remove(key)
                # Another process may have made the record anew.
                if os.path.lexists(path):
                    index.add(key)

    def keys(self, kind: str, prefix: str) -> list[str]:
        """Return the keys of a kind that begin with ``prefix``, sorted."""
        directory = os.path.join(self._directory, check_kind(kind))
        first, slash, rest = prefix.partition("/")
        index = self._indexes.get(kind)
        with translate_os_errors("list records"):
            if index is not None and slash and not rest and index.is_complete:
                found = self._keys_in(index.directory(first))
                keys = (f"{first}/{each}" for each in found)
                return [key for key in keys if os.path.lexists(self._path(kind, key))]
            return [key for key in self._keys_in(directory) if key.startswith(prefix)]

    def missing_in_index(self, kind: str) -> list[str] | None:
        """Return the keys to add to the index of a kind; ``None`` if it is complete."""
        if self._indexes[kind].is_complete:
            return None
        return self.keys(kind, "")

    def add_to_index(self, kind: str, keys: Sequence[str], *, complete: bool) -> None:
        """
        Add records to the index of a kind.

        :param complete: true if no others are missing there.
        """
        with translate_os_errors("make an index of records"):
            self._indexes[kind].add_all(keys)
            if complete:
                self._indexes[kind].complete()

    def _keys_in(self, directory: str) -> list[str]:
        """Return the keys of the records, or of the entries of an index, in a directory."""
        try:
            names = os.listdir(directory)
        except FileNotFoundError:
            return []
        return sorted(
            key for key in (self._key(directory, name) for name in names) if key is not None
        )

    def _path(self, kind: str, key: str) -> str:
        return os.path.join(self._directory, check_kind(kind), _file_name(_encode(key)))

    def _read(self, path: str, key: str) -> bytes | None:
        try:
            data = read_symlink_record(path)
        except FileNotFoundError:
            return None
        if not path.endswith(LONG_KEY_SUFFIX):
            return data
        encoded, _, value = data.partition(b"\n")
        if encoded != _encode(key):
            self._log.error("{path} is no record of its key: it counts as absent", path=path)
            return None
        return value

    def _key(self, directory: str, name: str) -> str | None:
        """Return the key of the record in a file; ``None`` if the file is no record."""
        encoded = os.fsencode(name.removesuffix(SHORT_KEY_SUFFIX))
        if name.endswith(LONG_KEY_SUFFIX):
            try:
                encoded = read_symlink_record(os.path.join(directory, name)).partition(b"\n")[0]
            except FileNotFoundError:
                return None
        try:
            key = unquote_to_bytes(encoded).decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            return None
        return key if _file_name(_encode(key)) == name else None


class RecordPlacement:
    """
    A :class:`nixery.storage.filesystem.batch_publish.Placement` of a record.

    :param read_existing: reads the existing record, which is kept; ``None`` if it is replaced.
    :param placed: called when it is visible.
    :ivar value: once it is placed, the record as it is stored.
    """

    def __init__(
        self,
        path: str,
        value: bytes,
        temp_file: SymlinkRecord | SmallTempFile,
        read_existing: Callable[[], bytes | None] | None,
        placed: Callable[[], None] = lambda: None,
    ) -> None:
        self._placed = placed
        self.value = value
        self._path = path
        self._temp_file = temp_file
        self._read_existing = read_existing

    @property
    def temp_files(self) -> Sequence[SymlinkRecord | SmallTempFile]:
        return [self._temp_file]

    def place(self) -> str:
        if self._read_existing is None:
            self._temp_file.rename(self._path)
        else:
            self._link(self._read_existing)
        self._placed()
        return os.path.dirname(self._path)

    def _link(self, read_existing: Callable[[], bytes | None]) -> None:
        for _ in range(MAX_CREATE_ATTEMPTS):
            try:
                return self._temp_file.link(self._path)
            except FileExistsError:
                existing = read_existing()
                if existing is not None:
                    self.value = existing
                    return None
                # The existing record was deleted meanwhile, so there is none now.
        # A file exists, but is not the record of this key.
        return self._temp_file.rename(self._path)


def _encode(key: str) -> bytes:
    """Encode ``key`` in letters, digits, ``_.-~`` and percent signs."""
    # Keys may contain lone surrogates.
    return quote_from_bytes(key.encode("utf-8", "surrogatepass"), safe="").encode("ascii")


def _file_name(encoded: bytes) -> str:
    if len(encoded) > MAX_NAME_BYTES:
        return hashlib.sha256(encoded).hexdigest() + LONG_KEY_SUFFIX
    return encoded.decode("ascii") + SHORT_KEY_SUFFIX
