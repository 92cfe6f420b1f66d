"""Tests for :mod:`nixery.popularity.data`."""

from __future__ import annotations

import gzip
import hashlib
import json
import lzma
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar, cast

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from nixery.errors import NixeryError, UnexpectedOutput
from nixery.layers.plan import Popularity, PopularityKind
from nixery.layers.popularity_file import encode_popularity
from nixery.popularity.data import (
    FIRST_FETCH_WAIT_SECONDS,
    PopularityData,
    read_pinned,
)
from nixery.runtime.errors import FetchFailed
from nixery.testing.fakes import InlineWorkers

T = TypeVar("T")

URL = "https://example.org/popularity.json"
OLD = Popularity(transitive={"glibc": 9, "curl": 2}, direct={"glibc": 5}, setsize=9, source="old")
NEW = Popularity(transitive={"glibc": 8, "curl": 3}, direct={"glibc": 4}, setsize=8, source="new")


class Server:
    """A fake server; each fetch waits for its answer."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.waiting: list[Deferred[bytes]] = []

    async def fetch(self, url: str, limit: int) -> bytes:
        self.asked.append(url)
        self.waiting.append(Deferred())
        return await self.waiting[-1]

    def answer(self, data: bytes | Popularity) -> None:
        if isinstance(data, Popularity):
            data = encode_popularity(data)
        self.waiting.pop().callback(data)

    def fail(self) -> None:
        self.waiting.pop().errback(FetchFailed(url=URL, reason="refused", status=None))


class PopularityTests(SynchronousTestCase):
    """Tests for :class:`PopularityData`."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.directory = Path(self.mktemp()) / "popularity"
        self.server = Server()
        self.events: list[LogEvent] = []
        observer = cast(ILogObserver, self.events.append)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def now(self, coroutine: Coroutine[Deferred[Any], Any, T]) -> T:
        return self.successResultOf(Deferred.fromCoroutine(coroutine))

    def start(self, url: str | None = URL) -> PopularityData:
        data = PopularityData(
            url=url,
            directory=self.directory,
            fetch=self.server.fetch,
            workers=InlineWorkers(),
            clock=self.clock,
        )
        self.now(data.start())
        return data

    def keep(self, popularity: Popularity, url: str = URL) -> None:
        """Have a copy on disk, as an earlier start left it."""
        data = self.start(url)
        self.server.answer(popularity)
        self.now(data.stop())
        self.server.asked.clear()
        self.events.clear()

    def warnings(self) -> list[LogEvent]:
        return [event for event in self.events if event["log_level"].name == "warn"]

    def test_data_are_fetched_kept_with_their_url_and_digest_and_used(self) -> None:
        """Data are fetched, kept with their URL and digest, and used."""
        data = self.start()
        self.assertEqual(PopularityKind.NONE, data.current.kind)
        self.server.answer(OLD)
        self.assertEqual(OLD, data.current)
        kept = read_pinned(self.directory)
        assert kept is not None
        self.assertEqual((URL, OLD), (kept.url, kept.popularity))
        self.assertEqual(hashlib.sha256(encode_popularity(OLD)).hexdigest(), kept.digest)
        self.assertEqual([], self.warnings())
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_copy_is_used_as_it_is_and_the_server_not_even_asked(self) -> None:
        """A copy is used as it is, and the server not even asked."""
        self.keep(OLD)
        data = self.start()
        self.assertEqual(OLD, data.current)
        self.assertEqual(OLD, self.now(data.settled()))
        self.assertEqual([], self.server.asked)

    def test_data_from_another_url_replace_copy_when_they_are_there_not_before(self) -> None:
        """Data from another URL replace the copy when they are there, not before."""
        self.keep(OLD, "https://example.org/old")
        data = self.start()
        self.assertEqual(OLD, data.current)
        self.server.answer(NEW)
        self.assertEqual(NEW, data.current)
        self.assertEqual(NEW, self.start().current)
        self.assertEqual(2, len(list(self.directory.iterdir())))

    def test_another_url_that_fails_leaves_the_copy_in_use(self) -> None:
        """If another URL fails, the copy is used, until an attempt succeeds."""
        self.keep(OLD)
        other = f"{URL}?2"
        data = self.start(other)
        self.server.fail()
        self.assertEqual(OLD, data.current)
        self.now(data.stop())
        self.assertEqual(OLD, self.start().current)
        data = self.start(other)
        self.server.answer(NEW)
        self.assertEqual(NEW, data.current)
        self.assertEqual(NEW, self.start(other).current)

    def test_without_a_url_nothing_is_fetched_and_a_copy_is_not_used(self) -> None:
        """Without a URL nothing is fetched, and a copy is not used."""
        self.keep(OLD)
        data = self.start(None)
        self.assertEqual(PopularityKind.NONE, self.now(data.settled()).kind)
        self.assertEqual([], self.server.asked)
        self.now(data.stop())

    def test_url_that_is_down_is_said_once_and_tried_again_more_and_more_seldom(self) -> None:
        """A URL that is down is said once, and tried again, more and more seldom."""
        data = self.start()
        pause = 30.0
        for attempt in range(1, 12):
            self.assertEqual(attempt, len(self.server.asked))
            self.server.fail()
            self.clock.advance(pause - 1)
            self.assertEqual(attempt, len(self.server.asked))
            self.clock.advance(1)
            pause = min(2 * pause, 3600.0)
        self.assertEqual(3600.0, pause)
        self.assertEqual(1, len(self.warnings()))
        self.server.answer(OLD)
        self.assertEqual(OLD, self.now(data.settled()))
        self.assertEqual(OLD, self.start().current)

    def test_body_that_is_no_popularity_data_is_neither_used_nor_kept(self) -> None:
        """A body that is no popularity data is neither used nor kept."""
        for bad in (b"", b"<html>", b"{}", b'{"format": "x"}', gzip.compress(b"{}")):
            data = self.start()
            self.server.answer(bad)
            self.assertEqual(PopularityKind.NONE, data.current.kind)
            self.assertIsNone(read_pinned(self.directory))
            self.now(data.stop())

    def test_data_may_be_compressed(self) -> None:
        """Data may be compressed; what is kept is not."""
        for compress in (gzip.compress, lzma.compress):
            data = self.start(f"{URL}?{compress.__module__}")
            self.server.answer(compress(encode_popularity(OLD)))
            self.assertEqual(OLD, data.current)
            kept = read_pinned(self.directory)
            assert kept is not None
            self.assertEqual(hashlib.sha256(encode_popularity(OLD)).hexdigest(), kept.digest)

    def test_data_of_the_first_nixery_are_used_for_what_they_are(self) -> None:
        """Data of the first Nixery are used for what they are."""
        data = self.start()
        self.server.answer(json.dumps({"curl-8.5.0": 702}).encode())
        self.assertEqual(PopularityKind.DIRECT, data.current.kind)

    def test_copy_that_is_damaged_in_any_way_is_fetched_anew_and_said(self) -> None:
        """A copy that is damaged in any way is fetched anew, and said."""
        self.keep(OLD)
        [file] = (path for path in self.directory.iterdir() if path.name != "pin.json")
        pin = self.directory / "pin.json"
        good = {path: path.read_bytes() for path in (file, pin)}
        for path, bad in (
            (file, good[file].replace(b"9", b"8")),
            (file, None),
            (pin, b""),
            (pin, b"[]"),
            (pin, b'{"url": "x"}'),
            (pin, b'{"url": "x", "sha256": "../x"}'),
        ):
            for each, content in good.items():
                each.write_bytes(content)
            if bad is None:
                path.unlink()
            else:
                path.write_bytes(bad)
            self.assertRaises(NixeryError, read_pinned, self.directory)
            self.events.clear()
            data = self.start()
            self.assertEqual(1, len(self.warnings()))
            self.server.answer(NEW)
            self.assertEqual(NEW, data.current)
            self.assertEqual(NEW, self.start().current)

    def test_cannot_be_kept(self) -> None:
        """Data that cannot be kept are used all the same."""
        self.directory.parent.write_text("")
        data = self.start()
        self.server.answer(OLD)
        self.assertEqual(OLD, data.current)
        self.assertEqual(2, len(self.warnings()))

    def test_first_images_wait(self) -> None:
        """Images that are requested while data are being fetched wait for these data."""
        data = self.start()
        waiting = [Deferred.fromCoroutine(data.settled()) for _ in range(2)]
        waiting[0].cancel()
        self.failureResultOf(waiting[0])
        self.assertNoResult(waiting[1])
        self.server.answer(OLD)
        self.assertEqual(OLD, self.successResultOf(waiting[1]))
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_first_images_do_not_wait_long(self) -> None:
        """A server that does not answer delays images by no more than some seconds."""
        data = self.start()
        first = Deferred.fromCoroutine(data.settled())
        self.clock.advance(FIRST_FETCH_WAIT_SECONDS / 2)
        second = Deferred.fromCoroutine(data.settled())
        self.assertNoResult(first)
        self.clock.advance(FIRST_FETCH_WAIT_SECONDS / 2)
        for each in (first, second):
            self.assertEqual(PopularityKind.NONE, self.successResultOf(each).kind)
        self.assertEqual(PopularityKind.NONE, self.now(data.settled()).kind)
        self.server.answer(OLD)
        self.assertEqual(OLD, self.now(data.settled()))

    def test_failure_ends_the_wait(self) -> None:
        """Images do not wait for a second attempt."""
        data = self.start()
        waiting = Deferred.fromCoroutine(data.settled())
        self.server.fail()
        self.assertEqual(PopularityKind.NONE, self.successResultOf(waiting).kind)
        self.assertEqual(PopularityKind.NONE, self.now(data.settled()).kind)
        self.now(data.stop())

    def test_stopping_ends_a_fetch_or_a_pause_and_waits_for_it(self) -> None:
        """Stopping ends a fetch, or a pause, and waits for it."""
        data = self.start()
        self.now(data.stop())
        self.assertEqual([], self.clock.getDelayedCalls())
        data = self.start()
        self.server.fail()
        self.now(data.stop())
        self.assertEqual([], self.clock.getDelayedCalls())
        self.assertEqual([], self.flushLoggedErrors())

    def test_unexpected_error_is_logged_and_ends_nothing_but_the_fetching(self) -> None:
        """An unexpected error is logged, and ends nothing but the fetching."""
        data = self.start()
        self.server.waiting.pop().errback(ZeroDivisionError())
        self.assertEqual(1, len(self.flushLoggedErrors(ZeroDivisionError)))
        self.assertEqual(PopularityKind.NONE, self.now(data.settled()).kind)


class PinTests(SynchronousTestCase):
    """Tests for :func:`read_pinned`."""

    def test_no_copy_is_no_error(self) -> None:
        """No copy is no error."""
        self.assertIsNone(read_pinned(Path(self.mktemp())))

    def test_copy_that_is_not_what_was_fetched_is_refused(self) -> None:
        """A copy that is not what was fetched is refused."""
        directory = Path(self.mktemp())
        directory.mkdir()
        (directory / f"{'0' * 64}.json").write_bytes(encode_popularity(OLD))
        (directory / "pin.json").write_text(json.dumps({"url": URL, "sha256": "0" * 64}))
        self.assertRaises(UnexpectedOutput, read_pinned, directory)
