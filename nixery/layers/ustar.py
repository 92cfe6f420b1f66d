"""
Write tar headers, byte for byte.

:mod:`tarfile` can write them too, but spends 88 us on an entry, and closures
have ten thousands of entries; this module takes a few us.  Every header is a pure
function of its arguments: time stamp 1 (the Nix store's own), owner 0:0, no
names of users, no devices.

Format: ``ustar`` (POSIX.1-2017, section "ustar Interchange Format" of *pax*)
if it can express the entry.  An entry that it cannot express (a name that does not split
into 155 and 100 bytes, a link target of more than 100 bytes, 8 GiB and more) is
written as GNU tar writes it (*GNU tar manual*, "Basic Tar Format": records
``L`` and ``K`` before the entry, sizes in base 256).  The alternative, pax
records, would have to be UTF-8, and names in a store are any bytes; the GNU
records are read to the same bytes by GNU tar, by Python's :mod:`tarfile` and by
Go's ``archive/tar``, which the container engines unpack with.  Entries
of both formats may follow each other in one archive.
"""

from __future__ import annotations

from zlib import adler32

__all__ = ["BLOCK", "DIRECTORY", "END", "FILE", "SYMLINK", "header", "padding"]

BLOCK = 512
"""Headers and contents are padded to a multiple of this, in bytes."""

END = bytes(2 * BLOCK)
"""The blocks that end an archive."""

FILE = b"0"
SYMLINK = b"2"
DIRECTORY = b"5"

_NAME = 100
_PREFIX = 155
_OCTAL_SIZE = 8 << 30

_POSIX = b"ustar\x0000"
_GNU = b"ustar  \x00"
_LONG_NAME = b"L"
_LONG_TARGET = b"K"

# name, mode, owner and group, size, time, checksum, type, target, magic, then
# names of user and group and device numbers (80 bytes, all empty), prefix and
# 12 bytes of padding.
_LAYOUT = b"%b%07o\x000000000\x000000000\x00%b%011o\x00%06o\x00 %b%b%b" + bytes(80) + b"%b"

# The checksum of the bytes that are always the same, and of the checksum's own
# field, which counts as eight spaces.
_CONSTANT_SUM = 2 * sum(b"0000000") + 8 * 0x20


def header(name: bytes, *, kind: bytes, mode: int, size: int = 0, target: bytes = b"") -> bytes:
    """
    Return the header of one entry, with the records that have to precede it.

    :param name: a relative path, with a slash at the end for a directory; any length, any
        bytes but NUL.
    :param kind: :data:`FILE`, :data:`SYMLINK` or :data:`DIRECTORY`.
    :param mode: permissions.
    :param size: of a file's content in bytes.
    :param target: of a symlink; any length, any bytes but NUL.
    :return: a whole number of blocks.
    """
    if len(name) <= _NAME and len(target) <= _NAME and size < _OCTAL_SIZE:
        return _block(name, b"", kind, mode, b"%011o\0" % size, target, _POSIX, 1)
    if len(target) <= _NAME and size < _OCTAL_SIZE:
        split = _split_name(name)
        if split is not None:
            prefix, name = split
            return _block(name, prefix, kind, mode, b"%011o\0" % size, target, _POSIX, 1)
    parts = []
    if len(target) > _NAME:
        parts.append(_long_record(_LONG_TARGET, target))
    if len(name) > _NAME:
        parts.append(_long_record(_LONG_NAME, name))
    digits = b"%011o\0" % size if size < _OCTAL_SIZE else b"\x80" + size.to_bytes(11, "big")
    parts.append(_block(name[:_NAME], b"", kind, mode, digits, target[:_NAME], _GNU, 1))
    return b"".join(parts)


def padding(size: int) -> bytes:
    """Return the padding after a content of ``size`` bytes, up to the next block."""
    return bytes(-size % BLOCK)


def _block(
    name: bytes,
    prefix: bytes,
    kind: bytes,
    mode: int,
    size: bytes,
    target: bytes,
    magic: bytes,
    time: int,
) -> bytes:
    # The low half of an Adler-32 is 1 + the sum of the bytes, modulo 65521, which
    # no field of up to 155 bytes reaches: adler32 computes the sum in C.
    checksum = (
        (adler32(name) & 0xFFFF)
        + (adler32(target) & 0xFFFF)
        + (adler32(prefix) & 0xFFFF)
        + (adler32(b"%07o%b%011o%b%b" % (mode, size, time, kind, magic)) & 0xFFFF)
        - 4
        + _CONSTANT_SUM
    )
    return _LAYOUT % (
        name.ljust(_NAME, b"\0"),
        mode,
        size,
        time,
        checksum,
        kind,
        target.ljust(_NAME, b"\0"),
        magic,
        prefix.ljust(_PREFIX + 12, b"\0"),
    )


def _long_record(kind: bytes, value: bytes) -> bytes:
    """Return a pseudo-entry that holds a text too long for the header that follows it."""
    value += b"\0"
    size = len(value)
    head = _block(b"././@LongLink", b"", kind, 0, b"%011o\0" % size, b"", _GNU, 0)
    return head + value + padding(size)


def _split_name(name: bytes) -> tuple[bytes, bytes] | None:
    """
    Split a long name into prefix and name at a slash, which is left out; use the
    shortest prefix that is possible, and return ``None`` if none is.
    """
    # Never split at the slash that ends a directory's name: some readers drop an
    # entry with an empty name.
    at = name.find(b"/", max(len(name) - _NAME - 1, 1), len(name) - 1)
    return None if at == -1 or at > _PREFIX else (name[:at], name[at + 1 :])
