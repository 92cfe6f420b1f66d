"""Tests of responses with several parts of a blob."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from nixery.errors import StorageError
from nixery.http.back_pressure import DROP_SECONDS
from nixery.http.headers import MAX_RANGES
from nixery.http.registry.api import Registry
from nixery.http.registry.multipart import MAX_GAP, MultipartBody, spans
from nixery.http.registry.multipart_stream import multipart_chunks
from nixery.image.manifests import digest_of
from nixery.image.names import Digest
from nixery.storage.interface import BlobInfo, BlobSource, ByteRange, Storage, Stream
from nixery.testing.fakes import InlineWorkers
from nixery.testing.memory_storage import MemoryStorage
from tests.support.http import (
    Connection,
    FakeImages,
    FileStorage,
    Response,
    SteppedWorkers,
    make_root,
)
from tests.support.partial_pulls import parse_parts

DATA = bytes(range(256)) * 8
INFO = BlobInfo(digest=digest_of(DATA), size=len(DATA), media_type="application/x-layer")


def expected(ranges: Sequence[ByteRange], data: bytes = DATA) -> list[tuple[str, bytes]]:
    return [
        (f"bytes {each.start}-{each.stop - 1}/{len(data)}", data[each.start : each.stop])
        for each in ranges
    ]


@st.composite
def disjoint_ranges(draw: st.DrawFn) -> tuple[ByteRange, ...]:
    """Draw ranges in any order of which none overlaps another."""
    cuts = sorted(draw(st.sets(st.integers(0, len(DATA)), min_size=4, max_size=24)))
    pairs = [ByteRange(start=a, stop=b) for a, b in pairwise(cuts)]
    chosen = draw(st.lists(st.sampled_from(pairs), min_size=2, unique=True))
    return tuple(chosen)


class LayoutTests(SynchronousTestCase):
    @settings(max_examples=100)
    @given(ranges=disjoint_ranges(), size=st.integers(1, 700))
    def test_body_is_the_same_in_pieces_of_any_size(
        self, ranges: tuple[ByteRange, ...], size: int
    ) -> None:
        """A body read in pieces of any size has its length, and each part as it was asked for."""
        body = MultipartBody(info=INFO, ranges=ranges)
        read = b""
        for start in range(0, body.length, size):
            piece = b"".join(
                piece if isinstance(piece, bytes) else DATA[piece.start : piece.stop]
                for piece in body.pieces(start, start + size)
            )
            self.assertEqual(min(size, body.length - start), len(piece))
            read += piece
        self.assertEqual(expected(ranges), parse_parts(body.media_type, read))

    def test_close_ranges_are_read_together_in_the_order_asked(self) -> None:
        """Ranges that follow each other closely are read together, and keep their order."""
        far = 10 * MAX_GAP
        ranges = [
            ByteRange(start=start, stop=start + 10)
            for start in (far, far + 10, far + 20 + MAX_GAP, 0, 11 + MAX_GAP + 10, 100)
        ]
        self.assertEqual(
            [tuple(ranges[:3]), (ranges[3],), (ranges[4],), (ranges[5],)],
            [span.ranges for span in spans(ranges)],
        )
        self.assertEqual(ByteRange(start=far, stop=far + 30 + MAX_GAP), spans(ranges)[0].whole)


class RangedStorage(MemoryStorage):
    """A storage that streams, in chunks of a given size, what it is asked for."""

    def __init__(self, size: int, *, lost: int = 0) -> None:
        super().__init__()
        self.size = size
        self.lost = lost
        self.asked: list[ByteRange] = []
        self.running = 0

    async def open(
        self, digest: Digest, part: ByteRange | None = None, *, redirect: bool = True
    ) -> BlobSource:
        assert part is not None and not redirect
        self.asked.append(part)
        return Stream(info=INFO, chunks=self._chunks(part))

    async def _chunks(self, part: ByteRange) -> AsyncIterator[bytes]:
        self.running += 1
        try:
            stop = part.stop - self.lost
            for start in range(part.start, stop, self.size):
                yield DATA[start : min(stop, start + self.size)]
        finally:
            self.running -= 1


class StreamTests(SynchronousTestCase):
    def read(self, storage: RangedStorage, ranges: tuple[ByteRange, ...]) -> tuple[str, bytes]:
        body = MultipartBody(info=INFO, ranges=ranges)

        async def read() -> bytes:
            reads = spans(ranges)
            first = await storage.open(INFO.digest, reads[0].whole, redirect=False)
            assert isinstance(first, Stream)
            chunks = [chunk async for chunk in multipart_chunks(storage, first, body, reads)]
            return b"".join(chunks)

        read_body = self.successResultOf(Deferred.fromCoroutine(read()))
        self.assertEqual(body.length, len(read_body))
        return body.media_type, read_body

    @settings(max_examples=100)
    @given(ranges=disjoint_ranges(), size=st.integers(1, 700))
    def test_streamed_body_has_each_part_as_it_was_asked_for(
        self, ranges: tuple[ByteRange, ...], size: int
    ) -> None:
        """A body made of ranged reads, in chunks of any size, has each part; all are closed."""
        storage = RangedStorage(size)
        self.assertEqual(expected(ranges), parse_parts(*self.read(storage, ranges)))
        self.assertEqual([span.whole for span in spans(ranges)], storage.asked)
        self.assertEqual(0, storage.running)

    def test_stream_that_ends_early_is_an_error(self) -> None:
        """A stream that ends early is an error, and is closed."""
        storage = RangedStorage(100, lost=1)
        ranges = (ByteRange(start=0, stop=10), ByteRange(start=20, stop=30))
        body = MultipartBody(info=INFO, ranges=ranges)

        async def read() -> None:
            reads = spans(ranges)
            first = await storage.open(INFO.digest, reads[0].whole, redirect=False)
            assert isinstance(first, Stream)
            async for _ in multipart_chunks(storage, first, body, reads):
                pass

        self.failureResultOf(Deferred.fromCoroutine(read()), StorageError)
        self.assertEqual(0, storage.running)


class RequestTests(SynchronousTestCase):
    """Tests of whole requests, from a file and from a storage that streams."""

    def setUp(self) -> None:
        self.clock = Clock()
        directory = self.mktemp()
        os.mkdir(directory)
        self.files = FileStorage(os.path.abspath(directory))
        self.path = f"/v2/git/blobs/{self.files.add(DATA)}"

    def ask(self, ranges: str, storage: Storage | None = None) -> Response:
        registry = Registry(FakeImages(), storage or self.files, InlineWorkers(), self.clock)
        connection = Connection(make_root(registry=registry), self.clock)
        self.addCleanup(connection.disconnect)
        connection.send("GET", self.path, ("Range", ranges))
        # A long request is parsed in turns.
        self.clock.pump([0] * 4)
        return connection.response()

    def test_parts_that_a_stalled_client_does_not_take_are_read_again(self) -> None:
        """A stalled client has one slice of the parts in memory; the rest is read again."""
        data = bytes(range(251)) * 2000
        ranges = [ByteRange(start=start, stop=start + 60_000) for start in (300_000, 0, 100_000)]
        path = f"/v2/git/blobs/{self.files.add(data)}"
        workers = SteppedWorkers()
        registry = Registry(FakeImages(), self.files, workers, self.clock)
        connection = Connection(make_root(registry=registry), self.clock, slow=True)
        wanted = ",".join(f"{each.start}-{each.stop - 1}" for each in ranges)
        connection.send("GET", path, ("Range", f"bytes={wanted}"))
        for _ in range(4):
            workers.finish()
            self.clock.advance(DROP_SECONDS)
            self.assertEqual([], workers.names)
            connection.resume()
        workers.finish()
        answer = connection.response()
        content_type = answer.header("Content-Type")
        assert content_type is not None
        self.assertEqual(expected(ranges, data), parse_parts(content_type, answer.body))
        self.assertEqual([], self.files.open_descriptors())
        connection.disconnect()

    def test_two_ranges_are_two_parts(self) -> None:
        """Two ranges are two parts in the order asked, and the length is announced."""
        for storage in (None, StatedStorage(300)):
            answer = self.ask("bytes=1000-1999, ,20-29", storage)
            self.assertEqual(206, answer.status)
            self.assertEqual(str(len(answer.body)), answer.header("Content-Length"))
            self.assertIsNone(answer.header("Content-Range"))
            content_type = answer.header("Content-Type")
            assert content_type is not None
            self.assertEqual(
                expected([ByteRange(start=1000, stop=2000), ByteRange(start=20, stop=30)]),
                parse_parts(content_type, answer.body),
            )
            self.assertEqual(INFO.digest, answer.header("Docker-Content-Digest"))
        self.assertEqual([], self.files.open_descriptors())

    def test_as_many_ranges_as_partial_pulls_ask_for(self) -> None:
        """1,024 ranges are as many parts; one more is refused with 400."""
        ranges = [f"{start}-{start}" for start in range(0, 2 * MAX_RANGES, 2)]
        self.assertEqual(len(DATA), 2 * MAX_RANGES)
        answer = self.ask(f"bytes={','.join(ranges)}")
        content_type = answer.header("Content-Type")
        assert content_type is not None
        self.assertEqual(
            DATA[::2], b"".join(data for _, data in parse_parts(content_type, answer.body))
        )
        more = self.ask(f"bytes={','.join([*ranges, '1-1'])}")
        self.assertEqual((400, "SIZE_INVALID"), (more.status, more.error()["code"]))

    def test_what_is_refused_is_400(self) -> None:
        """Ranges that overlap, and those outside the blob beside others, are refused with 400."""
        for ranges in ("0-9,9-12", "0-,5-6", "-5,2046-2047", "0-1,4096-4099", "0-1,-0"):
            answer = self.ask(f"bytes={ranges}")
            self.assertEqual((400, "SIZE_INVALID"), (answer.status, answer.error()["code"]), ranges)


class StatedStorage(RangedStorage):
    """A storage that streams, and tells the size of its blob."""

    async def stat(self, digest: Digest) -> BlobInfo:
        return INFO
