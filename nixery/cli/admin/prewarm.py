"""
Makes a daemon build images before clients need them.

An image is requested by its manifest, as container engines do, and so is built as it would be for
them; layers are not fetched. A busy daemon answers with a time to wait, after which the request is
repeated.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Protocol

from attrs import define, frozen
from twisted.internet.defer import DeferredSemaphore
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from nixery.cli.admin.registry_client import LOGIN_ADVICE, RegistryClient
from nixery.image.manifests import DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from nixery.runtime.deferreds import gather
from nixery.runtime.errors import FetchFailed
from nixery.runtime.retry import Attempts, Backoff, parse_retry_after
from nixery.runtime.terminal import plain_text

__all__ = [
    "PullResponse",
    "PullClient",
    "HttpPullClient",
    "PrewarmResult",
    "split_image",
    "prewarm",
]

BACKOFF = Backoff(first=5.0, longest=300.0, factor=1.0)
"""The pauses between requests for one image, unless the daemon asks for others."""


@frozen(kw_only=True)
class PullResponse:
    """
    The answer of a daemon to a manifest request.

    :param status: the HTTP status.
    :param retry_after: seconds after which to ask again, if the daemon said so.
    :param message: the error, for people.
    :param digest: the digest of the manifest.
    """

    status: int
    retry_after: float | None = None
    message: str = ""
    digest: str = ""


class PullClient(Protocol):
    """A callable that asks the daemon for a manifest."""

    async def __call__(self, path: str, /) -> PullResponse:
        """
        Ask for a manifest.

        :raises FetchFailed: there was no answer.
        """


@frozen(kw_only=True)
class PrewarmResult:
    """
    The result for one image.

    :param image: its name, with a tag if one was given.
    :param digest: the digest of its manifest; empty if it could not be built.
    :param error: the reason if it could not be built.
    """

    image: str
    digest: str = ""
    error: str = ""


@define(kw_only=True)
class _Prewarmer:
    client: PullClient
    clock: IReactorTime
    deadline: float
    on_result: Callable[[PrewarmResult], None]
    slots: DeferredSemaphore

    async def prewarm(self, image: str) -> PrewarmResult:
        await self.slots.acquire()
        try:
            result = await self._pull(image)
        finally:
            self.slots.release()
        self.on_result(result)
        return result

    async def _pull(self, image: str) -> PrewarmResult:
        name, tag = split_image(image)
        attempts = Attempts(BACKOFF, self.clock.seconds(), self.deadline)
        while True:
            try:
                response = await self.client(f"/v2/{name}/manifests/{tag}")
            except FetchFailed as error:
                return PrewarmResult(image=image, error=error.message)
            if response.status == 200:
                return PrewarmResult(image=image, digest=response.digest)
            # Of the other statuses that may carry Retry-After, only temporary ones are asked again.
            busy = response.status == 429 or (
                response.status == 503 and response.retry_after is not None
            )
            if not busy:
                advice = LOGIN_ADVICE if response.status == 401 else ""
                return PrewarmResult(
                    image=image, error=f"{response.status}: {response.message}{advice}"
                )
            pause = attempts.next_pause(self.clock.seconds(), response.retry_after)
            if pause is None:
                return PrewarmResult(
                    image=image, error=f"not ready after {self.deadline:g} s: {response.message}"
                )
            await deferLater(self.clock, pause)


async def prewarm(
    images: Sequence[str],
    *,
    client: PullClient,
    clock: IReactorTime,
    jobs: int,
    deadline: float,
    on_result: Callable[[PrewarmResult], None],
) -> Sequence[PrewarmResult]:
    """
    Make a daemon build images.

    :param images: names, each perhaps with a tag: ``shell/git:latest``.
    :param jobs: number of images that are requested at once.
    :param deadline: seconds that one of them may take.
    :param on_result: called with each result.
    """
    prewarmer = _Prewarmer(
        client=client,
        clock=clock,
        deadline=deadline,
        on_result=on_result,
        slots=DeferredSemaphore(jobs),
    )
    unique = list(dict.fromkeys(images))
    return await gather(prewarmer.prewarm(image) for image in unique)


def split_image(image: str) -> tuple[str, str]:
    """Split ``shell/git:tag`` into name and tag; without one, the tag is ``latest``."""
    name, _, tag = image.partition(":")
    return name.strip("/"), tag or "latest"


class HttpPullClient:
    """
    Implements :class:`PullClient`.

    :param registry: is asked.
    """

    def __init__(self, registry: RegistryClient) -> None:
        self._registry = registry

    async def __call__(self, path: str, /) -> PullResponse:
        response = await self._registry.get(path, f"{OCI_INDEX}, {OCI_MANIFEST}, {DOCKER_MANIFEST}")
        return PullResponse(
            status=response.status,
            retry_after=parse_retry_after(response.headers.get("retry-after")),
            message=_message(response.body),
            digest=response.headers.get("docker-content-digest", ""),
        )


def _message(body: bytes) -> str:
    """Return the message of a registry's error response."""
    try:
        text = json.loads(body)["errors"][0]["message"]
    except (KeyError, IndexError, TypeError, ValueError):
        text = body[:200].decode("utf-8", "replace")
    return plain_text(str(text)).strip().replace("\n", " ")[:500]
