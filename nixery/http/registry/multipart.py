"""
Lay out the body of a response with several parts of a blob: ``multipart/byteranges``.

A partial pull asks for up to 1,024 ranges of a layer at once and counts the parts of the answer:
each range is one part, in the order asked (RFC 9110, section 14.6).  The layout is known before
anything is read, so that the length can be announced and any piece of the body can be made again.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate
from uuid import uuid4

from attrs import field, frozen

from nixery.storage.interface import BlobInfo, ByteRange

__all__ = ["MultipartBody", "Span", "spans"]

MAX_GAP = 64 * 1024
"""
The most bytes between two ranges that are read and dropped rather than asked for separately:
a request to a bucket takes longer than they do.
"""


@frozen(kw_only=True)
class MultipartBody:
    """
    The layout of a body.

    :param info: the blob.
    :param ranges: the parts, in the order in which they are sent.
    :param boundary: a line that the blob must not contain.
    """

    info: BlobInfo
    ranges: tuple[ByteRange, ...]
    boundary: str = field(factory=lambda: uuid4().hex)

    tail: bytes = field(init=False)
    """The bytes after the data of the last part."""

    _starts: tuple[int, ...] = field(init=False)

    @tail.default
    def _make_tail(self) -> bytes:
        return f"\r\n--{self.boundary}--\r\n".encode("ascii")

    @_starts.default
    def _make_starts(self) -> tuple[int, ...]:
        """Return the offset of each part in the body, and the one of the tail."""
        sizes = (len(self.head(each)) + each.stop - each.start for each in self.ranges)
        return tuple(accumulate(sizes, initial=0))

    @property
    def media_type(self) -> str:
        """The media type of the body."""
        return f"multipart/byteranges; boundary={self.boundary}"

    @property
    def length(self) -> int:
        """The size of the body in bytes."""
        return self._starts[-1] + len(self.tail)

    def head(self, part: ByteRange) -> bytes:
        """Return the bytes before the data of a part.  They are not kept: a client may stall."""
        info = self.info
        return (
            f"\r\n--{self.boundary}\r\n"
            f"Content-Type: {info.media_type}\r\n"
            f"Content-Range: bytes {part.start}-{part.stop - 1}/{info.size}\r\n\r\n"
        ).encode("ascii")

    def pieces(self, start: int, stop: int) -> Iterator[bytes | ByteRange]:
        """
        Yield the pieces of a part of the body: bytes, and ranges of the blob.

        :param start: the offset of its first byte in the body.
        :param stop: the offset after its last byte.
        """
        index = bisect_right(self._starts, start) - 1
        while start < min(stop, self.length):
            offset = start - self._starts[index]
            if index == len(self.ranges):
                yield self.tail[offset : offset + stop - start]
                return
            part = self.ranges[index]
            head = self.head(part)
            if offset < len(head):
                piece: bytes | ByteRange = head[offset : offset + stop - start]
            else:
                first = part.start + offset - len(head)
                piece = ByteRange(start=first, stop=min(part.stop, first + stop - start))
            start += len(piece) if isinstance(piece, bytes) else piece.stop - piece.start
            yield piece
            if start == self._starts[index + 1]:
                index += 1


@frozen(kw_only=True)
class Span:
    """
    Ranges that are read together.

    :param whole: from the first byte of the first to the last byte of the last.
    :param ranges: in ascending order.
    """

    whole: ByteRange
    ranges: tuple[ByteRange, ...]


def spans(ranges: Sequence[ByteRange]) -> Sequence[Span]:
    """
    Join ranges that follow each other closely, without a change of their order.

    :param ranges: at least one; none overlaps another.
    """
    groups: list[list[ByteRange]] = []
    for each in ranges:
        if groups and 0 <= each.start - groups[-1][-1].stop <= MAX_GAP:
            groups[-1].append(each)
        else:
            groups.append([each])
    return [
        Span(
            whole=ByteRange(start=group[0].start, stop=group[-1].stop),
            ranges=tuple(group),
        )
        for group in groups
    ]
