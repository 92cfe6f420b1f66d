"""
Tests that every storage backend has to pass.

:class:`StorageContract` is mixed into one test case for each backend; a backend
that needs a server or a pool of threads brings it along in :meth:`storage`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from nixery.errors import StorageError
from nixery.image.errors import InvalidDigest
from nixery.image.names import Digest
from nixery.storage.errors import BlobUnknown, DigestMismatch
from nixery.storage.filesystem.backend import FilesystemStorage
from nixery.storage.interface import (
    BlobInfo,
    BlobSource,
    ByteRange,
    OpenFile,
    PendingBlob,
    Redirect,
    Storage,
    Stream,
)
from nixery.storage.rules import MAX_SMALL_BYTES
from nixery.testing.fakes import InlineWorkers
from nixery.testing.memory_storage import MemoryStorage

if TYPE_CHECKING:
    # The mixin is one of any test case; to the type checker it is one itself.
    Base = SynchronousTestCase
else:
    Base = object

P = ParamSpec("P")
T = TypeVar("T")

LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"

PATIENCE = 20.0
"""Seconds after which threads that never met fail a test instead of hanging it."""

contract = settings(
    max_examples=40,
    # One method of the mixin runs in the test case of every backend: that is the point.
    suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow],
)

texts = st.one_of(
    st.text(st.characters(), max_size=40),
    st.text("./%~\0 aZ", max_size=12),
    st.text(st.characters(), min_size=60, max_size=400),
    st.sampled_from(["", ".", "..", "../../etc/passwd", "/", "a/b", "\0", "x" * 200, "x" * 201]),
)
"""Any text: keys that look like paths, that are too long for a file name, that are no Unicode."""


def digest_of(data: bytes) -> Digest:
    return Digest("sha256:" + hashlib.sha256(data).hexdigest())


def finish(coroutine: Coroutine[Deferred[Any], Any, T]) -> T:
    """Return or raise the result of a coroutine that waits for nothing."""
    returned: list[T] = []
    failed: list[Failure] = []
    Deferred.fromCoroutine(coroutine).addCallbacks(returned.append, failed.append)
    if failed:
        failed[0].raiseException()
    if not returned:
        raise AssertionError("it waits for something")
    return returned[0]


class StorageContract(Base):
    """Mixed into a test case of a backend."""

    _reused: Storage | None = None

    def storage(self) -> Storage:
        """An empty storage, ready to be used."""
        raise NotImplementedError

    def reused_storage(self) -> Storage:
        """The one storage of all examples of a property, which leave no records in it."""
        if self._reused is None:
            self._reused = self.storage()
        return self._reused

    def finish(self, coroutine: Coroutine[Deferred[Any], Any, T]) -> T:
        """
        Return or raise the result of a coroutine, from any thread.

        This implementation is for backends that answer without a reactor.
        """
        return finish(coroutine)

    def content(self, source: BlobSource, part: ByteRange | None = None) -> bytes:
        """``part`` of what was opened, or all of it, read as the registry would."""
        if isinstance(source, OpenFile):
            with os.fdopen(source.descriptor, "rb") as file:
                self.assertEqual(0, file.tell())
                if part is None:
                    return file.read(source.info.size)
                file.seek(part.start)
                return file.read(part.stop - part.start)
        if isinstance(source, Stream):
            return self.finish(drain(source))
        raise NotImplementedError  # a backend that redirects knows how to follow

    def store(self, storage: Storage, data: bytes, media_type: str = LAYER) -> BlobInfo:
        """Store ``data`` through a writer, in pieces."""
        writer = self.finish(storage.create())
        for start in range(0, len(data), 7):
            piece = data[start : start + 7]
            self.assertEqual(len(piece), writer.write(piece))
        return self.finish(writer.commit(digest_of(data), len(data), media_type))

    def assert_absent(self, storage: Storage, digest: Digest) -> None:
        self.assertEqual({digest}, self.finish(storage.missing([digest])))
        part = ByteRange(start=0, stop=1)
        for read in (
            storage.stat(digest),
            storage.read(digest),
            storage.open(digest),
            storage.read_part(digest, part),
        ):
            with self.assertRaises(BlobUnknown) as caught:
                self.finish(read)
            self.assertEqual(digest, caught.exception.digest)

    def assert_stored(self, storage: Storage, data: bytes, media_type: str = LAYER) -> None:
        info = BlobInfo(digest=digest_of(data), size=len(data), media_type=media_type)
        self.assertEqual(info, self.finish(storage.stat(info.digest)))
        self.assertEqual(data, self.finish(storage.read(info.digest)))
        source = self.finish(storage.open(info.digest))
        self.assertEqual(info, source.info)
        self.assertEqual(data, self.content(source))
        direct = self.finish(storage.open(info.digest, redirect=False))
        self.assertNotIsInstance(direct, Redirect)
        self.assertEqual(data, self.content(direct))

    # -- blobs

    def test_of_many_blobs_those_that_are_not_stored_are_told_at_once(self) -> None:
        """Of many blobs, those that are not stored are told at once."""
        storage = self.storage()
        digests = [digest_of(b"%d" % number) for number in range(9)]
        for number in (1, 4, 8):
            self.store(storage, b"%d" % number)
        expected = {digests[number] for number in (0, 2, 3, 5, 6, 7)}
        self.assertEqual(expected, self.finish(storage.missing(digests)))
        self.assertEqual(frozenset(), self.finish(storage.missing([])))
        self.assertEqual(frozenset(), self.finish(storage.missing({digests[4]: 1})))

    def test_blob_that_was_never_stored_is_unknown(self) -> None:
        """A blob that was never stored is unknown."""
        self.assert_absent(self.storage(), digest_of(b"never"))

    def test_committed_blob_is_there_with_its_size_and_media_type(self) -> None:
        """A committed blob is there, with its size and media type."""
        storage = self.storage()
        data = b"a layer" * 100
        info = self.store(storage, data)
        self.assertEqual(BlobInfo(digest=digest_of(data), size=len(data), media_type=LAYER), info)
        self.assert_stored(storage, data)

    def test_small_blob_is_stored_as_a_whole_under_the_digest_of_its_bytes(self) -> None:
        """A small blob is stored as a whole under the digest of its bytes."""
        storage = self.storage()
        info = self.finish(storage.put(b"{}", MANIFEST))
        self.assertEqual(BlobInfo(digest=digest_of(b"{}"), size=2, media_type=MANIFEST), info)
        self.assert_stored(storage, b"{}", MANIFEST)

    def test_blob_may_be_empty(self) -> None:
        """A blob may be empty."""
        storage = self.storage()
        self.store(storage, b"")
        self.assert_stored(storage, b"")

    @contract
    @given(data=st.binary(max_size=5000), bounds=st.tuples(st.integers(0), st.integers(0)))
    def test_any_part_of_any_blob_can_be_read(self, data: bytes, bounds: tuple[int, int]) -> None:
        """Any part of any blob can be read, and the blob's own size is told with it."""
        storage = self.reused_storage()
        data += b"."
        start = bounds[0] % len(data)
        part = ByteRange(start=start, stop=start + 1 + bounds[1] % (len(data) - start))
        self.store(storage, data)
        source = self.finish(storage.open(digest_of(data), part))
        self.assertEqual(len(data), source.info.size)
        self.assertEqual(data[part.start : part.stop], self.content(source, part))
        self.assertEqual(
            data[part.start : part.stop],
            self.finish(storage.read_part(digest_of(data), part)),
        )

    def test_invisible_until_committed(self) -> None:
        """A blob is invisible until it is committed."""
        storage = self.storage()
        writer = self.finish(storage.create())
        writer.write(b"half")
        self.assert_absent(storage, digest_of(b"half"))
        self.finish(writer.abort())

    def test_aborted_blob_never_appears(self) -> None:
        """An aborted blob never appears; a second abort, and one after a commit, do nothing."""
        storage = self.storage()
        writer = self.finish(storage.create())
        writer.write(b"dropped")
        self.finish(writer.abort())
        self.finish(writer.abort())
        self.assert_absent(storage, digest_of(b"dropped"))
        writer = self.finish(storage.create())
        writer.write(b"kept")
        self.finish(writer.commit(digest_of(b"kept"), 4, LAYER))
        self.finish(writer.abort())
        self.assert_stored(storage, b"kept")

    def test_writer_that_has_ended_takes_no_more_and_commits_nothing(self) -> None:
        """A writer that has ended takes no more and commits nothing."""
        storage = self.storage()
        writer = self.finish(storage.create())
        self.finish(writer.abort())
        with self.assertRaises(StorageError):
            writer.write(b"late")
        with self.assertRaises(StorageError):
            self.finish(writer.commit(digest_of(b""), 0, LAYER))
        self.assert_absent(storage, digest_of(b""))

    def commit_many(self, storage: Storage, *blobs: tuple[bytes, int, str, bytes]) -> list[bytes]:
        """Commit blobs, each of a size that is announced, with records of a key and a value."""
        commits = []
        for data, size, key, value in blobs:
            writer = self.finish(storage.create())
            writer.write(data)
            commits.append(
                PendingBlob(
                    writer=writer,
                    digest=digest_of(data),
                    size=size,
                    media_type=LAYER,
                    record=("layer", key, value),
                )
            )
        try:
            return self.finish(storage.commit_many(commits))
        finally:
            for each in commits:
                self.finish(each.writer.abort())

    def test_blobs_are_committed_with_records_of_them(self) -> None:
        """Blobs are committed with records of them; the first record of a key wins."""
        storage = self.storage()
        self.assertEqual([], self.commit_many(storage))
        told = self.commit_many(storage, (b"one", 3, "key", b"1"), (b"three", 5, "other", b"3"))
        self.assertEqual([b"1", b"3"], told)
        told = self.commit_many(
            storage, (b"two", 3, "key", b"2"), (b"one", 3, "k" * 300, b"4"), (b"", 0, "0", b"0")
        )
        self.assertEqual([b"1", b"4", b"0"], told)
        for data in (b"one", b"two", b"three", b""):
            self.assert_stored(storage, data)
        self.assertEqual(b"1", self.finish(storage.get_record("layer", "key")))

    def test_recorded_in_vain(self) -> None:
        """A blob that cannot be committed has no record either."""
        storage = self.storage()
        with self.assertRaises(DigestMismatch):
            self.commit_many(storage, (b"three", 5, "other", b"3"), (b"four", 5, "key", b"1"))
        self.assertIsNone(self.finish(storage.get_record("layer", "key")))
        self.assert_absent(storage, digest_of(b"four"))
        if self.finish(storage.get_record("layer", "other")) is not None:
            self.assert_stored(storage, b"three")

    def test_commit_of_another_size_than_was_written_fails_and_nothing_appears(self) -> None:
        """A commit of another size than was written fails, and nothing appears."""
        storage = self.storage()
        for size in (3, 5):
            writer = self.finish(storage.create())
            writer.write(b"four")
            with self.assertRaises(DigestMismatch):
                self.finish(writer.commit(digest_of(b"four"), size, LAYER))
            self.finish(writer.abort())
            self.assert_absent(storage, digest_of(b"four"))

    def test_first_is_kept(self) -> None:
        """A blob that is there already is kept as it is, and told as it is."""
        storage = self.storage()
        first = self.store(storage, b"config", "application/first")
        self.assertEqual(first, self.store(storage, b"config", "application/second"))
        self.assertEqual(first, self.finish(storage.put(b"config", "application/third")))
        self.assert_stored(storage, b"config", "application/first")

    def test_blob_that_is_too_large_for_memory_is_neither_put_nor_read(self) -> None:
        """A blob that is too large for memory is neither put nor read, but streamed."""
        storage = self.storage()
        data = bytes(MAX_SMALL_BYTES)
        self.finish(storage.put(data, LAYER))
        self.assertEqual(data, self.finish(storage.read(digest_of(data))))
        data += b"!"
        with self.assertRaises(StorageError):
            self.finish(storage.put(data, LAYER))
        self.assert_absent(storage, digest_of(data))
        writer = self.finish(storage.create())
        writer.write(data)
        self.finish(writer.commit(digest_of(data), len(data), LAYER))
        with self.assertRaises(StorageError):
            self.finish(storage.read(digest_of(data)))
        part = ByteRange(start=len(data) - 2, stop=len(data))
        source = self.finish(storage.open(digest_of(data), part))
        self.assertEqual(b"\0!", self.content(source, part))

    @contract
    @given(st.one_of(texts, texts.map("sha256:".__add__)))
    def test_text_that_is_no_digest_is_refused_wherever_it_points(self, text: str) -> None:
        """A text that is no digest is refused, wherever it points."""
        storage = self.reused_storage()
        digest = Digest(text)
        for call in (storage.stat(digest), storage.read(digest), storage.open(digest)):
            with self.assertRaises(InvalidDigest):
                self.finish(call)
        writer = self.finish(storage.create())
        with self.assertRaises(InvalidDigest):
            self.finish(writer.commit(digest, 0, LAYER))

    def test_any_number_of_writers_of_one_blob_succeed_at_once_and_are_told_same(self) -> None:
        """Any number of writers of one blob succeed at once, and are told the same."""
        storage = self.storage()
        data = os.urandom(300_000)
        barrier = Barrier(16, timeout=PATIENCE)

        def write(number: int) -> BlobInfo:
            writer = self.finish(storage.create())
            writer.write(data)
            barrier.wait()
            return self.finish(
                writer.commit(digest_of(data), len(data), f"application/{number % 3}")
            )

        with ThreadPoolExecutor(16) as threads:
            infos = list(threads.map(write, range(16)))
        self.assertEqual(1, len(set(infos)))
        self.assert_stored(storage, data, infos[0].media_type)

    # -- records

    def test_absent_record_is_none_can_be_deleted_and_is_not_listed(self) -> None:
        """An absent record is ``None``, can be deleted, and is not listed."""
        storage = self.storage()
        self.assertIsNone(self.finish(storage.get_record("layer", "key")))
        self.finish(storage.delete_record("layer", "key"))
        self.assertEqual([], list(self.finish(storage.list_records("layer"))))

    def test_first_record_of_a_key_wins_until_it_is_deleted(self) -> None:
        """The first record of a key wins, until it is deleted."""
        storage = self.storage()
        self.assertEqual(b"1", self.finish(storage.add_record("layer", "key", b"1")))
        self.assertEqual(b"1", self.finish(storage.add_record("layer", "key", b"2")))
        self.assertEqual(b"1", self.finish(storage.get_record("layer", "key")))
        self.finish(storage.delete_record("layer", "key"))
        self.assertIsNone(self.finish(storage.get_record("layer", "key")))
        self.assertEqual(b"2", self.finish(storage.add_record("layer", "key", b"2")))

    def test_of_many_records_those_that_there_are_are_told_at_once(self) -> None:
        """Of many records, those that there are are told at once."""
        storage = self.storage()
        self.assertEqual({}, self.finish(storage.get_records("layer", ["a", "b"])))
        self.finish(storage.set_record("layer", "a", b"1"))
        self.finish(storage.set_record("layer", "long" * 100, b"2"))
        self.finish(storage.set_record("image", "b", b"3"))
        self.assertEqual(
            {"a": b"1", "long" * 100: b"2"},
            self.finish(storage.get_records("layer", ["a", "b", "long" * 100])),
        )

    def test_image_is_published_with_records_of_which_the_first_stays(self) -> None:
        """Records that precede the one of a published image are added, and replace nothing."""
        storage = self.storage()
        blobs = [(b"{}", MANIFEST)]
        finish(storage.add_record("document", "one", b"there"))
        first = [("document", "one", b"late"), ("document", "two", b"new")]
        for value in (b"old", b"new"):
            finish(storage.publish(blobs, (), ("image", "key", value), first))
        self.assertEqual(b"there", finish(storage.get_record("document", "one")))
        self.assertEqual(b"new", finish(storage.get_record("document", "two")))
        self.assertEqual(b"new", finish(storage.get_record("image", "key")))

    def test_record_that_is_set_replaces_whatever_was_there(self) -> None:
        """A record that is set replaces whatever was there."""
        storage = self.storage()
        for value in (b"1", b"22", b""):
            self.finish(storage.set_record("image", "key", value))
            self.assertEqual(value, self.finish(storage.get_record("image", "key")))
        self.assertEqual(b"", self.finish(storage.add_record("image", "key", b"3")))

    def test_records_of_different_kinds_know_nothing_of_each_other(self) -> None:
        """Records of different kinds know nothing of each other."""
        storage = self.storage()
        self.finish(storage.set_record("image", "key", b"i"))
        self.finish(storage.set_record("layer", "key", b"l"))
        self.finish(storage.delete_record("image", "key"))
        self.assertEqual(b"l", self.finish(storage.get_record("layer", "key")))
        self.assertEqual([], list(self.finish(storage.list_records("image"))))

    @contract
    @given(st.text(st.characters(), max_size=10).filter(lambda text: not text.isalnum()))
    def test_kind_of_records_that_is_no_lower_case_word_is_refused(self, kind: str) -> None:
        """A kind of records that is no lower-case word is refused."""
        storage = self.reused_storage()
        if set(kind) <= set("abcdefghijklmnopqrstuvwxyz0123456789_-") and kind[:1].isalpha():
            return
        for call in (
            storage.get_record(kind, "key"),
            storage.add_record(kind, "key", b""),
            storage.delete_record(kind, "key"),
            storage.list_records(kind),
        ):
            with self.assertRaises(StorageError):
                self.finish(call)
        with self.assertRaises(StorageError):
            self.finish(storage.set_record(kind, "key", b""))

    def test_record_that_is_too_large_for_memory_is_refused(self) -> None:
        """A record that is too large for memory is refused."""
        storage = self.storage()
        with self.assertRaises(StorageError):
            self.finish(storage.set_record("layer", "key", bytes(MAX_SMALL_BYTES + 1)))
        with self.assertRaises(StorageError):
            self.finish(storage.add_record("layer", "key", bytes(MAX_SMALL_BYTES + 1)))
        self.assertEqual([], list(self.finish(storage.list_records("layer"))))

    @contract
    @given(st.dictionaries(texts, st.binary(max_size=50), max_size=8), texts)
    def test_any_text_is_a_key_of_its_own_and_is_listed(
        self, records: dict[str, bytes], prefix: str
    ) -> None:
        """Any text is a key, apart from every other text, and is listed as it was given."""
        storage = self.reused_storage()
        for key, value in records.items():
            self.assertEqual(value, self.finish(storage.add_record("any", key, value)))
        for key, value in records.items():
            self.assertEqual(value, self.finish(storage.get_record("any", key)))
        self.assertEqual(sorted(records), list(self.finish(storage.list_records("any"))))
        prefixes = [prefix, *(key[:2] for key in records), *(key[:150] for key in records)]
        for some in prefixes:
            self.assertEqual(
                sorted(key for key in records if key.startswith(some)),
                list(self.finish(storage.list_records("any", some))),
            )
        for key in records:
            self.finish(storage.delete_record("any", key))
        self.assertEqual([], list(self.finish(storage.list_records("any"))))

    def test_one_of_many_concurrent_creators_of_a_record_wins(self) -> None:
        """Of many that create a record at once, one wins, and all adopt what it wrote."""
        storage = self.storage()
        barrier = Barrier(8, timeout=PATIENCE)

        def add(number: int) -> list[bytes]:
            adopted = []
            for key in ("first", "second", "a" * 300):
                barrier.wait()
                adopted.append(self.finish(storage.add_record("layer", key, b"%d" % number)))
            return adopted

        with ThreadPoolExecutor(8) as threads:
            adopted = list(threads.map(add, range(8)))
        self.assertEqual(1, len({tuple(each) for each in adopted}))
        for key, value in zip(("first", "second", "a" * 300), adopted[0], strict=True):
            self.assertEqual(value, self.finish(storage.get_record("layer", key)))

    def test_readers_see_whole_records(self) -> None:
        """While a record is replaced, a reader sees the old one or the new one."""
        storage = self.storage()
        values = [b"a" * 9000, b"b" * 10]
        self.finish(storage.set_record("image", "key", values[0]))

        def replace(_: int) -> None:
            for value in values * 10:
                self.finish(storage.set_record("image", "key", value))

        with ThreadPoolExecutor(2) as threads:
            replacing = [threads.submit(replace, number) for number in range(2)]
            while not all(each.done() for each in replacing):
                self.assertIn(self.finish(storage.get_record("image", "key")), values)
            for each in replacing:
                each.result()


async def drain(source: Stream) -> bytes:
    return b"".join([chunk async for chunk in source.chunks])


class MemoryStorageTests(StorageContract, SynchronousTestCase):
    """The contract, of storage in memory."""

    def storage(self) -> Storage:
        return MemoryStorage()

    def test_blob_comes_as_a_stream_in_pieces_of_a_bounded_size(self) -> None:
        """A blob comes as a stream in pieces of a bounded size."""
        storage = MemoryStorage(chunk=4)
        self.store(storage, b"0123456789")
        source = self.finish(storage.open(digest_of(b"0123456789"), ByteRange(start=1, stop=8)))
        assert isinstance(source, Stream)

        async def pieces() -> list[bytes]:
            return [chunk async for chunk in source.chunks]

        self.assertEqual([b"1234", b"567"], self.finish(pieces()))


class FilesystemStorageTests(StorageContract, SynchronousTestCase):
    """The contract, of storage in a directory, on the calling thread."""

    def storage(self) -> Storage:
        # What a crash leaves is not part of the contract, and a disk takes its time.
        self.patch(os, "fsync", lambda _: None)
        storage = FilesystemStorage(Path(self.mktemp()), InlineWorkers())
        self.finish(storage.start())
        return storage
