"""
The storage in a bucket on real pools: cancelling and stopping free threads.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import evolve
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from nixery.errors import ShuttingDown, StorageError
from nixery.runtime.workers import WorkerPool
from nixery.storage.errors import BlobUnknown
from nixery.storage.gcs.backend import GcsStorage
from nixery.storage.interface import Stream
from tests.support.fake_gcs.process import fake_gcs
from tests.support.gcs import HASTY, make_storage
from tests.unit.storage.gcs.test_backend import BLOB
from tests.unit.storage.gcs.test_upload import DATA
from tests.unit.storage.test_contract import LAYER, digest_of, drain


class ThreadTests(TestCase):
    timeout = 60

    async def setUp(self) -> None:  # type: ignore[override]  # trial takes both
        self.bucket = fake_gcs().make_bucket()
        self.pool = WorkerPool("bucket", 4, reactor)  # type: ignore[arg-type]  # the reactor is a module to mypy
        self.pool.startService()
        self.storage = await self.make()
        self.bucket.heal()

    async def make(self, *, redirect: bool = True) -> GcsStorage:
        retry_policy = evolve(HASTY, read=0.3, total=60.0)
        storage = make_storage(
            self.bucket, retry_policy=retry_policy, workers=self.pool, redirect=redirect
        )
        await storage.start()
        await self.until(lambda: not storage.faults() and bool(self.bucket.log("list")))
        return storage

    async def tearDown(self) -> None:  # type: ignore[override]  # trial waits for it
        await self.storage.stop()
        if self.pool.running:
            await self.pool.stopService()

    async def until(self, true: Callable[[], bool]) -> None:
        while not true():
            await deferLater(reactor, 0.01)

    async def seen(self, operation: str) -> None:
        """Wait until the service has been asked."""
        await self.until(lambda: bool(self.bucket.log(operation)))

    async def test_cancelled_request_is_not_tried_again(self) -> None:
        """A cancelled request is not tried again."""
        self.bucket.fail("stat", "status", 503, times=10**6)
        looking = Deferred.fromCoroutine(self.storage.stat(digest_of(DATA)))
        await self.seen("stat")
        looking.cancel()
        with self.assertRaises(CancelledError):
            await looking
        # Returns when the thread has.
        await self.pool.stopService()

    async def test_cancelled_commit_publishes_nothing_later(self) -> None:
        """A commit that is cancelled leaves nothing, and nothing is published later."""
        self.bucket.fail("final", "stall")
        writer = await self.storage.create()
        await deferToThread(writer.write, DATA)
        committing = Deferred.fromCoroutine(writer.commit(digest_of(DATA), len(DATA), LAYER))
        await self.seen("final")
        committing.cancel()
        with self.assertRaises(CancelledError):
            await committing
        await self.pool.stopService()
        state = self.bucket.state()
        self.assertEqual(({}, 0), (state["things"], state["sessions"]))

    async def test_stopped_while_uploading(self) -> None:
        """A daemon that stops in the middle of an upload leaves nothing."""
        self.bucket.fail("chunk", "status", 503, times=10**6, skip=1)
        self.bucket.fail("query", "status", 503, times=10**6)
        writer = await self.storage.create()
        writing = deferToThread(writer.write, DATA + DATA + DATA)
        await self.seen("query")
        await self.storage.stop()
        with self.assertRaises(StorageError):
            await writing
        await writer.abort()
        await self.pool.stopService()
        state = self.bucket.state()
        self.assertEqual(({}, 0), (state["things"], state["sessions"]))
        with self.assertRaises(ShuttingDown):
            await self.storage.create()

    async def test_blobs_pass_through_while_others_do_and_client_may_leave_at_any_time(
        self,
    ) -> None:
        """Blobs pass through while others do, and a client may leave at any time."""
        storage = await self.make(redirect=False)
        info = await storage.put(BLOB, LAYER)
        sources = [await storage.open(info.digest) for _ in range(12)]
        streams = [source for source in sources if isinstance(source, Stream)]
        reading = [Deferred.fromCoroutine(drain(stream)) for stream in streams[:-1]]
        self.bucket.fail("media", "stall")
        last = streams[-1].chunks
        waiting: Deferred[bytes] = Deferred.fromCoroutine(anext(last))  # type: ignore[arg-type]  # it is a coroutine
        waiting.addErrback(lambda failure: failure.trap(CancelledError) and None)
        waiting.cancel()
        for each in reading:
            self.assertEqual(BLOB, await each)
        await last.aclose()  # type: ignore[attr-defined]  # it is a generator
        await storage.stop()

    async def test_missing_at_once(self) -> None:
        """Many blobs are looked for side by side, and several askers share the look."""
        digests = [digest_of(b"%d" % number) for number in range(40)]
        for number in range(40):
            self.bucket.put("layers/" + digests[number].removeprefix("sha256:"), b"%d" % number)
        asking = [Deferred.fromCoroutine(self.storage.missing(digests)) for _ in range(5)]
        for each in asking:
            self.assertEqual(set(), await each)
        # Those that were under way already are not shared.
        self.assertLess(len(self.bucket.log("stat")), 40 + 4 * 5)
        with self.assertRaises(BlobUnknown):
            await self.storage.stat(digest_of(b"no such"))
