"""Tests for :mod:`nixery.http.ui.estimate_page`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.server import Request

from nixery.errors import NixeryError
from nixery.http.routes import UIHandlers
from nixery.http.ui.estimate_page import EstimatePage
from nixery.http.ui.image_reference import ImageReferences
from nixery.image.errors import PackageProblem, PackagesRefused, ProblemKind
from nixery.image.names import ImageName, Tag
from nixery.inspection.estimate import Accuracy, Estimate, Held, PlatformEstimate, PullSize
from nixery.limits.errors import QueueFull
from tests.support.http import Connection, Response, make_root
from tests.support.pages import make_pages

SYSTEM = "x86_64-linux"


class FakeEstimator:
    """Answers with one estimate, or with an error, or not at all."""

    def __init__(self) -> None:
        self.error: NixeryError | None = None
        self.pending: Deferred[None] | None = None
        self.asked: list[tuple[str, str, str, str | None]] = []

    async def estimate(
        self,
        client: str,
        name: ImageName,
        tag: Tag,
        having: Held | None = None,
        *,
        may_see: Callable[[str], bool],
    ) -> Estimate:
        label = None if having is None else having.label
        self.asked.append((client, name.repository, tag, label))
        assert may_see(name.repository)
        if self.pending is not None:
            await self.pending
        if self.error is not None:
            raise self.error
        size = PullSize(layers=3, size=4096, accuracy=Accuracy.EXACT)
        platform = PlatformEstimate(
            system=SYSTEM, ready=True, pull=size, shared=None if having is None else size
        )
        return Estimate(
            name=name, tag=tag, revision="channel 24.05", having=having, platforms=(platform,)
        )


class HideOne:
    """Visibility rules that hide one package."""

    def may_see(self, _request: Request, image: str) -> bool:
        return "secret" not in image


class EstimatePageTests(SynchronousTestCase):
    """The JSON."""

    def setUp(self) -> None:
        self.estimator = FakeEstimator()
        references = ImageReferences(address="reg.example:8080", system=SYSTEM)
        page = EstimatePage(self.estimator, HideOne(), references)
        self.root = make_root(ui=UIHandlers(pages=make_pages(), estimates=page))

    def get(self, path: str) -> Response:
        return Connection(self.root, Clock()).request("GET", f"/api/estimate/{path}")

    def data(self, path: str, status: int = 200) -> Any:
        answer = self.get(path)
        self.assertEqual(status, answer.status, answer.body)
        self.assertEqual("application/json", answer.header("Content-Type"))
        self.assertEqual("no-store", answer.header("Cache-Control"))
        return json.loads(answer.body)

    def test_estimate_is_told_as_json(self) -> None:
        """The JSON names the image, its tag and its revision, and has each platform."""
        found = self.data("shell/git?tag=24.05")
        self.assertEqual(
            ("shell/git", "24.05", "channel 24.05", None, True, None),
            tuple(found[key] for key in ("image", "tag", "revision", "with", "ready", "error")),
        )
        [platform] = found["platforms"]
        self.assertEqual("amd64", platform["platform"])
        self.assertEqual({"layers": 3, "size": 4096, "accuracy": "exact"}, platform["pull"])
        self.assertIsNone(platform["store"])
        self.assertEqual([("192.0.2.1", "shell/git", "24.05", None)], self.estimator.asked)

    def test_image_that_the_client_has_is_parsed_as_it_is_pasted(self) -> None:
        """The image that the client has may have the registry's address, a tag or a digest."""
        digest = "sha256:" + "0" * 64
        for text, label in (
            ("shell", "shell:latest"),
            ("reg.example:8080/shell:v1", "shell:v1"),
            ("docker://reg.example:8080/shell:v1", "shell:v1"),
            ("https://reg.example:8080/shell", "shell:latest"),
            (f"shell:v1@{digest}", f"shell@{digest}"),
        ):
            self.assertEqual(label, self.data(f"git?with={text}")["with"])
        self.assertEqual("latest", self.estimator.asked[0][2])

    def test_errors_are_json_with_their_status(self) -> None:
        """Malformed names, tags and references are errors in JSON, as failures are."""
        self.estimator.error = PackagesRefused(
            problems=(
                PackageProblem(
                    name="gti",
                    kind=ProblemKind.NOT_FOUND,
                    message="there is no gti",
                    candidates=("git",),
                ),
            )
        )
        found = self.data("gti", 404)
        self.assertIn("did you mean git?", found["error"])
        self.assertEqual((None, []), (found["image"], found["platforms"]))
        self.estimator.error = QueueFull(waiting=32, retry_after=5)
        self.assertEqual("5", self.get("git").header("Retry-After"))
        asked = len(self.estimator.asked)
        for path, status in (
            ("GIT", 400),
            ("git:latest", 400),
            ("git?tag=.", 404),
            ("git?with=GIT", 400),
            ("git?with=git:.", 404),
            ("git?with=git@sha256:x", 400),
        ):
            self.assertTrue(self.data(path, status)["error"], path)
        self.assertEqual(asked, len(self.estimator.asked))

    def test_images_that_the_client_may_not_see_are_not_estimated(self) -> None:
        """Neither the image nor the one that the client has may be one that it must not see."""
        self.data("secret", 403)
        self.assertIn("has not been pulled", self.data("git?with=secret", 404)["error"])
        self.assertEqual([], self.estimator.asked)

    def test_leaving_ends_the_estimate(self) -> None:
        """A client that disconnects cancels its estimate."""
        cancelled: list[None] = []
        self.estimator.pending = Deferred(lambda _: cancelled.append(None))
        connection = Connection(self.root, Clock())
        connection.send("GET", "/api/estimate/git")
        connection.disconnect()
        self.assertEqual([None], cancelled)
