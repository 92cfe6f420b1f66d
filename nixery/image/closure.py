"""
The runtime closure of an image, as a value.

Nix knows for every store path how large it is and which other store paths it
refers to.  ``nix-store --dump-db`` prints that, in a format that has not changed
since Nix 2.0 (each of ``path-info --json``'s formats has been replaced by the
next).  :func:`parse_dump` reads it once into a :class:`RuntimeGraph`, and nothing
behind it looks at text again.

A graph is in a canonical order: by name first and by hash last.  Whatever is
derived from it by walking it is then independent of the order in which Nix
printed it, and as far as possible of the hashes, which a mass rebuild changes
while everything else stays as it was.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from operator import attrgetter
from types import MappingProxyType

from attrs import field, frozen

from nixery.errors import UnexpectedOutput

__all__ = [
    "STORE",
    "ClosureSize",
    "PathInfo",
    "PathRecord",
    "RuntimeGraph",
    "StorePath",
    "graph_of",
    "package_name",
    "parse_dump",
]

STORE = "/nix/store"
"""The store's directory: another one would share no binary cache with anybody."""

_HASH_LENGTH = 32
_HASH_START = len(STORE) + 1
_NAME_START = _HASH_START + _HASH_LENGTH + 1

# Nix's base 32 leaves out e, o, t and u; a name has at most 211 characters.
_STORE_PATH = re.compile(
    re.escape(STORE) + r"/[0-9abcdfghijklmnpqrsvwxyz]{32}-[0-9a-zA-Z+\-._?=]{1,211}"
)
_NAR_HASH = re.compile(r"(?:sha256:)?[0-9a-f]{64}")
_NUMBER = re.compile(r"[0-9]{1,19}")
_VERSION = re.compile(r"-(?=[^a-zA-Z])")


@frozen(order=True, cache_hash=True)
class StorePath:
    """
    A store path, ``/nix/store/<hash>-<name>``.

    Ordered by name, then by hash: two closures that differ in nothing but hashes
    are sorted alike, unless one of them holds the same name twice.

    :param path: the whole path.
    :raises UnexpectedOutput: it is no store path, or lies inside one.
    """

    # The name and the hash together are the path: comparing them is enough.
    path: str = field(eq=False)
    name: str = field(init=False, repr=False)
    hash: str = field(init=False, repr=False)

    @path.validator
    def _check(self, _attribute: object, value: str) -> None:
        if not _STORE_PATH.fullmatch(value):
            raise UnexpectedOutput(what="a store path", excerpt=value)

    @name.default
    def _name(self) -> str:
        """What stands behind the hash: ``hello-2.10``, ``curl-8.5.0-dev``."""
        return self.path[_NAME_START:]

    @hash.default
    def _hash(self) -> str:
        """The 32 characters of Nix's base 32."""
        return self.path[_HASH_START : _NAME_START - 1]

    @property
    def sort_key(self) -> tuple[str, str]:
        """The order as a key: several times as fast to sort by as comparisons."""
        return self.name, self.hash

    def __str__(self) -> str:
        return self.path


_sort_key = attrgetter("sort_key")


def _sorted_paths(paths: Iterable[StorePath]) -> tuple[StorePath, ...]:
    return tuple(sorted(set(paths), key=_sort_key))


def _sorted_mapping(paths: Mapping[StorePath, PathInfo]) -> Mapping[StorePath, PathInfo]:
    return MappingProxyType({path: paths[path] for path in sorted(paths, key=_sort_key)})


@frozen(kw_only=True)
class PathInfo:
    """
    What Nix knows of a valid store path.

    :param path: the path.
    :param nar_hash: SHA-256 of its archive, in hexadecimal.
    :param nar_size: the size of its archive in bytes: close to the size of its
        files, and of the layer that will hold it before compression.
    :param references: the store paths it refers to, sorted, without itself.
    """

    path: StorePath
    nar_hash: str
    nar_size: int
    references: tuple[StorePath, ...] = field(converter=_sorted_paths)


@frozen(kw_only=True)
class ClosureSize:
    """
    How large a closure is.

    :param paths: the number of its store paths.
    :param nar_size: the sum of their sizes, in bytes.
    """

    paths: int
    nar_size: int


@frozen(kw_only=True)
class RuntimeGraph:
    """
    Store paths with everything that they need at run time.

    Iterating :attr:`paths` yields them sorted, however they were given.

    :param paths: the paths and what is known of each.
    :raises UnexpectedOutput: a path refers to one that is not there, or,
        indirectly, to itself.  Nix registers neither.
    """

    paths: Mapping[StorePath, PathInfo] = field(hash=False, converter=_sorted_mapping)
    references_first: tuple[StorePath, ...] = field(init=False, eq=False, repr=False)

    @references_first.default
    def _references_first(self) -> tuple[StorePath, ...]:
        """All paths, each behind all that it refers to; the same for equal graphs."""
        for info in self.paths.values():
            for reference in info.references:
                if reference not in self.paths:
                    raise UnexpectedOutput(
                        what="the closure", excerpt=f"{info.path} refers to {reference}, left out"
                    )
        sorter = TopologicalSorter({path: info.references for path, info in self.paths.items()})
        try:
            return tuple(sorter.static_order())
        except CycleError as error:
            # The first path of the cycle stands at its end again.
            cycle = " -> ".join(str(path) for path in error.args[1])
            raise UnexpectedOutput(what="the closure", excerpt=f"a cycle: {cycle}") from error

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def nar_size(self) -> int:
        """The sum of the sizes of all paths, in bytes."""
        return sum(info.nar_size for info in self.paths.values())

    def roots(self) -> tuple[StorePath, ...]:
        """The paths that no other path refers to, sorted."""
        used = {path for info in self.paths.values() for path in info.references}
        return tuple(path for path in self.paths if path not in used)

    def closure_of(self, roots: Iterable[StorePath]) -> RuntimeGraph:
        """
        The part of this graph that ``roots`` need, themselves included.

        :raises UnexpectedOutput: one of them is not in this graph.
        """
        wanted: set[StorePath] = set()
        waiting = list(roots)
        while waiting:
            path = waiting.pop()
            if path in wanted:
                continue
            if path not in self.paths:
                raise UnexpectedOutput(what="the closure", excerpt=f"{path} is missing")
            wanted.add(path)
            waiting.extend(self.paths[path].references)
        return RuntimeGraph(paths={path: self.paths[path] for path in wanted})

    def closure_counts(self) -> Mapping[StorePath, int]:
        """
        How many paths the closure of every path has, the path itself included.

        As :meth:`closure_sizes`, at a small part of its cost.
        """
        closures: dict[StorePath, int] = {}
        bits = {path: 1 << index for index, path in enumerate(self.paths)}
        for path in self.references_first:
            closure = bits[path]
            for reference in self.paths[path].references:
                closure |= closures[reference]
            closures[path] = closure
        return {path: closure.bit_count() for path, closure in closures.items()}

    def closure_sizes(self) -> Mapping[StorePath, ClosureSize]:
        """
        How large the closure of every path is, the path itself included.

        Closures overlap, so sizes cannot be added up along the references.  A
        closure is kept as a bit set in one large integer, and summed by counting
        bits once for every binary digit of the sizes: for 5,000 paths that is
        much faster than walking each closure.
        """
        bits = {path: 1 << index for index, path in enumerate(self.paths)}
        largest = max((info.nar_size for info in self.paths.values()), default=0)
        digits = [
            sum(bits[path] for path, info in self.paths.items() if info.nar_size >> digit & 1)
            for digit in range(largest.bit_length())
        ]
        closures: dict[StorePath, int] = {}
        sizes: dict[StorePath, ClosureSize] = {}
        for path in self.references_first:
            closure = bits[path]
            for reference in self.paths[path].references:
                closure |= closures[reference]
            closures[path] = closure
            sizes[path] = ClosureSize(
                paths=closure.bit_count(),
                nar_size=sum(
                    (closure & mask).bit_count() << digit for digit, mask in enumerate(digits)
                ),
            )
        return sizes


def package_name(name: str) -> str:
    """
    The name of a store path without version, the key of popularity data.

    The rule is that of ``builtins.parseDrvName``: the version begins behind the
    first dash that is followed by anything but a letter.  What an output's name
    adds to a version goes with it: ``curl-8.5.0-dev`` is ``curl``.

    :param name: as in :attr:`StorePath.name`.
    """
    return _VERSION.split(name, maxsplit=1)[0]


def parse_dump(dump: str | bytes) -> RuntimeGraph:
    """
    Read what ``nix-store --dump-db PATH...`` prints.

    A record is the path, the hash of its archive in hexadecimal, the archive's
    size in bytes, the derivation that made it or an empty line, the number of
    references, and the references, each on a line of its own.  Dumps may follow
    one another: long lists of paths are asked for in pieces.

    :raises UnexpectedOutput: a record is cut short or otherwise malformed, two
        records of a path differ, or the graph is not closed.
    """
    if isinstance(dump, bytes):
        # Every byte that is not ASCII makes a path or a number invalid.
        dump = dump.decode("ascii", errors="backslashreplace")
    if dump and not dump.endswith("\n"):
        raise _malformed("cut short at its end", dump[-200:])
    lines = iter(dump.split("\n")[:-1])
    return graph_of(_record(line, lines) for line in lines)


@frozen
class PathRecord:
    """
    A store path as Nix tells of it, in its words: nothing of it has been looked at.

    :param path: the path.
    :param nar_hash: SHA-256 of its archive, in hexadecimal.
    :param nar_size: the size of its archive in bytes.
    :param references: the store paths it refers to, perhaps itself among them.
    """

    path: str
    nar_hash: str
    nar_size: int
    references: Sequence[str]


def graph_of(records: Iterable[PathRecord]) -> RuntimeGraph:
    """
    A graph of what Nix tells of its paths.

    :raises UnexpectedOutput: a record is malformed, two records of a path differ, or
        the graph is not closed.
    """
    known: dict[str, StorePath] = {}
    paths: dict[StorePath, PathInfo] = {}

    def store_path(text: str) -> StorePath:
        # A path is named by many references: it is checked once.
        if text not in known:
            known[text] = StorePath(text)
        return known[text]

    for record in records:
        path = store_path(record.path)
        if not _NAR_HASH.fullmatch(record.nar_hash):
            raise _malformed("not a hash", record.nar_hash)
        info = PathInfo(
            path=path,
            nar_hash=record.nar_hash.removeprefix("sha256:"),
            nar_size=record.nar_size,
            references=tuple({store_path(text) for text in record.references} - {path}),
        )
        if paths.setdefault(path, info) != info:
            raise _malformed("two records of one path", record.path)
    return RuntimeGraph(paths=paths)


def _record(first: str, lines: Iterator[str]) -> PathRecord:
    def following() -> str:
        try:
            return next(lines)
        except StopIteration:
            raise _malformed("cut short", first) from None

    nar_hash = following()
    nar_size = _number(following())
    following()  # The derivation; paths that were added by hand have none.
    return PathRecord(first, nar_hash, nar_size, [following() for _ in range(_number(following()))])


def _number(text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise _malformed("not a number", text)
    return int(text)


def _malformed(how: str, excerpt: str) -> UnexpectedOutput:
    return UnexpectedOutput(what=f"what Nix tells of its store paths ({how})", excerpt=excerpt)
