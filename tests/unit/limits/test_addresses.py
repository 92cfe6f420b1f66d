"""Tests of client addresses behind trusted proxies."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from nixery.limits.addresses import UNIX_SOCKET, TrustedProxies, client_key_of, parse_proxies


class ForwardedTests(SynchronousTestCase):
    """``X-Forwarded-For``, as far as it is believed."""

    proxies = parse_proxies(["10.0.0.0/8", "fd00::1"])

    def client(self, peer: str, *values: bytes) -> str:
        return self.proxies.client_address(peer, values)

    def test_header_from_an_untrusted_peer_is_ignored(self) -> None:
        """A header from an untrusted peer is ignored."""
        self.assertEqual("192.0.2.1", self.client("192.0.2.1", b"198.51.100.7"))
        self.assertEqual("10.0.0.1", TrustedProxies().client_address("10.0.0.1", [b"198.51.100.7"]))

    def test_proxy_tells_whom_it_has_seen(self) -> None:
        """A proxy tells whom it has seen, and what the client wrote there is not reached."""
        self.assertEqual("192.0.2.1", self.client("10.0.0.1", b"192.0.2.1"))
        self.assertEqual("192.0.2.1", self.client("10.0.0.1", b"6.6.6.6, 192.0.2.1"))
        self.assertEqual("192.0.2.1", self.client("10.0.0.1", b"6.6.6.6", b"192.0.2.1"))

    def test_through_trusted_ones_it_goes_on_to_the_first_that_is_not(self) -> None:
        """Through trusted ones it goes on to the first that is not."""
        self.assertEqual(
            "192.0.2.1", self.client("fd00::1", b"6.6.6.6, 192.0.2.1, 10.1.1.1, 10.2.2.2")
        )
        self.assertEqual("10.1.1.1", self.client("10.0.0.1", b"10.1.1.1"))

    def test_with_ports_in_brackets_and_in_the_spelling_of_the_other_version(self) -> None:
        """With ports, in brackets, and in the spelling of the other version."""
        for text in (b"192.0.2.1:4711", b" 192.0.2.1 ", b"::ffff:192.0.2.1", b'"192.0.2.1"'):
            self.assertEqual("192.0.2.1", self.client("10.0.0.1", text), text)
        self.assertEqual("2001:db8::1", self.client("10.0.0.1", b"[2001:db8::1]:4711"))
        self.assertEqual("192.0.2.1", self.client("::ffff:10.0.0.1", b"192.0.2.1"))

    def test_invalid_address_counts_as_that_of_the_proxy_that_passed_it_on(self) -> None:
        """An invalid address counts as that of the proxy that passed it on."""
        for text in (b"", b"unknown", b"x" * 10_000, b"\xff", b"192.0.2.1, -", b",,,"):
            self.assertEqual("10.0.0.1", self.client("10.0.0.1", text), text)

    def test_unix_socket_is_that_of_a_proxy_if_that_is_said(self) -> None:
        """A UNIX socket is that of a proxy if that is said."""
        self.assertEqual(UNIX_SOCKET, self.client(UNIX_SOCKET, b"192.0.2.1"))
        self.assertEqual(
            "192.0.2.1", parse_proxies(["unix"]).client_address(UNIX_SOCKET, [b"192.0.2.1"])
        )

    def test_header_of_any_length_is_read_for_a_few_steps(self) -> None:
        """A header of any length is read for a few steps."""
        self.assertEqual(
            "10.1.1.1", self.client("10.0.0.1", b"6.6.6.6," + b"10.1.1.1," * 99 + b"10.2.2.2")
        )

    @given(st.lists(st.binary(max_size=80), max_size=4))
    @settings(max_examples=100)
    def test_nothing_that_is_sent_fails_and_an_untrusted_peer_stays_who_it_is(
        self, values: list[bytes]
    ) -> None:
        """Nothing that is sent fails, and an untrusted peer stays who it is."""
        self.assertTrue(self.proxies.client_address("10.0.0.1", values).isprintable())
        self.assertEqual("192.0.2.1", self.proxies.client_address("192.0.2.1", values))


class OriginTests(SynchronousTestCase):
    """Tests of the origins that stand for a client."""

    def test_address_of_version_4_a_network_of_version_6_and_what_has_none(self) -> None:
        """An address of version 4, a network of version 6, and what has none."""
        for host, origin in (
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
            ("2001:db8:1:2::", "2001:db8:1:2::/64"),
            ("fe80::1%eth0", "fe80::/64"),
            (UNIX_SOCKET, UNIX_SOCKET),
        ):
            self.assertEqual(origin, client_key_of(host))

    def test_setting_that_is_no_network_is_refused(self) -> None:
        """A setting that is no network is refused."""
        self.assertRaises(ValueError, parse_proxies, ["proxy.example.org"])
        self.assertFalse(parse_proxies([]))
        self.assertTrue(parse_proxies(["unix"]))
