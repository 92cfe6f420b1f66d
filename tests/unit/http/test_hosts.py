"""Tests for :mod:`nixery.http.hosts`, and of who checks what it decides."""

from __future__ import annotations

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.server import Request

from nixery.http.hosts import HostRules
from nixery.http.registry.api import Registry, RegistryLimits
from nixery.http.responses import PLAIN_TEXT, answer_with
from nixery.http.root import ANY_HOST, Root
from nixery.http.routes import READ, Handlers, make_router
from nixery.testing.fakes import InlineWorkers
from nixery.testing.memory_storage import MemoryStorage
from tests.support.http import IMAGE, Connection, FakeImages, Response

BROWSER = ("User-Agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Firefox/128.0")


class HostTests(SynchronousTestCase):
    """Tests of the names under which pages are served."""

    def setUp(self) -> None:
        rules = HostRules(allowed=("nixery.lan", "*.example.org"))
        rules.add_own("box.home.arpa")
        router = make_router(Handlers(), "x86_64-linux")

        @router.route("/", methods=READ)
        @router.route("/<rest:_path>", methods=READ)
        def page(request: Request, _path: str = "") -> bytes:
            return answer_with(request, PLAIN_TEXT, b"page")

        self.root = Root(router, hosts=rules)

    def get(self, path: str, host: str | None) -> Response:
        connection = Connection(self.root)
        line = "" if host is None else f"Host: {host}\r\n"
        version = "1.0" if host is None else "1.1"
        connection.protocol.dataReceived(
            f"GET {path} HTTP/{version}\r\n{line}\r\n".encode("latin-1")
        )
        return connection.response()

    def test_addresses_localhost_own_names_and_allowed_ones_are_served(self) -> None:
        """The port, the case, and a dot at the end of a name do not matter."""
        for host in (
            *("127.0.0.1:8080", "192.0.2.7", "[::1]", "[fe80::1%25eth0]:8080", "LOCALHOST"),
            *("a.localhost:1", "box.home.arpa", "Box", "box.local:80"),
            *("nixery.lan.", "a.b.example.org:443", None, ""),
        ):
            self.assertEqual(200, self.get("/", host).status, host)

    def test_other_names_are_refused_and_what_to_set_is_said(self) -> None:
        """The name of a site that rebinds it, and names that only look like an allowed one."""
        for host in (
            *("attacker.example", "example.org", "example.org.attacker.example", "box.attacker"),
            *("127.0.0.1.attacker.example", "nixery.lan@attacker", "localhost.attacker", "0x7f.1"),
        ):
            for path in ("/", "/builds", "/builds/events", "/api/packages?names=git", "/images"):
                answer = self.get(path, host)
                self.assertEqual(403, answer.status, (host, path))
                self.assertIn(b"allowed_hosts", answer.body)

    def test_what_is_no_page_is_answered_under_every_name(self) -> None:
        """Clients of the registry API, monitors and Prometheus choose the name themselves."""
        for segment in ANY_HOST:
            path = f"/{segment.decode()}"
            self.assertNotEqual(403, self.get(path, "attacker.example").status, path)

    def test_pattern_for_all_names(self) -> None:
        """An operator can switch the check off."""
        self.root = Root(make_router(Handlers(), "x86_64-linux"), hosts=HostRules(allowed=("*",)))
        self.assertEqual(404, self.get("/", "attacker.example").status)


class CrossSiteTests(SynchronousTestCase):
    """Tests of requests that a page of another site sends."""

    def setUp(self) -> None:
        self.images = FakeImages()
        self.images.images["git", "latest"] = IMAGE
        self.storage = MemoryStorage()
        for manifest in IMAGE.manifests:
            self.successResultOf(
                Deferred.fromCoroutine(self.storage.put(manifest.body, manifest.media_type))
            )
        limits = RegistryLimits(hosts=HostRules(allowed=("reg",)))
        registry = Registry(self.images, self.storage, InlineWorkers(), Clock(), limits=limits)
        self.root = Root(make_router(Handlers(registry=registry), "x86_64-linux"))

    def pull(self, *headers: tuple[str, str], reference: str = "latest") -> int:
        path = f"/v2/git/manifests/{reference}"
        return Connection(self.root).request("GET", path, *headers).status

    def test_page_of_another_site_begins_no_build(self) -> None:
        """Neither as current browsers tell it, nor as others do, nor where nothing tells it."""
        for headers in (
            [("Sec-Fetch-Site", "cross-site")],
            [("Sec-Fetch-Site", "same-site"), BROWSER],
            [("Origin", "http://attacker.example")],
            [("Origin", "null"), BROWSER],
            [("Referer", "http://attacker.example/reg:1"), BROWSER],
            [("Referer", "http://["), BROWSER],
            [BROWSER],
        ):
            self.assertEqual(403, self.pull(*headers), headers)
        self.assertEqual([], self.images.requests)

    def test_site_that_gives_its_name_the_registrys_address_begins_no_build(self) -> None:
        """Its page and the request have the same name then, which is none of the registry's."""
        for name in ("Origin", "Referer"):
            connection = Connection(self.root)
            connection.protocol.dataReceived(
                "GET /v2/git/manifests/latest HTTP/1.1\r\nHost: attacker.example:8080\r\n"
                f"{name}: http://attacker.example:8080\r\n{': '.join(BROWSER)}\r\n\r\n".encode()
            )
            self.assertEqual(403, connection.response().status, name)
        self.assertEqual([], self.images.requests)

    def test_engines_and_the_registrys_own_pages_are_answered(self) -> None:
        """As is a user who types the address."""
        for headers in (
            [],
            [("User-Agent", "docker/28.0.1 go/go1.23")],
            [("Sec-Fetch-Site", "none"), BROWSER],
            [("Sec-Fetch-Site", "same-origin"), ("Origin", "http://reg:1"), BROWSER],
            [("Referer", "http://reg:1/images"), BROWSER],
        ):
            self.assertEqual(200, self.pull(*headers), headers)

    def test_public_host_is_the_registrys_own_behind_a_proxy_that_sends_another(self) -> None:
        """An origin that is the host of the public URL is that of the registry's own pages."""
        hosts = HostRules(allowed=("reg",), public="Nixery.example:8443")
        registry = Registry(
            self.images, self.storage, InlineWorkers(), Clock(), limits=RegistryLimits(hosts=hosts)
        )
        self.root = Root(make_router(Handlers(registry=registry), "x86_64-linux"))
        for origin, status in (("nixery.example:8443", 200), ("nixery.example", 403)):
            self.assertEqual(status, self.pull(("Origin", f"https://{origin}"), BROWSER), origin)

    def test_engines_that_another_host_has_redirected_are_answered(self) -> None:
        """The HTTP client of Go, which all engines have, names that host as browsers do."""
        referer = ("Referer", "http://mirror.example/v2/git/manifests/latest")
        for agent in ("skopeo/1.9.3", "docker/28.0.1 go/go1.23", "containerd/2.0.0"):
            self.assertEqual(200, self.pull(referer, ("User-Agent", agent)), agent)

    def test_what_is_there_is_served_to_all(self) -> None:
        """A manifest by digest begins nothing."""
        digest = IMAGE.manifests[0].digest
        self.assertEqual(200, self.pull(("Sec-Fetch-Site", "cross-site"), reference=digest))
