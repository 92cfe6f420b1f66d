"""Tests of readiness: the checks of what the daemon depends on."""

from __future__ import annotations

import os
from collections.abc import Sequence

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from nixery.http.health import HealthPage
from nixery.http.routes import Handlers
from nixery.nix.errors import NixUnusable
from nixery.observability.disk_check import check_directory
from nixery.observability.readiness import RETRY_SECONDS, Check, Readiness
from nixery.storage.errors import StorageUnavailable
from tests.support.http import Connection, make_root


class ReadinessTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.calls: list[Deferred[None]] = []
        self.readiness = Readiness(
            checks=[Check(name="Nix", check=self.check, ttl=10)], clock=self.clock, timeout=5
        )

    async def check(self) -> None:
        waiter: Deferred[None] = Deferred()
        self.calls.append(waiter)
        await waiter

    def faults(self) -> Deferred[Sequence[str]]:
        return Deferred.fromCoroutine(self.readiness.faults())

    def test_answer_stands_for_a_while_and_is_asked_for_again_then(self) -> None:
        """An answer stands for a while, and is asked for again then."""
        first = self.faults()
        self.calls[0].callback(None)
        self.assertEqual([], self.successResultOf(first))
        self.clock.advance(9)
        self.assertEqual([], self.successResultOf(self.faults()))
        self.assertEqual(1, len(self.calls))
        self.clock.advance(2)
        self.faults()
        self.assertEqual(2, len(self.calls))
        self.calls[1].callback(None)

    def test_fault_is_reported_with_the_name_of_its_check_until_it_is_over(self) -> None:
        """A fault is reported with the name of its check, until it is over."""
        first = self.faults()
        self.calls[0].errback(NixUnusable(reason="its daemon is gone"))
        [fault] = self.successResultOf(first)
        self.assertIn("Nix: ", fault)
        self.assertIn("its daemon is gone", fault)
        self.assertEqual([("Nix", False)], self.readiness.last_results())
        self.clock.advance(RETRY_SECONDS)
        second = self.faults()
        self.calls[1].callback(None)
        self.assertEqual([], self.successResultOf(second))
        self.assertEqual([("Nix", True)], self.readiness.last_results())

    def test_concurrent_requests_share_one_check(self) -> None:
        """Concurrent requests share one check; one that is cancelled does not harm the others."""
        crowd = [self.faults() for _ in range(20)]
        crowd[0].addErrback(lambda _: None)
        crowd[0].cancel()
        self.assertEqual(1, len(self.calls))
        self.calls[0].callback(None)
        for each in crowd[1:]:
            self.assertEqual([], self.successResultOf(each))

    def test_check_that_does_not_come_back_is_a_fault_and_is_not_begun_once_more(self) -> None:
        """A check that does not come back is a fault, and is not begun once more."""
        first = self.faults()
        self.clock.advance(5)
        self.assertEqual(["Nix: there was no answer for 5 s"], self.successResultOf(first))
        second = self.faults()
        self.clock.advance(100)
        self.assertEqual(1, len(self.successResultOf(second)))
        self.assertEqual(1, len(self.calls))
        self.calls[0].callback(None)
        self.assertEqual([], self.successResultOf(self.faults()))

    def test_check_that_fails_in_an_unknown_way_is_a_fault_too_and_logged(self) -> None:
        """A check that fails in an unknown way is a fault too, and logged."""
        first = self.faults()
        self.calls[0].errback(RuntimeError("the secret"))
        [fault] = self.successResultOf(first)
        self.assertIn("RuntimeError", fault)
        self.assertNotIn("secret", fault)
        self.assertEqual(1, len(self.flushLoggedErrors(RuntimeError)))


class DirectoryTests(SynchronousTestCase):
    def test_nothing_is_left_behind_where_files_can_be_written(self) -> None:
        """Nothing is left behind where files can be written."""
        path = self.mktemp()
        os.mkdir(path)
        check_directory(path, path)
        self.assertEqual([], os.listdir(path))

    def test_directory_that_is_gone_or_is_none_is_named(self) -> None:
        """A directory that is gone, or is none, is named."""
        path = self.mktemp()
        error = self.assertRaises(StorageUnavailable, check_directory, path, path + "/tmp")
        self.assertIn(path, error.message)


class HealthPageTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.faults: list[str] = []

        async def find() -> Sequence[str]:
            return self.faults

        page = HealthPage(find)
        self.connection = Connection(make_root(Handlers(health=page, readiness=page)))

    def test_healthy_daemon_says_so(self) -> None:
        """It says so, to GET and HEAD."""
        answer = self.connection.request("GET", "/readyz")
        self.assertEqual((200, b"ok\n"), (answer.status, answer.body))
        self.assertEqual("no-store", answer.header("Cache-Control"))
        self.assertEqual(b"", self.connection.request("HEAD", "/readyz").body)

    def test_each_fault_has_a_line_of_its_own(self) -> None:
        """Each fault has a line of its own, and nothing that acts on a terminal."""
        self.faults += ["a\nb", "c\x1b[31m"]
        answer = self.connection.request("GET", "/readyz")
        self.assertEqual(503, answer.status)
        self.assertEqual(b"a\n  b\nc\\x1b[31m\n", answer.body)

    def test_there_is_nothing_below_it_and_nothing_can_be_sent_to_it(self) -> None:
        """There is nothing below it, and nothing can be sent to it."""
        self.assertEqual(404, self.connection.request("GET", "/readyz/").status)
        answer = self.connection.request("POST", "/readyz")
        self.assertEqual((405, "GET, HEAD"), (answer.status, answer.header("Allow")))
