"""Tests for :mod:`bootstrap.addresses`."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from bootstrap.addresses import Address, parse_endpoint
from tests.unit.bootstrap.ports import taken_port


class AddressTests(SynchronousTestCase):
    """Tests of the addresses that are listened on."""

    def test_endpoint_strings_are_understood_as_far_as_they_name_a_port(self) -> None:
        """Endpoint strings are understood as far as they name a port."""
        for text, expected in (
            ("tcp:8080:interface=127.0.0.1", Address("127.0.0.1", 8080)),
            ("plain:tcp:port=80", Address("", 80)),
            (r"tcp:80:interface=\:\:1", Address("::1", 80)),
            ("tcp6:80", Address("::", 80)),
            ("ssl:443:privateKey=k.pem:interface=10.0.0.1", Address("10.0.0.1", 443)),
            ("unix:/run/n", None),
            ("tcp:0", None),
            ("systemd:domain=INET:index=0", None),
        ):
            self.assertEqual(parse_endpoint(text), expected, text)

    def test_every_interface_is_said(self) -> None:
        """Every interface is said; on this machine it is reached as localhost."""
        self.assertEqual(Address("", 80).describe(), "port 80 of every interface")
        self.assertEqual(Address("::", 80).registry, "localhost:80")
        self.assertEqual(Address("::1", 80).registry, "[::1]:80")
        self.assertEqual(Address("127.0.0.1", 80).describe(), "127.0.0.1:80")
        self.assertEqual(Address("10.0.0.1", 80).registry, "10.0.0.1:80")

    def test_port_that_is_listened_on_is_taken_of_every_interface_as_well(self) -> None:
        """A port that is listened on is taken, of every interface as well."""
        with taken_port() as port:
            for host in ("127.0.0.1", ""):
                self.assertIn("in use", Address(host, port).problem() or "")
        self.assertIsNone(Address("127.0.0.1", port).problem())

    def test_no_such_interface(self) -> None:
        """An address of another machine is said to be unusable, with the reason."""
        self.assertIn("Cannot assign", Address("192.0.2.1", 8080).problem() or "")
