"""Tests of authentication and the handlers behind it, through the real HTTP server."""

from __future__ import annotations

import json
from base64 import b64encode
from urllib.parse import urlencode

from twisted.internet.defer import Deferred
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.web.server import Request

from nixery.http.auth import Authenticator, PagesGuard, RegistryGuard, client_of
from nixery.http.health import HealthPage
from nixery.http.registry.api import Registry
from nixery.http.responses import PLAIN_TEXT, answer_with
from nixery.http.root import Root
from nixery.http.routes import Handlers, make_router
from nixery.http.server import make_site
from nixery.http.token_endpoint import TokenEndpoint
from nixery.image.errors import PackageProblem, PackagesRefused, ProblemKind
from nixery.image.patterns import parse_patterns
from nixery.limits.addresses import parse_proxies
from nixery.limits.admission import AdmissionControl, AdmissionLimits
from nixery.testing.fakes import InlineWorkers
from tests.support.http import (
    IMAGE,
    OCI,
    Connection,
    FakeImages,
    Response,
    SteppedWorkers,
)
from tests.unit.access.test_access_controller import RULES, SYSTEM, USERS, AccessControllerTestCase


def basic(user: str, password: str) -> tuple[str, str]:
    return "Authorization", "Basic " + b64encode(f"{user}:{password}".encode()).decode()


ALICE, BOB = basic("alice", "secret"), basic("bob", "hunter2")


class AuthTestCase(AccessControllerTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.source = FakeImages()
        for name in ("git", "htop", "shell/git"):
            self.source.images[name, "latest"] = IMAGE
        for manifest in IMAGE.manifests:
            self.successResultOf(
                Deferred.fromCoroutine(self.storage.put(manifest.body, manifest.media_type))
            )
        self.build(InlineWorkers())

    def build(self, workers: InlineWorkers | SteppedWorkers) -> None:
        self.access_controller = self.make(workers)
        guard = RegistryGuard(self.access_controller, realm="https://reg/token", service="reg")
        pages_guard = PagesGuard(self.access_controller, SYSTEM)

        async def well() -> list[str]:
            return []

        async def unwell() -> list[str]:
            return ["a disk is full"]

        router = make_router(
            Handlers(
                registry=Registry(
                    self.source, self.storage, InlineWorkers(), self.clock, guard=guard
                ),
                token=TokenEndpoint(self.access_controller) if self.tokens else None,
                health=HealthPage(well),
                readiness=HealthPage(unwell, lambda request: client_of(request).user is not None),
            ),
            SYSTEM,
        )

        @router.route("/page")
        def page(request: Request) -> bytes:
            """Tell who asks, and which images they may see."""
            names = ["git", "htop", "GIT//"]
            seen = [name for name in names if pages_guard.may_see(request, name)]
            return answer_with(request, PLAIN_TEXT, f"{client_of(request).user} {seen}".encode())

        self.router = router
        self.root = Root(router, Authenticator(self.access_controller))
        self.connection = Connection(self.root, self.clock)

    def get(self, path: str, *headers: tuple[str, str]) -> Response:
        return self.connection.request("GET", path, *headers)

    def challenged(self, answer: Response) -> str:
        self.assertEqual(answer.status, 401)
        return answer.header("WWW-Authenticate") or ""


class AuthenticatorTests(AuthTestCase):
    """Tests that do not depend on how clients of the registry API log in."""

    def test_client_that_has_not_logged_in_sees_nothing_but_health(self) -> None:
        """A client that has not logged in sees nothing but health, and no reasons."""
        for path in ("/", "/page", "/page/below", "/nowhere", "/v3"):
            self.assertIn("Basic realm=", self.challenged(self.get(path)))
        self.assertEqual(self.get("/healthz").body, b"ok\n")
        self.assertEqual(self.get("/readyz").body, b"not ready\n")
        self.assertIn(b"disk", self.get("/readyz", ALICE).body)
        self.assertEqual(self.source.requests, [])

    def test_user_who_has_logged_in_sees_pages_with_packages_of_that_user(self) -> None:
        """A user who has logged in sees the pages with the packages of that user."""
        self.assertEqual(self.get("/page", ALICE).body, b"alice ['git']")
        self.assertEqual(self.get("/page", BOB).body, b"bob ['git', 'htop']")
        self.assertEqual(self.get("/nowhere", ALICE).status, 404)

    def test_names_near_to_a_missing_one_are_those_that_the_user_may_pull(self) -> None:
        """A user is told of those names near to a missing one that the user may pull."""
        self.access_controller.replace_users(USERS, {"alice": parse_patterns(["gti", "git"])})
        self.source.images["gti", "latest"] = PackagesRefused(
            problems=(
                PackageProblem(
                    name="gti",
                    kind=ProblemKind.NOT_FOUND,
                    message="there is no package gti",
                    candidates=("hidden", "git", "git.dev"),
                ),
            )
        )
        for user, told in ((ALICE, ["git"]), (BOB, ["hidden", "git", "git.dev"])):
            answer = self.get("/v2/gti/manifests/latest", user)
            self.assertEqual(answer.status, 404)
            [package] = answer.error()["detail"]["packages"]
            self.assertEqual(package["candidates"], told)
            self.assertEqual(b"hidden" in answer.body, user == BOB)

    def test_access_log_names_the_user(self) -> None:
        """The access log has the user of a request, and the address without a login."""
        with capturedLogs() as logs:
            self.get("/page", ALICE)
            self.get("/healthz")
        lines = [str(event["line"]) for event in logs if "line" in event]
        self.assertTrue(lines[0].startswith("alice@192.0.2.1 GET /page 200 "), lines)
        self.assertTrue(lines[1].startswith("192.0.2.1 GET /healthz 200 "), lines)

    def test_wrong_password_is_no_password_and_after_some_there_is_a_pause(self) -> None:
        """A wrong password is no password, and after some there is a pause."""
        for _ in range(3):
            self.challenged(self.get("/page", basic("alice", "wrong")))
        self.assertEqual(self.get("/page", basic("alice", "wrong")).status, 401)
        sent_away = self.get("/v2/", basic("alice", "secret"))
        self.assertEqual((sent_away.status, sent_away.header("Retry-After")), (429, "1"))
        self.assertEqual(sent_away.error()["code"], "TOOMANYREQUESTS")
        self.assertEqual(self.get("/healthz", ALICE).status, 200)
        self.assertEqual(self.get("/page", BOB).status, 200)

    def test_proxy_that_is_not_trusted_is_warned_of_once(self) -> None:
        """The first header of a peer that is not trusted is logged, with what to set."""
        with capturedLogs() as logs:
            for _ in range(3):
                self.get("/v2/", ("X-Forwarded-For", "203.0.113.7"))
        warnings = [formatEvent(each) for each in logs if each["log_level"] is LogLevel.warn]
        self.assertEqual(len(warnings), 1, warnings)
        self.assertIn("192.0.2.1 sends X-Forwarded-For", warnings[0])
        self.assertIn("trusted_proxies", warnings[0])

    def test_proxy_that_is_trusted_is_not_warned_of(self) -> None:
        """Nor is a client without a proxy."""
        admission = AdmissionControl(
            limits=AdmissionLimits(proxies=parse_proxies(["192.0.2.1"])), seconds=self.clock.seconds
        )
        site = make_site(self.root, self.clock, admission=admission)
        with capturedLogs() as logs:
            Connection(site).request("GET", "/v2/", ("X-Forwarded-For", "203.0.113.7"))
            self.get("/v2/")
        self.assertEqual([each for each in logs if each["log_level"] is LogLevel.warn], [])

    def test_nothing_is_remembered_of_clients_that_are_not_admitted(self) -> None:
        """Neither the paths nor the names that they think of are kept in memory."""
        for number in range(5):
            for headers in ([], [basic("alice", f"guess{number}")], [ALICE]):
                answer = self.get(f"/v2/htop/made-up-{number}/manifests/latest", *headers)
                self.assertIn(answer.status, (401, 403, 429))
        self.assertEqual((0, 0), self.router.remembered)
        for _ in range(2):
            self.assertEqual(self.get("/v2/git/manifests/latest", BOB).status, 200)
        self.assertEqual((1, 1), self.router.remembered)

    def test_header_of_another_scheme_is_challenged(self) -> None:
        """A header that is neither password nor token is challenged as a missing one is."""
        for value in ("", "Basic", "Basic =", "Bearer", "Bearer a.b.c", "Negotiate abc", "\x7f"):
            self.challenged(self.get("/page", ("Authorization", value)))
            self.challenged(self.get("/v2/", ("Authorization", value)))

    def test_head_is_challenged_as_a_get_is_without_a_body(self) -> None:
        """A HEAD is challenged as a GET is, without a body."""
        answer = self.connection.request("HEAD", "/page")
        self.challenged(answer)
        self.assertEqual(answer.body, b"")
        self.challenged(self.connection.request("HEAD", "/v2/git/manifests/latest"))
        answer = self.connection.request("HEAD", "/v2/git/manifests/latest", ALICE)
        self.assertEqual((answer.status, answer.body), (200, b""))

    def test_request_waits_for_check_of_its_password_and_next_one_does_not(self) -> None:
        """A request waits for the check of its password, and the next one does not."""
        workers = SteppedWorkers()
        self.build(workers)
        self.connection.send("GET", "/page", ALICE)
        self.assertEqual(self.connection.received(), b"")
        workers.finish()
        answer = self.connection.response()
        self.assertEqual(answer.body, b"alice ['git']")
        assert answer.header("X-Request-Id")
        self.get("/page", ALICE)

    def test_client_that_leaves_during_the_check_of_a_password_causes_no_failure(self) -> None:
        """A client that leaves during the check of a password causes no failure."""
        workers = SteppedWorkers()
        self.build(workers)
        self.connection.send("GET", "/page", ALICE)
        self.connection.disconnect()
        workers.finish()
        self.assertEqual(self.flushLoggedErrors(), [])


class RegistryTests(AuthTestCase):
    """The registry API."""

    def test_user_has_what_the_rules_allow_and_is_told_what_they_do_not(self) -> None:
        """A user has what the rules allow, and is told what they do not."""
        self.assertEqual(self.get("/v2/", ALICE).status, 200)
        self.assertEqual(self.get("/v2/shell/git/manifests/latest", ALICE).status, 200)
        self.source.requests.clear()
        for path in (
            "/v2/git/htop/manifests/latest",
            f"/v2/htop/manifests/{OCI.digest}",
            f"/v2/htop/blobs/{OCI.digest}",
            "/v2/htop/tags/list",
            f"/v2/htop/referrers/{OCI.digest}",
            "/v2/git/attr--68746f70/manifests/latest",
        ):
            answer = self.get(path, ALICE)
            self.assertEqual((answer.status, answer.error()["code"]), (403, "DENIED"), path)
            self.assertIn("htop", answer.error()["message"])
        self.assertEqual(self.source.requests, [])

    def test_stored_digest_that_belongs_to_no_image_of_name_is_unknown_to_user(self) -> None:
        """A stored digest that belongs to no image of the name is unknown to the user."""
        for path, code in (
            (f"/v2/git/manifests/{OCI.digest}", "MANIFEST_UNKNOWN"),
            (f"/v2/git/blobs/{OCI.digest}", "BLOB_UNKNOWN"),
        ):
            answer = self.get(path, ALICE)
            self.assertEqual((answer.status, answer.error()["code"]), (404, code))
        self.assertEqual(self.source.invalidations, 0)
        self.assertEqual(self.get(f"/v2/git/manifests/{OCI.digest}", BOB).status, 200)
        self.get("/v2/git/manifests/latest", ALICE)
        self.assertEqual(self.get(f"/v2/git/manifests/{OCI.digest}", ALICE).status, 200)
        self.assertEqual(self.get(f"/v2/shell/manifests/{OCI.digest}", ALICE).status, 404)

    def test_client_that_has_not_logged_in_is_told_where_to_get_tokens(self) -> None:
        """A client that has not logged in is told where to get tokens, and for which scope."""
        place = 'Bearer realm="https://reg/token",service="reg"'
        self.assertEqual(self.challenged(self.get("/v2/")), place)
        self.assertEqual(
            self.challenged(self.get("/v2/shell/git/manifests/latest")),
            place + ',scope="repository:shell/git:pull"',
        )
        self.assertEqual(self.get("/v2/").header("Docker-Distribution-Api-Version"), "registry/2.0")
        self.assertEqual(self.source.requests, [])


class TokenTests(AuthTestCase):
    """Tests of tokens, from the token endpoint to the registry."""

    def fetch(self, path: str, *headers: tuple[str, str]) -> tuple[str, str]:
        answer = self.get(path, *headers)
        self.assertEqual(answer.status, 200, answer.body)
        document = json.loads(answer.body)
        self.assertEqual(document["token"], document["access_token"])
        self.assertEqual(document["expires_in"], 300)
        self.assertTrue(document["issued_at"].endswith("Z"))
        return "Authorization", f"Bearer {document['token']}"

    def post(self, form: dict[str, str], *headers: tuple[str, str]) -> Response:
        body = urlencode(form)
        self.connection.send(
            "POST",
            "/token",
            ("Content-Type", "application/x-www-form-urlencoded"),
            ("Content-Length", str(len(body))),
            *headers,
        )
        self.connection.protocol.dataReceived(body.encode())
        return self.connection.response()

    def test_token_pulls_what_it_is_for(self) -> None:
        """A token pulls what it is for, and says what is missing for anything else."""
        token = self.fetch("/token?service=reg&scope=repository:git:pull", ALICE)
        self.assertEqual(self.get("/v2/", token).status, 200)
        self.assertEqual(self.get("/v2/git/manifests/latest", token).status, 200)
        challenge = self.challenged(self.get("/v2/shell/git/manifests/latest", token))
        self.assertIn('scope="repository:shell/git:pull",error="insufficient_scope"', challenge)
        self.assertEqual(self.get("/v2/htop/manifests/latest", token).status, 403)

    def test_token_is_for_the_digests_of_its_images_only(self) -> None:
        """A token reads the digests of the images that it is for, whoever its user is."""
        other = self.successResultOf(
            Deferred.fromCoroutine(self.storage.put(b"another image's layer", "a/b"))
        )
        token = self.fetch("/token?service=reg&scope=repository:git:pull", BOB)
        digests = (f"manifests/{OCI.digest}", f"blobs/{OCI.digest}", f"blobs/{other.digest}")
        for method in ("GET", "HEAD"):
            for path in digests:
                answer = self.connection.request(method, f"/v2/git/{path}", token)
                self.assertEqual(answer.status, 404, path)
        self.assertEqual(self.get("/v2/git/manifests/latest", token).status, 200)
        self.assertEqual([200, 200, 404], [self.get(f"/v2/git/{p}", token).status for p in digests])
        self.assertEqual([200, 200, 200], [self.get(f"/v2/git/{p}", BOB).status for p in digests])

    def test_token_that_is_none_is_answered_with_where_to_get_one_and_what_for(self) -> None:
        """A token that is none is answered with where to get one, and what for."""
        answer = self.get("/v2/git/manifests/latest", ("Authorization", "Bearer a.b.c"))
        self.assertIn('scope="repository:git:pull",error="invalid_token"', self.challenged(answer))

    def test_desk_wants_passwords(self) -> None:
        """No token is issued without a password, nor for another token."""
        token = self.fetch("/token", ALICE)
        for headers in ((), (basic("alice", "wrong"),), (token,)):
            self.assertIn("Basic realm=", self.challenged(self.get("/token", *headers)))
        self.assertEqual(self.connection.request("PUT", "/token", ALICE).status, 405)
        self.assertEqual(self.get("/token/below", ALICE).status, 404)

    def test_anonymous_client_gets_a_token_for_what_is_allowed(self) -> None:
        """An anonymous client gets a token for what the rules allow to anonymous clients."""
        self.access_controller.replace_users(USERS, RULES | {"anonymous": parse_patterns(["git"])})
        token = self.fetch("/token?scope=repository:git:pull&scope=repository:htop:pull")
        self.assertEqual(self.get("/v2/git/manifests/latest", token).status, 200)
        self.challenged(self.get("/v2/htop/manifests/latest", token))
        self.challenged(self.get("/page", token))
        self.challenged(self.get("/v2/"))

    def test_form_with_a_password_gets_tokens(self) -> None:
        """A form with a password gets a token, and if it wants one for later that, too."""
        form = {"grant_type": "password", "username": "alice", "password": "secret"}
        document = json.loads(self.post(form | {"scope": "repository:git:pull"}).body)
        token = "Authorization", f"Bearer {document['access_token']}"
        self.assertEqual(self.get("/v2/git/manifests/latest", token).status, 200)
        self.assertNotIn("refresh_token", document)
        document = json.loads(self.post(form | {"access_type": "offline"}).body)
        refresh = {"grant_type": "refresh_token", "refresh_token": document["refresh_token"]}
        document = json.loads(self.post(refresh | {"scope": "repository:git:pull"}).body)
        token = "Authorization", f"Bearer {document['access_token']}"
        self.assertEqual(self.get("/v2/git/manifests/latest", token).status, 200)
        refresh["refresh_token"] = document["access_token"]
        self.assertEqual(self.post(refresh).status, 401)

    def post_in_chunks(self, body: str, size: int) -> Response:
        """Send a form without its length, as podman and skopeo do."""
        self.connection.send("POST", "/token", ("Transfer-Encoding", "chunked"))
        for start in range(0, len(body), size):
            chunk = body[start : start + size].encode()
            self.connection.protocol.dataReceived(b"%x\r\n%b\r\n" % (len(chunk), chunk))
        self.connection.protocol.dataReceived(b"0\r\n\r\n")
        return self.connection.response()

    def test_form_in_chunks(self) -> None:
        """A form whose length is not announced gets a token, up to the size of any form."""
        form = {"grant_type": "password", "username": "alice", "password": "secret"}
        body = urlencode(form | {"scope": "repository:git:pull"})
        for size in (1, 10, len(body)):
            document = json.loads(self.post_in_chunks(body, size).body)
            token = "Authorization", f"Bearer {document['access_token']}"
            self.assertEqual(self.get("/v2/git/manifests/latest", token).status, 200)
        full = body + "&x=" + "y" * (16384 - len(body) - 3)
        self.assertEqual(self.post_in_chunks(full, 5000).status, 200)
        self.assertEqual(self.post_in_chunks(full + "y", 5000).status, 400)
        self.assertEqual(self.post_in_chunks(body + "&x=" + "y" * 100_000, 5000).status, 400)
        self.assertEqual(self.post_in_chunks(body, 100).status, 200)

    def test_bad_token_form_is_refused(self) -> None:
        """A form with a wrong password, another grant type or too many fields is refused."""
        wrong = {"grant_type": "password", "username": "alice", "password": "wrong"}
        self.assertEqual(self.post(wrong).status, 401)
        for form in ({}, {"grant_type": "client_credentials"}):
            self.assertEqual(self.post(form).status, 400)
        self.assertEqual(self.post({f"f{each}": "x" for each in range(70)}).status, 400)


class HtpasswdTests(AuthTestCase):
    """Without tokens."""

    tokens = False

    def test_registry_asks_for_a_password_as_the_pages_do(self) -> None:
        """The registry asks for a password, as the pages do."""
        self.assertIn("Basic realm=", self.challenged(self.get("/v2/")))
        self.assertEqual(self.get("/token").status, 404)
        self.assertEqual(self.get("/v2/git/manifests/latest", ALICE).status, 200)
