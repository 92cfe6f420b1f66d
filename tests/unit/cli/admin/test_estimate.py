"""Tests for ``nixery-admin estimate``."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Mapping
from typing import Any
from unittest.mock import patch

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from nixery.cli.admin.command import admin
from nixery.cli.admin.estimate import describe_estimate, estimate_path, fetch_estimate
from nixery.cli.admin.registry_client import RegistryClient, RegistryResponse
from nixery.cli.errors import CommandRefused
from nixery.image.errors import InvalidName, InvalidReference
from nixery.image.names import Digest, Tag, parse_image_name
from nixery.inspection.estimate import (
    UNKNOWN_SIZE,
    Accuracy,
    Estimate,
    Held,
    PlatformEstimate,
    PullSize,
    StorePlan,
)
from nixery.layers.partial_pull import PartialPull
from nixery.testing.fakes import store_path

SYSTEM = "x86_64-linux"
SIZE = PullSize(layers=12, size=3 * 2**20, accuracy=Accuracy.EXACT)
READY = PlatformEstimate(
    system=SYSTEM, ready=True, digest=Digest("sha256:" + "0" * 64), pull=SIZE, shared=None
)


def data(platform: PlatformEstimate, having: str | None = None) -> Mapping[str, Any]:
    """Return an estimate as the registry sends it."""
    held = None if having is None else Held(parse_image_name(having, SYSTEM), Tag("latest"))
    estimate = Estimate(
        name=parse_image_name("shell/git", SYSTEM),
        tag=Tag("latest"),
        revision="channel nixos-unstable",
        having=held,
        platforms=(platform,),
    )
    return {"error": None, **json.loads(json.dumps(estimate.json()))}


def text(platform: PlatformEstimate, having: str | None = None) -> str:
    return describe_estimate(data(platform, having))


class FakeClient(RegistryClient):
    """Answers with what it is given."""

    def __init__(self, status: int, body: bytes, **headers: str) -> None:
        super().__init__("http://r.example")
        self.response = RegistryResponse(
            status=status,
            body=body,
            headers={name.replace("_", "-"): value for name, value in headers.items()},
        )

    async def get(self, _path: str, _accept: str, *, timeout: float = 120) -> RegistryResponse:
        assert timeout == 5
        return self.response


class PathTests(SynchronousTestCase):
    """Tests of the path that is asked for."""

    def test_image_tag_and_the_image_that_the_client_has_are_in_the_path(self) -> None:
        """The path names the image and its tag, and the other image as it was given."""
        self.assertEqual(
            "/api/estimate/shell/git?tag=latest", estimate_path("shell/git", None, SYSTEM)
        )
        self.assertEqual(
            "/api/estimate/git?tag=v1&with=shell%3Av1%40sha256%3A0",
            estimate_path("git:v1", "shell:v1@sha256:0", SYSTEM),
        )

    def test_malformed_names_are_refused_before_anything_is_asked(self) -> None:
        """A name or a tag outside the grammar is refused."""
        self.assertRaises(InvalidName, estimate_path, "GIT", None, SYSTEM)
        self.assertRaises(InvalidReference, estimate_path, "git:-x", None, SYSTEM)


class AnswerTests(SynchronousTestCase):
    """Tests of the answers of a registry."""

    def fetch(self, client: RegistryClient) -> Deferred[Mapping[str, Any]]:
        return Deferred.fromCoroutine(fetch_estimate(client, "/api/estimate/git", 5))

    def refused(self, status: int, body: bytes, **headers: str) -> str:
        client = FakeClient(status, body, **headers)
        error: CommandRefused = self.failureResultOf(self.fetch(client), CommandRefused).value
        return error.message

    def test_estimate_is_returned_as_it_is(self) -> None:
        """An estimate is the JSON of the registry."""
        sent = data(READY)
        client = FakeClient(200, json.dumps(sent).encode())
        self.assertEqual(sent, self.successResultOf(self.fetch(client)))

    def test_errors_say_what_to_do(self) -> None:
        """An error of the registry is told with its status, and when to try again."""
        problem = json.dumps({"error": "there is no gti (did you mean git?)"}).encode()
        self.assertIn("404: there is no gti (did you mean git?)", self.refused(404, problem))
        busy = json.dumps({"error": "too many wait"}).encode()
        self.assertIn("try again in 5 s", self.refused(429, busy, retry_after="5"))
        self.assertIn("--password-file", self.refused(401, b"log in to see this page\n"))
        self.assertIn("web_ui", self.refused(404, b"there is nothing here\n"))
        for body in (b"[]", b"{}", b"null", b"\xff\x1b[31m"):
            message = self.refused(200, body)
            self.assertNotIn("\x1b", message)


class TextTests(SynchronousTestCase):
    """Tests of the text for people."""

    def test_image_that_is_ready_has_its_layers_and_what_the_client_has(self) -> None:
        """An image that is ready is told with its digest, its bytes, and the shared ones."""
        shared = PullSize(layers=1, size=2**20, accuracy=Accuracy.EXACT)
        partial = PartialPull(tables=1000, whole=24)
        found = text(evolve(READY, shared=shared, partial=partial), "shell")
        for part in ("amd64: ready, sha256:0", "12 layers, 3", "1 layer, 1", "in shell:latest"):
            self.assertIn(part, found)
        self.assertIn("partial pulls", found)
        self.assertIn("unknown in shell:latest", text(READY, "shell"))

    def test_work_is_told_with_names_and_numbers(self) -> None:
        """Downloads and builds are counted, and the first are named."""
        built = tuple(store_path(f"p{number}-1.drv").path for number in range(23))
        plan = StorePlan(
            valid_paths=1,
            fetched=(store_path("git-2").path,),
            download_size=2**20,
            unpacked_size=4 * 2**20,
            built=built,
            unavailable=(store_path("gone").path,),
            unreachable=("https://cache.example",),
        )
        pull = PullSize(layers=None, size=2**20, accuracy=Accuracy.LOWER_BOUND)
        found = text(PlatformEstimate(system=SYSTEM, store=plan, pull=pull))
        for part in (
            "to be built",
            "at least 1 store path\n",
            "1 store path, 1",
            "to download, 4",
            ": git-2\n",
            "23 derivations: p0-1, p1-1",
            "p19-1 and 3 more",
            "not available: gone",
            "no answer from https://cache.example",
            "at least about 1",
        ):
            self.assertIn(part, found)

    def test_what_is_unknown_is_told_as_unknown(self) -> None:
        """Neither an unknown plan nor an unknown size has a number."""
        unknown = StorePlan(known=False, download_size=None, unpacked_size=None)
        found = text(PlatformEstimate(system=SYSTEM, store=unknown, pull=UNKNOWN_SIZE))
        self.assertEqual(2, found.count("unknown"))
        self.assertNotRegex(found.partition("to be built")[2], "[0-9]")

    def test_cache_that_does_not_answer_is_the_reason(self) -> None:
        """If Nix gave up because of a cache, that is said in place of numbers."""
        plan = StorePlan(
            known=False, download_size=None, unpacked_size=None, unreachable=("https://a.example",)
        )
        found = text(PlatformEstimate(system=SYSTEM, store=plan))
        self.assertIn("unknown: no answer from https://a.example", found)

    def test_valid_closure_and_missing_platform_are_told(self) -> None:
        """A closure that is valid has nothing to do; a missing platform has its reason."""
        estimate = PullSize(layers=3, size=2**20, accuracy=Accuracy.ESTIMATE)
        valid = StorePlan(all_valid=True, valid_paths=66)
        found = text(PlatformEstimate(system=SYSTEM, store=valid, pull=estimate))
        self.assertIn("all 66 store paths exist", found)
        self.assertIn("3 layers, about 1", found)
        missing = text(PlatformEstimate(system="aarch64-linux", missing="there is no git"))
        self.assertIn("arm64: missing: there is no git", missing)


class CommandTests(SynchronousTestCase):
    """The command."""

    def run_admin(
        self, *arguments: str, found: Mapping[str, Any] | None, status: int = 0
    ) -> tuple[str, str]:
        out, err = io.StringIO(), io.StringIO()

        async def fetch(client: RegistryClient, path: str, timeout: float) -> Mapping[str, Any]:
            self.assertEqual("/api/estimate/git?tag=latest", path)
            self.assertEqual(("http://r.example", 600.0), (client.base, timeout))
            if found is None:
                raise CommandRefused(reason="404: there is no git")
            return found

        def run(main: Any) -> None:
            self.successResultOf(main(None))

        with (
            patch("nixery.cli.admin.command.fetch_estimate", fetch),
            patch("nixery.cli.admin.command.run_reactor_and_return", run),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            self.assertRaises(SystemExit) as ended,
        ):
            admin(["estimate", "git", "--url", "http://r.example", *arguments])
        self.assertEqual(status, ended.exception.code)
        return out.getvalue(), err.getvalue()

    def test_result_is_on_standard_output_as_text_or_json(self) -> None:
        """The estimate is printed on standard output, in words or as the registry sent it."""
        sent = data(READY)
        self.assertIn("12 layers", self.run_admin(found=sent)[0])
        self.assertEqual(sent, json.loads(self.run_admin("--json", found=sent)[0]))

    def test_failure_is_one_line_on_standard_error(self) -> None:
        """The answer of a registry that refuses is one line, and no traceback."""
        self.assertEqual(
            ("", "nixery-admin: error: 404: there is no git\n"),
            self.run_admin("--json", found=None, status=1),
        )
