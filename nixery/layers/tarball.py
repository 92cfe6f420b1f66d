"""
Write layers as deterministic tar archives.

The same store paths make the same archive on any host, for any user, locale and
umask: entries are sorted by the bytes of their names, directories included;
modes are those of the Nix store (0444, 0555 for executables, 0555 for
directories); time stamps are 1, owners 0:0; hard links become separate files;
a sparse file is written out.  Names are bytes from the file system to the
archive and are never decoded in between.

An archive is either complete or an error is raised: the size in a header is that from
``fstat``, and a file that turns out longer or shorter ends the packing.

Blocking, and safe on any number of threads at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from operator import attrgetter
from stat import S_ISDIR, S_ISLNK, S_ISREG

from attrs import field, frozen, validators

from nixery.layers import ustar
from nixery.layers.chunked_stream import ChunkedStream
from nixery.layers.compression import Compression, LayerStream, PackedLayer
from nixery.layers.errors import MissingPath, ReservedName

__all__ = [
    "FORMAT",
    "STORE",
    "WHITEOUT_PREFIX",
    "Compression",
    "PackedLayer",
    "TreeEntry",
    "name_in_store",
    "pack_store_paths",
    "pack_tree",
    "printable",
]

FORMAT = 1
"""Part of the key of a cached layer: increased when the same paths give another
archive."""

STORE = "/nix/store"
"""The directory of store paths in an image, and by default on this machine."""

WHITEOUT_PREFIX = b".wh."
"""
The beginning of names that delete files of the layers below, or of the directory that they are in.
There is no way to write a file of such a name: image specification 1.1, "Whiteouts".
"""

_READABLE = 0o444
_EXECUTABLE = 0o555
_OPEN_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY

_by_name = attrgetter("name")


@frozen(kw_only=True)
class TreeEntry:
    """
    An entry of an archive that is not read from disk.

    :param path: relative, without a slash at its end, as bytes: ``b"etc/passwd"``.
    :param kind: ``directory``, ``file`` or ``symlink``.
    :param mode: permissions; those of a symlink are always 0777.
    :param data: of a file.
    :param target: of a symlink.
    """

    path: bytes
    kind: str = field(validator=validators.in_(("directory", "file", "symlink")))
    mode: int = 0o777
    data: bytes = b""
    target: bytes = b""


def pack_store_paths(
    paths: Sequence[str],
    write: Callable[[bytes], object],
    *,
    compression: Compression,
    store: str = STORE,
    should_stop: Callable[[], bool] | None = None,
) -> PackedLayer:
    """
    Write the layer that holds store paths, each with all of its contents.

    :param paths: as in the image, ``/nix/store/...``; order and repetition do
        not matter.
    :param write: takes the compressed bytes; its exceptions are passed on.
    :param store: the directory of this machine that holds the store paths.
    :param should_stop: called for every 256 KiB of archive, on this thread.
    :raises MissingPath: a path does not exist, cannot be read, changes while it is
        read, or holds an entry that is neither file, directory nor symlink.
    :raises ReservedName: a path holds a name that a layer cannot have.
    :raises ShuttingDown: ``should_stop`` said so.
    """
    stream = _make_stream(write, compression, should_stop)
    for parent in (b"nix/", b"nix/store/"):
        stream.add_header(parent, kind=ustar.DIRECTORY, mode=0o755)
    packer = _Packer(stream, os.fsencode(store))
    for name in sorted({name_in_store(path) for path in paths}):
        packer.add(name)
    stream.end_archive()
    return stream.finish()


def pack_tree(
    entries: Iterable[TreeEntry],
    write: Callable[[bytes], object],
    *,
    compression: Compression,
    should_stop: Callable[[], bool] | None = None,
) -> PackedLayer:
    """
    Write the layer that holds exactly these entries.

    Directories above them that are not among them are added with mode 0755.

    :param entries: in any order; of two with one path the last counts.
    :param write: as for :func:`pack_store_paths`.
    :raises ShuttingDown: ``should_stop`` said so.
    """
    tree: dict[tuple[bytes, ...], TreeEntry] = {}
    for entry in entries:
        parts = tuple(entry.path.split(b"/"))
        tree[parts] = entry
        for depth in range(len(parts) - 1, 0, -1):
            if parts[:depth] in tree:
                break
            tree[parts[:depth]] = TreeEntry(
                path=b"/".join(parts[:depth]), kind="directory", mode=0o755
            )
    stream = _make_stream(write, compression, should_stop)
    # Sorted by components and not by paths, so that a directory is directly
    # followed by its contents, as in the layers of store paths.
    for _, entry in sorted(tree.items(), key=lambda item: item[0]):
        _append_entry(stream, entry)
    stream.end_archive()
    return stream.finish()


class _Packer:
    """Appends store paths, read from the directory ``store``, to a stream."""

    def __init__(self, stream: LayerStream, store: bytes) -> None:
        self._stream = stream
        self._store = store

    def add(self, name: bytes) -> None:
        """Append the store path called ``name``, with all of its contents."""
        path = self._store + b"/" + name
        try:
            mode = os.lstat(path).st_mode
        except OSError as error:
            raise _unreadable(path, error) from error
        if S_ISDIR(mode):
            self._append_tree(path)
        elif S_ISLNK(mode):
            self._append_symlink(path)
        elif S_ISREG(mode):
            self._append_file(path)
        else:
            raise _unsupported_type(path)

    def _append_tree(self, top: bytes) -> None:
        # An explicit stack: trees may be deeper than Python's recursion limit.
        stack = self._append_directory(top)
        while stack:
            entry = stack.pop()
            # The kind costs no system call: it was read with the name.
            if entry.is_file(follow_symlinks=False):
                self._append_file(entry.path)
            elif entry.is_symlink():
                self._append_symlink(entry.path)
            elif entry.is_dir(follow_symlinks=False):
                stack += self._append_directory(entry.path)
            else:
                raise _unsupported_type(entry.path)

    def _append_directory(self, path: bytes) -> list[os.DirEntry[bytes]]:
        """Append a directory, and return its entries in reverse order, for the stack."""
        self._stream.add_header(
            self._archive_path(path) + b"/", kind=ustar.DIRECTORY, mode=_EXECUTABLE
        )
        try:
            with os.scandir(path) as entries:
                found = sorted(entries, key=_by_name, reverse=True)
        except OSError as error:
            raise _unreadable(path, error) from error
        for entry in found:
            if entry.name.startswith(WHITEOUT_PREFIX):
                raise ReservedName(path=printable(b"/" + self._archive_path(entry.path)))
        return found

    def _append_symlink(self, path: bytes) -> None:
        try:
            target = os.readlink(path)
        except OSError as error:
            raise _unreadable(path, error) from error
        self._stream.add_header(
            self._archive_path(path), kind=ustar.SYMLINK, mode=0o777, target=target
        )

    def _append_file(self, path: bytes) -> None:
        try:
            descriptor = os.open(path, _OPEN_FLAGS)
        except OSError as error:
            raise _unreadable(path, error) from error
        try:
            status = os.fstat(descriptor)
            if not S_ISREG(status.st_mode):
                raise _unsupported_type(path)
            mode = _EXECUTABLE if status.st_mode & 0o100 else _READABLE
            size = status.st_size
            self._stream.add_header(self._archive_path(path), kind=ustar.FILE, mode=mode, size=size)
            self._append_content(path, descriptor, size)
        finally:
            os.close(descriptor)
        self._stream.end_content(size)

    def _append_content(self, path: bytes, descriptor: int, size: int) -> None:
        remaining = size
        while True:
            # Ask for one byte more than is expected: the last read then notices a file that
            # has grown.
            buffer = self._stream.free_buffer()[: remaining + 1]
            try:
                count = os.readv(descriptor, [buffer])
            except OSError as error:
                raise _unreadable(path, error) from error
            if count > remaining:
                raise _size_changed(path, size)
            self._stream.advance(count)
            remaining -= count
            if count < len(buffer):
                break
        if remaining:
            raise _size_changed(path, size)

    def _archive_path(self, path: bytes) -> bytes:
        return b"nix/store" + path[len(self._store) :]


def _append_entry(stream: LayerStream, entry: TreeEntry) -> None:
    if entry.kind == "directory":
        stream.add_header(entry.path + b"/", kind=ustar.DIRECTORY, mode=entry.mode)
    elif entry.kind == "symlink":
        stream.add_header(entry.path, kind=ustar.SYMLINK, mode=0o777, target=entry.target)
    else:
        size = len(entry.data)
        stream.add_header(entry.path, kind=ustar.FILE, mode=entry.mode, size=size)
        stream.append(entry.data)
        stream.end_content(size)


def _make_stream(
    write: Callable[[bytes], object],
    compression: Compression,
    should_stop: Callable[[], bool] | None,
) -> LayerStream:
    """Return the stream that a layer is written to."""
    stream = ChunkedStream if compression.kind == "zstd-chunked" else LayerStream
    return stream(write, compression, should_stop)


def name_in_store(path: str) -> bytes:
    """
    Return the name of a store path in the store's directory.

    :raises MissingPath: ``path`` is not directly below ``/nix/store``.
    """
    name = path.removeprefix(STORE + "/")
    if name == path or "/" in name or name in ("", ".", ".."):
        raise MissingPath(path=path, reason=f"it is no path directly below {STORE}")
    return os.fsencode(name)


def printable(path: bytes) -> str:
    """Format a path for people: the same in every locale, and for any bytes."""
    return path.decode("utf-8", "backslashreplace")


def _unreadable(path: bytes, error: OSError) -> MissingPath:
    return MissingPath(path=printable(path), reason=error.strerror or str(error))


def _unsupported_type(path: bytes) -> MissingPath:
    return MissingPath(
        path=printable(path), reason="it is neither a file nor a directory nor a symlink"
    )


def _size_changed(path: bytes, size: int) -> MissingPath:
    return MissingPath(
        path=printable(path), reason=f"its size changed from {size} bytes while it was read"
    )
