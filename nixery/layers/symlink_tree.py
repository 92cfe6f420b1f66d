"""
Merge trees of the store into one tree of symlinks.

Directories are real ones at all levels, so that a container can add files to
them; all other entries become symlinks into the store.  The first tree that has a
name keeps it, and entries that are dropped are recorded.

A symlink to a directory stays one link while no other tree has that name.  If another has, it is
followed, if it leads to a directory of the closure, and the contents of that directory are merged.
A link that leads back into a directory that is being merged around it is not followed, because the
merge would not end: along any way down, a directory of the store is merged once.

A symlink that leads out of the store leads to a place in the image, which is known only when
everything is merged.  It is never followed while trees are merged.  Some such links yield the
name to any other entry; see :meth:`SymlinkTree.find_dangling`.

Blocking: it reads the directories.  Names are bytes throughout.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from attrs import Factory, define, evolve, frozen

from nixery.layers.errors import MissingPath
from nixery.layers.link_resolver import Destination, Kind, LinkResolver
from nixery.layers.tarball import STORE, WHITEOUT_PREFIX, TreeEntry, name_in_store, printable
from nixery.layers.tree_rules import TreeRules

__all__ = ["Conflict", "Omission", "SymlinkTree"]


@frozen(kw_only=True, order=True)
class Conflict:
    """
    A path that two trees have, one of which keeps it.

    :param path: the path in the image, ``/bin/vi``.
    :param kept: the path in the store that is kept; equal to ``path`` if the image's own
        entry is kept.
    :param dropped: the path in the store that is dropped.
    """

    path: str
    kept: str
    dropped: str


@frozen(kw_only=True, order=True)
class Omission:
    """
    An entry of a tree that is left out, whatever other trees have.

    :param path: the path in the image that it would have.
    :param source: its path in the store.
    :param reason: says why, as a clause.
    """

    path: str
    source: str
    reason: str


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
    """
    A symlink to ``source``, which is itself a symlink where ``is_symlink``.

    :param yields: true if any other entry takes its place.
    """

    source: bytes
    is_symlink: bool
    yields: bool


_Node = _Directory | _Link | TreeEntry


@frozen
class _Contest:
    """A path that two entries of the store have; ``kept`` is ``None`` for the image's own."""

    path: bytes
    kept: bytes | None
    dropped: bytes


class SymlinkTree:
    """
    A tree that is being merged.

    :param resolver: follows the links of the image's closure.
    :param rules: the names with a meaning.
    :param yielding: symlinks in the store that yield their name to any other entry.
    """

    def __init__(
        self, resolver: LinkResolver, rules: TreeRules, yielding: frozenset[bytes] = frozenset()
    ) -> None:
        self._resolver = resolver
        self._rules = rules
        self._yielding = yielding
        self._root = _Directory(None)
        self._contests: list[_Contest] = []
        self._omissions: list[Omission] = []

    def merge(self, path: str) -> bool:
        """
        Merge the contents of a store path.

        :return: true if it is a directory; otherwise nothing is merged.
        :raises MissingPath: it does not exist or cannot be read.
        """
        source = os.fsencode(STORE) + b"/" + name_in_store(path)
        place = self._resolver.follow(source)
        directory = place.store_directory
        if directory is None:
            if place == Destination(source, Kind.MISSING):
                raise MissingPath(path=path, reason="No such file or directory")
            return False
        self._merge_directory(self._root, b"", directory)
        return True

    def add_entry(self, entry: TreeEntry) -> None:
        """
        Add an entry of the image's own, unless the merged trees serve as well.

        For a file, any path to a file does.  A directory has to be one of the merged tree, and
        gets the entry's mode.  Entries that are in the way are dropped.
        """
        if entry.kind != "directory" and self.find(entry.path) is not None:
            return
        node, path = self._root, b""
        *parents, name = entry.path.split(b"/")
        for part in parents:
            path = _join(path, part)
            node = self._tree_directory(path) or self._make_directory(node, path, part)
        if entry.kind == "directory":
            self._make_directory(node, entry.path, name).mode = entry.mode
            return
        self._drop(node, entry.path, name)
        node.children[name] = entry

    def find(self, path: bytes) -> bytes | None:
        """
        Return the target for a symlink to the file at ``path``: in the store, or ``path``
        itself if :meth:`add_entry` added it; ``None`` if the image has no file there.
        """
        if self._follow(b"/" + path).kind is not Kind.FILE:
            return None
        node: _Node = self._root
        parts = path.split(b"/")
        for depth, part in enumerate(parts):
            if not isinstance(node, _Directory):
                break
            node = node.children[part]
            if isinstance(node, _Link):
                return b"/".join((node.source, *parts[depth + 1 :]))
        return b"/" + path

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
                yield TreeEntry(path=path, kind="symlink", target=node.source)
            else:
                # It was perhaps added at another path, which leads here.
                yield evolve(node, path=path)

    def conflicts(self) -> tuple[Conflict, ...]:
        """Return the conflicts so far, sorted."""
        return tuple(
            sorted(
                Conflict(
                    path=printable(b"/" + contest.path),
                    kept=printable(contest.kept or b"/" + contest.path),
                    dropped=printable(contest.dropped),
                )
                for contest in self._contests
            )
        )

    def omissions(self) -> tuple[Omission, ...]:
        """Return the entries that have been left out so far, sorted."""
        return tuple(sorted(self._omissions))

    def find_dangling(self) -> frozenset[bytes]:
        """
        Return the symlinks in the store that should yield their names.

        They lead nowhere in the image as it is now, or to no file where it needs one, and at least
        one of them keeps a name that another entry has, too, which does lead there.
        """
        contenders: dict[bytes, set[bytes]] = {}
        for contest in self._contests:
            if contest.kept is not None:
                contenders.setdefault(contest.path, set()).update((contest.kept, contest.dropped))
        dangling: set[bytes] = set()
        for path, sources in contenders.items():
            useless = {*Kind} - {Kind.FILE} if path in self._rules.files else {Kind.MISSING}
            lost = {source for source in sources if self._follow(source).kind in useless}
            if lost != sources and self._source_at(path) in lost:
                dangling |= lost
        return frozenset(dangling)

    def _merge_directory(self, node: _Directory, path: bytes, directory: bytes) -> None:
        """Merge ``directory``, whose path has no symlinks, into ``node`` at ``path``."""
        node.merged_from.append(directory)
        for entry in self._resolver.list_directory(directory):
            if path or entry.name not in self._rules.ignored:
                self._merge_entry(node, _join(path, entry.name), directory, entry)

    def _merge_entry(
        self, node: _Directory, path: bytes, directory: bytes, entry: os.DirEntry[bytes]
    ) -> None:
        """Merge the entry of ``directory`` that belongs at ``path`` into ``node``."""
        name = entry.name
        source = directory + b"/" + name
        is_symlink = entry.is_symlink()
        link = None
        target = source if entry.is_dir(follow_symlinks=False) else None
        # Most links lead to their neighbours, and no other tree has their names.
        if is_symlink and (
            name in node.children
            or path in self._rules.directories
            or path in self._rules.files
            or self._resolver.may_leave(source)
        ):
            link = self._resolver.follow(name, directory=directory)
            target = link.store_directory
        reason = self._omission(path, name, link, target)
        if reason is not None:
            self._omissions.append(
                Omission(path=printable(b"/" + path), source=printable(source), reason=reason)
            )
            return
        yields = source in self._yielding or (path in self._rules.directories and target is None)
        child = node.children.get(name)
        if isinstance(child, _Link) and child.yields and not yields:
            self._contests.append(_Contest(path, source, child.source))
            child = None
        if child is not None:
            self._merge_contested(node, path, source, None if yields else target)
        elif target == source:
            created = node.children[name] = _Directory(node)
            self._merge_directory(created, path, source)
        else:
            node.children[name] = _Link(source, is_symlink, yields)

    def _omission(
        self, path: bytes, name: bytes, link: Destination | None, target: bytes | None
    ) -> str | None:
        """
        Return the reason to leave out an entry at ``path``, or ``None``.

        :param link: the place that it leads to, if it is a symlink.
        :param target: the directory that it is or leads to, if any.
        """
        if name.startswith(WHITEOUT_PREFIX):
            return "in an image, a name that begins with .wh. deletes another file"
        if link is not None and link.contains(b"/" + path):
            return "it is a link to its own place in the image, or to a directory above it"
        if path in self._rules.files and target is not None:
            return "the image needs a file there"
        return None

    def _merge_contested(
        self, node: _Directory, path: bytes, source: bytes, target: bytes | None
    ) -> None:
        """Merge the directory ``target`` at a path that is taken; what is none loses the path."""
        name = path.rpartition(b"/")[2]
        child = node.children[name]
        if target is not None and (target == source or not node.is_within(target)):
            # Two links to one directory are equivalent, and no conflict.
            if isinstance(child, _Link) and self._target_of(child) == target:
                return
            directory = self._open_directory(node, path, name)
            if directory is not None:
                if target not in directory.merged_from:
                    self._merge_directory(directory, path, target)
                return
        self._contests.append(_Contest(path, _source_of(child), source))

    def _open_directory(self, node: _Directory, path: bytes, name: bytes) -> _Directory | None:
        """
        Return the directory ``name`` in ``node``, after replacing a symlink to a directory by a
        merged one; ``None`` for any other entry, and for none.
        """
        child = node.children.get(name)
        if isinstance(child, _Directory):
            return child
        target = self._target_of(child) if isinstance(child, _Link) else None
        if target is None or node.is_within(target):
            return None
        created = node.children[name] = _Directory(node)
        self._merge_directory(created, path, target)
        return created

    def _make_directory(self, node: _Directory, path: bytes, name: bytes) -> _Directory:
        """Return the directory ``name`` in ``node``, in place of any other entry."""
        directory = self._open_directory(node, path, name)
        if directory is None:
            self._drop(node, path, name)
            directory = node.children[name] = _Directory(node)
        return directory

    def _tree_directory(self, path: bytes) -> _Directory | None:
        """Return the directory of this tree, open to all, that ``path`` leads to, if any."""
        place = self._follow(b"/" + path)
        parts = [*filter(None, place.path.split(b"/"))]
        nodes = [self._node_at(parts[:depth]) for depth in range(len(parts) + 1)]
        found = [node for node in nodes if isinstance(node, _Directory) and node.mode == 0o755]
        return found[-1] if place.kind is Kind.DIRECTORY and len(found) == len(nodes) else None

    def _drop(self, node: _Directory, path: bytes, name: bytes) -> None:
        """Remove the entry ``name`` of ``node``, if there is one, for one of the image's own."""
        child = node.children.pop(name, None)
        source = None if child is None else _source_of(child)
        if source is not None:
            self._contests.append(_Contest(path, None, source))

    def _target_of(self, link: _Link) -> bytes | None:
        """Return the directory of the closure that a link's source leads to, if it is a symlink."""
        directory, _, name = link.source.rpartition(b"/")
        if not link.is_symlink:
            return None
        return self._resolver.follow(name, directory=directory).store_directory

    def _source_at(self, path: bytes) -> bytes | None:
        """Return the path in the store of the entry at ``path``; ``None`` if it has none."""
        node = self._node_at(path.split(b"/"))
        return None if node is None else _source_of(node)

    def _node_at(self, components: Sequence[bytes]) -> _Node | None:
        node: _Node | None = self._root
        for part in components:
            node = node.children.get(part) if isinstance(node, _Directory) else None
        return node

    def _follow(self, path: bytes) -> Destination:
        """Follow an absolute path through the image as it is now."""
        return self._resolver.follow(path, self._look_up)

    def _look_up(self, components: Sequence[bytes]) -> Kind | bytes:
        if components[0] in self._rules.mounted:
            return Kind.UNKNOWN
        node = self._node_at(components)
        if node is None:
            return Kind.MISSING
        if isinstance(node, _Directory):
            return Kind.DIRECTORY
        if isinstance(node, _Link):
            return node.source
        return node.target if node.kind == "symlink" else Kind.FILE


def _source_of(node: _Node) -> bytes | None:
    """Return the path in the store of an entry; ``None`` for one of the image's own."""
    if isinstance(node, _Link):
        return node.source
    return next(iter(node.merged_from), None) if isinstance(node, _Directory) else None


def _join(path: bytes, name: bytes) -> bytes:
    return path + b"/" + name if path else name
