"""Tests for :mod:`nixery.runtime.public_address`."""

from __future__ import annotations

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.trial.unittest import SynchronousTestCase

from nixery.runtime.public_address import PublicAddress, find_public_address, is_loopback


def tcp(host: str, port: int) -> IPv4Address | IPv6Address:
    """The address of a listening port."""
    return IPv6Address("TCP", host, port) if ":" in host else IPv4Address("TCP", host, port)


class PublicAddressTests(SynchronousTestCase):
    """Tests of the address at which clients reach the daemon."""

    def test_configured_url_decides_its_scheme_included(self) -> None:
        """A configured URL decides, its scheme included."""
        for scheme in ("http", "https"):
            address = find_public_address(
                "https://r.example:5000", scheme, [tcp("127.0.0.1", 1), UNIXAddress("/run/s")]
            )
            self.assertEqual(PublicAddress(url="https://r.example:5000", configured=True), address)
            self.assertEqual("r.example:5000", address.host)
            self.assertTrue(address.known)

    def test_address_is_written_as_it_is_a_wildcard_as_this_machines_loopback(self) -> None:
        """An address is written as it is, a wildcard as this machine's loopback."""
        for host, url in (
            ("192.0.2.1", "https://192.0.2.1:80"),
            ("2001:db8::1", "https://[2001:db8::1]:80"),
            ("0.0.0.0", "https://127.0.0.1:80"),
            ("::", "https://127.0.0.1:80"),
        ):
            found = find_public_address(None, "https", [tcp(host, 80)])
            self.assertEqual(PublicAddress(url=url), found)
            self.assertEqual(url.removeprefix("https://"), found.host)

    def test_of_several_addresses_the_first_that_is_an_internet_address_counts(self) -> None:
        """Of several addresses, the first that is an Internet address counts."""
        socket = UNIXAddress("/run/nixery.sock")
        found = find_public_address(None, "http", [socket, tcp("127.0.0.1", 80)])
        self.assertEqual(PublicAddress(url="http://127.0.0.1:80"), found)

    def test_address_is_not_known_if_a_unix_socket_alone_is_listened_on(self) -> None:
        """The address is not known if a UNIX socket alone is listened on."""
        found = find_public_address(None, "http", [UNIXAddress("/run/nixery.sock")])
        self.assertFalse(found.known)
        self.assertEqual("localhost", found.host)

    def test_loopback_and_unix_sockets_are_reached_by_this_machine_only(self) -> None:
        """Loopback addresses and UNIX sockets are reached by this machine only."""
        for host, local in (
            ("127.0.0.1", True),
            ("127.1.2.3", True),
            ("::1", True),
            ("0.0.0.0", False),
            ("::", False),
            ("192.0.2.1", False),
            ("fe80::1%eth0", False),
        ):
            self.assertIs(local, is_loopback(tcp(host, 80)), host)
        self.assertTrue(is_loopback(UNIXAddress("/run/nixery.sock")))
