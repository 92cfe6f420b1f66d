"""Tests for :mod:`nixery.runtime.systemd`."""

from __future__ import annotations

import json
import os
import socket
import tempfile
from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from nixery.config.errors import ConfigError
from nixery.config.load import load_config
from nixery.errors import ShuttingDown
from nixery.observability.json_log import json_line
from nixery.runtime.systemd.credentials import find_credential
from nixery.runtime.systemd.journal import journal_line, to_journal, with_priority
from nixery.runtime.systemd.sd_notify import NotifySocket
from nixery.runtime.systemd.socket_activation import passed_endpoints
from nixery.runtime.systemd.watchdog import (
    STATUS_INTERVAL_SECONDS,
    ServiceNotifier,
    watchdog_interval,
)
from nixery.runtime.workers import Workers
from nixery.testing.fakes import InlineWorkers
from tests.support.http import SteppedWorkers


class ServiceManager:
    """The end of the socket that systemd has."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.close = self._socket.close

    def heard(self) -> list[dict[str, str]]:
        """All notices since the last call."""
        notices: list[dict[str, str]] = []
        while True:
            try:
                lines = self._socket.recv(4096).decode().split("\n")
            except BlockingIOError:
                return notices
            notices.append(dict(line.split("=", 1) for line in lines))


class ManagedCase(SynchronousTestCase):
    """A service manager that listens."""

    def setUp(self) -> None:
        # Trial's own directories may be too long for the address of a socket.
        directory = tempfile.TemporaryDirectory(prefix="nixery")
        self.addCleanup(directory.cleanup)
        self.manager = ServiceManager(f"{directory.name}/notify")
        self.addCleanup(self.manager.close)
        self.notices = NotifySocket({"NOTIFY_SOCKET": self.manager.address})


class NoticeTests(ManagedCase):
    """Tests of the notifications to the service manager."""

    def test_assignments_come_in_one_datagram_and_none_of_them_can_begin_another(self) -> None:
        """Assignments come in one datagram, and none of them can begin another."""
        self.assertTrue(self.notices.is_available)
        self.notices.notify(READY=1, STATUS="a\nMAINPID=1")
        self.assertEqual([{"READY": "1", "STATUS": "a MAINPID=1"}], self.manager.heard())

    def test_socket_may_have_an_abstract_name(self) -> None:
        """The socket may have an abstract name."""
        manager = ServiceManager(f"@nixery-test-{os.getpid()}")
        self.addCleanup(manager.close)
        NotifySocket({"NOTIFY_SOCKET": manager.address}).notify(READY=1)
        self.assertEqual([{"READY": "1"}], manager.heard())

    def test_without_a_service_manager_nothing_is_sent_and_nothing_fails(self) -> None:
        """Without a service manager nothing is sent, and nothing fails."""
        for address in ("", "vsock:1:2"):
            notices = NotifySocket({"NOTIFY_SOCKET": address})
            self.assertFalse(notices.is_available)
            notices.notify(READY=1)

    def test_socket_that_takes_nothing_is_said_once_until_it_does_again(self) -> None:
        """A socket that takes nothing is said once, until it does again."""
        notices = NotifySocket({"NOTIFY_SOCKET": "/nonexistent/socket"})
        with capturedLogs() as logs:
            notices.notify(READY=1)
            notices.notify(READY=1)
        self.assertEqual(1, len(logs))

    def test_manager_that_reads_nothing_blocks_nothing(self) -> None:
        """A service manager that reads nothing does not block the daemon."""
        with capturedLogs() as logs:
            for _ in range(2000):
                self.notices.notify(STATUS="x")
        self.assertEqual(1, len(logs))


class ServiceNotifierTests(ManagedCase):
    """Tests of the watchdog pings."""

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.status = "idle"

    def start(self, workers: Workers, watchdog: float | None = 6) -> ServiceNotifier:
        notifier = ServiceNotifier(
            notices=self.notices,
            clock=self.clock,
            workers=workers,
            status=lambda: self.status,
            watchdog=watchdog,
        )
        self.successResultOf(Deferred.fromCoroutine(notifier.start()))
        self.addCleanup(lambda: self.successResultOf(Deferred.fromCoroutine(notifier.stop())))
        return notifier

    def pings(self, seconds: int) -> int:
        """Count the watchdog pings of that many seconds."""
        self.manager.heard()
        self.clock.pump([STATUS_INTERVAL_SECONDS] * seconds)
        return sum("WATCHDOG" in notice for notice in self.manager.heard())

    def test_three_watchdog_pings_are_sent_per_watchdog_interval(self) -> None:
        """Three watchdog pings are sent per watchdog interval."""
        self.start(InlineWorkers())
        self.assertEqual(3, self.pings(6))

    def test_stuck_threads_stop_the_pings_and_are_logged_once(self) -> None:
        """Stuck threads stop the pings and are logged once; the pings resume afterwards."""
        workers = SteppedWorkers()
        self.start(workers)
        with capturedLogs() as logs:
            self.assertEqual(0, self.pings(20))
        errors = [event for event in logs if event["log_level"] is LogLevel.error]
        self.assertEqual(1, len(errors))
        workers.finish()
        self.assertEqual([{"WATCHDOG": "1"}], self.manager.heard())
        self.clock.advance(STATUS_INTERVAL_SECONDS)
        workers.finish()
        self.assertEqual([{"WATCHDOG": "1"}], self.manager.heard())

    def test_threads_that_have_ended_in_good_order_are_no_reason_for_alarm(self) -> None:
        """Threads that have ended in good order are no reason for alarm."""

        class Stopped:
            async def run(self, *_args: object, **_kwargs: object) -> None:
                raise ShuttingDown

        self.start(Stopped())  # type: ignore[arg-type]  # it runs nothing
        self.assertEqual(3, self.pings(6))

    def test_status_is_sent_when_it_has_changed_once_a_second_at_most(self) -> None:
        """The status is sent when it has changed, once a second at most."""
        self.start(InlineWorkers(), watchdog=None)
        self.assertEqual([{"STATUS": "idle"}], self.manager.heard())
        self.clock.advance(STATUS_INTERVAL_SECONDS)
        self.assertEqual([], self.manager.heard())
        for self.status in ("one", "two"):
            self.clock.advance(STATUS_INTERVAL_SECONDS / 4)
        self.clock.advance(STATUS_INTERVAL_SECONDS)
        self.assertEqual([{"STATUS": "two"}], self.manager.heard())

    def test_after_the_end_there_is_silence(self) -> None:
        """After the end there is silence."""
        notifier = self.start(SteppedWorkers())
        self.successResultOf(Deferred.fromCoroutine(notifier.stop()))
        self.assertEqual([], self.clock.getDelayedCalls())
        self.assertEqual(0, self.pings(20))

    def test_time_is_the_service_managers_if_it_means_this_process(self) -> None:
        """The time is the service manager's, if it means this process."""
        self.assertEqual(30, watchdog_interval({"WATCHDOG_USEC": "30000000"}, 7))
        self.assertEqual(1, watchdog_interval({"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "7"}, 7))
        for environ in (
            {},
            {"WATCHDOG_USEC": "0"},
            {"WATCHDOG_USEC": "x"},
            {"WATCHDOG_USEC": "1", "WATCHDOG_PID": "8"},
        ):
            self.assertIsNone(watchdog_interval(environ, 7))


class PassingTests(SynchronousTestCase):
    """Tests of sockets that were opened by the service manager."""

    def test_sockets_are_identified_by_position_and_family(self) -> None:
        """Each socket is identified by its position and its family."""
        families = {3: socket.AF_INET6, 4: socket.AF_UNIX, 5: socket.AF_NETLINK, 6: socket.AF_INET}
        self.assertEqual(
            (
                "systemd:domain=INET6:index=0",
                "systemd:domain=UNIX:index=1",
                "systemd:domain=INET:index=3",
            ),
            passed_endpoints(
                descriptor=lambda index: index + 3 if index < 4 else None,
                family=families.__getitem__,
            ),
        )

    def test_twisted_knows_of_none_as_in_these_tests(self) -> None:
        """Twisted knows of none, as in these tests."""
        self.assertEqual((), passed_endpoints())

    def test_descriptor_that_is_none_is_left_out(self) -> None:
        """A descriptor that is none is left out."""

        def closed(_descriptor: int) -> int:
            raise OSError

        self.assertEqual(
            (), passed_endpoints(descriptor=lambda index: 3 if index == 0 else None, family=closed)
        )

    def test_passed_sockets_replace_the_default_endpoint_only(self) -> None:
        """They are always listened on, and replace the default only."""
        environ = {"HOME": "/h"}
        passed = ["systemd:domain=INET:index=0"]
        self.assertEqual(tuple(passed), load_config({}, environ, passed).http.listen)
        self.assertEqual(
            (*passed, "tcp:80"), load_config({"port": "80"}, environ, passed).http.listen
        )
        self.assertEqual(
            (*passed, "tcp:1"),
            load_config({"listen": [*passed, "tcp:1"]}, environ, passed).http.listen,
        )


class CredentialTests(SynchronousTestCase):
    """Files that systemd passes on."""

    def test_path_may_be_the_name_of_a_credential_in_every_layer(self) -> None:
        """A path may be the name of a credential, in every layer."""
        environ = {"HOME": "/h", "CREDENTIALS_DIRECTORY": "/run/credentials/nixery.service"}
        config = load_config(
            {"tls_certificate": "credential:tls", "tls_key": "credential:tls-key"}, environ
        )
        self.assertEqual(Path("/run/credentials/nixery.service/tls-key"), config.tls.tls_key)
        other = load_config({}, {**environ, "GOOGLE_APPLICATION_CREDENTIALS": "credential:gcs"})
        self.assertEqual(
            Path("/run/credentials/nixery.service/gcs"), other.gcs.google_application_credentials
        )

    def test_without_credentials_it_says_how_to_get_them(self) -> None:
        """Without credentials, it says how to get them."""
        error = self.assertRaises(
            ConfigError,
            load_config,
            {"tls_certificate": "credential:a", "tls_key": "/k"},
            {"HOME": "/h"},
        )
        self.assertIn("LoadCredential=a:PATH", error.message)

    def test_name_leads_nowhere_else(self) -> None:
        """A name leads nowhere else."""
        for name in ("", ".", "..", "../x", "a/b", "a b"):
            with self.assertRaises(ValueError):
                find_credential(f"credential:{name}", {"CREDENTIALS_DIRECTORY": "/c"})


class JournalTests(SynchronousTestCase):
    """The log as the journal takes it."""

    def test_every_line_has_its_priority_those_of_a_traceback_too(self) -> None:
        """Every line has its priority, those of a traceback too."""
        self.assertEqual(
            "<6>hello you\n",
            journal_line({"log_format": "hello {who}", "who": "you", "log_level": LogLevel.info}),
        )
        try:
            raise RuntimeError("broken")
        except RuntimeError:
            failure = Failure()
        text = journal_line(
            {"log_format": "oh", "log_failure": failure, "log_level": LogLevel.critical}
        )
        self.assertIn("<2>builtins.RuntimeError: broken\n", text)
        self.assertTrue(all(line.startswith("<2>") for line in text.splitlines()))
        self.assertEqual("<6>plain\n", journal_line({"log_format": "plain"}))

    def test_line_of_json_has_its_priority_which_the_journal_takes_off(self) -> None:
        """A line of JSON has its priority, which the journal takes off."""
        line = with_priority(json_line)
        text = line({"log_format": "oh", "log_level": LogLevel.error, "log_time": 0.0})
        self.assertEqual("<3>", text[:3])
        self.assertEqual("oh", json.loads(text[3:])["message"])

    def test_only_what_goes_to_the_journal_itself_is_written_for_it(self) -> None:
        """Only what goes to the journal itself is written for it."""
        with tempfile.TemporaryFile() as file:
            status = os.fstat(file.fileno())
            environ = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
            self.assertTrue(to_journal(environ, file.fileno()))
        with tempfile.TemporaryFile() as other:
            self.assertFalse(to_journal({"JOURNAL_STREAM": "1:1"}, other.fileno()))
            self.assertFalse(to_journal({}, other.fileno()))
