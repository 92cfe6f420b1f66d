"""
Follow paths through an image as Linux follows them in a container.

A symlink in a store path may lead anywhere.  Its target is a place in the image, and never a
place of the machine that builds the image: ``/etc/fonts`` may exist there and not in the
container, and two machines would make two images of the same packages.  So no link is left to
the operating system.  Paths are followed component by component: those below ``/nix/store`` are
looked up on the disk, and only in store paths of the image's closure; the caller looks up all
others.

Blocking.  Names are bytes throughout.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Sequence
from enum import Enum
from stat import S_ISDIR, S_ISLNK

from attrs import frozen

from nixery.layers.errors import MissingPath
from nixery.layers.tarball import STORE, name_in_store, printable

__all__ = ["Destination", "Kind", "LinkResolver", "LookUp", "follow"]

MAX_LINKS = 40
"""The number of symlinks that Linux follows in one path."""

_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)


class Kind(Enum):
    """The kinds of entries that a path can lead to."""

    DIRECTORY = "directory"
    FILE = "file"
    MISSING = "missing"
    UNKNOWN = "unknown"
    """The path leaves what can be looked up."""


LookUp = Callable[[Sequence[bytes]], Kind | bytes]
"""
A function that looks up a path: takes its components, all but the last of which are directories,
and returns its kind, or the target if it is a symlink.
"""


@frozen
class Destination:
    """
    The place that a path leads to.

    :param path: the place in the image, absolute.  It has no symlinks if it exists; otherwise its
        last components are those that were not looked up.
    """

    path: bytes
    kind: Kind

    @property
    def store_directory(self) -> bytes | None:
        """The path, if it is a directory in a store path."""
        in_store = self.path.startswith(os.fsencode(STORE) + b"/")
        return self.path if in_store and self.kind is Kind.DIRECTORY else None

    def contains(self, path: bytes) -> bool:
        """Tell whether the absolute ``path`` is this place, or lies below it."""
        return path == self.path or path.startswith(self.path.rstrip(b"/") + b"/")


def follow(path: bytes, look_up: LookUp, *, directory: bytes = b"/") -> Destination:
    """
    Follow a path, and the symlink that may be at its end.

    :param look_up: looks up the paths on the way.
    :param directory: the directory in which a relative path begins, without symlinks.
    """
    pending = path.split(b"/")[::-1]
    position = [] if path.startswith(b"/") else directory.split(b"/")[1:]
    links = 0
    while pending:
        part = pending.pop()
        if part in (b"", b"."):
            continue
        if part == b"..":
            del position[-1:]
            continue
        position.append(part)
        kind = look_up(position)
        if isinstance(kind, bytes):
            links += 1
            position.pop()
            if kind.startswith(b"/"):
                position.clear()
            pending += reversed(kind.split(b"/"))
            if links > MAX_LINKS:
                return _destination(position, pending, Kind.MISSING)
        elif kind is Kind.FILE:
            return _destination(position, pending, Kind.MISSING if pending else kind)
        elif kind is not Kind.DIRECTORY:
            return _destination(position, pending, kind)
    return _destination(position, pending, Kind.DIRECTORY)


def _look_up_nothing(_components: Sequence[bytes]) -> Kind:
    return Kind.UNKNOWN


class LinkResolver:
    """
    Follows paths through an image.

    :param closure: the store paths of the image.
    :param store: the directory of this machine that holds the store paths.
    """

    def __init__(self, closure: Iterable[str], store: str) -> None:
        self._names = frozenset(map(name_in_store, closure))
        self._store = os.path.realpath(os.fsencode(store))

    def follow(
        self, path: bytes, look_up: LookUp = _look_up_nothing, *, directory: bytes = b"/"
    ) -> Destination:
        """
        Follow a path, as :func:`follow` does.

        :param look_up: looks up paths outside the store; by default they are unknown.
        :raises MissingPath: the disk cannot be read.
        """

        def look_up_anywhere(components: Sequence[bytes]) -> Kind | bytes:
            if components[0] == b"nix":
                return self._in_store(components)
            return look_up(components)

        return follow(path, look_up_anywhere, directory=directory)

    def list_directory(self, directory: bytes) -> list[os.DirEntry[bytes]]:
        """
        Return the entries of a directory of a store path.

        :raises MissingPath: the disk cannot be read.
        """
        try:
            with os.scandir(self._on_disk(directory)) as listing:
                return list(listing)
        except OSError as error:
            raise _unreadable(directory, error) from error

    def may_leave(self, link: bytes) -> bool:
        """
        Tell whether a symlink in a store path may lead out of its directory.

        :raises MissingPath: the disk cannot be read.
        """
        try:
            target = os.readlink(self._on_disk(link))
        except OSError as error:
            raise _unreadable(link, error) from error
        return target.startswith(b"/") or b".." in target

    def _on_disk(self, path: bytes) -> bytes:
        return self._store + path[len(STORE) :]

    def _in_store(self, position: Sequence[bytes]) -> Kind | bytes:
        """Look up a path that begins with ``/nix``."""
        if len(position) > 1 and position[1] != b"store":
            return Kind.MISSING
        if len(position) < 3:
            return Kind.DIRECTORY
        if position[2] not in self._names:
            return Kind.MISSING
        path = b"/".join((self._store, *position[2:]))
        try:
            mode = os.lstat(path).st_mode
            if S_ISLNK(mode):
                return os.readlink(path)
        except OSError as error:
            if error.errno in _ABSENT:
                return Kind.MISSING
            raise _unreadable(b"/" + b"/".join(position), error) from error
        return Kind.DIRECTORY if S_ISDIR(mode) else Kind.FILE


def _unreadable(path: bytes, error: OSError) -> MissingPath:
    return MissingPath(path=printable(path), reason=error.strerror or str(error))


def _destination(position: Sequence[bytes], pending: Sequence[bytes], kind: Kind) -> Destination:
    place: list[bytes] = [*position]
    for part in reversed(pending):
        if part == b"..":
            del place[-1:]
        elif part not in (b"", b"."):
            place.append(part)
    return Destination(b"/" + b"/".join(place), kind)
