"""
An index of records by the first part of their keys, with blocking calls.

All records of a kind are entries of one directory, and to list it takes the longer the more
images there are.  Of some kinds, an index therefore has a directory for what precedes the first
slash of a key, with an entry for each rest::

    KIND.index/FIRST.json/REST.json    a symbolic link to the encoded rest
    KIND.index/complete                all records are in the index

An entry is made before its record and removed after it, so that each record has one, and one
without a record has no meaning.  A storage of a version without an index gets one in the
background; until it is complete, records are listed as without.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import suppress

from nixery.storage.filesystem.files import (
    DIRECTORY_MODE,
    make_directories,
    synchronise_directory,
)

__all__ = ["INDEXED_KINDS", "RecordIndex"]

INDEXED_KINDS = frozenset({"member", "served", "signature"})
"""The kinds of which clients ask for the keys with a common first part."""

COMPLETE = "complete"


class RecordIndex:
    """
    The index of one kind.

    :param records: the directory of all records.
    :param kind: the kind, one of :data:`INDEXED_KINDS`.
    :param encode: encodes a part of a key as a file name; a long one loses something.
    :param file_name: returns the name of the file for an encoded part.
    """

    def __init__(
        self,
        records: str,
        kind: str,
        *,
        encode: Callable[[str], bytes],
        file_name: Callable[[bytes], str],
    ) -> None:
        self._records = records
        self._root = os.path.join(records, f"{kind}.index")
        self._encode = encode
        self._file_name = file_name

    @property
    def is_complete(self) -> bool:
        """True if every record is in the index."""
        return os.path.lexists(os.path.join(self._root, COMPLETE))

    def directory(self, first: str) -> str:
        """Return the directory of the entries for keys that begin with ``first`` and a slash."""
        return os.path.join(self._root, self._file_name(self._encode(first)))

    def add(self, key: str, *, durable: bool = True) -> None:
        """
        Make the entry of a key, unless there is one.

        :param durable: whether to wait until it is on the disk.
        """
        first, _, rest = key.partition("/")
        directory = self.directory(first)
        encoded = self._encode(rest)
        path = os.path.join(directory, self._file_name(encoded))
        if os.path.lexists(path):
            return
        if not os.path.isdir(directory):
            self._make_directory(directory, durable=durable)
        with suppress(FileExistsError):
            os.symlink(encoded or b"-", os.fsencode(path))
        if durable:
            synchronise_directory(directory)

    def _make_directory(self, directory: str, *, durable: bool) -> None:
        make_directories(self._records, [os.path.basename(self._root)])
        if durable:
            make_directories(self._root, [os.path.basename(directory)])
            return
        with suppress(FileExistsError):
            os.mkdir(directory, DIRECTORY_MODE)
            os.chmod(directory, DIRECTORY_MODE)  # restore the bits that the umask removed

    def remove(self, key: str) -> None:
        """Remove the entry of a key, if there is one."""
        first, _, rest = key.partition("/")
        path = os.path.join(self.directory(first), self._file_name(self._encode(rest)))
        with suppress(FileNotFoundError):
            os.unlink(path)

    def add_all(self, keys: Iterable[str]) -> None:
        """Make the entries of some keys, which are on the disk after :meth:`complete`."""
        for key in keys:
            self.add(key, durable=False)

    def complete(self) -> None:
        """Note that every record is in the index."""
        make_directories(self._records, [os.path.basename(self._root)])
        if os.listdir(self._root):
            os.sync()  # Once for all entries, which may be thousands.
        with suppress(FileExistsError):
            os.symlink("-", os.path.join(self._root, COMPLETE))
        synchronise_directory(self._root)
