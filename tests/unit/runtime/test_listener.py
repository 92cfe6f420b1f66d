"""Tests for :mod:`nixery.runtime.listener`."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory
from twisted.internet.testing import MemoryReactor, RaisingMemoryReactor
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from nixery.runtime.errors import ListeningFailed
from nixery.runtime.listener import Listener


def tcp(host: str, port: int) -> IPv4Address | IPv6Address:
    """The address of a listening port."""
    return IPv6Address("TCP", host, port) if ":" in host else IPv4Address("TCP", host, port)


class ListenerTests(SynchronousTestCase):
    """Opening and closing ports."""

    def test_start_and_stop(self) -> None:
        """All endpoints are listened on, and none any more after the end."""
        reactor = MemoryReactor()
        listener = Listener(
            {
                "one": TCP4ServerEndpoint(reactor, 1, interface="127.0.0.1"),
                "two": TCP4ServerEndpoint(reactor, 2, interface="0.0.0.0"),
            },
            Factory(),
        )
        with capturedLogs() as logs:
            addresses = self.successResultOf(Deferred.fromCoroutine(listener.start()))
        self.assertEqual(
            [(1, "127.0.0.1"), (2, "0.0.0.0")],
            [(server[0], server[3]) for server in reactor.tcpServers],
        )
        self.assertEqual(2, len(addresses))
        # The reactor in memory says of every port that it is the wildcard's.
        notices = [event["notice"] for event in logs if "notice" in event]
        self.assertEqual([": every interface of this machine"] * 2, notices)
        self.successResultOf(Deferred.fromCoroutine(listener.stop()))

    def test_port_in_use(self) -> None:
        """A port that another program has is named, with the system's reason."""
        taken = CannotListenError("127.0.0.1", 1, OSError(errno.EADDRINUSE, "Address in use"))
        reactor = RaisingMemoryReactor(listenException=taken)
        listener = Listener({"tcp:1": TCP4ServerEndpoint(reactor, 1)}, Factory())
        failure = self.failureResultOf(Deferred.fromCoroutine(listener.start()), ListeningFailed)
        self.assertEqual("tcp:1", failure.value.endpoint)
        self.assertEqual("Address in use", failure.value.reason)

    def test_socket_without_its_directory(self) -> None:
        """A UNIX socket whose directory is missing has the system's reason, without inner names."""
        missing = OSError(errno.ENOENT, "No such file", "5550", None, b"/run/nixery/s.lock")
        reactor = RaisingMemoryReactor(listenException=missing)
        listener = Listener({"tcp:1": TCP4ServerEndpoint(reactor, 1)}, Factory())
        failure = self.failureResultOf(Deferred.fromCoroutine(listener.start()), ListeningFailed)
        self.assertEqual("No such file", failure.value.reason)


class PassedTests(SynchronousTestCase):
    """Endpoints beside sockets that were passed."""

    def start(
        self, text: str, error: CannotListenError, passed: IPv4Address | IPv6Address | UNIXAddress
    ) -> Deferred[Sequence[IAddress]]:
        """Listen where that fails, and on a passed socket."""

        class Port:
            def getHost(self) -> IAddress:  # Twisted's name
                return passed

        class Adopted:
            def listen(self, _factory: object) -> Deferred[Port]:
                return succeed(Port())

        class Taken:
            def listen(self, _factory: object) -> Deferred[Port]:
                return fail(error)

        endpoints: Any = {text: Taken(), "systemd:domain=INET:index=0": Adopted()}
        return Deferred.fromCoroutine(Listener(endpoints, Factory()).start())

    def taken(self, interface: str | None, port: Any, number: int = errno.EADDRINUSE) -> Any:
        return CannotListenError(interface, port, OSError(number, "no"))

    def test_endpoint_whose_address_a_passed_socket_has_is_reached_through_that(self) -> None:
        """An endpoint whose address a passed socket has is reached through that."""
        for text, interface, port, passed in (
            ("tcp:80", "", 80, tcp("0.0.0.0", 80)),
            ("tcp:80", "", 80, tcp("::", 80)),
            ("tcp:80:interface=127.0.0.1", "127.0.0.1", 80, tcp("::", 80)),
            ("tcp:80:interface=127.0.0.1", "127.0.0.1", 80, tcp("127.0.0.1", 80)),
        ):
            started = self.start(text, self.taken(interface, port), passed)
            self.assertEqual([passed], self.successResultOf(started))
        socket = UNIXAddress(b"/run/s")
        started = self.start("unix:/run/s", self.taken(None, "/run/s"), socket)
        self.assertEqual([socket], self.successResultOf(started))

    def test_endpoint_whose_address_is_taken_is_refused(self) -> None:
        """An endpoint is refused whose address others have, or a passed socket has in part."""
        for text, error, passed in (
            ("tcp:80", self.taken("", 80), tcp("127.0.0.1", 80)),
            ("tcp:80", self.taken("", 80), tcp("::", 443)),
            ("tcp:80", self.taken("", 80, errno.EACCES), tcp("::", 80)),
            ("plain:tcp:80", self.taken("", 80), tcp("::", 80)),
            ("unix:/run/s", self.taken(None, "/run/s"), UNIXAddress(b"/run/other")),
        ):
            self.failureResultOf(self.start(text, error, passed), ListeningFailed)
