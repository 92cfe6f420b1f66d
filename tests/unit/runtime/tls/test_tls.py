"""Tests for :mod:`nixery.runtime.tls`."""

from __future__ import annotations

import contextlib
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.interfaces import (
    IOpenSSLServerConnectionCreator,
    IStreamServerEndpoint,
)
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactor
from twisted.logger import LogLevel, capturedLogs
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource
from zope.interface.verify import verifyObject

from nixery.http.server import make_site
from nixery.runtime.clocks import SystemWallClock
from nixery.runtime.endpoint_strings import speaks_tls
from nixery.runtime.errors import CertificateUnusable
from nixery.runtime.tls.certificate_watcher import POLL_INTERVAL_SECONDS, CertificateWatcher
from nixery.runtime.tls.certificates import Identity, fingerprint, load_identity
from nixery.runtime.tls.endpoint import Contexts, TLSEndpoint
from nixery.testing.fakes import FakeWallClock, InlineWorkers
from tests.support.certificates import Authority, pem_key

DAY = 86400.0

AUTHORITY = Authority()


class CertificateCase(SynchronousTestCase):
    """A pair of files."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.certificate = self.directory / "certificate.pem"
        self.key = self.directory / "key.pem"
        AUTHORITY.issue(self.directory)

    def load(self) -> Identity:
        return load_identity(self.certificate, self.key, SystemWallClock().now())

    def refused(self) -> CertificateUnusable:
        with self.assertRaises(CertificateUnusable) as caught:
            self.load()
        error: CertificateUnusable = caught.exception
        return error


def shake(
    context: SSL.Context, *, version: int | None = None, ciphers: str | None = None
) -> SSL.Connection:
    """
    A handshake in memory.

    :return: the client's end.
    :raises SSL.Error: there is nothing that both want to speak.
    """
    wanted = SSL.Context(SSL.TLS_CLIENT_METHOD)
    if version is not None:
        wanted.set_min_proto_version(version)
        wanted.set_max_proto_version(version)
    if ciphers is not None:
        wanted.set_cipher_list(ciphers.encode())
    client, server = SSL.Connection(wanted, None), SSL.Connection(context, None)
    client.set_connect_state()
    server.set_accept_state()
    waiting = {client, server}
    for _ in range(20):
        for one, other in ((client, server), (server, client)):
            try:
                one.do_handshake()
                waiting.discard(one)
            except SSL.WantReadError:
                pass
            with contextlib.suppress(SSL.WantReadError):
                other.bio_write(one.bio_read(65536))
        if not waiting:
            return client
    raise AssertionError("the handshake does not end")


class IdentityTests(CertificateCase):
    """Reading a pair."""

    def test_good_pair_says_for_whom_and_how_long_it_is(self) -> None:
        """A good pair says for whom and how long it is."""
        identity = self.load()
        self.assertEqual(("localhost", "127.0.0.1"), identity.names)
        self.assertLess(abs(time.time() + 30 * 86400 - identity.expires), 3600)

    def test_tls_1_2_and_1_3_are_spoken_and_nothing_before_them(self) -> None:
        """TLS 1.2 and 1.3 are spoken, and nothing before them."""
        context = self.load().context
        for version, name in ((SSL.TLS1_2_VERSION, "TLSv1.2"), (SSL.TLS1_3_VERSION, "TLSv1.3")):
            self.assertEqual(name, shake(context, version=version).get_protocol_version_name())
        # The client's own policy would refuse it too, if it were not told to be lax.
        with self.assertRaises(SSL.Error) as caught:
            shake(context, version=SSL.TLS1_1_VERSION, ciphers="ALL:@SECLEVEL=0")
        self.assertIn("protocol", str(caught.exception))

    def test_weak_ciphers_are_refused(self) -> None:
        """Ciphers without forward secrecy or authenticated encryption are refused."""
        context = self.load().context
        for weak in ("ECDHE-ECDSA-AES128-SHA", "ECDHE-ECDSA-AES256-SHA384", "AES128-GCM-SHA256"):
            with self.assertRaises(SSL.Error):
                shake(context, version=SSL.TLS1_2_VERSION, ciphers=weak)
        name = shake(
            context, version=SSL.TLS1_2_VERSION, ciphers="ECDHE-ECDSA-CHACHA20-POLY1305"
        ).get_cipher_name()
        self.assertEqual("ECDHE-ECDSA-CHACHA20-POLY1305", name)

    def test_file_that_is_not_there_is_named_with_the_reason(self) -> None:
        """A file that is not there is named, with the reason."""
        self.key.unlink()
        error = self.refused()
        self.assertEqual(str(self.key), error.path)
        self.assertIn("No such file", error.message)
        self.assertIn("tls_key", error.message)

    def test_key_of_another_certificate_is_told_apart_from_one_that_is_no_key(self) -> None:
        """A key of another certificate is told apart from one that is no key."""
        self.key.write_bytes(pem_key(ec.generate_private_key(ec.SECP256R1())))
        self.assertIn("not the key of", self.refused().message)

    def test_files_that_were_mixed_up_are_said_to_be_so(self) -> None:
        """Files that were mixed up are said to be so."""
        self.certificate, self.key = self.key, self.certificate
        self.assertIn("it holds a private key", self.refused().message)
        self.certificate = self.key
        self.assertIn("it holds a certificate", self.refused().message)

    def test_file_that_is_neither_a_key_nor_a_certificate_is_refused(self) -> None:
        """A file that is neither a key nor a certificate is refused, with any content."""
        self.key.write_bytes(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n")
        self.assertIn("no private key", self.refused().message)
        self.certificate.write_bytes(b"\xff\x00")
        self.assertIn("no certificate", self.refused().message)

    def test_key_with_a_password_is_refused_with_the_way_to_take_it_away(self) -> None:
        """A key with a password is refused, with the way to take it away."""
        self.key.write_bytes(pem_key(ec.generate_private_key(ec.SECP256R1()), b"secret"))
        self.assertIn("password", self.refused().message)

    def test_servers_own_certificate_has_to_come_first(self) -> None:
        """The server's own certificate has to come first."""
        chain = self.certificate.read_bytes()
        own = chain.removesuffix(AUTHORITY.pem)
        self.certificate.write_bytes(AUTHORITY.pem + own)
        self.assertIn("come first", self.refused().message)

    def test_expired_or_future_certificate_is_told(self) -> None:
        """One that has expired, or is not valid yet, says since or from when."""
        now = datetime.now(UTC)
        AUTHORITY.issue(self.directory, begins=now - timedelta(3), ends=now - timedelta(1))
        self.assertIn("expired at", self.refused().message)
        AUTHORITY.issue(self.directory, begins=now + timedelta(1))
        self.assertIn("not valid before", self.refused().message)

    def test_any_change_of_a_file_shows_also_where_a_link_points_somewhere_else(self) -> None:
        """Any change of a file shows, also where a link points somewhere else."""
        link = self.directory / "link"
        link.symlink_to(self.key)
        seen = fingerprint(link)
        self.assertEqual(seen, fingerprint(link))
        link.unlink()
        link.symlink_to(self.certificate)
        self.assertNotEqual(seen, fingerprint(link))
        link.unlink()
        self.assertNotEqual(seen, fingerprint(link))


class EndpointTests(SynchronousTestCase):
    """Tests of the endpoints that speak TLS, and of their set-up."""

    def test_endpoint_that_can_be_reached_from_elsewhere_speaks_tls(self) -> None:
        """An endpoint that can be reached from elsewhere speaks TLS, unless it is told not to."""
        for text in ("tcp:443", "tcp6:443", "systemd:domain=INET6:index=0", "haproxy:tcp:443"):
            self.assertTrue(speaks_tls(text), text)
        for text in ("ssl:443", "unix:/run/x", "plain:tcp:80", "systemd:domain=UNIX:index=0"):
            self.assertFalse(speaks_tls(text), text)

    def test_site_is_put_behind_tls_and_offers_version_of_http_that_it_speaks(self) -> None:
        """The site is put behind TLS, and offers the version of HTTP that it speaks."""
        reactor = MemoryReactor()
        contexts = Contexts()
        verifyObject(IOpenSSLServerConnectionCreator, contexts)
        endpoint = TLSEndpoint(TCP4ServerEndpoint(reactor, 443), contexts, Clock())
        verifyObject(IStreamServerEndpoint, endpoint)
        site = make_site(Resource(), Clock())
        self.successResultOf(endpoint.listen(site))
        factory = reactor.tcpServers[0][1]
        assert isinstance(factory, TLSMemoryBIOFactory)
        self.assertIs(site, factory.wrappedFactory)
        self.assertEqual([b"http/1.1"], factory.wrappedFactory.acceptableProtocols())


class WatcherTests(CertificateCase):
    """The certificate of a daemon that runs."""

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.wall_clock = FakeWallClock(self.clock, time.time())
        self.watcher = CertificateWatcher(
            self.certificate,
            self.key,
            workers=InlineWorkers(),
            clock=self.clock,
            wall_clock=self.wall_clock,
        )

    def start(self) -> None:
        self.successResultOf(Deferred.fromCoroutine(self.watcher.start()))
        self.addCleanup(lambda: self.successResultOf(Deferred.fromCoroutine(self.watcher.stop())))

    def shown(self) -> int:
        """The serial number of the certificate that a client would see."""
        context = self.watcher.contexts.current
        assert context is not None
        certificate = shake(context).get_peer_certificate(as_cryptography=True)
        assert certificate is not None
        return certificate.serial_number

    def test_bad_at_the_start(self) -> None:
        """A pair that cannot be used ends the start."""
        self.key.unlink()
        self.failureResultOf(Deferred.fromCoroutine(self.watcher.start()), CertificateUnusable)

    def test_new_pair_is_found_by_itself_soon(self) -> None:
        """A new pair is found by itself, soon."""
        self.start()
        before = self.shown()
        new = AUTHORITY.issue(self.directory)
        self.assertEqual(before, self.shown())
        self.clock.advance(POLL_INTERVAL_SECONDS)
        self.assertEqual(new.serial_number, self.shown())

    def test_new_pair_is_in_force_at_once_if_the_daemon_is_told_to_look(self) -> None:
        """A new pair is in force at once, if the daemon is told to look."""
        self.start()
        new = AUTHORITY.issue(self.directory)
        self.successResultOf(Deferred.fromCoroutine(self.watcher.reload()))
        self.assertEqual(new.serial_number, self.shown())

    def test_pair_that_is_wrong_is_said_to_be_so_once_and_the_old_one_stays(self) -> None:
        """A pair that is wrong is said to be so, once, and the old one stays."""
        self.start()
        before = self.shown()
        whole = self.key.read_bytes()
        self.key.write_bytes(b"")
        with capturedLogs() as logs:
            self.clock.pump([POLL_INTERVAL_SECONDS] * 3)
        errors = [event for event in logs if event["log_level"] is LogLevel.error]
        self.assertEqual(1, len(errors))
        self.assertIn("no private key", errors[0]["reason"])
        self.assertEqual(before, self.shown())
        AUTHORITY.issue(self.directory)
        self.clock.advance(POLL_INTERVAL_SECONDS)
        self.assertNotEqual(before, self.shown())
        self.assertNotEqual(whole, self.key.read_bytes())

    def test_end_of_a_certificate_is_announced_daily_for_two_weeks(self) -> None:
        """Its end is announced from two weeks before, once a day."""
        with capturedLogs() as logs:
            self.start()
            self.clock.advance(POLL_INTERVAL_SECONDS)
        self.assertEqual([], [event for event in logs if event["log_level"] is LogLevel.warn])
        assert self.watcher.expires is not None
        self.wall_clock.step(self.watcher.expires - DAY - self.wall_clock.now())
        with capturedLogs() as logs:
            self.clock.pump([POLL_INTERVAL_SECONDS] * 3)
        self.assertEqual(1, len([each for each in logs if each["log_level"] is LogLevel.warn]))
        # A day by the monotonic clock, whatever the other one says.
        self.wall_clock.step(-10 * DAY)
        with capturedLogs() as logs:
            self.clock.advance(DAY)
            self.clock.pump([POLL_INTERVAL_SECONDS] * 3)
        self.assertEqual(1, len([each for each in logs if each["log_level"] is LogLevel.warn]))
