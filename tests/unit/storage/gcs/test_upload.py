"""
Tests of faults while a blob is uploaded and published: it ends in success after
some retries, or in a clear error with nothing half-published.
"""

from __future__ import annotations

import gc
import hashlib
import random
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier, Event
from typing import Any

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from nixery.errors import StorageError
from nixery.image.manifests import layer_media_type
from nixery.image.names import Digest
from nixery.storage.errors import BlobUnknown, StorageRefused, StorageUnavailable, UploadLost
from nixery.storage.gcs.backend import GcsStorage
from nixery.storage.gcs.http import Body
from nixery.storage.gcs.objects import MAX_UPLOAD
from nixery.storage.gcs.retry import RetryPolicy
from nixery.storage.interface import BlobInfo, BlobWriter
from tests.support.fake_gcs.process import FakeBucket, fake_gcs
from tests.support.garbage import set_garbage_apart
from tests.support.gcs import BRIEF, CHUNK, HASTY, connection_to, follow, make_storage
from tests.unit.storage.test_contract import PATIENCE, digest_of, finish

LAYER = layer_media_type("gzip")
DATA = random.Random(0).randbytes(3 * CHUNK + 12345)
"""A blob of four chunks."""

SMALL = b"a blob of one chunk"

PASSING = (
    ("status", 503),
    ("status", 429),
    ("status", 408),
    ("status", 500),
    ("reset", 0),
    ("html", 0),
    ("drop", 0),
    ("late", 503),
    ("page", 0),
)
"""Faults that pass: before and after the service has executed the request."""


class UploadCase(SynchronousTestCase):
    """A storage on a bucket of its own."""

    bucket: FakeBucket

    def setUp(self) -> None:
        self.storage = self.make()

    def make(self, retry_policy: RetryPolicy = HASTY, chunk: int = CHUNK) -> GcsStorage:
        self.bucket = fake_gcs().make_bucket()
        storage = make_storage(self.bucket, retry_policy=retry_policy)
        storage.settings = evolve(storage.settings, chunk_size=chunk)
        finish(storage.start())
        self.bucket.heal()
        return storage

    def begin(self, data: bytes = DATA, storage: GcsStorage | None = None) -> BlobWriter:
        """Write a blob, but for its commit."""
        writer = finish((storage or self.storage).create())
        view = memoryview(data)
        try:
            for start in range(0, len(data), 100_000):
                writer.write(bytes(view[start : start + 100_000]))
        except BaseException:
            # As the packer does.
            finish(writer.abort())
            raise
        return writer

    def upload(
        self, data: bytes = DATA, media_type: str = LAYER, storage: GcsStorage | None = None
    ) -> BlobInfo:
        writer = self.begin(data, storage)
        return finish(writer.commit(digest_of(data), len(data), media_type))

    def assert_published(
        self, data: bytes = DATA, media_type: str = LAYER, *, unheard: int = 0
    ) -> None:
        """
        It is there, once, and nothing else is.

        :param unheard: how many sessions may be left of which nobody was told.
        """
        name = "layers/" + hashlib.sha256(data).hexdigest()
        things = self.bucket.things()
        self.assertEqual([name], list(things))
        thing = things[name]
        self.assertEqual(name, "layers/" + thing["sha256"])
        self.assertEqual((media_type, 1), (thing["type"], thing["published"]))
        self.assertEqual("public, no-transform, immutable, max-age=31536000", thing["cache"])
        self.assertLessEqual(self.bucket.state()["sessions"], unheard)

    def assert_nothing(self) -> None:
        """Nothing is there; and the next blob is stored as if nothing had been."""
        self.bucket.heal()
        state = self.bucket.state()
        self.assertEqual(({}, 0), (state["things"], state["sessions"]))
        self.upload()
        self.assert_published()

    def fails(self, kind: type[StorageError], data: bytes = DATA) -> StorageError:
        """Uploading fails, in a way that tells why without telling where."""
        with self.assertRaises(kind) as caught:
            self.upload(data)
        self.assertNotIn("upload_id", str(caught.exception))
        self.assertNotIn("http", str(caught.exception))
        error: StorageError = caught.exception
        return error


class LargeTests(UploadCase):
    """Blobs of several chunks, which are staged and promoted."""

    def test_upload_takes_a_session_four_chunks_stats_of_the_objects_and_a_move(self) -> None:
        """An upload takes a session, four chunks, stats of the objects, and a move."""
        self.upload()
        self.assertEqual(
            ["chunk", "chunk", "chunk", "final", "move", "start", "stat", "stat"],
            sorted(name for name, _ in self.bucket.log()),
        )
        self.assert_published()

    def test_transient_faults_of_any_request_do_not_change_the_result(self) -> None:
        """Transient faults of any request do not change the result."""
        for where in ("start", "chunk", "final", "stat", "move"):
            for action, value in PASSING:
                with self.subTest(where=where, action=action, value=value):
                    self.storage = self.make()
                    self.bucket.fail(where, action, value)
                    self.upload()
                    self.assertEqual(0, self.bucket.state()["faults"], "it did not happen")
                    self.assert_published(unheard=int(where == "start"))

    def test_retry_deadline_is_reset_on_progress(self) -> None:
        """The retry deadline is reset on progress."""
        for where in ("chunk", "query", "final"):
            self.bucket.fail(where, "status", 503, times=3)
        self.bucket.fail("chunk", "drop", times=2)
        self.upload()
        self.assert_published()

    def test_blob_may_end_anywhere_at_the_end_of_a_chunk_too(self) -> None:
        """A blob may end anywhere, at the end of a chunk too."""
        for size in (CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK - 1, 2 * CHUNK, 2 * CHUNK + 1):
            self.storage = self.make()
            self.upload(DATA[:size])
            self.assert_published(DATA[:size])

    def test_other_media_type(self) -> None:
        """A blob that is no usual layer has its media type before it has its name."""
        self.bucket.fail("patch", "drop")
        info = self.upload(media_type="application/x-other")
        self.assertEqual("application/x-other", info.media_type)
        self.assert_published(media_type="application/x-other")
        log = [name for name, _ in self.bucket.log() if name in ("patch", "move")]
        self.assertEqual(["patch", "patch", "move"], log)

    def test_rest_is_sent_again_if_the_service_keeps_less_than_it_was_sent(self) -> None:
        """The rest is sent again if the service keeps less than it was sent."""
        for where in ("chunk", "final"):
            for kept in (0, CHUNK):
                with self.subTest(where=where, kept=kept):
                    self.storage = self.make(chunk=2 * CHUNK)
                    self.bucket.fail(where, "short", kept, times=2)
                    data = DATA + DATA
                    self.upload(data)
                    self.assert_published(data)

    def test_service_that_keeps_nothing_of_what_it_is_sent_is_given_up(self) -> None:
        """A service that keeps nothing of what it is sent is given up."""
        self.storage = self.make(BRIEF)
        self.bucket.fail("*", "short", times=1000)
        self.fails(StorageUnavailable)
        self.assert_nothing()

    def test_session_that_the_service_forgets_is_an_upload_lost(self) -> None:
        """A session that the service forgets is lost, and says so, for it to be packed again."""
        for where in ("chunk", "final", "query"):
            for status in (404, 410):
                with self.subTest(where=where, status=status):
                    self.storage = self.make()
                    if where == "query":
                        self.bucket.fail("chunk", "reset")
                    self.bucket.fail(where, "forget", status)
                    error = self.fails(UploadLost)
                    self.assertIn(str(status), error.reason)
                    self.assert_nothing()

    def test_session_that_is_gone_because_it_has_ended_unheard_has_made_object(self) -> None:
        """A session that is gone because it has ended, unheard, has made an object."""
        self.bucket.fail("final", "drop")
        self.bucket.fail("query", "forget", 410)
        self.upload()
        self.assert_published()

    def test_refused_at_the_end(self) -> None:
        """A last answer that says there is an object already is looked into."""
        self.bucket.fail("final", "late", 412)
        self.upload()
        self.assert_published()
        self.storage = self.make()
        self.bucket.fail("final", "status", 412)
        self.fails(UploadLost)
        self.assert_nothing()

    def test_refused_at_the_start(self) -> None:
        """A session that must not begin is an error."""
        for status in (400, 404, 412):
            with self.subTest(status=status):
                self.storage = self.make()
                self.bucket.fail("start", "status", status)
                self.assertIn(str(status), self.fails(StorageError).reason)
                self.assert_nothing()

    def test_changed_on_the_way(self) -> None:
        """Bytes that are changed on the way never become an object."""
        for where in ("chunk", "final"):
            with self.subTest(where=where):
                self.storage = self.make()
                self.bucket.fail(where, "flip")
                self.fails(UploadLost)
                self.assert_nothing()

    def test_service_that_does_not_answer_is_asked_again(self) -> None:
        """A service that does not answer is asked again."""
        self.storage = self.make(evolve(HASTY, read=0.1))
        for where in ("start", "chunk", "final", "move"):
            self.bucket.fail(where, "stall")
        self.upload()
        self.assert_published()

    def test_fault_that_stays_is_given_up_after_a_while_wherever_it_is(self) -> None:
        """A fault that stays is given up after a while, wherever it is."""
        for where in ("start", "chunk", "final", "stat", "move"):
            with self.subTest(where=where):
                self.storage = self.make(BRIEF)
                self.bucket.fail(where, "status", 503, times=1000)
                if where == "chunk":
                    self.bucket.fail("query", "status", 503, times=1000)
                error = self.fails(StorageUnavailable)
                self.assertIn("503", error.reason)
                self.assert_nothing()

    def test_token_that_is_refused_in_middle_is_refreshed_and_chunk_sent_again(self) -> None:
        """A token that is refused in the middle is refreshed, and the chunk sent again."""
        for where in ("start", "chunk", "final", "move"):
            with self.subTest(where=where):
                self.storage = self.make()
                self.bucket.fail(where, "status", 401)
                self.upload()
                self.assertIn((where, 401), self.bucket.log())
                self.assert_published()

    def test_account_that_may_not_write_any_more_is_told_what_it_needs(self) -> None:
        """An account that may not write any more is told what it needs."""
        for where in ("start", "chunk", "final", "move"):
            for status in (401, 403):
                with self.subTest(where=where, status=status):
                    self.storage = self.make()
                    self.bucket.fail(where, "status", status, times=10)
                    error = self.fails(StorageRefused)
                    self.assertIn("objectAdmin", error.message)
                    self.assert_nothing()

    def test_blob_that_is_there_already_is_not_published_again(self) -> None:
        """A blob that is there already is not published again."""
        self.upload()
        self.bucket.heal()
        self.upload(media_type="application/x-other")
        self.assertEqual([], self.bucket.log("move"))
        self.assert_published()

    def test_object_under_name_of_digest_that_has_other_content_is_replaced(self) -> None:
        """An object under the name of a digest that has other content is replaced."""
        self.bucket.put("layers/" + hashlib.sha256(DATA).hexdigest(), b"something else")
        self.upload()
        self.assert_published()

    def test_service_without_moves_is_asked_to_copy_in_as_many_steps_as_it_takes(self) -> None:
        """A service without moves is asked to copy, in as many steps as it takes."""
        for status in (501, 405):
            with self.subTest(status=status):
                self.storage = self.make()
                self.bucket.fail("move", "status", status, times=1000)
                self.bucket.fail("delete", "drop")
                for action in ("reset", "drop", "html"):
                    self.bucket.fail("rewrite", action)
                self.upload(media_type="application/x-other")
                self.assert_published(media_type="application/x-other")

    def test_copy_begun_again(self) -> None:
        """A copy whose token has expired begins again."""
        self.bucket.fail("move", "status", 501)
        self.bucket.fail("rewrite", "status", 410, skip=1)
        self.upload()
        self.assertEqual([200, 410, 200, 200], [status for _, status in self.bucket.log("rewrite")])
        self.assert_published()

    def test_copy_without_end(self) -> None:
        """A copy that does not go on is given up."""
        for action, value in (("stuck", 0), ("status", 410)):
            with self.subTest(action=action):
                self.storage = self.make(BRIEF)
                self.bucket.fail("move", "status", 501)
                self.bucket.fail("rewrite", action, value, times=1000)
                self.fails(StorageUnavailable)
                self.assert_nothing()

    def test_copy_that_comes_too_late_finds_the_blob_there(self) -> None:
        """A copy that comes too late finds the blob there."""
        self.bucket.fail("move", "status", 501)
        self.bucket.fail("rewrite", "late", 412, skip=1)
        self.upload()
        self.assert_published()

    def test_staged_object_vanishes(self) -> None:
        """An object that vanishes between upload and publication is lost, and says so."""
        self.bucket.fail("move", "status", 404)
        self.upload()  # it is still there: somebody only said otherwise
        self.assert_published()
        self.storage = self.make()
        self.bucket.fail("move", "status", 404, times=1000)
        self.bucket.fail("stat", "status", 404, times=1000)
        self.fails(UploadLost)
        self.assert_nothing()

    def test_two_instances_with_the_same_blob_both_succeed_and_it_is_stored_once(self) -> None:
        """Two instances with the same blob both succeed, and it is stored once."""
        other = make_storage(self.bucket)
        finish(other.start())
        barrier = Barrier(2, timeout=PATIENCE)

        def upload(storage: GcsStorage) -> BlobInfo:
            writer = self.begin(storage=storage)
            barrier.wait()
            return finish(writer.commit(digest_of(DATA), len(DATA), LAYER))

        with ThreadPoolExecutor(2) as threads:
            first, second = threads.map(upload, (self.storage, other))
        self.assertEqual(first, second)
        self.assert_published()

    def test_race_for_the_name(self) -> None:
        """An upload that comes second to the name finds the blob there, and drops its own."""
        # Both look before either moves.
        self.bucket.control("latency", seconds=0.02)
        storages = [self.storage, *(make_storage(self.bucket) for _ in range(7))]
        for storage in storages[1:]:
            finish(storage.start())
        with ThreadPoolExecutor(8) as threads:
            infos = list(threads.map(lambda storage: self.upload(storage=storage), storages))
        self.bucket.control("latency", seconds=0)
        self.assertEqual(1, len(set(infos)))
        self.assert_published()


class BodyTests(SynchronousTestCase):
    """Tests of the bodies that requests send."""

    def test_body_comes_in_pieces_and_as_often_as_it_is_asked_for(self) -> None:
        """A body comes in pieces, and as often as it is asked for."""
        body = Body(DATA, stop=Event())
        for _ in range(2):
            pieces = list(body)
            self.assertEqual(DATA, b"".join(pieces))
            self.assertLessEqual(max(map(len, pieces)), CHUNK)
        self.assertEqual(len(DATA), len(body))

    def test_body_ends_with_an_error_once_its_upload_is_stopped(self) -> None:
        """A body ends with an error once its upload is stopped."""
        stop = Event()
        pieces = iter(Body(DATA, stop=stop))
        next(pieces)
        stop.set()
        with self.assertRaises(StorageError):
            next(pieces)

    def test_chunk_may_take_longer_than_the_timeout_if_it_progresses(self) -> None:
        """
        A chunk may take longer than the time-out of its connection, as long as each
        piece does not; and so may an object that the library sends.
        """
        for make in (lambda data: Body(data, stop=Event()), bytes):
            self._send_slowly(make(DATA * 8))

    def _send_slowly(self, body: Any) -> None:
        with socket.socket() as server, ThreadPoolExecutor(1) as threads:
            # What the kernel keeps must be little beside what is sent.
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            server.bind(("127.0.0.1", 0))
            server.listen()
            received = threads.submit(_receive_slowly, server, 8 * len(DATA))
            url = f"http://127.0.0.1:{server.getsockname()[1]}/"
            session = connection_to(fake_gcs().make_bucket()).session
            answer = session.put(url, data=body, timeout=(0.4, 10))
            self.assertEqual(200, answer.status_code)
            self.assertGreater(received.result(), 0.4)


def _receive_slowly(server: socket.socket, size: int) -> float:
    """Seconds that it took to receive a request of at least this size."""
    connection, _ = server.accept()
    with connection:
        begun = time.monotonic()
        while size > 0:
            size -= len(connection.recv(65536))
            time.sleep(0.005)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        return time.monotonic() - begun


class SmallTests(UploadCase):
    """Blobs of one chunk, which are one request."""

    def test_small_upload_takes_a_stat_and_one_request(self) -> None:
        """A small upload takes a stat and one request."""
        self.upload(SMALL)
        self.assertEqual([("stat", 404), ("multipart", 200)], self.bucket.log())
        self.assert_published(SMALL)

    def test_transient_faults_do_not_change_the_result(self) -> None:
        """Transient faults do not change the result."""
        for where in ("stat", "multipart"):
            for action, value in PASSING:
                with self.subTest(where=where, action=action, value=value):
                    self.storage = self.make()
                    self.bucket.fail(where, action, value)
                    self.upload(SMALL)
                    self.assert_published(SMALL)

    def test_blob_without_bytes_is_a_blob(self) -> None:
        """A blob without bytes is a blob."""
        info = self.upload(b"")
        self.assertEqual(0, info.size)
        self.assert_published(b"")
        self.storage = make_storage(self.bucket)
        finish(self.storage.start())
        self.assertEqual(info, finish(self.storage.stat(info.digest)))
        self.assertEqual(b"", finish(self.storage.read(info.digest)))

    def test_not_so_small(self) -> None:
        """A blob of one chunk that is too large for one request becomes a session."""
        data = DATA * (MAX_UPLOAD // len(DATA) + 1)
        for size, expected in ((MAX_UPLOAD, "multipart"), (MAX_UPLOAD + 1, "final")):
            with self.subTest(size=size):
                self.storage = self.make(chunk=2 * MAX_UPLOAD)
                self.upload(data[:size])
                self.assertEqual([(expected, 200)], self.bucket.log(expected))
                self.assertEqual([], self.bucket.log("chunk"))
                self.assert_published(data[:size])

    def test_services_own_words_are_passed_on(self) -> None:
        """The service's own words are passed on."""
        self.bucket.fail("multipart", "status", 409)
        self.assertIn("a fault of status 409", self.fails(StorageError, SMALL).reason)

    def test_blob_that_is_there_already_is_not_sent(self) -> None:
        """A blob that is there already is not sent."""
        self.upload(SMALL)
        self.bucket.heal()
        self.upload(SMALL)
        self.assertEqual([("stat", 200)], self.bucket.log())

    def test_changed_on_the_way(self) -> None:
        """Bytes that were changed on the way are sent again, once."""
        self.bucket.fail("multipart", "flip")
        self.upload(SMALL)
        self.assert_published(SMALL)
        self.storage = self.make()
        self.bucket.fail("multipart", "flip", times=10)
        self.fails(StorageError, SMALL)
        self.assertEqual(2, len(self.bucket.log("multipart")))
        self.assert_nothing()

    def test_object_under_name_of_digest_that_has_other_content_is_replaced(self) -> None:
        """An object under the name of a digest that has other content is replaced."""
        self.bucket.put("layers/" + hashlib.sha256(SMALL).hexdigest(), b"something else")
        self.upload(SMALL)
        self.assert_published(SMALL)

    def test_fault_that_stays_is_given_up_after_a_while(self) -> None:
        """A fault that stays is given up after a while."""
        for where in ("stat", "multipart"):
            self.storage = self.make(BRIEF)
            self.bucket.fail(where, "status", 503, times=1000)
            self.fails(StorageUnavailable, SMALL)
            self.assert_nothing()

    def test_missing_permission_of_the_account_is_reported_as_storagerefused(self) -> None:
        """A missing permission of the account is reported as StorageRefused."""
        self.bucket.fail("stat", "status", 403, times=10)
        with self.assertRaises(StorageRefused):
            finish(self.storage.stat(digest_of(SMALL)))
        with self.assertRaises(StorageRefused):
            finish(self.storage.missing([digest_of(SMALL)]))
        self.fails(StorageRefused, SMALL)


class EndTests(UploadCase):
    """Tests of uploads that are ended early."""

    def setUp(self) -> None:
        super().setUp()
        set_garbage_apart(self)

    def wait_for(self, true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not true():
            self.assertLess(time.monotonic(), deadline, "it did not happen")
            time.sleep(0.01)

    def open_sessions(self) -> int:
        count: int = self.bucket.state()["sessions"]
        return count

    def test_upload_that_is_aborted_because_the_packer_failed_leaves_nothing(self) -> None:
        """An upload that is aborted, because the packer failed, leaves nothing."""
        writer = self.begin()
        self.wait_for(lambda: len(self.bucket.log("chunk")) >= 2)
        finish(writer.abort())
        self.assertEqual([("cancel", 499)], self.bucket.log("cancel"))
        self.assert_nothing()

    def test_upload_whose_writer_was_dropped_makes_no_object(self) -> None:
        """An upload whose writer was dropped makes no object."""
        writer = self.begin()
        self.wait_for(lambda: self.open_sessions() == 1)
        del writer
        gc.collect()
        self.wait_for(lambda: self.open_sessions() == 0)
        self.assert_nothing()

    def test_writer_dropped_before_its_first_full_chunk_leaves_nothing_either(self) -> None:
        """A writer dropped before its first full chunk leaves nothing either."""
        writer = finish(self.storage.create())
        writer.write(SMALL)
        del writer
        gc.collect()
        self.assertEqual([], self.bucket.log())

    def test_daemon_that_stops_ends_its_uploads_and_writers_say_so(self) -> None:
        """A daemon that stops ends its uploads, and writers say so."""
        writer = self.begin()
        self.wait_for(lambda: self.open_sessions() == 1)
        finish(self.storage.stop())
        self.assertEqual(0, self.open_sessions())
        with self.assertRaises(StorageError):
            writer.write(b"more")
        with self.assertRaises(StorageError):
            finish(writer.commit(digest_of(DATA), len(DATA), LAYER))
        self.storage = make_storage(self.bucket)
        finish(self.storage.start())
        self.assert_nothing()

    def test_stop_while_it_waits(self) -> None:
        """A packing thread that waits for the network is woken by the end."""
        self.bucket.fail("start", "status", 503, times=1000)
        storage = make_storage(self.bucket, retry_policy=evolve(HASTY, total=PATIENCE))
        finish(storage.start())
        writer = finish(storage.create())
        with ThreadPoolExecutor(1) as threads:
            writing = threads.submit(writer.write, DATA + DATA)
            self.wait_for(lambda: bool(self.bucket.log("start")))
            finish(storage.stop())
            self.assertIsInstance(writing.exception(), StorageError)
        self.assertEqual(0, self.open_sessions())

    def test_packing_runs_ahead_of_the_network_by_some_chunks_only(self) -> None:
        """A packing thread does not run ahead of the network by more than some chunks."""
        self.storage = self.make(evolve(HASTY, total=PATIENCE))
        self.bucket.fail("start", "status", 503, times=1000)
        writer = finish(self.storage.create())
        written = []
        with ThreadPoolExecutor(1) as threads:

            def write() -> None:
                for _ in range(12):
                    writer.write(DATA[:CHUNK])
                    written.append(1)

            writing = threads.submit(write)
            self.wait_for(lambda: len(self.bucket.log("start")) > 5)
            # One is being filled, one waits for room, two are in the queue.
            self.assertEqual(3, len(written))
            self.bucket.heal()
            writing.result()
        whole = DATA[:CHUNK] * 12
        finish(writer.commit(digest_of(whole), len(whole), LAYER))
        self.assert_published(whole)

    def test_answer_that_takes_longer_than_a_connection_may_is_waited_for(self) -> None:
        """An answer that takes longer than a connection may is waited for."""
        self.storage = self.make(evolve(HASTY, connect=0.05))
        self.bucket.fail("chunk", "slow", 150)
        self.upload()
        self.assertEqual(0, len(self.bucket.log("query")))
        self.assert_published()

    def test_blob_can_be_stored_and_read_after_any_earlier_failure(self) -> None:
        """A blob can be stored and read after any earlier failure."""
        self.storage = self.make(BRIEF)
        self.bucket.fail("*", "status", 503, times=1000)
        with self.assertRaises(StorageUnavailable):
            finish(self.storage.read(digest_of(SMALL)))
        self.bucket.heal()
        with self.assertRaises(BlobUnknown):
            finish(self.storage.read(digest_of(SMALL)))
        self.upload(SMALL)
        self.assertEqual(SMALL, finish(self.storage.read(digest_of(SMALL))))
        source = finish(self.storage.open(Digest(digest_of(SMALL))))
        self.assertEqual(SMALL, follow(source))  # type: ignore[arg-type]  # a bucket redirects
