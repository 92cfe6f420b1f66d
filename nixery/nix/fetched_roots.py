"""
Protect from garbage collection what package sets fetch while they are evaluated.

Nix itself protects it until the evaluation has ended: a later one would fetch it again.
"""

from __future__ import annotations

import os
from pathlib import Path

from cachetools import TTLCache
from twisted.internet.defer import CancelledError
from twisted.logger import Logger

from nixery.errors import NixeryError
from nixery.nix import fetch_arguments
from nixery.nix.context import NixContext
from nixery.nix.gc_roots import make_directories
from nixery.process.spawner import Command
from nixery.runtime.single_flight import SingleFlight

__all__ = ["RENEWAL_SECONDS", "FetchedRoots"]

RENEWAL_SECONDS = 3600.0
"""Seconds after which the time of last use of a root is set again."""

MAX_ROOTS = 4096
"""The most store paths that are protected for all package sets together."""

ROOT_TIMEOUT_SECONDS = 300.0
"""Timeout in seconds of making a root, which waits for a running collection."""


class FetchedRoots:
    """
    Makes roots beside those of the fetched sources, which are dropped after the same time.

    A package set may say any path of the store in place of one that it has fetched, which would
    be kept as well.

    :param context: the commands run in it.
    """

    _log = Logger()

    def __init__(self, context: NixContext) -> None:
        self._context = context
        self._recent: TTLCache[str, None] = TTLCache(
            MAX_ROOTS, RENEWAL_SECONDS, timer=context.clock.seconds
        )
        self._jobs: SingleFlight[str, None] = SingleFlight()

    def keep(self, path: str) -> None:
        """
        Protect a store path, in the background.

        :param path: a store path.
        """
        if path in self._recent or len(self._recent) >= MAX_ROOTS:
            return
        self._recent[path] = None
        job = self._jobs.run(path, lambda: self._keep(path))
        job.addErrback(lambda failure: failure.trap(CancelledError))

    async def settled(self) -> None:
        """Wait until the roots that are being made are made."""
        await self._jobs.settled()

    async def stop(self) -> None:
        """End the commands that make roots."""
        await self._jobs.stop()

    async def _keep(self, path: str) -> None:
        link = self._context.settings.source_roots / Path(path).name
        try:
            if await self._context.workers.run(_renew, link, path):
                return
            command = Command(
                argv=fetch_arguments.add_root(link, path),
                environment=self._context.environment,
                timeout=ROOT_TIMEOUT_SECONDS,
            )
            await self._context.spawner.run(command)
        except (NixeryError, OSError) as error:
            # It is fetched again when it is needed again.
            self._recent.pop(path, None)
            self._log.warn(
                "Cannot protect {path} from garbage collection: {error}", path=path, error=error
            )


# -- on worker threads --------------------------------------------------------


def _renew(link: Path, path: str) -> bool:
    """
    Set the time of last use of a root.

    :return: whether there is one; otherwise its directory has been made.
    """
    if link.is_symlink() and os.readlink(link) == path and os.path.exists(path):
        os.utime(link, follow_symlinks=False)
        return True
    make_directories(link.parent)
    return False
