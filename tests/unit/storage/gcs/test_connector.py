"""
Tests for :mod:`nixery.storage.gcs.connector`: connecting a daemon to its bucket.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from nixery.errors import ShuttingDown, StorageError
from nixery.runtime.workers import Workers
from nixery.storage.errors import StorageUnavailable
from nixery.storage.gcs import connector
from nixery.storage.gcs.backend import GcsStorage
from nixery.storage.gcs.client import GcsSettings
from nixery.storage.gcs.connector import Bucket, sweep
from nixery.testing.fakes import InlineWorkers
from tests.support.fake_gcs.process import fake_gcs
from tests.support.gcs import BRIEF, HASTY, make_objects, settings_for
from tests.unit.storage.test_contract import digest_of, finish

DAY = 86400


class HeldWorkers:
    """Workers that begin when they are told to."""

    def __init__(self) -> None:
        self.held: Deferred[None] | None = Deferred()

    async def run(self, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        if self.held is not None:
            await self.held
        return function(*args, **kwargs)

    def let(self) -> None:
        held, self.held = self.held, None
        assert held is not None
        held.callback(None)


class ReachCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.bucket = fake_gcs().make_bucket()
        self.clock = Clock()
        self.given_up: list[BaseException] = []

    def make(
        self,
        settings: GcsSettings | None = None,
        workers: Workers | None = None,
        open_bucket: Callable[[Event], Bucket] | None = None,
    ) -> GcsStorage:
        """A storage that reaches its bucket by itself."""

        return GcsStorage(
            settings=settings or settings_for(self.bucket),
            workers=workers or InlineWorkers(),
            clock=self.clock,
            give_up=self.given_up.append,
            retry_policy=BRIEF,
            open_bucket=open_bucket,
        )

    def start(self, settings: GcsSettings | None = None) -> GcsStorage:
        storage = self.make(settings)
        finish(storage.start())
        return storage


class BucketConnectorTests(ReachCase):
    """The bucket is reached, now, later, or never."""

    def test_bucket_that_can_be_used_is_ready(self) -> None:
        """A bucket that can be used is ready, and what was tried leaves nothing in it."""
        storage = self.start()
        self.assertEqual((), storage.faults())
        self.assertEqual([], self.given_up)
        finish(storage.put(b"{}", "x/y"))
        self.assertEqual(["layers"], [name.split("/")[0] for name in self.bucket.things()])
        self.assertEqual([], self.clock.getDelayedCalls())

    def refused(self, *words: str, settings: GcsSettings | None = None) -> None:
        """The daemon ends, and says why; nothing is tried again."""
        storage = self.start(settings)
        self.assertEqual(1, len(self.given_up))
        (fault,) = storage.faults()
        for word in words:
            self.assertIn(word, fault)
        self.assertEqual([], self.clock.getDelayedCalls())
        with self.assertRaises(StorageError):
            finish(storage.stat(digest_of(b"")))
        finish(storage.stop())

    def test_bucket_that_does_not_exist(self) -> None:
        """A bucket that does not exist."""
        settings = evolve(settings_for(self.bucket), bucket="none-such")
        self.refused("none-such", "no such bucket", "GCS_BUCKET", settings=settings)

    def test_account_that_may_not_list_write_or_delete(self) -> None:
        """An account that may not list, write or delete."""
        for operation in ("list", "multipart", "delete"):
            self.given_up = []
            self.bucket.fail(operation, "status", 403)
            self.refused(self.bucket.name, "403", "Storage Object Admin")

    def test_credentials_that_are_not_there_or_are_no_credentials(self) -> None:
        """Credentials that are not there, or are no credentials."""
        path = Path(self.mktemp())
        settings = evolve(settings_for(self.bucket), credentials=path)
        self.refused("credentials", "GOOGLE_APPLICATION_CREDENTIALS", settings=settings)
        for text in ("", "[]", "{}", '{"type": "service_account"}'):
            self.given_up = []
            path.write_text(text)
            self.refused("credentials", "GOOGLE_APPLICATION_CREDENTIALS", settings=settings)

    def test_key_that_the_token_service_does_not_accept(self) -> None:
        """A key that the token service does not accept."""
        path = Path(self.mktemp())
        key = json.loads(Path(str(settings_for(self.bucket).credentials)).read_text())
        path.write_text(json.dumps({**key, "token_uri": f"{self.bucket.server.url}/token"}))
        self.addCleanup(fake_gcs().control, "heal")
        fake_gcs().control("fault", where="token", action="status", value=400)
        settings = evolve(settings_for(self.bucket), credentials=path)
        self.refused("credentials", settings=settings)

    def test_service_that_cannot_be_reached_is_tried_again_with_growing_pauses(self) -> None:
        """A service that cannot be reached is tried again, with growing pauses."""
        # Taken, so that nobody else gets it, and not listened on.
        closed = socket.socket()
        self.addCleanup(closed.close)
        closed.bind(("127.0.0.1", 0))
        storage = self.make()
        there = settings_for(self.bucket)
        storage.settings = evolve(there, endpoint=f"http://127.0.0.1:{closed.getsockname()[1]}")
        finish(storage.start())
        pauses = []
        for _ in range(8):
            (fault,) = storage.faults()
            self.assertIn("Connection refused", fault)
            with self.assertRaises(StorageUnavailable):
                finish(storage.stat(digest_of(b"")))
            (call,) = self.clock.getDelayedCalls()
            pauses.append(call.getTime() - self.clock.seconds())
            self.clock.advance(pauses[-1])
        self.assertEqual([1, 2, 4, 8, 16, 32, 60, 60], pauses)
        self.assertEqual([], self.given_up)
        storage.settings = there
        self.clock.advance(60)
        self.assertEqual((), storage.faults())
        finish(storage.put(b"{}", "x/y"))
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_answers_that_make_no_sense_are_retried(self) -> None:
        """So is one that answers, but not sensibly."""
        for action, value in (("status", 503), ("html", 0), ("reset", 0)):
            self.bucket.fail("list", action, value, times=1000)
            storage = self.start()
            self.assertEqual(1, len(storage.faults()))
            self.bucket.heal()
            self.clock.advance(1)
            self.assertEqual((), storage.faults())
        self.assertEqual([], self.given_up)

    def test_operations_during_the_first_try_to_reach_the_bucket_wait_for_it(self) -> None:
        """Operations during the first try to reach the bucket wait for it."""
        workers = HeldWorkers()
        storage = self.make(workers=workers)
        finish(storage.start())
        self.assertIn("not been reached", storage.faults()[0])
        waiting = Deferred.fromCoroutine(storage.put(b"{}", "x/y"))
        leaving = Deferred.fromCoroutine(storage.put(b"{}", "x/y"))
        leaving.addErrback(lambda failure: None)
        leaving.cancel()
        self.assertNoResult(waiting)
        workers.let()
        self.assertEqual(2, self.successResultOf(waiting).size)

    def test_daemon_that_stops_before_the_bucket_is_reached_tries_no_more(self) -> None:
        """A daemon that stops before the bucket is reached tries no more."""
        workers = HeldWorkers()
        storage = self.make(workers=workers)
        finish(storage.start())
        waiting = Deferred.fromCoroutine(storage.put(b"{}", "x/y"))
        finish(storage.stop())
        self.failureResultOf(waiting, ShuttingDown)
        self.bucket.fail("list", "status", 503, times=1000)
        storage = self.start()
        self.assertEqual(1, len(self.clock.getDelayedCalls()))
        finish(storage.stop())
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_unexpected_exception_ends_the_daemon_too_and_is_logged(self) -> None:
        """An unexpected exception ends the daemon too, and is logged."""

        def fail(_stop: Event) -> Bucket:
            raise KeyError("?")

        storage = self.make(open_bucket=fail)
        finish(storage.start())
        self.assertEqual(1, len(self.given_up))
        self.assertEqual(1, len(self.flushLoggedErrors(KeyError)))
        with self.assertRaises(StorageError):
            finish(storage.stat(digest_of(b"")))


class SweepTests(ReachCase):
    """Tests of removing the objects that a crash has left in the bucket."""

    def test_staged_objects_of_a_day_ago_are_removed_at_the_start(self) -> None:
        """Staged objects older than a day are removed at the start, and nothing else is."""
        self.bucket.put("staging/old", b"half", age=DAY + 60)
        self.bucket.put("staging/young", b"half", age=DAY - 60)
        self.bucket.put("layers/old", b"whole", age=10 * DAY)
        self.start()
        self.assertEqual({"staging/young", "layers/old"}, set(self.bucket.things()))

    def test_sweep_that_fails_does_no_harm(self) -> None:
        """A sweep that fails does no harm."""
        self.bucket.put("staging/old", b"half", age=2 * DAY)
        self.bucket.fail("delete", "status", 403, skip=1)
        storage = self.start()
        self.assertEqual((), storage.faults())
        finish(storage.put(b"{}", "x/y"))
        self.assertEqual(2, len(self.bucket.things()))
        self.start()
        self.assertEqual(1, len(self.bucket.things()))

    def test_one_sweep_deletes_no_more_than_a_limit(self) -> None:
        """One sweep deletes no more than a limit."""
        for number in range(5):
            self.bucket.put(f"staging/{number}", b"", age=2 * DAY)
        self.patch(connector, "MAX_SWEPT_OBJECTS", 3)
        objects = make_objects(self.bucket, HASTY)
        self.assertEqual(3, sweep(objects, datetime.now(UTC)))
        self.assertEqual(2, sweep(objects, datetime.now(UTC)))
