"""
Stores made of Python values, and what archives hold, as values to compare.
"""

from __future__ import annotations

import ctypes
import errno
import gzip
import io
import os
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Mapping
from pathlib import Path

from attrs import frozen
from zstandard import ZstdDecompressor

__all__ = ["File", "Link", "Node", "Seen", "from_disk", "make_tree", "make_removable", "normalised"]
__all__ += ["below", "kind_in_root", "expanded", "read_with_gnu_tar", "read_with_tarfile"]


@frozen
class File:
    """A file with what is in it."""

    data: bytes = b""
    executable: bool = False


@frozen
class Link:
    """A symlink."""

    target: bytes


Node = File | Link | Mapping[bytes, "Node"]
"""A file, a symlink, or a directory by the names in it."""

Seen = dict[bytes, tuple[str, int, bytes]]
"""By path: the type, the permissions, and what it holds or leads to."""


def make_tree(path: bytes, node: Node) -> None:
    """Put ``node`` on the disk, at a path where nothing is, writable by the owner."""
    if isinstance(node, File):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
        with open(descriptor, "wb") as file:
            file.write(node.data)
        if node.executable:
            os.chmod(path, 0o755)
    elif isinstance(node, Link):
        os.symlink(node.target, path)
    else:
        os.mkdir(path)
        for name, below in node.items():
            make_tree(path + b"/" + name, below)


def normalised(path: bytes, node: Node) -> Seen:
    """Return the entries that an archive should hold of ``node``, at ``path`` in it."""
    if isinstance(node, File):
        return {path: ("file", 0o555 if node.executable else 0o444, node.data)}
    if isinstance(node, Link):
        return {path: ("symlink", 0o777, node.target)}
    seen: Seen = {path: ("directory", 0o555, b"")}
    for name, below in node.items():
        seen |= normalised(path + b"/" + name, below)
    return seen


def from_disk(top: bytes, path: bytes = b"") -> Seen:
    """All that is below the directory ``top``."""
    seen: Seen = {}
    for name in os.listdir(top):
        source = top + b"/" + name
        below = path + b"/" + name if path else name
        mode = os.lstat(source).st_mode
        if stat.S_ISDIR(mode):
            seen[below] = ("directory", stat.S_IMODE(mode), b"")
            seen |= from_disk(source, below)
        elif stat.S_ISLNK(mode):
            seen[below] = ("symlink", 0o777, os.readlink(source))
        else:
            seen[below] = ("file", stat.S_IMODE(mode), Path(os.fsdecode(source)).read_bytes())
    return seen


def below(top: Path) -> list[Path]:
    """
    All that is below a directory, sorted; no link is looked at.

    Before 3.11.4 Python's own ``rglob`` asks whether links lead to directories.  Those
    that storages keep lead nowhere, and are too long for a name.
    """
    return sorted(
        Path(directory, name)
        for directory, directories, files in os.walk(top)
        for name in (*directories, *files)
    )


def read_with_gnu_tar(archive: bytes, scratch: str) -> Seen:
    """
    Unpack with GNU tar, into a directory that is made, and look at the disk.

    tar calls gzip and zstd, which know nothing of the libraries that we write with; a
    system without the program zstd leaves expanding to the library.
    """
    os.mkdir(scratch)
    if _compression(archive) == "zstd" and shutil.which("zstd") is None:
        archive = expanded(archive)
    option = _TAR_OPTIONS[_compression(archive)]
    subprocess.run(
        ["tar", "--extract", *option, "--preserve-permissions", "--no-same-owner"],
        input=archive,
        cwd=scratch,
        check=True,
    )
    return from_disk(os.fsencode(scratch))


def read_with_tarfile(archive: bytes) -> Seen:
    """Read with Python's own module, and without the disk."""
    seen: Seen = {}
    with tarfile.open(
        fileobj=io.BytesIO(expanded(archive)),
        mode="r:",
        encoding="utf-8",
        errors="surrogateescape",
    ) as entries:
        for entry in entries:
            name = entry.name.encode("utf-8", "surrogateescape")
            if entry.isdir():
                seen[name] = ("directory", entry.mode, b"")
            elif entry.issym():
                target = entry.linkname.encode("utf-8", "surrogateescape")
                seen[name] = ("symlink", entry.mode, target)
            else:
                content = entries.extractfile(entry)
                data = b"" if content is None else content.read()
                seen[name] = ("file" if entry.isreg() else "other", entry.mode, data)
    return seen


def expanded(archive: bytes) -> bytes:
    """The archive in what may be compressed with gzip or zstd."""
    match _compression(archive):
        case "gzip":
            return gzip.decompress(archive)
        case "zstd":
            return ZstdDecompressor().decompressobj().decompress(archive)
        case _:
            return archive


_TAR_OPTIONS = {"gzip": ["--gzip"], "zstd": ["--zstd"], "none": []}


_OPENAT2 = 437
_RESOLVE_IN_ROOT = 0x10


def kind_in_root(root: str, path: bytes) -> str | None:
    """
    Return the kind that a path has for a process whose root directory is ``root``, as the
    kernel says (*openat2(2)*): ``file``, ``directory``, or ``None`` if nothing is there.
    """
    how = (ctypes.c_uint64 * 3)(os.O_PATH | os.O_CLOEXEC, 0, _RESOLVE_IN_ROOT)
    libc = ctypes.CDLL(None, use_errno=True)
    top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        descriptor = libc.syscall(_OPENAT2, top, path, how, ctypes.sizeof(how))
        number = ctypes.get_errno()
    finally:
        os.close(top)
    if descriptor < 0:
        if number in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise OSError(number, os.strerror(number), path)
    try:
        mode = os.fstat(descriptor).st_mode
    finally:
        os.close(descriptor)
    return "directory" if stat.S_ISDIR(mode) else "file"


def _compression(archive: bytes) -> str:
    magic = {b"\x1f\x8b\x08\x00": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}
    return magic.get(archive[:4], "none")


def make_removable(top: str) -> None:
    """Make directories without write permission writable, so that they can be deleted."""
    for directory, subdirectories, _ in os.walk(os.fsencode(top)):
        for name in subdirectories:
            path = os.path.join(directory, name)
            if not os.path.islink(path):
                os.chmod(path, 0o755)
