"""
The protocol of ``nix-store --serve``, as pure functions.

Nix's own ``ssh://`` stores use it, so that it changes only by additions: a client
announces its version, and the server responds in that one.  Three of its commands are
used here: query the valid paths (and protect them as long as the connection lasts), query
their closure, and query the metadata of each.

Integers have 64 bits, the least significant byte first.  A string is its length and
its bytes, filled up with zeros to a multiple of 8.  A list is its length and its
members.  Sources: ``src/libstore/serve-protocol.hh`` and ``src/nix-store/nix-store.cc``
of Nix 2.3 to 2.31.

A request is bytes.  A response is parsed by a generator, which yields the number of bytes
it needs next, is sent exactly as many, and returns the parsed response.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from typing import TypeAlias, TypeVar

from nixery.errors import UnexpectedOutput
from nixery.image.closure import PathRecord

__all__ = [
    "Parse",
    "client_hello",
    "add_temp_roots",
    "query_path_infos",
    "query_closure",
    "read_path_infos",
    "read_paths",
    "read_server_hello",
]

T = TypeVar("T")

Parse: TypeAlias = Generator[int, bytes, T]

GREETING = 0x390C9DEB
WELCOME = 0x5452EECB
VERSION = (2, 5)
"""Our version.  From 2.4 on, the metadata of a path has the hash of its archive."""

HASHES_SINCE = (2, 4)

QUERY_VALID_PATHS = 1
QUERY_PATH_INFOS = 2
QUERY_CLOSURE = 7

MAX_STRING_BYTES = 64 * 1024
"""In bytes; a path's signatures and content address are much shorter."""

MAX_ITEMS = 1_000_000
"""The most members of a list: longer than any store's lists, so more are an error."""

_HASH_BYTES = 32
_NIX_32 = re.compile(r"[0-9a-df-np-sv-z]{52}")
# Maps Nix's base 32 digits, which leave out e, o, t and u, to Python's.
_DIGITS = str.maketrans("abcdfghijklmnpqrsvwxyz", "abcdefghijklmnopqrstuv")


# -- requests -----------------------------------------------------------------


def client_hello() -> bytes:
    """Start a connection; :func:`read_server_hello` parses the response."""
    return _number(GREETING) + _number(VERSION[0] << 8 | VERSION[1])


def add_temp_roots(store_paths: Sequence[str]) -> bytes:
    """
    Protect the valid ones of ``store_paths`` from garbage collection until the connection ends.

    :func:`read_paths` parses the response, the valid paths.  This needs a server with
    ``--write``.  Each path is protected before its validity is checked, and a collection that
    already runs is notified.
    """
    # Lock them; substitute nothing.
    return _number(QUERY_VALID_PATHS) + _number(1) + _number(0) + _strings(store_paths)


def query_closure(roots: Sequence[str]) -> bytes:
    """Query the runtime closure of valid paths; :func:`read_paths` parses the response."""
    return _number(QUERY_CLOSURE) + _number(0) + _strings(roots)


def query_path_infos(store_paths: Sequence[str]) -> bytes:
    """Query the metadata of paths; :func:`read_path_infos` parses the response."""
    return _number(QUERY_PATH_INFOS) + _strings(store_paths)


def _number(value: int) -> bytes:
    return value.to_bytes(8, "little")


def _strings(values: Sequence[str]) -> bytes:
    encoded = (text.encode() for text in values)
    members = (_number(len(data)) + data + bytes(-len(data) % 8) for data in encoded)
    return _number(len(values)) + b"".join(members)


# -- responses ----------------------------------------------------------------


def read_server_hello() -> Parse[None]:
    """
    Parse the server's greeting.

    :raises UnexpectedOutput: the protocol or its version is not supported.
    """
    magic = yield from _read_number()
    version = yield from _read_number()
    server_version = version >> 8, version & 0xFF
    if magic != WELCOME or server_version[0] != VERSION[0] or server_version < HASHES_SINCE:
        raise _unexpected("its greeting", f"{magic:x} {server_version[0]}.{server_version[1]}")


def read_paths() -> Parse[list[str]]:
    """Parse a set of store paths."""
    return (yield from _read_strings())


def read_path_infos() -> Parse[list[PathRecord]]:
    """Parse the metadata of paths; the server leaves out paths that are not valid."""
    records = []
    while path := (yield from _read_string()):
        yield from _read_string()  # The deriver.
        references = yield from _read_strings()
        yield from _read_number()  # The download size.
        nar_size = yield from _read_number()
        nar_hash = yield from _read_string()
        yield from _read_string()  # The content address.
        yield from _read_strings()  # The signatures.
        records.append(PathRecord(path, _hexadecimal(nar_hash), nar_size, references))
    return records


def _read_number() -> Parse[int]:
    return int.from_bytes((yield 8), "little")


def _read_string() -> Parse[str]:
    length = yield from _read_number()
    if length > MAX_STRING_BYTES:
        raise _unexpected("a string", f"of {length} bytes")
    data = yield length + -length % 8
    # Characters other than ASCII make a path or a hash invalid.
    return data[:length].decode("ascii", "backslashreplace")


def _read_strings() -> Parse[list[str]]:
    count = yield from _read_number()
    if count > MAX_ITEMS:
        raise _unexpected("a list", f"of {count} members")
    members = []
    for _ in range(count):
        members.append((yield from _read_string()))  # noqa: PERF401  # nothing else can yield
    return members


def _hexadecimal(nar_hash: str) -> str:
    """
    Convert a SHA-256 hash to the format of ``nix-store --dump-db``.

    :param nar_hash: in hexadecimal, or in Nix's base 32: each digit has five bits of the
        hash, from the last to the first.
    """
    digits = nar_hash.removeprefix("sha256:")
    if len(digits) == 2 * _HASH_BYTES:
        return digits
    if not _NIX_32.fullmatch(digits):
        raise _unexpected("a hash", nar_hash)
    try:
        return int(digits.translate(_DIGITS), 32).to_bytes(_HASH_BYTES, "little").hex()
    except OverflowError as error:
        raise _unexpected("a hash", nar_hash) from error


def _unexpected(element: str, excerpt: str) -> UnexpectedOutput:
    return UnexpectedOutput(what=f"what nix-store --serve said ({element})", excerpt=excerpt)
