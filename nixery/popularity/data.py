"""
Fetches the popularity data that decide the layers of images once, and pins them.

The grouping of store paths into layers depends on the popularity of packages, so that other
data mean other layers.  Data that changed with every restart would make clients pull
again what they have, up to 8 % more with every revision.  So they are a *pinned
snapshot*:

- The fetched file is kept in the state directory, with its URL and its SHA-256 digest.
- A copy from the same URL is used as it is, without a request to the server; so the daemon
  starts while the URL is down.
- Data are fetched if there is no copy, or if another URL is configured.  Until that has
  succeeded, the copy that is there is used, whatever URL it came from.
- Without a copy, images are made without popularity data; the log says so once, and the URL
  is tried again from time to time.

A server that does not answer blocks nothing.  The first images wait for a first
attempt that is under way (:meth:`PopularityData.settled`), but for seconds only: usually
the fetch takes no longer, and the digest of an image that is made half a minute after the
first start is the same as a week later.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from attrs import define, field, frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from nixery.errors import NixeryError, StorageError, UnexpectedOutput
from nixery.layers.plan import Popularity, PopularityKind
from nixery.layers.popularity_file import parse_popularity
from nixery.popularity.decompress import decompress
from nixery.runtime.deferreds import TimedOut, when_finished, with_timeout
from nixery.runtime.http_download import shown
from nixery.runtime.retry import Backoff, retry
from nixery.runtime.workers import Workers
from nixery.storage.filesystem.atomic_files import small_temp_file
from nixery.storage.filesystem.files import translate_os_errors

__all__ = ["MAX_BYTES", "PopularityData", "Snapshot", "read_pinned"]

MAX_BYTES = 64 * 1024**2
"""Maximum size in bytes, compressed or not; the data of nixpkgs have some 2 MB."""

FIRST_FETCH_WAIT_SECONDS = 10.0
"""Seconds that the first images wait at most for the first attempt to fetch the data."""

BACKOFF = Backoff(first=30.0, longest=3600.0)
"""The pauses between attempts to fetch the data, which do not end."""

_PIN = "pin.json"


@frozen(kw_only=True)
class Snapshot:
    """
    Popularity data that are pinned on disk.

    :param url: the URL that they were fetched from.
    :param digest: SHA-256 of the file as it is kept, in hexadecimal.
    :param popularity: the content of the file.
    """

    url: str
    digest: str
    popularity: Popularity


@define(kw_only=True, eq=False)
class PopularityData:
    """
    The popularity data in use, as a component of the daemon.

    :param url: the URL that they are fetched from; ``None``: images are made without any.
    :param directory: the directory that they are kept in.
    :param fetch: fetches a file by its URL, of at most the given number of bytes; raises
        :class:`~nixery.runtime.errors.FetchFailed`.
    :param workers: the pool for the file system, and for parsing the fetched file.
    :param clock: for pauses.
    """

    url: str | None
    directory: Path
    fetch: Callable[[str, int], Awaitable[bytes]]
    workers: Workers
    clock: IReactorTime

    current: Popularity = field(factory=Popularity, init=False)
    """The current snapshot; it changes only when a fetch succeeds."""

    _fetch_task: Deferred[None] | None = field(default=None, init=False)
    _first_attempt: Deferred[None] = field(factory=Deferred, init=False)
    _deadline: float = field(default=0.0, init=False)

    _log = Logger()

    async def start(self) -> None:
        """Load the pinned copy, if there is one, and begin to fetch if necessary."""
        if self.url is None:
            self._log.info(
                "No popularity data: images share fewer layers. NIX_POPULARITY_URL loads them."
            )
            return
        stored = await self._load_snapshot()
        if stored is not None:
            self.current = stored.popularity
            self._log.info(
                "Popularity data from {url} are used: {data}.",
                url=shown(stored.url),
                data=_describe(stored),
            )
        if stored is None or stored.url != self.url:
            self._deadline = self.clock.seconds() + FIRST_FETCH_WAIT_SECONDS
            self._fetch_task = Deferred.fromCoroutine(self._fetch_with_retries(self.url))
            self._fetch_task.addErrback(self._log_unexpected)

    async def stop(self) -> None:
        """Stop fetching."""
        task, self._fetch_task = self._fetch_task, None
        if task is not None:
            finished = when_finished(task)
            task.cancel()
            await finished

    async def settled(self) -> Popularity:
        """
        Return the data to make an image with.

        Waits for the first attempt to fetch them if that is under way, for seconds at most.
        """
        remaining = self._deadline - self.clock.seconds()
        if remaining > 0 and not self._first_attempt.called:
            with suppress(TimedOut):
                await with_timeout(remaining, self.clock, _wait_until_finished(self._first_attempt))
        return self.current

    async def _load_snapshot(self) -> Snapshot | None:
        try:
            return await self.workers.run(read_pinned, self.directory)
        except NixeryError as error:
            self._log.warn(
                "The copy of the popularity data in {directory} cannot be used, and is fetched"
                " anew: {error}",
                directory=self.directory,
                error=error,
            )
            return None

    async def _fetch_with_retries(self, url: str) -> None:
        """Fetch, with retries until it succeeds."""

        async def attempt(_: float) -> None:
            is_first = not self._first_attempt.called
            try:
                snapshot = await self._fetch(url)
            except NixeryError as error:
                if is_first:
                    self._log_failure(error)
                raise
            else:
                self.current = snapshot.popularity
            finally:
                if is_first:
                    self._first_attempt.callback(None)
            self._log.info(
                "Popularity data were fetched from {url}: {data}.",
                url=shown(url),
                data=_describe(snapshot),
            )

        await retry(
            attempt,
            BACKOFF,
            clock=self.clock,
            is_temporary=lambda error: isinstance(error, NixeryError),
        )

    async def _fetch(self, url: str) -> Snapshot:
        """
        Fetch, check and keep the data.

        :raises FetchFailed: they could not be fetched.
        :raises UnexpectedOutput: they are no popularity data.
        """
        data = await self.fetch(url, MAX_BYTES)
        snapshot, plain = await self.workers.run(_parse, url, data)
        try:
            await self.workers.run(_store, self.directory, url, snapshot.digest, plain)
        except StorageError as error:
            # Use them all the same until the daemon ends.
            self._log.warn(
                "The popularity data could not be kept, and will be fetched again when the"
                " daemon starts again: {error}",
                error=error,
            )
        return snapshot

    def _log_failure(self, error: NixeryError) -> None:
        if self.current.kind is PopularityKind.NONE:
            consequence = "images share fewer layers until they are there"
        else:
            consequence = "those that were kept are used until they are there"
        self._log.warn(
            "There are no new popularity data: {error}. They are tried again, and {consequence}.",
            error=error,
            consequence=consequence,
        )

    def _log_unexpected(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            self._log.failure("The popularity data are not fetched any more", failure=failure)


def read_pinned(directory: Path) -> Snapshot | None:
    """
    Read the copy in a directory; ``None`` if there is none.  Blocks.

    :raises UnexpectedOutput: it is damaged.
    :raises StorageError: it cannot be read.
    """
    with translate_os_errors("read the popularity data"):
        try:
            pin = (directory / _PIN).read_bytes()
        except FileNotFoundError:
            return None
        try:
            url, digest = (str(json.loads(pin)[name]) for name in ("url", "sha256"))
            data = (directory / f"{digest}.json").read_bytes()
        except (ValueError, TypeError, KeyError, FileNotFoundError) as error:
            raise UnexpectedOutput(
                what="the copy of the popularity data", excerpt=str(error)
            ) from error
    if hashlib.sha256(data).hexdigest() != digest:
        raise UnexpectedOutput(what="the copy of the popularity data", excerpt=f"not {digest}")
    return Snapshot(url=url, digest=digest, popularity=parse_popularity(data))


def _parse(url: str, data: bytes) -> tuple[Snapshot, bytes]:
    """
    Parse the fetched data, and return them with the file to keep.  Blocks.

    :raises UnexpectedOutput: it is no popularity data.
    """
    plain = decompress(data, MAX_BYTES)
    popularity = parse_popularity(plain)
    if popularity.kind is PopularityKind.NONE:
        raise UnexpectedOutput(
            what="the popularity data (without a single count)", excerpt=shown(url)
        )
    return (
        Snapshot(url=url, digest=hashlib.sha256(plain).hexdigest(), popularity=popularity),
        plain,
    )


def _store(directory: Path, url: str, digest: str, data: bytes) -> None:
    """Write the file and its pin.  Blocks.  :raises StorageError: the system failed."""
    pin = json.dumps({"sha256": digest, "url": url}, indent=1).encode() + b"\n"
    with translate_os_errors("keep the popularity data"):
        directory.mkdir(parents=True, exist_ok=True)
        # Write the pin last, so that it always names an existing file, new or previous.
        for name, content in ((f"{digest}.json", data), (_PIN, pin)):
            with small_temp_file(str(directory), content) as temp_file:
                Path(temp_file.path).replace(directory / name)
        for other in directory.iterdir():
            if other.name not in {f"{digest}.json", _PIN}:
                other.unlink(missing_ok=True)


async def _wait_until_finished(attempted: Deferred[None]) -> None:
    # when_finished, because other waiters share this Deferred.
    await when_finished(attempted)


def _describe(snapshot: Snapshot) -> str:
    popularity = snapshot.popularity
    names = len(popularity.transitive or popularity.direct)
    kind = "" if popularity.kind is PopularityKind.TRANSITIVE else ", direct references only"
    source = f", {popularity.source}" if popularity.source else ""
    return f"{names} packages{kind}{source}, sha256 {snapshot.digest[:16]}"
