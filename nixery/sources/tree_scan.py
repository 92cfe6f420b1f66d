"""
Place watches on all files that an evaluation may read outside the Nix store.

Everything here runs on a worker thread: a checkout of nixpkgs has 100,000 files.

Each directory is watched for its entries, and then listed: what is made there after that has an
event.  Each file is watched as well, since its directory does not tell of writes by another hard
link.  So are the components of the configured paths: one that is replaced changes what the path
means.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from attrs import define, field

from nixery.sources.inotify import (
    IN_ATTRIB,
    IN_CLOSE_WRITE,
    IN_CREATE,
    IN_DELETE,
    IN_DELETE_SELF,
    IN_DONT_FOLLOW,
    IN_MASK_ADD,
    IN_MODIFY,
    IN_MOVE_SELF,
    IN_MOVED_FROM,
    IN_MOVED_TO,
    IN_ONLYDIR,
    Inotify,
)
from nixery.sources.mounts import Mount, file_system, read_mounts
from nixery.sources.readable_paths import ReadablePath
from nixery.sources.source import STORE, is_pinned_path

__all__ = ["MAX_WATCHES", "Interrupted", "Placement", "TooManyWatches", "Unwatchable", "scan"]

MAX_WATCHES = 250_000
"""The most files that are watched; each takes about 1 KiB of the kernel's memory."""

MAX_SYMLINKS = 40
"""The most symbolic links that the kernel follows in one path."""

WATCH_LIMIT = Path("/proc/sys/fs/inotify/max_user_watches")

_ANY = IN_DONT_FOLLOW | IN_MASK_ADD
_COMPONENT = _ANY | IN_ATTRIB | IN_MOVE_SELF | IN_DELETE_SELF
# A mapping of a file that is written through tells nothing until it is closed.
_FILE = _ANY | IN_ATTRIB | IN_MODIFY | IN_CLOSE_WRITE
_DIRECTORY = _ANY | IN_ONLYDIR | IN_ATTRIB | IN_CREATE | IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO

_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


class Unwatchable(Exception):
    """
    Changes of these files would not all be noticed.

    :param lasting: false if that is likely to be over soon.
    """

    def __init__(self, reason: str, *, lasting: bool = True) -> None:
        super().__init__(reason)
        self.lasting = lasting


class TooManyWatches(Unwatchable):
    """There are more files than are watched, or than the kernel allows."""


class Interrupted(Exception):
    """The daemon stops."""


@define(kw_only=True, eq=False)
class Placement:
    """
    The watches that stand.

    :param inotify: the queue of their events.
    :param interrupted: called now and then; true ends the scan.
    :param components: the numbers of the watches on components of the configured paths.
    :param directories: the paths of the directories in the trees, by the numbers of their watches.
    :param names: the paths of all components, those of symlinks included.
    :param trees: the files and directories that may be read, without symlinks.
    :param mounts: the mounts that these paths depended on before the watches were placed.
    :param count: the number of watches; an estimate, once files have been renamed.
    """

    inotify: Inotify
    interrupted: Callable[[], bool]
    components: set[int] = field(factory=set)
    directories: dict[int, bytes] = field(factory=dict)
    names: set[bytes] = field(factory=set)
    trees: Sequence[bytes] = ()
    mounts: Sequence[Mount] = ()
    count: int = 0

    def concerning(self, mounts: Iterable[Mount]) -> Sequence[Mount]:
        """Return those mounts that decide what is at the watched paths, in their order."""
        inside = tuple(tree + b"/" for tree in self.trees)
        at = {*self.names, *self.trees, b"/"}
        return [each for each in mounts if each.point in at or each.point.startswith(inside)]

    def refresh(self, paths: Iterable[bytes], *, mounts_changed: bool) -> bool:
        """
        Watch what is new.

        :param paths: files and directories that may be new.
        :param mounts_changed: whether anything was mounted or unmounted.
        :return: false if everything has to be watched anew.
        :raises Unwatchable: something cannot be watched.
        :raises Interrupted: the daemon stops.
        """
        if mounts_changed and self.concerning(read_mounts()) != self.mounts:
            return False
        try:
            self.add(paths)
        except TooManyWatches:
            # The number is an estimate.
            return False
        return True

    def add(self, paths: Iterable[bytes]) -> None:
        """
        Watch files and directories that are new in the trees.

        :raises Unwatchable: one cannot be watched.
        :raises Interrupted: the daemon stops.
        """
        for path in paths:
            try:
                mode = os.lstat(path).st_mode
            except OSError as error:
                # Its removal has an event of its own, and what is in a directory that may not be
                # entered cannot be read.
                if error.errno not in (*_GONE, errno.EACCES):
                    raise _unwatchable(error) from error
            else:
                if stat.S_ISDIR(mode):
                    self._add_tree(path)
                else:
                    self._add_file(path, stat.S_IFMT(mode))

    def add_components(self, path: Path) -> bytes:
        """
        Watch the components of a path, and of the symlinks that it leads through.

        :return: the path without symlinks.
        :raises Unwatchable: it does not exist, or a component cannot be watched.
        """
        real = b"/"
        rest = os.fsencode(path).split(b"/")[::-1]
        links = 0
        while rest:
            name = rest.pop()
            if name in (b"", b"."):
                continue
            if name == b"..":
                real = os.path.dirname(real)
                continue
            current = os.path.join(real, name)
            # Watched before it is read: what is changed after that has an event.
            self.names.add(current)
            self.components.add(self._watch(current, _COMPONENT))
            try:
                target = os.readlink(current)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise _unwatchable(error) from error
                real = current
                continue
            links += 1
            if links > MAX_SYMLINKS:
                raise Unwatchable(f"{path} has too many symbolic links", lasting=False)
            if target.startswith(b"/"):
                real = b"/"
            rest += target.split(b"/")[::-1]
        return real

    def check_file_systems(self) -> None:
        """
        Check that whatever changes the files makes events here.

        :raises Unwatchable: another machine or program may change them unseen.
        """
        mounted = {mount.point for mount in self.mounts} - self.names - {b"/"}
        # A symlink is on the file system of its directory: all directories are among these.
        for path in sorted({b"/", *self.names, *self.trees, *mounted}):
            try:
                name, local = file_system(path)
            except OSError as error:
                if path in mounted and error.errno in _GONE:
                    continue  # Another mount hides it.
                raise _unwatchable(error) from error
            is_read = path in self.trees or path in mounted
            # An image of a container has the directory that a volume is mounted at.
            if not local and (is_read or name != "overlayfs"):
                raise Unwatchable(f"{_text(path)} is on a file system ({name}) that changes unseen")

    def _add_tree(self, top: bytes) -> None:
        """Watch a directory and all that is below it."""
        pending = [top]
        while pending:
            if self.interrupted():
                raise Interrupted
            directory = pending.pop()
            try:
                self.directories[self._watch(directory, _DIRECTORY)] = directory
                with os.scandir(directory) as entries:
                    for entry in entries:
                        if entry.is_dir(follow_symlinks=False):
                            pending.append(entry.path)
                        elif entry.is_file(follow_symlinks=False):
                            self._add_file(entry.path, stat.S_IFREG)
                        else:
                            # Errors of one must not end the loop: they are dealt with there.
                            self.add((entry.path,))
            except OSError as error:
                if error.errno not in _GONE:
                    raise _unwatchable(error) from error
            except Unwatchable as error:
                closed = isinstance(error.__cause__, PermissionError) and not os.access(
                    directory, os.X_OK
                )
                # Nothing can be read in a directory that this user may not enter; a change of its
                # mode has an event in the directory above.
                if error.lasting and not closed:
                    raise

    def _add_file(self, path: bytes, kind: int) -> None:
        """Watch what is no directory."""
        if kind == stat.S_IFREG:
            try:
                self._watch(path, _FILE)
            except Unwatchable as error:
                # What cannot be read by this user cannot be evaluated; a change of its mode has an
                # event in its directory.
                if error.lasting and not isinstance(error.__cause__, PermissionError):
                    raise
        elif kind == stat.S_IFLNK:
            self._check_link(path)
        elif kind != stat.S_IFSOCK:
            raise Unwatchable(f"{_text(path)} is a device or a pipe")

    def _check_link(self, path: bytes) -> None:
        """
        Check that a symlink leads to what is watched, or into the Nix store.

        By the names alone: a link on its way is checked itself.

        :raises Unwatchable: it does not.
        """
        try:
            target = os.readlink(path)
        except OSError:
            return  # It is gone, which has an event.
        at, rest = os.path.dirname(path), target
        if target.startswith(b"/"):
            at = b"/"
        while rest == b".." or rest.startswith(b"../"):
            at, rest = os.path.dirname(at), rest[3:].lstrip(b"/")
        place = os.path.join(at, rest)
        inside = any(place == tree or place.startswith(tree + b"/") for tree in self.trees)
        in_store = place.startswith(os.fsencode(STORE) + b"/")
        if b".." in rest.split(b"/") or not (inside or in_store):
            raise Unwatchable(
                f"the symbolic link {_text(path)} leads out of the package set, to {_text(target)}"
            )

    def _watch(self, path: bytes, mask: int) -> int:
        if self.count >= MAX_WATCHES:
            raise TooManyWatches(f"there are more than {MAX_WATCHES} files")
        try:
            watch = self.inotify.add(path, mask)
        except OSError as error:
            raise _unwatchable(error) from error
        self.count += 1
        return watch


def scan(paths: Sequence[ReadablePath], interrupted: Callable[[], bool]) -> Placement:
    """
    Watch paths with all that is below them, and their own components.

    :param interrupted: called now and then; true ends the scan.
    :return: watches whose events may tell of changes already.
    :raises Unwatchable: something would change unseen.
    :raises Interrupted: the daemon stops.
    """
    try:
        placement = Placement(inotify=Inotify(), interrupted=interrupted)
    except OSError as error:
        raise _unwatchable(error) from error
    try:
        _place(placement, paths)
    except BaseException:
        placement.inotify.close()
        raise
    return placement


def _place(placement: Placement, paths: Sequence[ReadablePath]) -> None:
    # Read first: of a mount that is made later, the mount table tells.
    mounts = read_mounts()
    trees = set()
    for path in paths:
        real = path.tree(Path(os.fsdecode(placement.add_components(path.path))))
        if real == real.parent:
            raise Unwatchable("the package set may read every file of this machine")
        if not is_pinned_path(real):
            trees.add(os.fsencode(real))
    placement.trees = sorted(trees)
    placement.mounts = placement.concerning(mounts)
    placement.check_file_systems()
    placement.add(placement.trees)


def _unwatchable(error: OSError) -> Unwatchable:
    """Return what an error of the system means for the watch."""
    path = _text(error.filename) if isinstance(error.filename, bytes) else "a file"
    if error.errno == errno.ENOSPC:
        try:
            limit = WATCH_LIMIT.read_text().strip()
        except OSError:
            limit = "unknown"
        unwatchable: Unwatchable = TooManyWatches(
            "there are more files than the kernel lets this user watch"
            f" (fs.inotify.max_user_watches, which is {limit}, can be raised with sysctl)"
        )
    elif error.errno == errno.EMFILE:
        unwatchable = Unwatchable(
            "this user watches too much already"
            " (fs.inotify.max_user_instances can be raised with sysctl)"
        )
    elif error.errno in _GONE:
        unwatchable = Unwatchable(f"{path} is not there", lasting=False)
    else:
        unwatchable = Unwatchable(f"{path} cannot be watched: {error.strerror}")
    unwatchable.__cause__ = error
    return unwatchable


def _text(path: bytes) -> str:
    return os.fsdecode(path)
