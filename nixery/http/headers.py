"""
Parse the request headers for media types, conditions and ranges.

Pure functions from raw header values to decisions.  A malformed header is ignored, as
RFC 9110 asks for: none of these headers can make a request fail, except for a range
outside the blob.

Werkzeug's parsers are not used.  Its Accept drops a type whose weight is not a number or
more than 1, and accepts one of ``q = 0``; its Range answers a suffix longer than the blob,
and several ranges, with 416.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from nixery.http.registry.errors import RangeNotSatisfiable
from nixery.image.names import Digest
from nixery.storage.interface import ByteRange

__all__ = ["accepted_types", "etag", "is_unchanged", "parse_number", "requested_range"]

_RANGE = re.compile(rb"bytes[ \t]*=[ \t]*([0-9]*)-([0-9]*)[ \t]*", re.IGNORECASE)

_REFUSED = re.compile(rb"[ \t]*q[ \t]*=[ \t]*0(?:\.0{0,3})?[ \t]*", re.IGNORECASE)


def accepted_types(values: Iterable[bytes]) -> frozenset[str]:
    """
    Return the media types that a client accepts, in lower case and without parameters.

    Order and weights are dropped: Docker sends its types in an order that
    differs between its HEAD and its GET, and both must get the same manifest.
    Only a weight of zero counts: it means "not this one" (RFC 9110, 12.4.2).

    :param values: of all Accept headers of the request.
    """
    return _accepted_types(tuple(values))


# A client sends the same headers with every request.
@lru_cache(maxsize=256)
def _accepted_types(values: tuple[bytes, ...]) -> frozenset[str]:
    types = set()
    for value in values:
        for item in value.split(b","):
            media_type, *parameters = item.split(b";")
            if not any(_REFUSED.fullmatch(parameter) for parameter in parameters):
                types.add(media_type.strip().lower().decode("ascii", "replace"))
    types.discard("")
    return frozenset(types)


def etag(digest: Digest) -> bytes:
    """Return the entity tag of content with this digest: the digest itself, quoted."""
    return b'"%s"' % digest.encode("ascii")


def is_unchanged(values: Iterable[bytes], digest: Digest) -> bool:
    """
    Tell whether the client has this content already, so that the response is a 304.

    :param values: of all If-None-Match headers.  Tags may be lists, weak, or
        (which older Docker clients send) without their quotes.  Our own tags hold
        neither commas nor quotes, which makes splitting safe.
    """
    wanted = digest.encode("ascii")
    for value in values:
        for item in value.split(b","):
            tag = item.strip()
            if tag == b"*" or tag.removeprefix(b"W/").strip(b'"') == wanted:
                return True
    return False


def parse_number(digits: bytes) -> int:
    """
    Return a natural number of any length.

    :param digits: at least one digit, and nothing else.
    :return: the number; a number of more than 18 digits as another one of 19, since no size
        and no count here comes near it.
    """
    # Python refuses to read integers of more than 4300 digits, and a header may hold 16000.
    return int(digits.lstrip(b"0")[:19] or b"0")


def requested_range(
    range_values: Iterable[bytes], if_range: bytes | None, digest: Digest, size: int
) -> ByteRange | None:
    """
    Return the part of a blob that a GET asks for; ``None``: all of it.

    A request for several ranges gets the whole blob, which the specification
    allows and no client of registries minds.  So does one that begins at 0 in an
    empty blob: Content-Range cannot express that part, and some clients send
    such a header with every request.

    :param range_values: of all Range headers.
    :param if_range: the If-Range header.  Blobs have no date of change, and weak
        tags are not used here, so that only the exact entity tag makes a range apply.
    :param size: of the blob, in bytes.
    :raises RangeNotSatisfiable: the range lies outside the blob.
    """
    if if_range is not None and if_range.strip(b" \t") != etag(digest):
        return None
    match = _RANGE.fullmatch(b",".join(range_values).strip(b" \t"))
    if match is None or size == 0:
        return None
    first, last = match.groups()
    if not first and not last:
        return None
    if not first:
        length = parse_number(last)
        if length == 0:
            raise RangeNotSatisfiable(digest=digest, size=size)
        return ByteRange(start=max(0, size - length), stop=size)
    start = parse_number(first)
    stop = parse_number(last) + 1 if last else size
    if stop <= start and last:
        return None
    if start >= size:
        raise RangeNotSatisfiable(digest=digest, size=size)
    return ByteRange(start=start, stop=min(stop, size))
