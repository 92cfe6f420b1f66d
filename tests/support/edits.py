"""Changes of a directory, as programs make them, to be observed or not."""

from __future__ import annotations

import ctypes
import mmap
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["EDITS", "Editor", "exchange"]

EDITS = int(os.environ.get("NIXERY_TEST_EDITS", "500"))
"""The number of random edits that a test makes that observes them; fewer where Nix runs."""

MAX_FILES = 100
"""The number of files and directories at which a tree is cleared."""

RENAME_EXCHANGE = 2
AT_FDCWD = -100


class Editor:
    """
    Makes random edits of a tree, as programs make them.

    :param outside: a directory of the same file system.
    """

    def __init__(self, tree: Path, outside: Path, seed: int) -> None:
        self.tree = tree
        self.outside = outside
        self.random = random.Random(seed)
        self.count = 0
        self.linked: list[Path] = []
        self.moved: list[Path] = []
        self.open: list[Any] = []
        self.edits: tuple[Callable[[], object], ...] = (
            *(self.overwrite, self.append, self.truncate, self.replace, self.copy_in),
            *(self.rename, self.rename_directory, self.move_out, self.move_in, self.fill),
            *(self.delete, self.delete_directory, self.link, self.chmod, self.chmod_directory),
            *(self.write_by_hard_link, self.hard_link_in, self.write_by_open_file, self.map),
            *(self.exchange, self.replace_parent),
        )

    def edit(self) -> str:
        """Make one, and return its name."""
        # A tree that grows makes each edit slower than the last.
        crowded = sum(1 for _ in self.tree.rglob("*")) > MAX_FILES
        edit = self.clear if crowded else self.random.choice(self.edits)
        edit()
        return edit.__name__

    def close(self) -> None:
        for file in self.open:
            file.close()

    def name(self) -> str:
        self.count += 1
        return f"n{self.count}"

    def file(self) -> Path:
        files = [path for path in self.tree.rglob("*") if path.is_file() and not path.is_symlink()]
        if not files:
            return self.new_file(self.tree)
        return self.random.choice(sorted(files))

    def folder(self) -> Path:
        folders = [path for path in self.tree.rglob("*") if path.is_dir()]
        return self.random.choice(sorted([*folders, self.tree]))

    def lower_folder(self) -> Path:
        folder = self.folder()
        if folder == self.tree:
            folder = self.tree / self.name()
            folder.mkdir()
        return folder

    def is_inside(self, file: os.stat_result) -> bool:
        return file.st_ino in {path.lstat().st_ino for path in self.tree.rglob("*")}

    def link_out(self) -> Path:
        """Make a hard link of a file outside of the tree."""
        link = self.outside / self.name()
        os.link(self.file(), link)
        return link

    def new_file(self, folder: Path) -> Path:
        path = folder / self.name()
        path.write_bytes(self.random.randbytes(20))
        return path

    def overwrite(self) -> None:
        """The same size, and the times as they were."""
        path = self.file()
        before = path.stat()
        with path.open("r+b") as file:
            file.write(self.random.randbytes(max(1, before.st_size)))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    def append(self) -> None:
        with self.file().open("ab") as file:
            file.write(b"x")

    def truncate(self) -> None:
        path = self.file()
        os.truncate(path, path.stat().st_size + 1)

    def replace(self) -> None:
        path = self.file()
        os.replace(self.new_file(self.random.choice([path.parent, self.outside])), path)

    def copy_in(self) -> None:
        source = self.new_file(self.outside)
        with source.open("rb") as old, self.file().open("r+b") as new:
            os.copy_file_range(old.fileno(), new.fileno(), 10)

    def rename(self) -> None:
        self.file().rename(self.folder() / self.name())

    def rename_directory(self) -> None:
        self.lower_folder().rename(self.tree / self.name())

    def move_out(self) -> None:
        source = self.random.choice([self.file, self.lower_folder])()
        target = self.outside / self.name()
        source.rename(target)
        self.moved.append(target)

    def move_in(self) -> None:
        if not self.moved:
            folder = self.outside / self.name()
            folder.mkdir()
            self.new_file(folder)
            self.moved.append(folder)
        self.moved.pop().rename(self.folder() / self.name())

    def fill(self) -> None:
        folder = self.folder()
        for _ in range(self.random.randrange(1, 4)):
            folder /= self.name()
            folder.mkdir()
            self.new_file(folder)

    def delete(self) -> None:
        self.file().unlink()

    def delete_directory(self) -> None:
        shutil.rmtree(self.lower_folder())

    def clear(self) -> None:
        for path in self.tree.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def link(self) -> None:
        """Let a link lead elsewhere at once."""
        link = self.outside / self.name()
        link.symlink_to(self.name())
        link.replace(self.tree / "link")

    def chmod(self) -> None:
        path = self.file()
        path.chmod(path.stat().st_mode ^ 0o111)

    def chmod_directory(self) -> None:
        path = self.folder()
        path.chmod(path.stat().st_mode ^ 0o005)

    def write_by_hard_link(self) -> None:
        """A link that is made out of the tree, or was made before."""
        if len(self.linked) < 5 or self.random.random() < 0.3:
            self.linked.append(self.link_out())
        while True:
            link = self.random.choice(self.linked)
            if self.is_inside(link.stat()):
                break
            self.linked.remove(link)
            self.linked.append(self.link_out())
        self.before_write()
        with link.open("ab") as file:
            file.write(b"y")

    def hard_link_in(self) -> None:
        """A file that is linked into the tree, while its other name goes and it is written."""
        file = self.new_file(self.outside).open("ab", buffering=0)
        self.open.append(file)
        os.link(file.name, self.tree / self.name())
        os.unlink(file.name)
        self.before_write()
        file.write(b"z")

    def write_by_open_file(self) -> None:
        """A file that stays open, wherever it is moved."""
        if len(self.open) < 5:
            self.open.append(self.file().open("ab", buffering=0))
        while True:
            file = self.random.choice(self.open)
            there = {
                (each.stat().st_dev, each.stat().st_ino)
                for each in self.tree.rglob("*")
                if each.is_file()
            }
            stat = os.fstat(file.fileno())
            if (stat.st_dev, stat.st_ino) in there:
                break
            self.open.remove(file)
            file.close()
            self.open.append(self.file().open("ab", buffering=0))
        self.before_write()
        file.write(b"w")

    def map(self) -> None:
        path = self.file()
        if path.stat().st_size == 0:
            path.write_bytes(b"mapped")
        with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
            mapped[0] ^= 1

    def exchange(self) -> None:
        exchange(self.lower_folder(), self.new_file(self.tree))

    def replace_parent(self) -> None:
        """Put a copy in the place of all."""
        parent = self.tree.parent
        copy = self.outside / self.name()
        shutil.copytree(parent, copy, symlinks=True)
        exchange(parent, copy)

    before_write: Callable[[], object] = staticmethod(lambda: None)


def exchange(one: Path, other: Path) -> None:
    """Swap two files or directories at once."""
    libc = ctypes.CDLL(None, use_errno=True)
    paths = os.fsencode(one), os.fsencode(other)
    if libc.renameat2(AT_FDCWD, paths[0], AT_FDCWD, paths[1], RENAME_EXCHANGE):
        raise OSError(ctypes.get_errno(), "renameat2")
