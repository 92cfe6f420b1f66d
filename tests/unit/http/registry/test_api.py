"""The registry API, through the real HTTP server."""

from __future__ import annotations

import json

import treq
from hypothesis import given, settings
from hypothesis import strategies as st
from treq.client import HTTPClient
from treq.testing import RequestTraversalAgent
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers

from nixery.errors import ShuttingDown, StorageError
from nixery.http.registry.api import Registry
from nixery.http.registry.errors import ManifestUnknown
from nixery.http.registry.pull_wait import PullWaiter
from nixery.image.errors import PackageProblem, PackagesRefused, ProblemKind
from nixery.image.image_index import build_index
from nixery.image.manifests import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Image
from nixery.image.names import Digest
from nixery.nix.errors import BuildFailed
from nixery.process.errors import CommandOutput
from nixery.storage.interface import BlobInfo
from nixery.testing.fakes import InlineWorkers
from nixery.testing.memory_storage import MemoryStorage
from tests.support.http import (
    DOCKER,
    IMAGE,
    OCI,
    Connection,
    FakeImages,
    Response,
    make_index,
    make_root,
)

LAYER = b"0123456789" * 500
UNKNOWN = Digest("sha256:" + "f" * 64)
SIGNATURES = "sha256-" + "0" * 64

METHODS = ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND")


class RegistryTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.images = FakeImages()
        self.images.images["shell/git", "latest"] = IMAGE
        self.storage = MemoryStorage()
        for manifest in IMAGE.manifests:
            self.successResultOf(
                Deferred.fromCoroutine(self.storage.put(manifest.body, manifest.media_type))
            )
        self.layer = self.store(LAYER, "application/vnd.oci.image.layer.v1.tar+gzip")
        registry = Registry(self.images, self.storage, InlineWorkers(), Clock())
        self.root = make_root(registry=registry)
        self.connection = Connection(self.root)

    def store(self, data: bytes, media_type: str) -> Digest:
        return self.successResultOf(
            Deferred.fromCoroutine(self.storage.put(data, media_type))
        ).digest

    def get(self, path: str | bytes, *headers: tuple[str, str]) -> Response:
        return self.connection.request("GET", path, *headers)

    def head(self, path: str | bytes, *headers: tuple[str, str]) -> Response:
        return self.connection.request("HEAD", path, *headers)

    def refused(self, answer: Response, status: int, code: str) -> str:
        """Check an error document; its message."""
        error = answer.error()
        self.assertEqual((status, code), (answer.status, error["code"]))
        self.assertEqual(str(len(answer.body)), answer.header("Content-Length"))
        self.assertEqual({"code", "message", "detail"}, set(error))
        return str(error["message"])


class PingTests(RegistryTestCase):
    def test_v2_and_v2_tell_clients_that_this_is_a_registry(self) -> None:
        """``/v2/`` and ``/v2`` tell clients that this is a registry."""
        for path in ("/v2/", "/v2", "/v2/?ns=docker.io"):
            answer = self.get(path)
            self.assertEqual(200, answer.status)
            self.assertEqual("registry/2.0", answer.header("Docker-Distribution-Api-Version"))
            self.assertEqual({}, json.loads(answer.body))

    def test_registry_is_a_root_resource_as_well(self) -> None:
        """The registry is a root resource as well."""
        registry = Registry(self.images, self.storage, InlineWorkers(), Clock())
        connection = Connection(make_root(registry=registry))
        self.assertEqual(200, connection.request("GET", "/v2/").status)
        self.assertEqual(404, connection.request("GET", "/").status)
        self.assertEqual(200, connection.request("GET", "/v2/shell/git/manifests/latest").status)

    def test_no_host_header_changes_anything_not_even_one_that_is_none(self) -> None:
        """No Host header changes anything, not even one that is none."""
        for host in ("localhost:8080", "xn--a", "a..b", "\xff\xfe", "[::1]:80", "", "ß" * 100):
            connection = Connection(self.root)
            connection.protocol.dataReceived(
                b"GET /v2/ HTTP/1.1\r\nHost: " + host.encode("latin-1", "replace") + b"\r\n\r\n"
            )
            self.assertEqual(200, connection.response().status)
        connection = Connection(self.root)
        connection.protocol.dataReceived(b"GET /v2/ HTTP/1.0\r\n\r\n")
        self.assertEqual(200, connection.response().status)


class ManifestTests(RegistryTestCase):
    PATH = "/v2/shell/git/manifests/latest"

    def test_manifest_comes_with_its_exact_media_type_length_and_digest(self) -> None:
        """A manifest comes with its exact media type, length and digest."""
        answer = self.get(self.PATH, ("Accept", OCI_MANIFEST))
        self.assertEqual(200, answer.status)
        self.assertEqual(OCI.body, answer.body)
        self.assertEqual(OCI_MANIFEST, answer.header("Content-Type"))
        self.assertEqual(str(len(OCI.body)), answer.header("Content-Length"))
        self.assertEqual(OCI.digest, answer.header("Docker-Content-Digest"))
        self.assertEqual(f'"{OCI.digest}"', answer.header("ETag"))
        self.assertEqual("Accept", answer.header("Vary"))
        self.assertIsNone(answer.header("Content-Encoding"))

    def test_types_named_in_all_accept_headers_together_decide(self) -> None:
        """The types named in all Accept headers together decide; none leads to a 406."""
        containerd = f"{DOCKER_MANIFEST}, application/x-list, {OCI_MANIFEST}, {OCI_INDEX}, */*"
        cases: list[tuple[list[str], str]] = [
            ([OCI_MANIFEST], OCI_MANIFEST),
            ([DOCKER_MANIFEST], DOCKER_MANIFEST),
            ([containerd], OCI_MANIFEST),
            ([DOCKER_MANIFEST, OCI_MANIFEST], OCI_MANIFEST),
            ([OCI_MANIFEST, DOCKER_MANIFEST], OCI_MANIFEST),
            ([f"{OCI_MANIFEST};q=0.1,{DOCKER_MANIFEST};q=1"], OCI_MANIFEST),
            ([f"{OCI_MANIFEST};q=0,{DOCKER_MANIFEST}"], DOCKER_MANIFEST),
            (["*/*"], OCI_MANIFEST),
            (["text/html"], OCI_MANIFEST),
            ([], OCI_MANIFEST),
        ]
        for accept, media_type in cases:
            headers = [("Accept", value) for value in accept]
            for answer in (self.get(self.PATH, *headers), self.head(self.PATH, *headers)):
                self.assertEqual(200, answer.status)
                self.assertEqual(media_type, answer.header("Content-Type"), accept)

    def test_manifest_is_served_by_digest_with_same_bytes_whatever_is_accepted(self) -> None:
        """A manifest is served by digest with the same bytes, whatever is accepted."""
        for manifest in (OCI, DOCKER):
            for accept in (OCI_MANIFEST, DOCKER_MANIFEST, "*/*"):
                answer = self.get(f"/v2/shell/git/manifests/{manifest.digest}", ("Accept", accept))
                self.assertEqual((200, manifest.body), (answer.status, answer.body))
                self.assertEqual(manifest.media_type, answer.header("Content-Type"))
                self.assertEqual(manifest.digest, answer.header("Docker-Content-Digest"))
        self.assertEqual([], self.images.requests)

    def test_some_clients_escape_the_colon(self) -> None:
        """Some clients escape the colon."""
        path = f"/v2/shell/git/manifests/{OCI.digest}".replace(":", "%3A")
        self.assertEqual(OCI.body, self.get(path).body)

    def test_answer_says_how_to_get_the_image_made(self) -> None:
        """The answer says how to get the image made."""
        message = self.refused(self.get(f"/v2/git/manifests/{UNKNOWN}"), 404, "MANIFEST_UNKNOWN")
        self.assertIn("by its tag", message)

    def test_a_layer_is_no_manifest(self) -> None:
        """Nor is anything else that was not stored as one."""
        self.refused(self.get(f"/v2/git/manifests/{self.layer}"), 404, "MANIFEST_UNKNOWN")

    def test_client_that_has_it_already_is_told_so_without_the_body(self) -> None:
        """A client that has it already is told so, without the body."""
        for path in (self.PATH, f"/v2/shell/git/manifests/{OCI.digest}"):
            for value in (f'"{OCI.digest}"', f'W/"{OCI.digest}", "x"', "*"):
                answer = self.get(path, ("If-None-Match", value))
                self.assertEqual((304, b""), (answer.status, answer.body))
                self.assertEqual(f'"{OCI.digest}"', answer.header("ETag"))
            answer = self.get(path, ("If-None-Match", f'"{UNKNOWN}"'))
            self.assertEqual((200, OCI.body), (answer.status, answer.body))

    def test_query_means_nothing(self) -> None:
        """containerd names the registry that it takes us for."""
        self.assertEqual(OCI.body, self.get(self.PATH + "?ns=docker.io").body)

    def test_words_of_the_api_in_names(self) -> None:
        """They are packages."""
        self.images.images["tags/list", "latest"] = IMAGE
        self.assertEqual(200, self.get("/v2/tags/list/manifests/latest").status)
        self.assertEqual([("tags/list", "latest")], self.images.requests)

    def test_invalid_before_anything_happens(self) -> None:
        """Bad names, tags and digests reach neither images nor storage."""
        for path in (
            "/v2/Git/manifests/latest",
            "/v2/a%2Fb/manifests/latest",
            "/v2/a//b/tags/list",
        ):
            self.refused(self.get(path), 400, "NAME_INVALID")
        for raw in (b"/v2/%00/manifests/latest", b"/v2/%FF/manifests/latest"):
            self.refused(self.get(raw), 400, "NAME_INVALID")
        self.refused(self.get("/v2/git/manifests/.hidden"), 404, "MANIFEST_UNKNOWN")
        self.refused(self.get("/v2/git/manifests/sha256:123"), 400, "DIGEST_INVALID")
        self.refused(self.get("/v2/git/blobs/latest"), 400, "DIGEST_INVALID")
        self.refused(self.get("/v2/git/referrers/latest"), 400, "DIGEST_INVALID")
        self.assertEqual([], self.images.requests)
        self.assertEqual([], self.flushLoggedErrors())

    def test_tags_of_signatures_are_not_looked_up(self) -> None:
        """They are looked up nowhere."""
        for suffix in ("", ".sig", ".att", ".sbom"):
            path = f"/v2/git/manifests/{SIGNATURES}{suffix}"
            self.refused(self.get(path), 404, "MANIFEST_UNKNOWN")
        self.assertEqual([], self.images.requests)


class IndexTests(RegistryTestCase):
    """Tags of several platforms."""

    PATH = "/v2/multi/git/manifests/latest"

    def setUp(self) -> None:
        super().setUp()
        self.index = make_index()
        self.images.images["multi/git", "latest"] = self.index
        for manifest in self.index.all_manifests:
            self.store(manifest.body, manifest.media_type)

    def test_form_is_chosen_by_presence(self) -> None:
        """A list is for those who name one, in any order; all others get the system's manifest."""
        clients = f"{DOCKER_LIST}, {DOCKER_MANIFEST}, {OCI_INDEX};q=0.1, {OCI_MANIFEST}, */*"
        oci, docker = self.index.manifests
        own, of_docker = self.index.images["x86_64-linux"].manifests
        for accept, manifest in (
            ([clients], oci),
            ([DOCKER_LIST, OCI_INDEX], oci),
            ([OCI_INDEX], oci),
            ([f"{DOCKER_LIST}, {DOCKER_MANIFEST}"], docker),
            ([f"{OCI_INDEX};q=0, {DOCKER_LIST}"], docker),
            ([OCI_MANIFEST], own),
            ([DOCKER_MANIFEST], of_docker),
            (["*/*"], own),
            (["application/json"], own),
            ([], own),
        ):
            headers = [("Accept", value) for value in accept]
            got, headed = self.get(self.PATH, *headers), self.head(self.PATH, *headers)
            self.assertEqual((200, manifest.body), (got.status, got.body), accept)
            self.assertEqual(manifest.media_type, got.header("Content-Type"))
            self.assertEqual(manifest.digest, got.header("Docker-Content-Digest"))
            self.assertEqual(f'"{manifest.digest}"', got.header("ETag"))
            self.assertEqual("Accept", got.header("Vary"))
            self.assertEqual(without_date(got), without_date(headed))
            self.assertEqual(b"", headed.body)

    def test_by_digest(self) -> None:
        """A digest has its own bytes whatever is accepted: the index, and each manifest."""
        for manifest in self.index.all_manifests:
            for accept in (OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, "*/*", "text/html"):
                path = f"/v2/multi/git/manifests/{manifest.digest}"
                answer = self.get(path, ("Accept", accept))
                self.assertEqual((200, manifest.body), (answer.status, answer.body))
                self.assertEqual(manifest.media_type, answer.header("Content-Type"))

    def test_manifests_of_platforms_are_in_memory(self) -> None:
        """The manifests that an index names are served after it without a look at the storage."""
        self.get(self.PATH, ("Accept", OCI_INDEX))

        async def refuse(*_: object, **__: object) -> None:
            raise AssertionError("the storage was asked")

        self.patch(self.storage, "read", refuse)
        self.patch(self.storage, "stat", refuse)
        for image in self.index.images.values():
            path = f"/v2/multi/git/manifests/{image.manifests[0].digest}"
            self.assertEqual(200, self.get(path).status)

    def test_system_is_missing(self) -> None:
        """A client without support for indexes is told why there is no image for it."""
        arm64 = {"aarch64-linux": self.index.images["aarch64-linux"]}
        skipped = {"x86_64-linux": "git is for ARM only"}
        self.images.images["multi/git", "latest"] = build_index(arm64, "x86_64-linux", skipped)
        self.assertEqual(200, self.get(self.PATH, ("Accept", OCI_INDEX)).status)
        message = self.refused(self.get(self.PATH), 422, "MANIFEST_INVALID")
        self.assertIn("git is for ARM only", message)


class TextTests(RegistryTestCase):
    def test_bytes_that_are_no_text_are_no_names(self) -> None:
        """Bytes that are no text, and halves of surrogate pairs, are refused as names and tags."""
        for name in ("%ED%A0%80", "%FF", "attr--eda080", "attr--ff"):
            self.refused(self.get(f"/v2/{name}/manifests/latest"), 400, "NAME_INVALID")
            self.refused(self.get(f"/v2/git/manifests/%ED%A0%80{name}"), 404, "MANIFEST_UNKNOWN")
        self.assertEqual([], self.images.requests)


class FailureTests(RegistryTestCase):
    PATH = "/v2/git/manifests/latest"

    def fail_with(self, failure: BaseException) -> None:
        self.images.images["git", "latest"] = failure

    def test_packages_that_do_not_exist(self) -> None:
        """All of them are named, for a person and for a program, with what was near."""
        self.fail_with(
            PackagesRefused(
                problems=tuple(
                    PackageProblem(
                        name=name,
                        kind=ProblemKind.NOT_FOUND,
                        message=f"there is no package {name}",
                        candidates=("git",),
                    )
                    for name in ("gti", "htpo")
                )
            )
        )
        answer = self.get(self.PATH)
        message = self.refused(answer, 404, "MANIFEST_UNKNOWN")
        self.assertIn("gti", message)
        self.assertIn("htpo", message)
        self.assertIn("did you mean git?", message)
        self.assertEqual(
            ["gti", "htpo"], [each["name"] for each in answer.error()["detail"]["packages"]]
        )

    def test_builds_that_fail(self) -> None:
        """The log reaches the user."""
        self.fail_with(
            BuildFailed(
                derivation="/nix/store/x-git.drv",
                log=("cc1: \x1b[31merror", "make: *** [all] Error 1"),
                output=CommandOutput(argv=("nix-build",), status=100),
            )
        )
        message = self.refused(self.get(self.PATH), 422, "MANIFEST_INVALID")
        self.assertIn("make: *** [all] Error 1", message)
        self.assertNotIn("\x1b", message)

    def test_head_of_a_failure(self) -> None:
        """It has the GET's headers and no body."""
        self.fail_with(ManifestUnknown(name="git", digest=UNKNOWN))
        got, headed = self.get(self.PATH), self.head(self.PATH)
        self.assertEqual(b"", headed.body)
        self.assertEqual(without_date(got), without_date(headed))

    def test_failure_of_the_storage_is_answered_and_logged(self) -> None:
        """It is said, and is in the log."""
        self.fail_with(StorageError(operation="write", reason="EIO"))
        self.assertIn("EIO", self.refused(self.get(self.PATH), 503, "UNAVAILABLE"))

    def test_stopping_is_logged_as_no_fault(self) -> None:
        """That the daemon stops is no fault; lines name the request in plain text."""
        for error, level in (
            (ShuttingDown(), LogLevel.info),
            (StorageError(operation="write", reason="EIO"), LogLevel.error),
        ):
            self.fail_with(error)
            with capturedLogs() as logs:
                self.refused(self.get(self.PATH), 503, "UNAVAILABLE")
            [event] = [event for event in logs if "error" in event]
            self.assertIs(level, event["log_level"])
            self.assertTrue(formatEvent(event).startswith(f"GET {self.PATH} is answered with 503"))

    def test_unforeseen_error_is_logged_under_reference_and_its_text_is_not_sent(self) -> None:
        """An unforeseen error is logged under a reference, and its text is not sent."""
        self.fail_with(RuntimeError("the secret"))
        answer = self.get(self.PATH)
        message = self.refused(answer, 500, "UNKNOWN")
        self.assertNotIn(b"secret", answer.body)
        [logged] = self.flushLoggedErrors(RuntimeError)
        self.assertEqual("the secret", str(logged.value))
        self.assertIn(answer.error()["detail"]["reference"], message)

    def test_cancelled_by_others(self) -> None:
        """A build that is stopped under a client that waits means that we go down."""
        self.fail_with(CancelledError())
        self.refused(self.get(self.PATH), 503, "UNAVAILABLE")

    def test_the_next_request(self) -> None:
        """A connection outlives a failure."""
        self.fail_with(RuntimeError())
        self.get(self.PATH)
        self.flushLoggedErrors(RuntimeError)
        self.assertEqual(200, self.get("/v2/").status)


class SlowBuildTests(RegistryTestCase):
    """Tests of the answers to clients while an image is being built."""

    PATH = "/v2/git/manifests/latest"

    def setUp(self) -> None:
        super().setUp()
        self.clock = Clock()
        self.registry = Registry(
            self.images,
            self.storage,
            InlineWorkers(),
            self.clock,
            pull_waiter=PullWaiter(clock=self.clock, deadline=25),
        )
        self.connection = Connection(make_root(registry=self.registry))
        self.cancelled: list[Deferred[Image]] = []

    def build(self) -> Deferred[Image]:
        building: Deferred[Image] = Deferred(self.cancelled.append)
        self.images.images["git", "latest"] = building
        return building

    def test_client_that_comes_back_is_told_to_and_gets_image_when_it_is_there(self) -> None:
        """A client that comes back is told to, and gets the image when it is there."""
        for method in ("HEAD", "GET"):
            self.build()
            self.connection.send(method, self.PATH, ("User-Agent", "containerd/1.6.20"))
            self.clock.advance(24.9)
            self.assertEqual(b"", self.connection.received())
            self.clock.advance(0.1)
            answer = self.connection.response()
            self.assertEqual(429, answer.status)
            self.assertEqual("5", answer.header("Retry-After"))
            if method == "GET":
                message = self.refused(answer, 429, "TOOMANYREQUESTS")
                self.assertIn("git is still being built", message)
        self.build().callback(IMAGE)
        self.assertEqual(200, self.connection.request("GET", self.PATH).status)
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_docker_is_kept_waiting_until_the_image_is_there(self) -> None:
        """Docker is kept waiting until the image is there."""
        building = self.build()
        self.connection.send("HEAD", self.PATH, ("User-Agent", "docker/20.10.24 go/go1.19"))
        self.clock.advance(100_000)
        self.assertEqual(b"", self.connection.received())
        building.callback(IMAGE)
        self.assertEqual(200, self.connection.response().status)

    def test_client_that_leaves_while_it_is_held_leaves_no_timer_behind(self) -> None:
        """A client that leaves while it is held leaves no timer behind."""
        building = self.build()
        self.connection.send("GET", self.PATH)
        self.connection.disconnect()
        self.assertEqual([building], self.cancelled)
        self.assertEqual([], self.clock.getDelayedCalls())


class DisconnectTests(RegistryTestCase):
    def test_during_a_build(self) -> None:
        """The wait is cancelled, nothing is logged as failed, nothing is written."""
        cancelled: list[Deferred[Image]] = []
        building: Deferred[Image] = Deferred(cancelled.append)
        self.images.images["git", "latest"] = building
        self.connection.send("GET", "/v2/git/manifests/latest")
        self.assertEqual(b"", self.connection.received())
        self.connection.disconnect()
        self.assertEqual([building], cancelled)
        self.assertEqual(b"", self.connection.received())

    def test_builds_that_do_not_care(self) -> None:
        """Something that ends with a result, or otherwise, after the client left, is harmless."""
        ends: list[Deferred[Image]] = []
        for finish in (
            lambda ended: ended.callback(IMAGE),
            lambda ended: ended.errback(StorageError(operation="o", reason="r")),
        ):
            building: Deferred[Image] = Deferred(finish)
            ends.append(building)
            self.images.images["git", "latest"] = building
            connection = Connection(self.root)
            connection.send("GET", "/v2/git/manifests/latest")
            connection.disconnect()
            self.assertEqual(b"", connection.received())
        self.assertEqual([], self.flushLoggedErrors())

    def test_request_is_held_as_long_as_its_build_takes_far_beyond_idle_timeout(self) -> None:
        """A request is held as long as its build takes, far beyond the idle timeout."""
        clock = Clock()
        connection = Connection(self.root, clock)
        building: Deferred[Image] = Deferred()
        self.images.images["git", "latest"] = building
        connection.send("GET", "/v2/git/manifests/latest", ("User-Agent", "docker/20.10.24"))
        clock.pump([1.0] * 3600)
        self.assertFalse(connection.transport.disconnecting)
        building.callback(IMAGE)
        self.assertEqual(OCI.body, connection.response().body)
        clock.pump([1.0] * 61)
        self.assertTrue(connection.transport.disconnecting)
        connection.disconnect()


class BlobTests(RegistryTestCase):
    @property
    def path(self) -> str:
        return f"/v2/shell/git/blobs/{self.layer}"

    def test_blob_comes_with_its_length_and_digest_and_never_encoded(self) -> None:
        """A blob comes with its length and digest, and never encoded."""
        answer = self.get(self.path, ("Accept-Encoding", "zstd, gzip, deflate"))
        self.assertEqual((200, LAYER), (answer.status, answer.body))
        self.assertEqual(str(len(LAYER)), answer.header("Content-Length"))
        self.assertEqual(self.layer, answer.header("Docker-Content-Digest"))
        self.assertEqual(f'"{self.layer}"', answer.header("ETag"))
        self.assertEqual("bytes", answer.header("Accept-Ranges"))
        self.assertEqual(
            "application/vnd.oci.image.layer.v1.tar+gzip", answer.header("Content-Type")
        )
        self.assertIsNone(answer.header("Content-Encoding"))
        self.assertIsNone(answer.header("Transfer-Encoding"))

    def test_get_and_head_agree_on_what_is_not_there(self) -> None:
        """GET and HEAD agree on what is not there."""
        path = f"/v2/git/blobs/{UNKNOWN}"
        self.refused(self.get(path), 404, "BLOB_UNKNOWN")
        self.assertEqual(404, self.head(path).status)
        self.assertEqual(404, self.get(path, ("If-None-Match", "*")).status)
        self.assertEqual(404, self.get(path, ("Range", "bytes=0-")).status)

    @settings(max_examples=60)
    @given(first=st.integers(0, 5100), last=st.integers(0, 5100))
    def test_part_has_the_bytes_that_content_range_says_and_the_length(
        self, first: int, last: int
    ) -> None:
        """A part has the bytes that Content-Range says, and the length."""
        answer = self.get(self.path, ("Range", f"bytes={first}-{last}"))
        if last < first:
            self.assertEqual((200, LAYER), (answer.status, answer.body))
        elif first >= len(LAYER):
            self.refused(answer, 416, "SIZE_INVALID")
            self.assertEqual(f"bytes */{len(LAYER)}", answer.header("Content-Range"))
        else:
            stop = min(last + 1, len(LAYER))
            self.assertEqual((206, LAYER[first:stop]), (answer.status, answer.body))
            self.assertEqual(
                f"bytes {first}-{stop - 1}/{len(LAYER)}", answer.header("Content-Range")
            )
            self.assertEqual(str(stop - first), answer.header("Content-Length"))
            self.assertEqual(self.layer, answer.header("Docker-Content-Digest"))

    def test_open_ranges_and_suffixes_are_the_rest_and_the_end(self) -> None:
        """Open ranges and suffixes are the rest and the end."""
        self.assertEqual(LAYER[4000:], self.get(self.path, ("Range", "bytes=4000-")).body)
        self.assertEqual(LAYER[-7:], self.get(self.path, ("Range", "bytes=-7")).body)

    def test_part_of_another_blob_is_of_no_use(self) -> None:
        """A part of another blob is of no use: the whole is sent."""
        ask = ("Range", "bytes=10-19")
        right = self.get(self.path, ask, ("If-Range", f'"{self.layer}"'))
        wrong = self.get(self.path, ask, ("If-Range", f'"{UNKNOWN}"'))
        self.assertEqual((206, LAYER[10:20]), (right.status, right.body))
        self.assertEqual((200, LAYER), (wrong.status, wrong.body))

    def test_condition_comes_before_the_range(self) -> None:
        """The condition comes before the range."""
        for headers in ([], [("Range", "bytes=0-1")], [("Range", "bytes=99999-")]):
            answer = self.get(self.path, ("If-None-Match", f'"{self.layer}"'), *headers)
            self.assertEqual((304, b""), (answer.status, answer.body))
            self.assertIsNone(answer.header("Content-Range"))

    def test_head_ignores_ranges(self) -> None:
        """Ranges are defined for GET alone."""
        answer = self.head(self.path, ("Range", "bytes=0-1"))
        self.assertEqual(200, answer.status)
        self.assertEqual(str(len(LAYER)), answer.header("Content-Length"))

    def test_blob_without_bytes_is_a_blob(self) -> None:
        """A blob without bytes is a blob."""
        empty = self.store(b"", "application/octet-stream")
        for headers in ([], [("Range", "bytes=0-")]):
            answer = self.get(f"/v2/git/blobs/{empty}", *headers)
            self.assertEqual((200, b""), (answer.status, answer.body))
            self.assertEqual("0", answer.header("Content-Length"))


class HeadTests(RegistryTestCase):
    def test_head_is_get_without_body(self) -> None:
        """Status and all headers of a HEAD are those of the GET, on every route."""
        paths = [
            "/",
            "/healthz",
            "/nowhere",
            "/v2/",
            "/v2/nowhere",
            "/v2/_catalog",
            "/v2/shell/git/manifests/latest",
            f"/v2/shell/git/manifests/{OCI.digest}",
            f"/v2/shell/git/manifests/{UNKNOWN}",
            f"/v2/git/manifests/{SIGNATURES}",
            f"/v2/git/blobs/{self.layer}",
            f"/v2/git/blobs/{UNKNOWN}",
            "/v2/git/blobs/x",
            "/v2/git/tags/list",
            "/v2/git/tags/list?n=x",
            f"/v2/git/referrers/{UNKNOWN}",
        ]
        conditions: list[list[tuple[str, str]]] = [[], [("If-None-Match", "*")]]
        for path in paths:
            for headers in conditions:
                got, headed = self.get(path, *headers), self.head(path, *headers)
                self.assertEqual(b"", headed.body, path)
                self.assertEqual(without_date(got), without_date(headed), path)
                if got.status != 304:
                    self.assertEqual(str(len(got.body)), got.header("Content-Length"), path)


class ListTests(RegistryTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.images.tag_names = ("a", "b", "c", "d")

    def tags(self, query: str = "") -> list[str]:
        answer = self.get(f"/v2/shell/git/tags/list{query}")
        self.assertEqual((200, "application/json"), (answer.status, answer.header("Content-Type")))
        document = json.loads(answer.body)
        self.assertEqual("shell/git", document["name"])
        tags = document["tags"]
        assert isinstance(tags, list)
        return tags

    def test_without_a_page_size_all_tags_come_at_once(self) -> None:
        """Without a page size all tags come at once."""
        self.assertEqual(["a", "b", "c", "d"], self.tags())
        self.assertEqual(["a", "b", "c", "d"], self.tags("?n=10"))
        self.assertEqual(["a", "b", "c", "d"], self.tags("?n=4&ns=x"))
        for size in ("10000000000", "9" * 30, "9" * 5000, "0" * 5000 + "4"):
            self.assertEqual(["a", "b", "c", "d"], self.tags(f"?n={size}"))
        self.assertEqual(["a", "b"], self.tags("?n=" + "0" * 5000 + "2"))

    def test_links_lead_through_all_tags_each_of_them_once(self) -> None:
        """Links lead through all tags, each of them once."""
        seen, path = [], "/v2/shell/git/tags/list?n=3"
        while True:
            answer = self.get(path)
            seen.append(json.loads(answer.body)["tags"])
            link = answer.header("Link")
            if link is None:
                break
            path, _, relation = link.partition("; ")
            path = path.strip("<>")
            self.assertEqual('rel="next"', relation)
        self.assertEqual([["a", "b", "c"], ["d"]], seen)

    def test_page_begins_behind_last_whether_or_not_there_is_such_a_tag(self) -> None:
        """A page begins behind ``last``, whether or not there is such a tag."""
        self.assertEqual(["c", "d"], self.tags("?last=b"))
        self.assertEqual(["c", "d"], self.tags("?last=bb"))
        self.assertEqual([], self.tags("?last=z&n=2"))

    def test_page_of_no_tags_is_empty_and_has_no_next_one(self) -> None:
        """A page of no tags is empty, and has no next one."""
        answer = self.get("/v2/shell/git/tags/list?n=0")
        self.assertEqual([], json.loads(answer.body)["tags"])
        self.assertIsNone(answer.header("Link"))

    def test_page_size_that_is_no_number_of_tags_is_refused(self) -> None:
        """A page size that is no number of tags is refused."""
        for size in ("-1", "x", "", "1.5", "%C2%B2", "9x"):
            answer = self.get(f"/v2/shell/git/tags/list?n={size}")
            self.refused(answer, 400, "PAGINATION_NUMBER_INVALID")

    def test_nothing_refers_to_anything(self) -> None:
        """Nothing refers to anything: an empty index, and no 404."""
        answer = self.get(f"/v2/shell/git/referrers/{OCI.digest}")
        self.assertEqual(200, answer.status)
        self.assertEqual(OCI_INDEX, answer.header("Content-Type"))
        document = json.loads(answer.body)
        self.assertEqual(
            (2, OCI_INDEX, []),
            tuple(document[key] for key in ("schemaVersion", "mediaType", "manifests")),
        )
        self.assertIsNone(answer.header("OCI-Filters-Applied"))
        for query in ("artifactType=a/b", "artifactType=a/b&artifactType=c/d", "artifactType="):
            filtered = self.get(f"/v2/shell/git/referrers/{OCI.digest}?{query}")
            self.assertEqual("artifactType", filtered.header("OCI-Filters-Applied"))
            self.assertEqual(answer.body, filtered.body)


class RefusalTests(RegistryTestCase):
    def test_all_that_is_not_reading_is_refused(self) -> None:
        """Pushes, uploads, deletes and all that is not reading are refused everywhere."""
        for method in METHODS:
            for path in (
                "/v2/",
                "/v2/git/manifests/latest",
                f"/v2/git/blobs/{self.layer}",
                "/v2/git/blobs/uploads/",
                "/v2/git/blobs/uploads/?mount=x&from=y",
                "/v2/Bad%2FName/blobs/uploads/",
            ):
                answer = self.connection.request(method, path, ("Content-Length", "0"))
                self.refused(answer, 405, "UNSUPPORTED")
                self.assertEqual("GET, HEAD", answer.header("Allow"))
        self.assertEqual([], self.images.requests)

    def test_unknown_route_is_answered_in_json(self) -> None:
        """They are told in JSON."""
        for path in ("/v2/git", "/v2/x/y/z", "/v2//", "/v2/git/blobs/uploads/", "/v2/a%0Ab"):
            self.refused(self.get(path), 404, "UNSUPPORTED")

    def test_there_is_none_and_the_reason_is_told(self) -> None:
        """There is none, and the reason is told."""
        self.assertIn("combination", self.refused(self.get("/v2/_catalog"), 404, "UNSUPPORTED"))

    def test_body_of_a_push_is_not_waited_for(self) -> None:
        """The body of a push is not waited for."""
        self.connection.send("PUT", "/v2/git/manifests/x", ("Content-Length", "3000000"))
        self.refused(self.connection.response(), 413, "UNSUPPORTED")
        self.assertTrue(self.connection.transport.disconnecting)

    def test_body_of_a_small_one_is_read_away_and_kept_nowhere(self) -> None:
        """The body of a small one is read away and kept nowhere."""
        self.connection.send("PUT", "/v2/git/manifests/x", ("Content-Length", "5000"))
        self.connection.protocol.dataReceived(b"x" * 5000)
        self.refused(self.connection.response(), 405, "UNSUPPORTED")
        self.assertEqual(200, self.get("/v2/").status)


class OtherClientTests(RegistryTestCase):
    """The same through a client and a server that are not our own."""

    def test_requests_of_a_client_that_pulls_an_image_are_answered(self) -> None:
        """The requests of a client that pulls an image are answered; an upload is a 405."""
        client = HTTPClient(RequestTraversalAgent(self.root))
        base = "http://reg.example/v2/"
        self.assertEqual(200, self.successResultOf(client.get(base)).code)
        headed = self.successResultOf(
            client.head(
                f"{base}shell/git/manifests/latest", headers=Headers({"Accept": [OCI_MANIFEST]})
            )
        )
        [digest] = headed.headers.getRawHeaders("Docker-Content-Digest")
        self.assertEqual(OCI.digest, digest)
        for manifest in (OCI, DOCKER):
            response = self.successResultOf(
                client.get(f"{base}shell/git/manifests/{manifest.digest}")
            )
            self.assertEqual(manifest.body, self.successResultOf(treq.content(response)))
        response = self.successResultOf(client.get(f"{base}shell/git/blobs/{self.layer}"))
        self.assertEqual(LAYER, self.successResultOf(treq.content(response)))
        response = self.successResultOf(client.post(f"{base}shell/git/blobs/uploads/"))
        self.assertEqual(405, response.code)


def without_date(answer: Response) -> object:
    own = {"date", "x-request-id"}
    headers = {name: value for name, value in answer.headers.items() if name not in own}
    return answer.status, headers


class StubInfoTests(RegistryTestCase):
    def test_stat_is_enough_for_head(self) -> None:
        """A HEAD opens nothing: it could not send it on, and a redirect may be for GET."""

        async def refuse(digest: Digest, part: object = None) -> BlobInfo:
            raise AssertionError("it was opened")

        self.patch(self.storage, "open", refuse)
        self.assertEqual(200, self.head(f"/v2/git/blobs/{self.layer}").status)
