"""
Fetch the commits of sources into the Nix store, and root them while they are used.

Each commit has a garbage collection root in the state directory.  The root of a commit
that was not evaluated for ``source_retention`` seconds is removed: a moving source adds a
package set with each update, and nixpkgs has hundreds of megabytes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Collection
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Protocol
from uuid import uuid4

from attrs import evolve
from twisted.logger import Logger

from nixery.errors import UnexpectedOutput
from nixery.nix import fetch_arguments
from nixery.nix.context import NixContext
from nixery.nix.error_parsing import command_missing, error_text, nix_at_fault
from nixery.nix.gc_roots import make_directories
from nixery.process.errors import CommandMissing, OutputTooLarge, ProcessFailed, ProcessTimedOut
from nixery.process.spawner import Command, ProcessResult
from nixery.runtime.clocks import WallClock, WallTime
from nixery.runtime.retry import THREE_ATTEMPTS, retry
from nixery.sources import git_arguments
from nixery.sources.errors import CommitMissing, SourceUnavailable
from nixery.sources.git_checkout import GitCheckout, without_working_tree
from nixery.sources.git_errors import advice_on, git_failure
from nixery.sources.left_out import LeftOutFinder, remove_files, write_paths
from nixery.sources.source import SourceTree

__all__ = ["NixFetcher"]

MAX_REFETCHES = 10
"""
The most attempts to fetch a commit again after a collection removed it before it was
rooted.  One is enough, except as said of :data:`nixery.builds.realisation.MAX_REEVALUATIONS`.
"""

MAX_OUTPUT_BYTES = 64 * 1024

ROOT_TIMEOUT = 300.0
"""Timeout in seconds of making a root, which waits for a running collection."""

_NO_SHALLOW = re.compile(r"does not support shallow (?:capabilities|clients|requests)")
"""
git's messages for a server that only serves complete histories: a static web server, or
one that is configured so.
"""

_NOT_THERE = re.compile(r"HTTP error (?:404|410)")
_WRONG_HASH = re.compile(r"hash mismatch in file downloaded from '")
_STORE_PATH = re.compile(r"/nix/store/[0-9a-z]{32}-[0-9A-Za-z+\-._?=]+")


class _Arguments(Protocol):
    """Makes a command that fetches."""

    def __call__(self, *, shallow: bool) -> tuple[str, ...]:
        """
        Return the command.

        :param shallow: whether to leave the history out.
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
        self._fetch_nix = fetch_nix
        template = fetch_nix.parent / "git-template"
        self._environment = fetch_arguments.fetch_environment(
            context.environ,
            git_arguments.environment(context.environ, repository),
            context.settings,
            template,
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
        # The URLs of servers that cannot leave the history out.
        self._whole: set[str] = set()
        self._left_out = LeftOutFinder(context.workers)

    async def fetch(self, tree: SourceTree) -> Path:
        """See :meth:`nixery.sources.interface.TreeFetcher.fetch`."""
        link = self._roots / tree.name
        path = await self._context.workers.run(_use, link, self._wall_clock.now())
        if path is not None and tree.name in self._rooted:
            self._rooted[tree.name] = self._context.clock.seconds()
            return path
        # The root is of an earlier run: Nix may have lost it, and collected the path.
        if (
            path is None
            or not await self._root(link, str(path))
            # It may be of a version of the registry that served them.
            or await self._left_out.pointers(tree, path)
        ):
            path = await self._fetch_and_root(tree, link)
            keep = self._context.settings.source_retention
            old = self._context.clock.seconds() - keep
            mine = frozenset(name for name, used in self._rooted.items() if used >= old)
            dropped = await self._context.workers.run(
                _drop_old, self._roots, mine, keep, self._wall_clock.now()
            )
            for name in dropped:
                self._rooted.pop(name, None)
                self._log.info("the source {name} is not kept any longer", name=name)
        self._rooted[tree.name] = self._context.clock.seconds()
        return path

    async def _fetch_and_root(self, tree: SourceTree, link: Path) -> Path:
        self._log.info("fetching {commit} of {url}", commit=tree.commit, url=tree.url)
        began = self._context.clock.seconds()
        await self._context.workers.run(make_directories, self._roots)
        if tree.submodules or tree.lfs:
            path = await self._check_out_and_root(tree, link)
        else:
            path = await self._fetch_plainly_and_root(tree, link)
        self._log.info(
            "{commit} was fetched in {seconds:.1f} s",
            commit=tree.commit,
            seconds=self._context.clock.seconds() - began,
        )
        return Path(path)

    async def _fetch_plainly_and_root(self, tree: SourceTree, link: Path) -> str:
        """Fetch and root a commit as Nix does."""
        run = self._context.workers.run
        fetched = evolve(tree, url=await run(without_working_tree, tree.url))
        path = await self._store_and_root(fetched, link)
        pointers = await self._left_out.pointers(tree, Path(path))
        if not pointers:
            return path
        without = self._checkouts / f"{uuid4().hex}.without"
        try:
            await run(write_paths, without, pointers)
            return await self._store_and_root(fetched, link, without)
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
        self, tree: SourceTree, link: Path, without: Path | None = None
    ) -> str:
        path = await self._fetch(tree, without)
        if not await self._root(link, path):
            path = await self._refetch_and_root(tree, link, without)
        return path

    async def _refetch_and_root(self, tree: SourceTree, link: Path, without: Path | None) -> str:
        """
        Fetch and root a commit that was collected between fetching and rooting.

        The command that fetches makes a root itself, which protects the commit until its
        own root is made.
        """
        root = link.with_name(f"{link.name}.held")
        hold = partial(fetch_arguments.fetch_and_root, tree, self._fetch_nix, root, without=without)
        try:
            for _ in range(MAX_REFETCHES):
                self._log.info("a garbage collection took {commit}", commit=tree.commit)
                await self._run(tree, hold)
                # The commit is in the store now: this only prints its path.
                path = await self._fetch(tree, without)
                if await self._root(link, path):
                    return path
        finally:
            await self._context.workers.run(root.unlink, missing_ok=True)
        raise self._unavailable(
            tree, "garbage collections took it before it was protected, again and again"
        )

    async def _fetch(self, tree: SourceTree, without: Path | None) -> str:
        """
        Fetch a commit.

        :param without: a list of files that are left out.
        :return: the store path, which is not protected from garbage collection.
        """
        result = await self._run(
            tree, partial(fetch_arguments.fetch, tree, self._fetch_nix, without=without)
        )
        return _store_path(result.stdout)

    async def _run(self, tree: SourceTree, arguments: _Arguments) -> ProcessResult:
        """
        Run a command that fetches, without the history if the server supports that.

        Versions of Nix from about 2.20 on ask for that.

        :param arguments: makes the command.
        """
        if tree.url not in self._whole:
            try:
                return await self._persist(tree, arguments(shallow=True))
            except SourceUnavailable as error:
                if error.output is None or not _NO_SHALLOW.search(error.output.stderr):
                    raise
            self._log.info(
                "{url} cannot be fetched without its history, and is fetched with it",
                url=tree.url,
            )
            self._whole.add(tree.url)
        return await self._persist(tree, arguments(shallow=False))

    async def _persist(self, tree: SourceTree, argv: tuple[str, ...]) -> ProcessResult:
        """Run a command that fetches, with retries after failures that may be temporary."""

        async def attempt(seconds: float) -> ProcessResult:
            command = Command(
                argv=argv,
                environment=self._environment,
                timeout=seconds,
                stdout_limit=MAX_OUTPUT_BYTES,
            )
            return await self._context.spawner.run(command)

        try:
            return await retry(
                attempt,
                THREE_ATTEMPTS,
                clock=self._context.clock,
                timeout=self._context.settings.fetch_timeout,
                is_temporary=_is_temporary,
            )
        except CommandMissing as error:
            raise command_missing(error) from error
        except ProcessTimedOut as error:
            raise self._unavailable(tree, error.message, error) from error
        except OutputTooLarge as error:
            raise self._unavailable(tree, error.message, error) from error
        except ProcessFailed as error:
            fault = nix_at_fault(error)
            if fault is not None:
                raise fault from error
            if tree.kind == "archive" and _NOT_THERE.search(error.output.stderr):
                raise CommitMissing(url=tree.url, commit=tree.commit) from error
            if advice_on(error.output.stderr) is not None:
                raise git_failure(error, source=tree.url, what=tree.commit) from error
            reason = error_text(error.output.stderr, self._context.settings)
            if _WRONG_HASH.search(error.output.stderr):
                raise evolve(
                    self._unavailable(tree, reason, error),
                    advice="if that is what it should be, its hash in nix_path has to be corrected",
                ) from error
            raise self._unavailable(tree, reason, error) from error

    async def _root(self, link: Path, path: str) -> bool:
        """
        Root a store path.

        :return: whether the path was still valid.
        """
        command = Command(
            argv=fetch_arguments.add_root(link, path),
            environment=self._environment,
            timeout=ROOT_TIMEOUT,
        )
        try:
            await self._context.spawner.run(command)
        except CommandMissing as error:
            raise command_missing(error) from error
        except ProcessFailed as error:
            fault = nix_at_fault(error)
            if fault is not None:
                raise fault from error
            return False
        return True

    def _unavailable(
        self,
        tree: SourceTree,
        reason: str,
        error: ProcessFailed | ProcessTimedOut | OutputTooLarge | None = None,
    ) -> SourceUnavailable:
        return SourceUnavailable(
            source=tree.url,
            what=tree.commit,
            reason=reason,
            output=error.output if error is not None else None,
        )


def _is_temporary(error: Exception) -> bool:
    return (
        isinstance(error, ProcessFailed)
        and nix_at_fault(error) is None
        and _NOT_THERE.search(error.output.stderr) is None
        and _NO_SHALLOW.search(error.output.stderr) is None
        and advice_on(error.output.stderr) is None
        and _WRONG_HASH.search(error.output.stderr) is None
    )


def _store_path(printed: bytes) -> str:
    try:
        path = json.loads(printed)
    except ValueError:
        path = None
    if not isinstance(path, str) or not _STORE_PATH.fullmatch(path):
        raise UnexpectedOutput(
            what="what Nix fetched", excerpt=printed[:200].decode("utf-8", "replace")
        )
    return path


# -- on worker threads --------------------------------------------------------


def _use(link: Path, now: WallTime) -> Path | None:
    """
    Return the target of a root, and set its time of last use; ``None`` if it is missing.
    """
    try:
        path = link.readlink()
        if _STORE_PATH.fullmatch(str(path)) and path.exists():
            os.utime(link, (now, now), follow_symlinks=False)
            return path
    except OSError:
        pass
    return None


def _drop_old(roots: Path, mine: Collection[str], keep: float, now: WallTime) -> list[str]:
    """
    Remove the roots that were not used for ``keep`` seconds.

    :param mine: the names of the roots that this process has used lately, which are kept.
    :param keep: seconds since the last use after which the others are removed.
    :return: the names of the roots that were removed.
    """
    dropped = []
    for link in roots.iterdir():
        with suppress(OSError):
            if link.name in mine or not link.is_symlink():
                continue
            age = now - link.lstat().st_mtime
            if age > keep:
                link.unlink()
                dropped.append(link.name)
            elif age < 0:
                # The last use is in the future: the wall clock was wrong then.
                os.utime(link, (now, now), follow_symlinks=False)
    return dropped
