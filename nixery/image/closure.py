"""
The runtime closure of an image, as a value.

Nix stores the size of every store path, and the other store paths that it
refers to.  ``nix-store --dump-db`` prints these, in a format that has not changed
since Nix 2.0 (each of ``path-info --json``'s formats has been replaced by the
next).  :func:`parse_db_dump` reads it once into a :class:`RuntimeGraph`, and all later
code uses that instead of the text.

A graph is in a canonical order: by name first and by hash last.  Results of walking it
are then independent of the order in which Nix
printed it, and as far as possible of the hashes, which a mass rebuild changes
while all else remains the same.
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
    "build_graph",
    "package_label",
    "package_name",
    "parse_db_dump",
]

STORE = "/nix/store"
"""The store's directory; stores in other directories cannot share binary caches with it."""

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

    # The name and the hash determine the path: comparing them is enough.
    path: str = field(eq=False)
    name: str = field(init=False, repr=False)
    hash: str = field(init=False, repr=False)

    @path.validator
    def _check(self, _attribute: object, value: str) -> None:
        if not _STORE_PATH.fullmatch(value):
            raise UnexpectedOutput(what="a store path", excerpt=value)

    @name.default
    def _name(self) -> str:
        """Return the part after the hash: ``hello-2.10``, ``curl-8.5.0-dev``."""
        return self.path[_NAME_START:]

    @hash.default
    def _hash(self) -> str:
        """Return the hash: 32 characters of Nix's base 32."""
        return self.path[_HASH_START : _NAME_START - 1]

    @property
    def sort_key(self) -> tuple[str, str]:
        """The sort key: several times as fast to sort by as comparisons of instances."""
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
    The metadata that Nix has of a valid store path.

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
    The size of a closure.

    :param paths: the number of its store paths.
    :param nar_size: the sum of their sizes, in bytes.
    """

    paths: int
    nar_size: int


@frozen(kw_only=True)
class RuntimeGraph:
    """
    Store paths with all store paths that they need at run time.

    Iterating :attr:`paths` yields them sorted, in whatever order they were given.

    :param paths: the paths and the metadata of each.
    :raises UnexpectedOutput: a path refers to one that is not in the graph, or,
        indirectly, to itself.  Nix registers neither.
    """

    paths: Mapping[StorePath, PathInfo] = field(hash=False, converter=_sorted_mapping)
    references_first: tuple[StorePath, ...] = field(init=False, eq=False, repr=False)

    @references_first.default
    def _references_first(self) -> tuple[StorePath, ...]:
        """Return all paths, each after its references; the same order for equal graphs."""
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
            # The first path of the cycle is repeated at its end.
            cycle = " -> ".join(str(path) for path in error.args[1])
            raise UnexpectedOutput(what="the closure", excerpt=f"a cycle: {cycle}") from error

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def nar_size(self) -> int:
        """The sum of the sizes of all paths, in bytes."""
        return sum(info.nar_size for info in self.paths.values())

    def roots(self) -> tuple[StorePath, ...]:
        """Return the paths that no other path refers to, sorted."""
        used = {path for info in self.paths.values() for path in info.references}
        return tuple(path for path in self.paths if path not in used)

    def subgraph(self, roots: Iterable[StorePath]) -> RuntimeGraph:
        """
        Return the part of this graph that ``roots`` need, themselves included.

        :raises UnexpectedOutput: one of them is not in this graph.
        """
        reached: set[StorePath] = set()
        pending = list(roots)
        while pending:
            path = pending.pop()
            if path in reached:
                continue
            if path not in self.paths:
                raise UnexpectedOutput(what="the closure", excerpt=f"{path} is missing")
            reached.add(path)
            pending.extend(self.paths[path].references)
        return RuntimeGraph(paths={path: self.paths[path] for path in reached})

    def closure_counts(self) -> Mapping[StorePath, int]:
        """
        Return the number of paths in the closure of every path, the path itself included.

        It is computed as in :meth:`closure_sizes`, at a small part of the cost.
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
        Return the size of the closure of every path, the path itself included.

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
    Return the name of a store path without version, the key of popularity data.

    The rule is that of ``builtins.parseDrvName``: the version begins after the
    first dash that is followed by anything but a letter.  The suffix of an output is
    removed with the version: ``curl-8.5.0-dev`` is ``curl``.

    :param name: as in :attr:`StorePath.name`.
    """
    return _VERSION.split(name, maxsplit=1)[0]


def package_label(derivation: str) -> str:
    """
    Return the name and the version of the package that a derivation builds: ``git 2.47.0``.

    :param derivation: its store path, ``/nix/store/<hash>-git-2.47.0.drv``.
    """
    name = derivation[_NAME_START:].removesuffix(".drv") or derivation
    return _VERSION.sub(" ", name, count=1)


def parse_db_dump(dump: str | bytes) -> RuntimeGraph:
    """
    Parse the output of ``nix-store --dump-db PATH...``.

    A record is the path, the hash of its archive in hexadecimal, the archive's
    size in bytes, the derivation that made it or an empty line, the number of
    references, and the references, each on a line of its own.  Several dumps may be
    concatenated: long lists of paths are queried in pieces.

    :raises UnexpectedOutput: a record is cut short or otherwise malformed, two
        records of a path differ, or the graph is not closed.
    """
    if isinstance(dump, bytes):
        # Every byte that is not ASCII makes a path or a number invalid.
        dump = dump.decode("ascii", errors="backslashreplace")
    if dump and not dump.endswith("\n"):
        raise _malformed("cut short at its end", dump[-200:])
    lines = iter(dump.split("\n")[:-1])
    return build_graph(_read_record(line, lines) for line in lines)


@frozen
class PathRecord:
    """
    The record of a store path as Nix prints it, not yet validated.

    :param path: the path.
    :param nar_hash: SHA-256 of its archive, in hexadecimal.
    :param nar_size: the size of its archive in bytes.
    :param references: the store paths it refers to, perhaps itself among them.
    """

    path: str
    nar_hash: str
    nar_size: int
    references: Sequence[str]


def build_graph(records: Iterable[PathRecord]) -> RuntimeGraph:
    """
    Build a graph from the records that Nix prints of its store paths.

    :raises UnexpectedOutput: a record is malformed, two records of a path differ, or
        the graph is not closed.
    """
    interned: dict[str, StorePath] = {}
    paths: dict[StorePath, PathInfo] = {}

    def store_path(text: str) -> StorePath:
        # Many references name the same path: it is validated once.
        if text not in interned:
            interned[text] = StorePath(text)
        return interned[text]

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


def _read_record(first: str, lines: Iterator[str]) -> PathRecord:
    def next_line() -> str:
        try:
            return next(lines)
        except StopIteration:
            raise _malformed("cut short", first) from None

    nar_hash = next_line()
    nar_size = _parse_number(next_line())
    next_line()  # The derivation; paths that were added by hand have none.
    return PathRecord(
        first, nar_hash, nar_size, [next_line() for _ in range(_parse_number(next_line()))]
    )


def _parse_number(text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise _malformed("not a number", text)
    return int(text)


def _malformed(reason: str, excerpt: str) -> UnexpectedOutput:
    return UnexpectedOutput(what=f"what Nix tells of its store paths ({reason})", excerpt=excerpt)
