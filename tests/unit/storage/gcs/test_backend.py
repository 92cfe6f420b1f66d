"""
Tests for :mod:`nixery.storage.gcs.backend`: the contract, through the real client library,
and what may go wrong with what is read and with records.
"""

from __future__ import annotations

import hashlib
import random
from typing import Any
from urllib.error import HTTPError

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from nixery.errors import StorageError
from nixery.image.names import Digest
from nixery.storage.errors import BlobUnknown, StorageRefused, StorageUnavailable
from nixery.storage.gcs.backend import (
    MISSING_CHECK_TTL_SECONDS,
    OBJECT_CACHE_TTL_SECONDS,
    GcsStorage,
)
from nixery.storage.gcs.download import PIECE_BYTES
from nixery.storage.gcs.retry import RetryPolicy
from nixery.storage.interface import BlobSource, ByteRange, Redirect, Storage, Stream
from tests.support.fake_gcs.process import FakeBucket, fake_gcs
from tests.support.gcs import BRIEF, HASTY, follow, make_objects, make_storage
from tests.unit.storage.test_contract import (
    LAYER,
    MANIFEST,
    StorageContract,
    contract,
    digest_of,
    drain,
    finish,
    texts,
)

BLOB = random.Random(1).randbytes(2 * PIECE_BYTES + 4321)
"""A blob of three pieces."""

PASSING = (
    ("status", 503),
    ("status", 429),
    ("reset", 0),
    ("html", 0),
    ("drop", 0),
    ("late", 503),
    ("page", 0),
)


class GcsStorageTests(StorageContract, SynchronousTestCase):
    """The contract, of storage in a bucket whose blobs are fetched from there."""

    def storage(self) -> Storage:
        storage = make_storage(fake_gcs().make_bucket())
        self.finish(storage.start())
        return storage

    def content(self, source: BlobSource, part: ByteRange | None = None) -> bytes:
        if isinstance(source, Redirect):
            return follow(source, part)
        return super().content(source, part)

    # Many requests each: fewer examples will do for what differs from one backend to
    # another.
    @settings(contract, max_examples=12)
    @given(st.binary(max_size=5000), st.tuples(st.integers(0), st.integers(0)))
    def test_any_part_of_any_blob_can_be_read(self, data: bytes, bounds: tuple[int, int]) -> None:
        """Any part of any blob can be read, and the blob's own size is told with it."""
        test: Any = StorageContract.test_any_part_of_any_blob_can_be_read
        test.hypothesis.inner_test(self, data, bounds)

    @settings(contract, max_examples=6)
    @given(st.dictionaries(texts, st.binary(max_size=50), max_size=5), texts)
    def test_any_text_is_a_key_of_its_own_and_is_listed(
        self, records: dict[str, bytes], prefix: str
    ) -> None:
        """Any text is a key, apart from every other text, and is listed as it was given."""
        test: Any = StorageContract.test_any_text_is_a_key_of_its_own_and_is_listed
        test.hypothesis.inner_test(self, records, prefix)


class GcsCase(SynchronousTestCase):
    """A storage on a bucket of its own."""

    def setUp(self) -> None:
        self.bucket: FakeBucket = fake_gcs().make_bucket()
        self.clock = Clock()
        self.storage = self.make()
        self.bucket.heal()

    def make(self, retry_policy: RetryPolicy = HASTY, *, redirect: bool = True) -> GcsStorage:
        storage = make_storage(
            self.bucket, retry_policy=retry_policy, redirect=redirect, clock=self.clock
        )
        finish(storage.start())
        return storage

    def put(self, data: bytes = BLOB) -> Digest:
        """Have a blob in the bucket."""
        self.bucket.put("layers/" + hashlib.sha256(data).hexdigest(), data, media_type=LAYER)
        return digest_of(data)


class LookTests(GcsCase):
    """Tests of lookups of blobs, and of caching them."""

    def test_blob_that_was_seen_is_sent_without_asking_bucket_again_for_while(self) -> None:
        """A blob that was seen is sent without asking the bucket again, for a while."""
        digest = self.put()
        for _ in range(3):
            finish(self.storage.open(digest))
            finish(self.storage.stat(digest))
        self.assertEqual(1, len(self.bucket.log("stat")))
        self.clock.advance(OBJECT_CACHE_TTL_SECONDS + 1)
        finish(self.storage.open(digest))
        self.assertEqual(2, len(self.bucket.log("stat")))

    def test_missing_blobs_are_looked_up_anew_except_those_seen_just_now(self) -> None:
        """Missing blobs are looked up anew, except those seen just now."""
        digest, other = self.put(), self.put(b"other")
        self.assertEqual(set(), finish(self.storage.missing([digest, other])))
        self.bucket.remove("layers/" + other.removeprefix("sha256:"))
        self.assertEqual(set(), finish(self.storage.missing([digest, other])))
        self.assertEqual(2, len(self.bucket.log("stat")))
        self.clock.advance(MISSING_CHECK_TTL_SECONDS + 1)
        self.assertEqual({other}, finish(self.storage.missing([digest, other])))
        with self.assertRaises(BlobUnknown):
            finish(self.storage.open(other))

    def test_transient_fault_is_retried(self) -> None:
        """A transient fault is retried; a lasting one is an error, and no missing blob."""
        digest = self.put()
        for action, value in PASSING:
            self.bucket.fail("stat", action, value)
            self.clock.advance(MISSING_CHECK_TTL_SECONDS + 1)
            self.assertEqual(set(), finish(self.storage.missing([digest])), action)
        self.storage = self.make(BRIEF)
        self.bucket.fail("stat", "status", 503, times=1000)
        with self.assertRaises(StorageUnavailable):
            finish(self.storage.missing([digest]))

    def test_403_is_not_missing_wherever_it_is_answered(self) -> None:
        """403 is not "missing", wherever it is answered."""
        digest = self.put()
        self.bucket.fail("*", "status", 403, times=1000)
        for call in (
            self.storage.stat(digest),
            self.storage.missing([digest]),
            self.storage.read(digest),
            self.storage.open(digest),
            self.storage.get_record("layer", "key"),
            self.storage.add_record("layer", "key", b""),
            self.storage.set_record("layer", "key", b""),
            self.storage.delete_record("layer", "key"),
            self.storage.list_records("layer"),
            self.storage.put(b"{}", MANIFEST),
        ):
            with self.assertRaises(StorageRefused) as caught:
                finish(call)
            self.assertIn("roles/storage.objectAdmin", caught.exception.message)

    def test_instance_without_state_of_its_own_finds_data_that_another_stored(self) -> None:
        """An instance without state of its own finds the data that another stored."""
        other = self.make()
        info = finish(self.storage.put(b"{}", MANIFEST))
        self.assertEqual(b"{}", finish(other.read(info.digest)))
        self.assertEqual(info, finish(other.stat(info.digest)))
        self.assertEqual(b"1", finish(self.storage.add_record("layer", "key", b"1")))
        self.assertEqual(b"1", finish(other.add_record("layer", "key", b"2")))


class ReadTests(GcsCase):
    """Small blobs, read as a whole."""

    def test_transient_faults_damage_on_way_included_do_not_change_result(self) -> None:
        """Transient faults, damage on the way included, do not change the result."""
        digest = self.put()
        for action, value in (*PASSING, ("cut", 0), ("flip", 0)):
            with self.subTest(action=action, value=value):
                self.bucket.fail("media", action, value)
                self.assertEqual(BLOB, finish(self.storage.read(digest)))
                self.assertEqual(0, self.bucket.state()["faults"])

    def test_damage_that_stays_is_error_and_blob_which_may_be_whole_is_kept(self) -> None:
        """Damage that stays is an error, and the blob, which may be whole, is kept."""
        digest = self.put()
        self.storage = self.make(BRIEF)
        self.bucket.fail("media", "flip", times=1000)
        with self.assertRaises(StorageUnavailable):
            finish(self.storage.read(digest))
        self.bucket.heal()
        self.assertEqual(BLOB, finish(self.storage.read(digest)))

    def test_object_that_is_not_what_its_name_says_is_withdrawn_to_be_made_again(self) -> None:
        """An object that is not what its name says is withdrawn, to be made again."""
        digest = digest_of(b"right")
        self.bucket.put("layers/" + digest.removeprefix("sha256:"), b"wrong")
        with self.assertRaises(BlobUnknown):
            finish(self.storage.read(digest))
        self.assertEqual({}, self.bucket.things())
        finish(self.storage.put(b"right", MANIFEST))
        self.assertEqual(b"right", finish(self.storage.read(digest)))

    def test_blob_that_vanishes_after_it_was_seen_is_unknown(self) -> None:
        """A blob that vanishes after it was seen is unknown."""
        digest = self.put()
        finish(self.storage.stat(digest))
        self.bucket.remove("layers/" + digest.removeprefix("sha256:"))
        for _ in range(2):
            with self.assertRaises(BlobUnknown):
                finish(self.storage.read(digest))


class StreamTests(GcsCase):
    """Blobs that pass through the daemon."""

    def setUp(self) -> None:
        super().setUp()
        self.storage = self.make(redirect=False)
        self.digest = self.put()
        self.bucket.heal()

    def stream(self, part: ByteRange | None = None) -> Stream:
        source = finish(self.storage.open(self.digest, part))
        assert isinstance(source, Stream)
        return source

    def test_stream_comes_in_pieces_over_one_connection(self) -> None:
        """It comes in pieces, over one connection."""

        async def sizes() -> list[int]:
            return [len(piece) async for piece in self.stream().chunks]

        self.assertEqual([PIECE_BYTES, PIECE_BYTES, 4321], finish(sizes()))
        self.assertEqual(1, len(self.bucket.log("media")))

    @settings(contract, max_examples=12)
    @given(st.tuples(st.integers(0), st.integers(0)))
    def test_any_part_of_it_can_be_streamed(self, bounds: tuple[int, int]) -> None:
        """Any part of it can be streamed."""
        start = bounds[0] % len(BLOB)
        part = ByteRange(start=start, stop=start + 1 + bounds[1] % (len(BLOB) - start))
        stream = self.stream(part)
        self.assertEqual(len(BLOB), stream.info.size)
        self.assertEqual(BLOB[part.start : part.stop], finish(drain(stream)))

    def test_transient_faults_in_the_middle_too_change_nothing(self) -> None:
        """Transient faults, in the middle too, change nothing: the stream resumes where it was."""
        part = ByteRange(start=1000, stop=2 * PIECE_BYTES)
        for action, value in (*PASSING, ("cut", 0)):
            with self.subTest(action=action, value=value):
                self.bucket.fail("media", action, value)
                self.assertEqual(BLOB, finish(drain(self.stream())))
                self.bucket.fail("media", action, value)
                self.assertEqual(BLOB[1000 : 2 * PIECE_BYTES], finish(drain(self.stream(part))))
                self.assertEqual(0, self.bucket.state()["faults"])

    def test_damage_ends_a_stream_before_its_last_piece(self) -> None:
        """Damage ends a stream before its last piece: no client takes it for whole."""
        self.bucket.fail("media", "flip")
        received = b""

        async def receive() -> None:
            nonlocal received
            async for piece in self.stream().chunks:
                received += piece

        with self.assertRaises(StorageError):
            finish(receive())
        self.assertEqual(2 * PIECE_BYTES, len(received))

    def test_blob_that_is_replaced_or_vanishes_while_it_is_streamed_ends_stream(self) -> None:
        """A blob that is replaced, or vanishes, while it is streamed ends the stream."""
        for replace in (True, False):
            self.digest = self.put()
            chunks = self.stream().chunks
            self.bucket.remove("layers/" + self.digest.removeprefix("sha256:"))
            if replace:
                self.put()
            with self.assertRaises(StorageError):
                finish(anext(chunks))  # type: ignore[arg-type]  # it is a coroutine
            self.clock.advance(OBJECT_CACHE_TTL_SECONDS + 1)

    def test_stream_that_is_closed_early_lets_go_of_its_connection(self) -> None:
        """A stream that is closed early lets go of its connection."""
        chunks: Any = self.stream().chunks
        self.assertEqual(BLOB[:PIECE_BYTES], finish(anext(chunks)))
        finish(chunks.aclose())
        with self.assertRaises(StorageError):
            finish(anext(chunks))

    def test_fault_that_stays_is_given_up_after_a_while(self) -> None:
        """A fault that stays is given up after a while."""
        self.storage = self.make(BRIEF, redirect=False)
        self.bucket.fail("media", "status", 503, times=1000)
        with self.assertRaises(StorageUnavailable):
            finish(drain(self.stream()))


class RedirectTests(GcsCase):
    """Tests of the URLs that clients are redirected to."""

    def status(self, url: str) -> int:
        try:
            follow(Redirect(info=finish(self.storage.stat(self.digest)), url=url))
        except HTTPError as error:
            with error:
                return error.code
        return 200

    def setUp(self) -> None:
        super().setUp()
        self.digest = self.put()
        source = finish(self.storage.open(self.digest))
        assert isinstance(source, Redirect)
        self.url = source.url

    def test_url_is_good_for_its_object_and_for_nothing_else(self) -> None:
        """A URL is good for its object, and for nothing else."""
        self.assertEqual(200, self.status(self.url))
        other = self.put(b"other").removeprefix("sha256:")
        mine = self.digest.removeprefix("sha256:")
        for altered in (
            self.url.partition("?")[0],
            self.url.replace(mine, other),
            self.url.replace("X-Goog-Expires=300", "X-Goog-Expires=3000"),
            self.url[:-1] + ("0" if self.url[-1] != "0" else "1"),
            self.url + "&x=y",
        ):
            self.assertEqual(403, self.status(altered), altered)

    def test_url_is_valid_for_five_minutes(self) -> None:
        """A URL is valid for five minutes."""
        self.addCleanup(fake_gcs().skew, 0)
        fake_gcs().skew(290)
        self.assertEqual(200, self.status(self.url))
        fake_gcs().skew(310)
        self.assertEqual(400, self.status(self.url))


class RecordTests(GcsCase):
    """Records, and what may go wrong with them."""

    def test_transient_faults_do_not_change_result_even_if_only_answer_was_lost(self) -> None:
        """Transient faults do not change the result, even if only the answer was lost."""
        for where, operation in (
            ("media", lambda key: self.storage.get_record("layer", key)),
            ("media", lambda key: self.storage.add_record("layer", key, b"1")),
            ("multipart", lambda key: self.storage.add_record("layer", key, b"1")),
            ("multipart", lambda key: self.storage.set_record("layer", key, b"1")),
            ("delete", lambda key: self.storage.delete_record("layer", key)),
            ("list", lambda key: self.storage.list_records("layer")),
        ):
            for action, value in (*PASSING, ("cut", 0)):
                with self.subTest(where=where, action=action, value=value):
                    key = f"{where} {action} {value}"
                    finish(self.storage.set_record("layer", key, b"1"))
                    if where == "multipart":
                        finish(self.storage.delete_record("layer", key))
                    self.bucket.fail(where, action, value)
                    finish(operation(key))
                    expected = None if where == "delete" else b"1"
                    self.assertEqual(expected, finish(self.storage.get_record("layer", key)))
                    self.bucket.heal()

    def test_damaged_on_the_way(self) -> None:
        """A record is what was stored, or an error."""
        finish(self.storage.set_record("layer", "key", b'{"size": 1}'))
        self.bucket.fail("media", "flip")
        self.assertEqual(b'{"size": 1}', finish(self.storage.get_record("layer", "key")))
        self.bucket.fail("multipart", "flip")
        finish(self.storage.set_record("layer", "key", b'{"size": 2}'))
        self.assertEqual(b'{"size": 2}', finish(self.storage.get_record("layer", "key")))

    def test_write_whose_answer_was_lost_is_not_repeated_over_a_later_one(self) -> None:
        """A write whose answer was lost is not repeated over a later one."""
        other = self.make()
        finish(self.storage.set_record("image", "key", b"old"))
        self.bucket.heal()
        self.bucket.fail("multipart", "drop", skip=1)
        finish(self.storage.set_record("image", "key", b"new"))
        # There is one; replaced, unheard; that one is not there any more.
        self.assertEqual([412, 200, 412], [status for _, status in self.bucket.log("multipart")])
        self.assertEqual(b"new", finish(other.get_record("image", "key")))

    def test_records_are_stored_with_no_store(self) -> None:
        """Records, which may change, are stored with "no-store", so that no cache keeps them."""
        finish(self.storage.set_record("image", "key", b"{}"))
        (thing,) = self.bucket.things("records/").values()
        self.assertEqual(("no-store", "application/json"), (thing["cache"], thing["type"]))

    def test_changing_all_the_time(self) -> None:
        """A record that another writer replaces at every try is an error in the end."""
        self.bucket.fail("multipart", "status", 412, times=1000)
        with self.assertRaises(StorageError):
            finish(self.storage.set_record("image", "key", b"{}"))
        with self.assertRaises(StorageError):
            finish(self.storage.add_record("image", "key", b"{}"))

    def test_objects_that_are_no_records_of_this_registry_are_not_listed(self) -> None:
        """Objects that are no records of this registry are not listed."""
        finish(self.storage.set_record("image", "key", b"{}"))
        self.bucket.put("records/image/%zz", b"")
        self.bucket.put("records/image/a b", b"")
        self.bucket.put("records/image.long/0", b"%ff\n")
        self.assertEqual(["key"], finish(self.storage.list_records("image")))

    def test_listing_is_read_to_its_last_page_past_faults_between_pages(self) -> None:
        """A listing is read to its last page, past faults between pages."""
        for number in range(7):
            self.bucket.put(f"records/image/{number}", b"{}")
        self.bucket.fail("list", "status", 503, skip=1)
        pages = list(make_objects(self.bucket).list("records/image/", page_size=3))
        self.assertEqual(["0", "1", "2"], [item.name[-1] for item in pages[0]])
        self.assertEqual([3, 3, 1], [len(page) for page in pages])
        self.assertEqual(4, len(self.bucket.log("list")))


class TaskTests(GcsCase):
    """Tests of tasks without a waiter."""

    def test_task_that_is_stopped_makes_no_more_requests(self) -> None:
        """A task that is stopped makes no more requests."""
        objects = make_objects(self.bucket, evolve(HASTY, total=60))
        self.bucket.fail("stat", "status", 503, times=1000)
        objects.stop.set()
        for call in (
            lambda: objects.stat("x"),
            lambda: objects.put("x", b"", "text/plain", cache_control=""),
            lambda: objects.get("x"),
            lambda: objects.delete("x"),
            lambda: next(objects.list("x")),
        ):
            with self.assertRaises(StorageError) as caught:
                call()
            self.assertIn("stopped", caught.exception.reason)
        self.assertEqual([], self.bucket.log())
