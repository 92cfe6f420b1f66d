"""Tests of :mod:`nixery.runtime.endpoint_strings`."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from nixery.runtime.endpoint_strings import describe_endpoint, tcp_address


class EndpointStringTests(SynchronousTestCase):
    """Tests of the strings of endpoints."""

    def test_tcp_endpoints_have_an_interface_and_a_port(self) -> None:
        """The interface and the port are read from every spelling of a TCP endpoint."""
        for text, expected in (
            ("tcp:8080", ("", 8080)),
            ("tcp:port=8080:interface=127.0.0.1", ("127.0.0.1", 8080)),
            ("plain:tcp:0:interface=0.0.0.0", ("", 0)),
            ("tcp6:8080:interface=\\:\\:1", ("::1", 8080)),
            ("tcp6:8080:interface=\\:\\:", ("", 8080)),
            ("ssl:443:privateKey=/k", ("", 443)),
            ("tcp:x", None),
            ("unix:/run/x", None),
            ("systemd:domain=INET:index=0", None),
        ):
            self.assertEqual(expected, tcp_address(text), text)

    def test_endpoints_are_described_as_a_person_would(self) -> None:
        """An endpoint is described by a URL, or by the port or the file that it is."""
        for text, expected in (
            ("tcp:8080:interface=127.0.0.1", "http://127.0.0.1:8080"),
            ("tcp6:8080:interface=\\:\\:1", "http://[::1]:8080"),
            ("tcp:8080", "http, port 8080 of every interface"),
            ("tcp:0:interface=127.0.0.1", "http, a free port of 127.0.0.1"),
            ("unix:/run/x:mode=660", "the UNIX socket /run/x"),
            ("unix:address=/run/x", "the UNIX socket /run/x"),
            ("onion:80", "onion:80"),
        ):
            self.assertEqual(expected, describe_endpoint(text, "http"), text)
