"""
The storage in a bucket, made for tests: on the fake service, on the calling thread,
and impatient.
"""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from threading import Event
from urllib.request import Request, urlopen

from attrs import evolve
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Clock

from nixery.runtime.retry import Backoff
from nixery.runtime.workers import Workers
from nixery.storage.gcs.backend import GcsStorage
from nixery.storage.gcs.client import Connection, GcsSettings, connect
from nixery.storage.gcs.connector import Bucket
from nixery.storage.gcs.objects import Objects
from nixery.storage.gcs.retry import RetryPolicy
from nixery.storage.gcs.signing import KeyUrls, Urls
from nixery.storage.interface import ByteRange, Redirect
from nixery.testing.fakes import InlineWorkers
from tests.support.fake_gcs.process import FakeBucket, RemoteGcs

__all__ = [
    "BRIEF",
    "CHUNK",
    "HASTY",
    "connection_to",
    "fetch",
    "follow",
    "make_objects",
    "make_storage",
    "settings_for",
]

CHUNK = 256 * 1024
"""The smallest chunk there is."""

HASTY = RetryPolicy(
    connect=5.0, read=5.0, total=10.0, backoff=Backoff(first=0.001, longest=0.01, jitter=0.5)
)
"""Retries that do not keep a test waiting, for what passes."""

BRIEF = evolve(HASTY, total=0.05)
"""For what does not pass."""


def settings_for(bucket: FakeBucket) -> GcsSettings:
    return GcsSettings(
        bucket=bucket.name,
        endpoint=bucket.server.url,
        credentials=_key_file(bucket.server),
        chunk_size=CHUNK,
        uploads=16,
    )


@cache
def _key_file(server: RemoteGcs) -> Path:
    directory = tempfile.TemporaryDirectory(prefix="nixery-gcs-")
    _kept.append(directory)
    return server.key_file(Path(directory.name) / "key.json")


# Until the run ends.
_kept: list[tempfile.TemporaryDirectory[str]] = []


@cache
def _connection(server: RemoteGcs) -> Connection:
    """Made once: parsing a key takes as long as ten tests."""
    return connect(settings_for(FakeBucket(server, "none")))


def connection_to(bucket: FakeBucket) -> Connection:
    """The way to a bucket, as the account that may use it."""
    return evolve(_connection(bucket.server), bucket=bucket.name)


def make_objects(bucket: FakeBucket, retry_policy: RetryPolicy = HASTY) -> Objects:
    return Objects(connection=connection_to(bucket), retry_policy=retry_policy, stop=Event())


def make_storage(
    bucket: FakeBucket,
    *,
    redirect: bool = True,
    retry_policy: RetryPolicy = HASTY,
    workers: Workers | None = None,
    clock: IReactorTime | None = None,
    urls: Urls | None = None,
) -> GcsStorage:
    """A storage that has to be started."""
    connection = connection_to(bucket)
    reached = Bucket(
        connection=connection,
        urls=urls or KeyUrls(connection, connection.credentials),  # type: ignore[arg-type]  # these credentials sign
    )
    return GcsStorage(
        settings=evolve(settings_for(bucket), redirect=redirect),
        workers=workers or InlineWorkers(),
        clock=clock or Clock(),
        give_up=_never,
        retry_policy=retry_policy,
        open_bucket=lambda _: reached,
    )


def follow(source: Redirect, part: ByteRange | None = None) -> bytes:
    """Follow a redirect as a client does, and return the content."""
    return fetch(source.url, part)


def fetch(url: str, part: ByteRange | None = None) -> bytes:
    """Fetch a URL as a client without credentials."""
    headers = {} if part is None else {"Range": f"bytes={part.start}-{part.stop - 1}"}
    with urlopen(Request(url, headers=headers), timeout=30) as answer:
        body: bytes = answer.read()
        return body


def _never(reason: BaseException) -> None:
    raise AssertionError("the storage gave up") from reason
