"""
Parse the request headers for media types, conditions and ranges.

Pure functions from raw header values to decisions.  A malformed header is ignored, as
RFC 9110 asks for: none of these headers can make a request fail, except for ranges
that are not served.

Werkzeug's parsers are not used.  Its Accept drops a type whose weight is not a number or
more than 1, and accepts one of ``q = 0``; its Range answers a suffix longer than the blob
with 416.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from itertools import pairwise

from nixery.http.registry.errors import RangeNotSatisfiable, RangesRefused
from nixery.image.names import Digest
from nixery.storage.interface import ByteRange

__all__ = [
    "MAX_RANGES",
    "accepted_types",
    "etag",
    "is_unchanged",
    "parse_number",
    "requested_ranges",
]

MAX_RANGES = 1024
"""The most ranges of a request: partial pulls with podman ask for no more at a time."""

_RANGE = re.compile(rb"([0-9]*)-([0-9]*)")

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


def requested_ranges(
    range_values: Iterable[bytes], if_range: bytes | None, digest: Digest, size: int
) -> tuple[ByteRange, ...]:
    """
    Return the parts of a blob that a GET asks for, in the order asked; none: all of it.

    A request that begins at 0 in an empty blob gets the whole: Content-Range cannot
    express that part, and some clients send such a header with every request.

    Several ranges are served as they are asked for, or refused as a whole: partial pulls count
    the parts, and halve a request that is refused with 400, which no other status makes them do.

    :param range_values: of all Range headers.
    :param if_range: the If-Range header.  Blobs have no date of change, and weak
        tags are not used here, so that only the exact entity tag makes a range apply.
    :param size: of the blob, in bytes.
    :raises RangeNotSatisfiable: the only range lies outside the blob.
    :raises RangesRefused: there are too many ranges, one of several lies outside the blob, or
        they overlap.
    """
    if if_range is not None and if_range.strip(b" \t") != etag(digest):
        return ()
    unit, _, specifiers = b",".join(range_values).partition(b"=")
    if unit.strip(b" \t").lower() != b"bytes" or size == 0:
        return ()
    # Elements of a list may be empty (RFC 9110, 5.6.1.2).
    items = [item for item in (each.strip(b" \t") for each in specifiers.split(b",")) if item]
    bounds = [_bounds(item, size) for item in items]
    if any(each is None for each in bounds):
        return ()
    ranges = [ByteRange(start=start, stop=min(stop, size)) for start, stop in filter(None, bounds)]
    if len(ranges) > MAX_RANGES:
        raise RangesRefused(reason=f"they are {len(ranges)}, and at most {MAX_RANGES} are served")
    if any(each.start >= each.stop for each in ranges):
        if len(ranges) == 1:
            raise RangeNotSatisfiable(digest=digest, size=size)
        raise RangesRefused(reason=f"one lies outside the blob, which has {size} bytes")
    # Otherwise a short request could make many times the blob be sent (RFC 9110, 14.2).
    in_order = sorted(ranges, key=lambda each: each.start)
    if any(following.start < each.stop for each, following in pairwise(in_order)):
        raise RangesRefused(reason="they overlap")
    return tuple(ranges)


def _bounds(item: bytes, size: int) -> tuple[int, int] | None:
    """
    Return the first byte that a range specifier asks for, and the one after its last.

    :return: ``None`` if it is malformed, and the header therefore to be ignored.
    """
    match = _RANGE.fullmatch(item)
    if match is None or item == b"-":
        return None
    first, last = match.groups()
    if not first:
        return max(0, size - parse_number(last)), size
    start = parse_number(first)
    if not last:
        return start, size
    stop = parse_number(last) + 1
    return None if stop <= start else (start, stop)
