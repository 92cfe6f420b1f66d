"""
Merge trees of the store into one tree of symlinks.

Directories are real ones at all levels, so that a container can add files to
them; all other entries become symlinks into the store.  The first tree that has a
name keeps it, and entries that are dropped are recorded.

A symlink to a directory stays one link while no other tree has that name.  If
another has, it is followed, if it leads to a directory of the store, and the contents
of that directory are merged.  A link that leads back into a directory that is being
merged around it is not followed, because the merge would not end: along any way down,
a directory of the store is merged once, so the depth is bounded by their number.

Blocking: it reads the directories.  Names are bytes throughout.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from attrs import Factory, define, frozen

from nixery.layers.errors import MissingPath
from nixery.layers.tarball import STORE, TreeEntry, name_in_store, printable

__all__ = ["Conflict", "SymlinkTree"]


@frozen(kw_only=True, order=True)
class Conflict:
    """
    A path that two trees have, one of which keeps it.

    :param path: the path in the image, ``/bin/vi``.
    :param kept: the path in the store that is kept.
    :param dropped: the path in the store that is dropped.
    """

    path: str
    kept: str
    dropped: str


@define(eq=False)
class _Directory:
    """
    A directory of the merged tree.

    :param merged_from: the directories merged into it, in order.
    """

    parent: _Directory | None
    mode: int = 0o755
    merged_from: list[bytes] = Factory(list)
    children: dict[bytes, _Node] = Factory(dict)

    def is_within(self, origin: bytes) -> bool:
        """Tell whether ``origin`` has been merged into this directory or one above."""
        node: _Directory | None = self
        while node is not None:
            if origin in node.merged_from:
                return True
            node = node.parent
        return False


@frozen(eq=False)
class _Link:
    """A symlink to ``source``, which is itself a symlink where ``is_symlink``."""

    source: bytes
    is_symlink: bool


_Node = _Directory | _Link | TreeEntry


class SymlinkTree:
    """
    A tree that is being merged.

    :param store: the directory of this machine that holds the store paths.
    :param ignored: names that are left out where they are directly below the
        top of a tree.
    """

    def __init__(self, store: str, ignored: frozenset[bytes]) -> None:
        self._store = os.path.realpath(os.fsencode(store))
        self._ignored = ignored
        self._root = _Directory(None)
        self._conflicts: list[Conflict] = []

    def merge(self, path: str) -> bool:
        """
        Merge the contents of a store path.

        :return: true if it is a directory; otherwise nothing is merged.
        :raises MissingPath: it does not exist or cannot be read.
        """
        source = self._store + b"/" + name_in_store(path)
        if not os.path.lexists(source):
            raise MissingPath(path=path, reason="No such file or directory")
        directory = self._resolve_directory(source)
        if directory is None:
            return False
        self._merge_directory(self._root, b"", directory)
        return True

    def add_entry(self, entry: TreeEntry) -> None:
        """
        Add an entry that is not from the store, if its path is free.

        An existing directory gets the entry's mode; any other existing entry at the path,
        or at one of its parents, stays as it is.
        """
        node = self._root
        path = b""
        *parents, name = entry.path.split(b"/")
        for part in parents:
            path = _join(path, part)
            child = self._descend(node, path, part)
            if child is None:
                return
            node = child
        if entry.kind != "directory":
            node.children.setdefault(name, entry)
            return
        directory = self._descend(node, entry.path, name)
        if directory is not None:
            directory.mode = entry.mode

    def find(self, path: bytes) -> bytes | None:
        """
        Return the target for a symlink to the file at ``path``: in the store, or ``path``
        itself if :meth:`add_entry` added it; ``None`` if there is no file.
        """
        node: _Node = self._root
        parts = path.split(b"/")
        for depth, part in enumerate(parts):
            if not isinstance(node, _Directory):
                break
            child = node.children.get(part)
            if child is None:
                return None
            if isinstance(child, _Link):
                source = b"/".join((child.source, *parts[depth + 1 :]))
                return self._image_path(source) if os.path.isfile(source) else None
            node = child
        return b"/" + path if isinstance(node, TreeEntry) and node.path == path else None

    def entries(self) -> Iterator[TreeEntry]:
        """Yield the current tree, each directory followed by its contents, by name."""
        stack: list[tuple[bytes, _Node]] = [(b"", self._root)]
        while stack:
            path, node = stack.pop()
            if isinstance(node, _Directory):
                if path:
                    yield TreeEntry(path=path, kind="directory", mode=node.mode)
                names = sorted(node.children, reverse=True)
                stack += [(_join(path, name), node.children[name]) for name in names]
            elif isinstance(node, _Link):
                target = self._image_path(node.source)
                yield TreeEntry(path=path, kind="symlink", target=target)
            else:
                yield node

    def conflicts(self) -> tuple[Conflict, ...]:
        """Return the conflicts so far, sorted."""
        return tuple(sorted(self._conflicts))

    def _merge_directory(self, node: _Directory, path: bytes, directory: bytes) -> None:
        """Merge ``directory``, whose path has no symlinks, into ``node`` at ``path``."""
        node.merged_from.append(directory)
        try:
            with os.scandir(directory) as listing:
                found = list(listing)
        except OSError as error:
            raise MissingPath(
                path=printable(directory), reason=error.strerror or str(error)
            ) from error
        for entry in found:
            name = entry.name
            if not path and name in self._ignored:
                continue
            if entry.is_dir(follow_symlinks=False):
                # This is a real directory, so its path has no symlinks either.
                self._add_directory(node, _join(path, name), name, entry.path, entry.path)
            elif name not in node.children:
                node.children[name] = _Link(entry.path, entry.is_symlink())
            else:
                target = self._resolve_mergeable(node, entry.path) if entry.is_symlink() else None
                self._add_directory(node, _join(path, name), name, entry.path, target)

    def _add_directory(
        self, node: _Directory, path: bytes, name: bytes, source: bytes, target: bytes | None
    ) -> None:
        """
        Merge the directory ``target`` under a name that may be taken; ``None``
        means that the entry is not a directory and loses the name.
        """
        child = node.children.get(name)
        if target is not None:
            # Two links to one directory are equivalent, and no conflict.
            if isinstance(child, _Link) and self._resolve_directory(child.source) == target:
                return
            directory = self._descend(node, path, name)
            if directory is not None:
                if target not in directory.merged_from:
                    self._merge_directory(directory, path, target)
                return
        kept = child.source if isinstance(child, _Link) else None
        if isinstance(child, _Directory):
            kept = child.merged_from[0]
        self._conflicts.append(
            Conflict(
                path="/" + printable(path),
                kept=printable(b"/" + path if kept is None else self._image_path(kept)),
                dropped=printable(self._image_path(source)),
            )
        )

    def _descend(self, node: _Directory, path: bytes, name: bytes) -> _Directory | None:
        """
        Return the directory ``name`` in ``node``: create it if the name is free, replace a
        symlink to a directory by a merged one, and return ``None`` for any other entry.
        """
        child = node.children.get(name)
        if isinstance(child, _Directory):
            return child
        if child is None:
            created = node.children[name] = _Directory(node)
            return created
        if not isinstance(child, _Link) or not child.is_symlink:
            return None
        target = self._resolve_mergeable(node, child.source)
        if target is None:
            return None
        created = node.children[name] = _Directory(node)
        self._merge_directory(created, path, target)
        return created

    def _resolve_mergeable(self, node: _Directory, link: bytes) -> bytes | None:
        """Return the directory that a symlink below ``node`` leads to, if it may be merged."""
        target = self._resolve_directory(link)
        return None if target is None or node.is_within(target) else target

    def _resolve_directory(self, path: bytes) -> bytes | None:
        """Return the directory that ``path`` is or leads to, if it is in the store."""
        target = os.path.realpath(path)
        if target.startswith(self._store + b"/") and os.path.isdir(target):
            return target
        return None

    def _image_path(self, path: bytes) -> bytes:
        return os.fsencode(STORE) + path[len(self._store) :]


def _join(path: bytes, name: bytes) -> bytes:
    return path + b"/" + name if path else name
