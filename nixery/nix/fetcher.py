"""
Fetch the commits of sources into the Nix store, and root them while they are used.

Each commit has a garbage collection root in the state directory.  The root of a commit
that was not evaluated for ``source_retention`` seconds is removed: a moving source adds a
package set with each update, and nixpkgs has hundreds of megabytes.  Former states of what has no
commits are kept for :data:`MOVING_RETENTION_SECONDS`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from attrs import evolve
from twisted.logger import Logger

from nixery.nix import fetch_arguments, fetch_commands
from nixery.nix.context import NixContext
from nixery.nix.fetch_commands import FetchCommands, describe, unavailable
from nixery.nix.gc_roots import make_directories
from nixery.runtime.clocks import WallClock, WallTime
from nixery.sources import git_arguments
from nixery.sources.git_checkout import GitCheckout, without_working_tree
from nixery.sources.left_out import LeftOutFinder, remove_files, write_paths
from nixery.sources.source import SourceTree

__all__ = ["NixFetcher"]

MAX_REFETCHES = 10
"""
The most attempts to fetch a commit again after a collection removed it before it was
rooted.  One is enough, except as said of :data:`nixery.builds.realisation.MAX_REEVALUATIONS`.
"""


_MOVING = "moving-"
"""Begins the names of the roots of what is fetched as it is at the moment."""

MOVING_RETENTION_SECONDS = 3600.0
"""
Seconds for which a former state of such a source stays in the store: longer than an evaluation of
it, and not as long as a commit, for each change of a file makes another copy.
"""


class NixFetcher:
    """
    An implementation of :class:`nixery.sources.interface.TreeFetcher`.

    :param context: the commands run in it, but for their environment, which git's is part of.
    :param wall_clock: for the modification times of the roots.
    :param fetch_nix: the path of ``nix/fetch.nix``.
    :param repository: the URL of the git repository as it was configured, ``""`` if
        there is none.
    """

    _log = Logger()

    def __init__(
        self, context: NixContext, *, wall_clock: WallClock, fetch_nix: Path, repository: str
    ) -> None:
        self._context = context
        self._wall_clock = wall_clock
        self._roots = context.settings.source_roots
        template = fetch_nix.parent / "git-template"
        self._commands = FetchCommands(
            context,
            environment=fetch_arguments.fetch_environment(
                context.environ,
                git_arguments.environment(context.environ, repository),
                context.settings,
                template,
            ),
            fetch_nix=fetch_nix,
        )
        self._checkout = GitCheckout(
            repository,
            spawner=context.spawner,
            clock=context.clock,
            workers=context.workers,
            timeout=context.settings.fetch_timeout,
            environ=context.environ,
            template=template,
        )
        self._checkouts = context.settings.home / "checkouts"
        # The sources that this process has used, with the time of last use by the monotonic
        # clock: changes of the wall clock do not shorten the time that they are kept.
        self._rooted: dict[str, float] = {}
        self._left_out = LeftOutFinder(context.workers)

    async def fetch(self, tree: SourceTree) -> Path:
        """See :meth:`nixery.sources.interface.TreeFetcher.fetch`."""
        link = self._roots / tree.name
        fetched = None
        if not tree.is_fixed:
            # Each of its states has a root of its own, named by the store path.
            fetched = await self._commands.fetch(await self._as_any_other(tree))
            link = link.with_name(f"{_MOVING}{link.name}-{Path(fetched).name[:12]}")
        path = await self._context.workers.run(_use, link, self._wall_clock.now())
        if path is not None and link.name in self._rooted:
            self._rooted[link.name] = self._context.clock.seconds()
            return path
        # The root is of an earlier run: Nix may have lost it, and collected the path.
        if (
            path is None
            or not await self._commands.root(link, str(path))
            # It may be of a version of the registry that served them.
            or await self._left_out.pointers(tree, path)
        ):
            path = await self._fetch_and_root(tree, link, fetched)
            keep = self._context.settings.source_retention
            now = self._context.clock.seconds()
            mine = frozenset(
                name for name, used in self._rooted.items() if now - used <= _kept_for(name, keep)
            )
            dropped = await self._context.workers.run(
                _drop_old, self._roots, mine, keep, self._wall_clock.now()
            )
            for name in dropped:
                self._rooted.pop(name, None)
                self._log.info("No longer keeping the source {name}", name=name)
        self._rooted[link.name] = self._context.clock.seconds()
        return path

    async def _fetch_and_root(
        self, tree: SourceTree, link: Path, fetched: str | None = None
    ) -> Path:
        """
        Fetch and root a commit.

        :param fetched: the store path, if it was fetched just now.
        """
        self._log.info("fetching {commit} of {url}", commit=describe(tree), url=tree.url)
        began = self._context.clock.seconds()
        await self._context.workers.run(make_directories, self._roots)
        if tree.submodules or tree.lfs:
            path = await self._check_out_and_root(tree, link)
        else:
            path = await self._fetch_plainly_and_root(tree, link, fetched)
        self._log.info(
            "{commit} was fetched in {seconds:.1f} s",
            commit=describe(tree),
            seconds=self._context.clock.seconds() - began,
        )
        return Path(path)

    async def _fetch_plainly_and_root(
        self, tree: SourceTree, link: Path, fetched: str | None
    ) -> str:
        """
        Fetch and root a commit as Nix does.

        :param fetched: as in :meth:`_fetch_and_root`.
        """
        run = self._context.workers.run
        plain = await self._as_any_other(tree)
        path = await self._store_and_root(plain, link, fetched=fetched)
        pointers = await self._left_out.pointers(tree, Path(path))
        if not pointers:
            return path
        without = self._checkouts / f"{uuid4().hex}.without"
        try:
            await run(write_paths, without, pointers)
            return await self._store_and_root(plain, link, without)
        finally:
            await run(without.unlink, missing_ok=True)

    async def _check_out_and_root(self, tree: SourceTree, link: Path) -> str:
        """Fetch and root a commit with its submodules, or with the content of files in LFS."""
        run = self._context.workers.run
        directory = self._checkouts / uuid4().hex
        try:
            files = await self._checkout.make(tree, directory)
            pointers = await self._left_out.pointers(tree, files)
            await run(remove_files, files, pointers)
            stored = evolve(tree, kind="directory", url=str(files))
            return await self._store_and_root(stored, link)
        finally:
            await run(shutil.rmtree, directory, ignore_errors=True)

    async def _store_and_root(
        self,
        tree: SourceTree,
        link: Path,
        without: Path | None = None,
        *,
        fetched: str | None = None,
    ) -> str:
        path = fetched or await self._commands.fetch(tree, without)
        if not await self._commands.root(link, path):
            path = await self._refetch_and_root(tree, link, without)
        return path

    async def _as_any_other(self, tree: SourceTree) -> SourceTree:
        """Return the tree, to be fetched like those of other machines."""
        url = await self._context.workers.run(without_working_tree, tree.url)
        return evolve(tree, url=url)

    async def _refetch_and_root(self, tree: SourceTree, link: Path, without: Path | None) -> str:
        """
        Fetch and root a commit that was collected between fetching and rooting.

        The command that fetches makes a root itself, which protects the commit until its
        own root is made.
        """
        root = link.with_name(f"{link.name}.held")
        try:
            for _ in range(MAX_REFETCHES):
                self._log.info("a garbage collection took {commit}", commit=describe(tree))
                await self._commands.hold(tree, root, without)
                # The commit is in the store now: this only prints its path.
                path = await self._commands.fetch(tree, without)
                if await self._commands.root(link, path):
                    return path
        finally:
            await self._context.workers.run(root.unlink, missing_ok=True)
        raise unavailable(
            tree, "garbage collections took it before it was protected, again and again"
        )


# -- on worker threads --------------------------------------------------------


def _use(link: Path, now: WallTime) -> Path | None:
    """
    Return the target of a root, and set its time of last use; ``None`` if it is missing.
    """
    try:
        path = link.readlink()
        if fetch_commands.STORE_PATH.fullmatch(str(path)) and path.exists():
            os.utime(link, (now, now), follow_symlinks=False)
            return path
    except OSError:
        pass
    return None


def _kept_for(name: str, keep: float) -> float:
    """
    Return the seconds for which a root is kept that is not used.

    :param keep: those for a commit.
    """
    return min(keep, MOVING_RETENTION_SECONDS) if name.startswith(_MOVING) else keep


def _drop_old(roots: Path, mine: Collection[str], keep: float, now: WallTime) -> list[str]:
    """
    Remove the roots that were not used for as long as they are kept.

    :param mine: the names of the roots that this process has used lately, which are kept.
    :param keep: seconds since the last use after which the others are removed, if they are those
        of commits.
    :return: the names of the roots that were removed.
    """
    dropped = []
    for link in roots.iterdir():
        with suppress(OSError):
            if link.name in mine or not link.is_symlink():
                continue
            age = now - link.lstat().st_mtime
            if age > _kept_for(link.name, keep):
                link.unlink()
                dropped.append(link.name)
            elif age < 0:
                # The last use is in the future: the wall clock was wrong then.
                os.utime(link, (now, now), follow_symlinks=False)
    return dropped
