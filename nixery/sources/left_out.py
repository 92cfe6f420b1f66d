"""
Find what a commit of a git repository has and a plain fetch leaves out: submodules, and the content
of files in Git LFS.

A package that takes the pointer of a file in Git LFS for its content would be built, and be wrong.
So pointers are left out of the tree, and what needs one of these files fails.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from twisted.logger import Logger

from nixery.runtime.workers import Workers
from nixery.sources.lfs import find_pointers
from nixery.sources.source import SourceTree
from nixery.storage.filesystem.files import translate_os_errors

__all__ = ["LeftOutFinder", "remove_files", "write_paths"]


class LeftOutFinder:
    """
    Finds what is left out, and warns of it once.

    :param workers: for the file system.
    """

    _log = Logger()

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._warned: set[tuple[str, str]] = set()

    async def pointers(self, tree: SourceTree, path: Path) -> Sequence[str]:
        """
        Return the paths of the pointers that have to be left out, sorted.

        :param path: the directory of the files that were fetched.
        """
        if tree.kind != "git":
            return ()
        if not tree.submodules and await self._workers.run(_has_submodules, path):
            self._warn(tree.url, "it has submodules, which are left out", "submodules")
        if tree.lfs:
            return ()
        found = sorted(await self._workers.run(find_pointers, path))
        if found:
            what = f"{len(found)} of its files are in Git LFS, as {found[0]}, and are left out"
            self._warn(tree.url, what, "lfs")
        return found

    def _warn(self, url: str, what: str, setting: str) -> None:
        if (url, setting) not in self._warned:
            self._warned.add((url, setting))
            self._log.warn(
                "{url}: {what}; set {setting}: true to have them",
                url=url,
                what=what,
                setting=setting,
            )


# -- on worker threads --------------------------------------------------------


def remove_files(directory: Path, paths: Sequence[str]) -> None:
    """
    Remove files from a directory.

    :param paths: their paths in it.
    """
    for path in paths:
        (directory / path).unlink()


def write_paths(file: Path, paths: Sequence[str]) -> None:
    """
    Write a list of paths, one a line, into a new file.

    :raises StorageError: it cannot be written.
    """
    with translate_os_errors("list the files that are left out of a source"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"".join(os.fsencode(path) + b"\n" for path in paths))


def _has_submodules(path: Path) -> bool:
    return (path / ".gitmodules").is_file()
