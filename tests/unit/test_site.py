"""The pages beside the registry."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import Resource
from twisted.web.static import Data

from nixery.web.site import make_root
from tests.unit.http_kit import Connection


class SiteTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.faults: list[str] = []
        self.unready: list[str] = []
        registry: Resource = Data(b"registry", "text/plain")
        self.connection = Connection(
            make_root(
                registry,
                address="reg.example:8080",
                source="<here>",
                faults=lambda: self.faults,
                unready=lambda: self.unready,
            )
        )

    def test_index(self) -> None:
        """It says how to pull from here, whatever name the client knows us by."""
        for host in ("reg:1", "evil.example"):
            answer = self.connection.ask("GET", "/", ("Host", host))
            self.assertEqual(
                (200, "text/html; charset=utf-8"), (answer.status, answer.header("Content-Type"))
            )
            self.assertIn(b"docker pull reg.example:8080/shell/git/htop", answer.body)
            self.assertIn(b"&lt;here&gt;", answer.body)
            self.assertNotIn(b"evil", answer.body)

    def test_health(self) -> None:
        """It is well, or says what is wrong with it now."""
        answer = self.connection.ask("GET", "/healthz")
        self.assertEqual((200, b"ok\n"), (answer.status, answer.body))
        self.faults.append("the bucket is gone")
        answer = self.connection.ask("GET", "/healthz")
        self.assertEqual((503, b"the bucket is gone\n"), (answer.status, answer.body))

    def test_readiness(self) -> None:
        """It is ready when it is well and what it stands on has been reached."""
        answer = self.connection.ask("GET", "/readyz")
        self.assertEqual((200, b"ok\n"), (answer.status, answer.body))
        self.unready.append("the bucket has not been reached")
        answer = self.connection.ask("GET", "/readyz")
        self.assertEqual((503, b"the bucket has not been reached\n"), (answer.status, answer.body))
        # It is not ill: a restart would not help.
        self.assertEqual(200, self.connection.ask("GET", "/healthz").status)
        self.faults.append("it is ill")
        answer = self.connection.ask("GET", "/readyz")
        self.assertEqual(b"it is ill\nthe bucket has not been reached\n", answer.body)

    def test_registry(self) -> None:
        """It has everything under ``/v2``."""
        self.assertEqual(b"registry", self.connection.ask("GET", "/v2").body)

    def test_nothing_else(self) -> None:
        """There is no more, not even for paths that are no text."""
        for path in (
            b"/x",
            b"/healthz/",
            b"/healthz/x",
            b"/%ff",
            b"//",
            b"/v2%2Fx",
            b"/index.html",
        ):
            answer = self.connection.ask("GET", path)
            self.assertEqual((404, b"not found\n"), (answer.status, answer.body), path)

    def test_reading_only(self) -> None:
        """Other methods are refused."""
        for method in ("POST", "PUT", "DELETE"):
            answer = self.connection.ask(method, "/")
            self.assertEqual((405, "GET, HEAD"), (answer.status, answer.header("Allow")))
