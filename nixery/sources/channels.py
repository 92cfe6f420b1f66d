"""
Looks up the commits of nixpkgs channels.

A channel host (https://channels.nixos.org) answers ``NAME/git-revision`` with the commit, after a
redirect to another host.
"""

from __future__ import annotations

from twisted.internet.interfaces import IReactorTime

from nixery.image.names import is_commit
from nixery.runtime.errors import FetchFailed
from nixery.runtime.http_download import Fetcher, shown
from nixery.runtime.retry import THREE_ATTEMPTS, retry
from nixery.sources.errors import SourceUnavailable
from nixery.sources.interface import InTurn
from nixery.sources.source import ResolvedRef
from nixery.sources.tag_policy import ChannelName, NixpkgsCommit, Reference

__all__ = ["ChannelHost"]

MAX_RESPONSE_BYTES = 1024
"""The most bytes that are read of a response, which should have 41."""

MISSING_STATUSES = (404, 410)


class ChannelHost:
    """
    An implementation of :class:`nixery.sources.interface.RefSource` for channels.

    :param fetcher: makes requests.
    :param url: of the host, without a slash at its end.
    :param clock: measures attempts and the pauses between them.
    :param lookup_timeout: the most seconds that a look-up may take, all attempts together.
    """

    def __init__(
        self, fetcher: Fetcher, url: str, *, clock: IReactorTime, lookup_timeout: float
    ) -> None:
        self._fetcher = fetcher
        self._url = url
        self._clock = clock
        self._lookup_timeout = lookup_timeout

    async def check(self) -> None:
        """See :meth:`nixery.sources.interface.RefSource.check`."""

    async def stop(self) -> None:
        """See :meth:`nixery.sources.interface.RefSource.stop`."""

    async def find(self, reference: Reference, in_turn: InTurn | None = None) -> ResolvedRef | None:
        """See :meth:`nixery.sources.interface.RefSource.find`."""
        if isinstance(reference, NixpkgsCommit):
            return ResolvedRef(commit=reference.commit)
        if not isinstance(reference, ChannelName):
            return None
        name = reference.name
        return await (
            self._look_up(name) if in_turn is None else in_turn(lambda: self._look_up(name))
        )

    async def _look_up(self, name: str) -> ResolvedRef | None:
        url = f"{self._url}/{name}/git-revision"

        async def request(timeout: float) -> ResolvedRef:
            return _parse_commit(url, await self._fetcher.fetch(url, MAX_RESPONSE_BYTES, timeout))

        try:
            return await retry(
                request,
                THREE_ATTEMPTS,
                clock=self._clock,
                timeout=self._lookup_timeout,
                is_temporary=_is_temporary,
            )
        except FetchFailed as error:
            if error.status in MISSING_STATUSES:
                return None
            raise SourceUnavailable(
                source=f"the channel host {shown(self._url)}",
                what=name,
                reason=error.reason,
            ) from error


def _is_temporary(error: Exception) -> bool:
    return isinstance(error, FetchFailed) and error.temporary


def _parse_commit(url: str, body: bytes) -> ResolvedRef:
    """:raises FetchFailed: it is no commit."""
    commit = body.decode("ascii", "replace").strip()
    if not is_commit(commit):
        raise FetchFailed(
            url=url, reason=f"it answers {commit[:60]!r}, which is no commit", temporary=False
        )
    return ResolvedRef(commit=commit)
