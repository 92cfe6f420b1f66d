"""
Find and replace files that are kept in Git LFS.

The repository has a *pointer* in place of the content of such a file: a text of three lines or
more with the content's hash.  A file is one by its own content, as git-lfs has it too: attributes
may be missing in a tree that was exported, and a pointer is never what a package is made of.
All functions block.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from attrs import frozen

__all__ = ["Pointer", "fill_pointers", "find_pointers", "parse_pointer", "work_trees"]

MAX_POINTER_BYTES = 1024
"""Pointers are shorter than this, by their specification."""

MIN_POINTER_BYTES = 100

REPOSITORY = ".git"

_POINTER = re.compile(
    rb"version (?:https://git-lfs\.github\.com/spec/v1|https://hawser\.github\.com/spec/v1"
    rb"|http://git-media\.io/v/2)\n"
    rb"(?P<extensions>(?:ext-[0-9][^\n]*\n)*)"
    rb"oid sha256:(?P<oid>[0-9a-f]{64})\n"
    rb"size (?P<size>[0-9]{1,18})\n?"
)


@frozen(kw_only=True)
class Pointer:
    """
    The content of a pointer.

    :param oid: the SHA-256 hash of the file's content, in hexadecimal.
    :param size: the size of the content in bytes.
    :param extended: whether programs of the repository's people change the content.
    """

    oid: str
    size: int
    extended: bool = False


def parse_pointer(content: bytes) -> Pointer | None:
    """Parse the content of a file; ``None`` if it is not a pointer."""
    match = _POINTER.fullmatch(content)
    if match is None:
        return None
    return Pointer(
        oid=match["oid"].decode(), size=int(match["size"]), extended=bool(match["extensions"])
    )


def find_pointers(root: Path) -> dict[str, Pointer]:
    """
    Find the pointers in a directory.

    Directories with a repository of their own, as those of submodules, are left out.

    :return: the pointers by their paths in the directory.
    """
    found = {}
    for _, entries in _directories(root, nested=False):
        for entry in entries:
            if _may_be_pointer(entry):
                pointer = parse_pointer(_beginning(entry.path))
                if pointer is not None:
                    found[os.path.relpath(entry.path, root)] = pointer
    return found


def _may_be_pointer(entry: os.DirEntry[str]) -> bool:
    # nixpkgs has some 40,000 files, most of which need not be read.
    if not entry.is_file(follow_symlinks=False):
        return False
    return MIN_POINTER_BYTES <= entry.stat(follow_symlinks=False).st_size < MAX_POINTER_BYTES


def _beginning(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, MAX_POINTER_BYTES)
    finally:
        os.close(descriptor)


def work_trees(root: Path) -> list[Path]:
    """Return the directories in a checkout that have a repository: its own, and submodules."""
    return [
        Path(directory)
        for directory, entries in _directories(root, nested=True)
        if any(entry.name == REPOSITORY for entry in entries)
    ]


def fill_pointers(root: Path, pointers: Mapping[str, Pointer], media: Path) -> list[str]:
    """
    Replace the pointers in a directory by the content of their files.

    :param pointers: as :func:`find_pointers` returns them.
    :param media: the directory of the contents, as git-lfs keeps them, which has checked them.
    :return: the paths of the pointers whose content is not there.
    """
    missing = []
    for path, pointer in pointers.items():
        content = media / pointer.oid[:2] / pointer.oid[2:4] / pointer.oid
        there = content.is_file() and content.stat().st_size == pointer.size
        if there and not pointer.extended:
            shutil.copyfile(content, root / path)
        else:
            missing.append(path)
    return sorted(missing)


def _directories(root: Path, *, nested: bool) -> Iterator[tuple[str, list[os.DirEntry[str]]]]:
    """
    Iterate over a directory and those below it, with their entries.

    :param nested: whether those that have a repository of their own are included.
    """
    pending = [str(root)]
    while pending:
        directory = pending.pop()
        with os.scandir(directory) as scanned:
            entries = list(scanned)
        own = any(entry.name == REPOSITORY for entry in entries)
        if own and not nested and directory != str(root):
            continue
        pending += [
            entry.path
            for entry in entries
            if entry.is_dir(follow_symlinks=False) and entry.name != REPOSITORY
        ]
        yield directory, entries
