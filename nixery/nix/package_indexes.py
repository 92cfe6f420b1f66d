"""
Keep the indexes of package sets, by revision and system.

Those of pinned revisions are files: they stay true, and making one takes a minute of a processor
for a large set.  Those of package sets that may change are kept in memory only, for their versions
mean nothing to another process.  The last one serves for completing what somebody types, also when
the set has changed since; what is missing it tells of the version that it was made of.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from cachetools import LRUCache
from twisted.logger import Logger

from nixery.errors import StorageError
from nixery.image.canonical_json import Json, canonical_json
from nixery.nix.package_index import PackageIndex, decode_index, decode_names, encode_index
from nixery.nix.suggestions import NameIndexes
from nixery.runtime.workers import Workers
from nixery.sources.source import Revision
from nixery.storage.filesystem.atomic_files import small_temp_file
from nixery.storage.filesystem.files import translate_os_errors

__all__ = ["MAX_FILES", "PackageIndexes"]

MAX_FILES = 8
"""The most files that are kept, those that were used last; that of nixpkgs has some 4 MB."""

MAX_AGE_SECONDS = 30 * 86400.0
"""Seconds for which a file was not used, when another one was, until it is removed."""

MAX_IN_MEMORY = 2
"""The indexes that are kept in memory; that of nixpkgs has some 40 MB."""

_SUFFIX = ".json.gz"

T = TypeVar("T")


class PackageIndexes:
    """
    Indexes of package sets in a directory, which is made when it is needed.

    :param directory: has nothing but these files.
    :param workers: read and write the files.
    :param evaluation_identity: what an evaluation depends on besides the revision, as
        :meth:`nixery.nix.interface.Nix.evaluation_identity` tells it.
    """

    _log = Logger()

    def __init__(
        self, directory: Path, workers: Workers, evaluation_identity: Mapping[str, str]
    ) -> None:
        self._directory = directory
        self._workers = workers
        self._evaluation_identity = evaluation_identity
        # With the versions that they were made of.
        self._in_memory: LRUCache[tuple[Revision, str], tuple[str | None, PackageIndex]]
        self._in_memory = LRUCache(MAX_IN_MEMORY)

    async def get(self, revision: Revision, system: str) -> PackageIndex | None:
        """
        Return the index of a revision, which may be of another version of it.

        :return: ``None`` if it has not been made.
        """
        key = revision.without_version(), system
        if key not in self._in_memory:
            read = await self._read(revision, system, decode_index)
            if read is None:
                return None
            self._in_memory[key] = revision.version, read
        return self._in_memory[key][1]

    async def exists(self, revision: Revision, system: str) -> bool:
        """Tell whether there is an index of exactly what a revision is now."""
        return await self._names(revision, system) is not None

    async def recall_names(self, known: NameIndexes, revision: Revision, system: str) -> None:
        """
        Add the names at the top of a revision to the known ones.

        Nothing happens if they are known already, may change, or are not here.
        """
        if known.top_level(revision, system) is None:
            names = await self._names(revision, system)
            if names is not None:
                await self._workers.run(
                    lambda: known.add_top_level(revision, system, known.level(names))
                )

    async def _names(self, revision: Revision, system: str) -> tuple[str, ...] | None:
        version, index = self._in_memory.get((revision.without_version(), system), (None, None))
        if index is not None and revision.is_fixed and version == revision.version:
            return index.names
        return await self._read(revision, system, decode_names)

    async def add(self, revision: Revision, system: str, index: PackageIndex) -> None:
        """
        Keep an index, in place of any earlier one.

        :raises StorageError: it cannot be written.
        """
        if not revision.pinned:
            self._in_memory[revision.without_version(), system] = revision.version, index
            return
        identity = self._identity(revision, system)
        data = await self._workers.run(encode_index, index, identity)
        await self._workers.run(_write, self._path(identity), data)

    async def _read(
        self,
        revision: Revision,
        system: str,
        decode: Callable[[bytes, Mapping[str, Json]], T],
    ) -> T | None:
        if not revision.pinned:
            return None
        identity = self._identity(revision, system)
        path = self._path(identity)
        try:
            return await self._workers.run(_read, path, lambda data: decode(data, identity))
        except (ValueError, StorageError) as error:
            self._log.warn("{path} is not used: {error}", path=path, error=error)
            return None

    def _identity(self, revision: Revision, system: str) -> Mapping[str, Json]:
        return {
            "revision": dict(revision.identity),
            "system": system,
            "evaluation": dict(self._evaluation_identity),
        }

    def _path(self, identity: Mapping[str, Json]) -> Path:
        return self._directory / (hashlib.sha256(canonical_json(identity)).hexdigest() + _SUFFIX)


def _read(path: Path, decode: Callable[[bytes], T]) -> T | None:
    """
    Read a file, and note that it was used; :return: ``None`` if there is none.  Blocks.

    :raises ValueError: it cannot be used, and was removed.
    :raises StorageError: the system failed.
    """
    with translate_os_errors("read an index of packages"):
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
    try:
        content = decode(data)
    except ValueError:
        with suppress(OSError):
            path.unlink()
        raise
    with suppress(OSError):
        os.utime(path)
    return content


def _write(path: Path, data: bytes) -> None:
    """Write a file, and remove those that are too old or too many.  Blocks."""
    with translate_os_errors("keep an index of packages"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with small_temp_file(str(path.parent), data) as temp_file:
            temp_file.rename(str(path))
        _remove_old(path.parent)


def _remove_old(directory: Path) -> None:
    used: list[tuple[float, Path]] = []
    for path in directory.iterdir():
        # Another process may remove it, or be writing it.
        with suppress(FileNotFoundError):
            used.append((path.stat().st_mtime, path))
    used.sort(reverse=True)
    for position, (time, path) in enumerate(used):
        # Compared with each other: the clock may have been set since.
        if position >= MAX_FILES or used[0][0] - time > MAX_AGE_SECONDS:
            path.unlink(missing_ok=True)
