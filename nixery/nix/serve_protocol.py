"""
The protocol that ``nix-store --serve`` speaks, as pure functions.

Nix's own ``ssh://`` stores are reached through it, so that it changes only by
additions: a client announces its version, and is answered in that one.  Of its
commands, three are used here: which paths are valid (and may be kept, as long as the
connection lasts), what they need, and what is known of each.

Integers have 64 bits, the least significant byte first.  A string is its length and
its bytes, filled up with zeros to a multiple of 8.  A list is its length and its
members.  Sources: ``src/libstore/serve-protocol.hh`` and ``src/nix-store/nix-store.cc``
of Nix 2.3 to 2.31.

A request is bytes.  An answer is read by a generator, which yields how many bytes it
wants next, is sent just as many, and returns what the answer was.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from typing import TypeAlias, TypeVar

from nixery.errors import UnexpectedOutput
from nixery.image.closure import PathRecord

__all__ = ["Parse", "greeting", "hold", "infos", "needs", "path_infos", "paths", "welcome"]

T = TypeVar("T")

Parse: TypeAlias = Generator[int, bytes, T]

GREETING = 0x390C9DEB
WELCOME = 0x5452EECB
VERSION = (2, 5)
"""Ours.  From 2.4 on, what is known of a path has the hash of its archive."""

HASHES_SINCE = (2, 4)

QUERY_VALID_PATHS = 1
QUERY_PATH_INFOS = 2
QUERY_CLOSURE = 7

LONGEST_STRING = 64 * 1024
"""In bytes; what a path's signatures and content address take stays far below."""

MOST = 1_000_000
"""How long a list may be: longer ones than any store's are no lists."""

_HASH_BYTES = 32
_NIX_32 = re.compile(r"[0-9a-df-np-sv-z]{52}")
# Nix's digits, which leave out e, o, t and u, as Python's.
_DIGITS = str.maketrans("abcdfghijklmnpqrsvwxyz", "abcdefghijklmnopqrstuv")


# -- requests -----------------------------------------------------------------


def greeting() -> bytes:
    """Begins a connection; answered by :func:`welcome`."""
    return _number(GREETING) + _number(VERSION[0] << 8 | VERSION[1])


def hold(wanted: Sequence[str]) -> bytes:
    """
    Keep ``wanted`` from garbage collection until the connection ends, as far as they
    are valid; answered by :func:`paths`, with those that are.

    For a server with ``--write``.  Each path is protected before its validity is looked
    at, and a collection that runs already is told of it.
    """
    # Lock them; substitute nothing.
    return _number(QUERY_VALID_PATHS) + _number(1) + _number(0) + _strings(wanted)


def needs(roots: Sequence[str]) -> bytes:
    """Ask for the runtime closure of valid paths; answered by :func:`paths`."""
    return _number(QUERY_CLOSURE) + _number(0) + _strings(roots)


def infos(wanted: Sequence[str]) -> bytes:
    """Ask for what is known of paths; answered by :func:`path_infos`."""
    return _number(QUERY_PATH_INFOS) + _strings(wanted)


def _number(value: int) -> bytes:
    return value.to_bytes(8, "little")


def _strings(texts: Sequence[str]) -> bytes:
    encoded = (text.encode() for text in texts)
    members = (_number(len(data)) + data + bytes(-len(data) % 8) for data in encoded)
    return _number(len(texts)) + b"".join(members)


# -- answers ------------------------------------------------------------------


def welcome() -> Parse[None]:
    """:raises UnexpectedOutput: whatever it is, it speaks no version that is understood."""
    magic = yield from _read_number()
    version = yield from _read_number()
    theirs = version >> 8, version & 0xFF
    if magic != WELCOME or theirs[0] != VERSION[0] or theirs < HASHES_SINCE:
        raise _odd("its greeting", f"{magic:x} {theirs[0]}.{theirs[1]}")


def paths() -> Parse[list[str]]:
    """A set of store paths."""
    return (yield from _read_strings())


def path_infos() -> Parse[list[PathRecord]]:
    """What is known of paths; those that are not valid are left out."""
    records = []
    while path := (yield from _read_string()):
        yield from _read_string()  # What derivation made it.
        references = yield from _read_strings()
        yield from _read_number()  # How much there would be to download.
        nar_size = yield from _read_number()
        nar_hash = yield from _read_string()
        yield from _read_string()  # Its content address.
        yield from _read_strings()  # Its signatures.
        records.append(PathRecord(path, _hexadecimal(nar_hash), nar_size, references))
    return records


def _read_number() -> Parse[int]:
    return int.from_bytes((yield 8), "little")


def _read_string() -> Parse[str]:
    length = yield from _read_number()
    if length > LONGEST_STRING:
        raise _odd("a string", f"of {length} bytes")
    data = yield length + -length % 8
    # What is not ASCII makes a path or a hash invalid.
    return data[:length].decode("ascii", "backslashreplace")


def _read_strings() -> Parse[list[str]]:
    count = yield from _read_number()
    if count > MOST:
        raise _odd("a list", f"of {count} members")
    members = []
    for _ in range(count):
        members.append((yield from _read_string()))  # noqa: PERF401  # nothing else can yield
    return members


def _hexadecimal(nar_hash: str) -> str:
    """
    A SHA-256 hash as ``nix-store --dump-db`` writes it.

    :param nar_hash: in hexadecimal, or in Nix's base 32: the digits stand for the bits
        of the hash from the last to the first, five by five.
    """
    digits = nar_hash.removeprefix("sha256:")
    if len(digits) == 2 * _HASH_BYTES:
        return digits
    if not _NIX_32.fullmatch(digits):
        raise _odd("a hash", nar_hash)
    try:
        return int(digits.translate(_DIGITS), 32).to_bytes(_HASH_BYTES, "little").hex()
    except OverflowError as error:
        raise _odd("a hash", nar_hash) from error


def _odd(what: str, excerpt: str) -> UnexpectedOutput:
    return UnexpectedOutput(what=f"what nix-store --serve said ({what})", excerpt=excerpt)
