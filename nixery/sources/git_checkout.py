"""
Check a commit out with its submodules and with the content of its files in Git LFS.

Nix can fetch submodules too, but its versions differ in which files and URLs they take, and those
before 2.27 know nothing of LFS.  What git checks out is the same for all of them.  The files are
those of the commit, without what filters and attributes would do to them; but unlike in an archive,
files with the attribute ``export-ignore`` are there.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from twisted.internet.interfaces import IReactorTime

from nixery.process.errors import OutputTooLarge, ProcessFailed, ProcessTimedOut
from nixery.process.spawner import Command, Spawner
from nixery.runtime.retry import THREE_ATTEMPTS, retry
from nixery.runtime.workers import Workers
from nixery.sources import git_arguments, lfs
from nixery.sources.errors import SourceUnavailable
from nixery.sources.git_errors import advice_on, git_failure
from nixery.sources.git_urls import SCHEMES, is_local, public_url
from nixery.sources.source import SourceTree
from nixery.storage.filesystem.files import translate_os_errors

__all__ = ["GitCheckout", "without_working_tree"]

MAX_OUTPUT_BYTES = 16 * 1024 * 1024
"""The most bytes that one command may print; git-lfs reports its progress."""


class GitCheckout:
    """
    Checks commits of one repository out.

    :param url: the URL of the repository as it was configured.
    :param spawner: runs git.
    :param clock: measures attempts and the pauses between them.
    :param workers: for the file system.
    :param timeout: the most seconds that one commit may take, all attempts together.
    :param environ: the environment of this process.
    :param template: the path of ``nix/git-template``.
    """

    def __init__(
        self,
        url: str,
        *,
        spawner: Spawner,
        clock: IReactorTime,
        workers: Workers,
        timeout: float,
        environ: Mapping[str, str],
        template: Path,
    ) -> None:
        self._url = url
        self._spawner = spawner
        self._clock = clock
        self._workers = workers
        self._timeout = timeout
        self._environment = git_arguments.checkout_environment(environ, url, template)

    async def make(self, tree: SourceTree, directory: Path) -> Path:
        """
        Check a commit out.

        :param directory: is made, and what is there is replaced; the caller removes it, also after
            a failure.
        :return: the directory of the files; there is no repository in it.
        :raises SourceUnavailable: the commit, or a part of it, cannot be fetched.
        """

        async def attempt(seconds: float) -> Path:
            return await self._attempt(tree, directory, self._clock.seconds() + seconds)

        try:
            return await retry(
                attempt,
                THREE_ATTEMPTS,
                clock=self._clock,
                timeout=self._timeout,
                is_temporary=lambda error: (
                    isinstance(error, ProcessFailed) and advice_on(error.output.stderr) is None
                ),
            )
        except (ProcessFailed, ProcessTimedOut, OutputTooLarge) as error:
            raise git_failure(error, source=public_url(self._url), what=tree.commit) from error
        except ValueError as error:
            raise self._unavailable(
                tree, f"git-lfs was not understood: {error}", "install git-lfs 3.0 or later"
            ) from error

    async def _attempt(self, tree: SourceTree, directory: Path, deadline: float) -> Path:
        files = directory / "source"
        await self._workers.run(_make_empty, directory)
        for argv in git_arguments.make_checkout(directory / "git", files, self._url):
            await self._run(argv, deadline)
        try:
            await self._run(git_arguments.fetch_commit(files, tree.commit), deadline)
        except ProcessFailed as error:
            if advice_on(error.output.stderr) is not None:
                raise
            await self._run(git_arguments.fetch_everything(files), deadline)
        await self._run(git_arguments.check_out(files, tree.commit), deadline)
        if tree.submodules:
            try:
                await self._run(git_arguments.fetch_submodules(files, shallow=True), deadline)
            except ProcessFailed as error:
                if advice_on(error.output.stderr) is not None:
                    raise
                await self._run(git_arguments.fetch_submodules(files, shallow=False), deadline)
        work_trees = await self._workers.run(lfs.work_trees, files)
        if tree.lfs:
            for work_tree in work_trees:
                await self._fetch_lfs(tree, files, work_tree, deadline)
        await self._workers.run(_remove_repositories, work_trees)
        return files

    async def _fetch_lfs(
        self, tree: SourceTree, files: Path, work_tree: Path, deadline: float
    ) -> None:
        pointers = await self._workers.run(lfs.find_pointers, work_tree)
        if not pointers:
            return
        printed = await self._run(git_arguments.lfs_environment(work_tree), deadline)
        found = git_arguments.parse_lfs_environment(printed)
        # A .lfsconfig in the commit may name another server; git-lfs would read any directory.
        local = found.endpoint.partition(":")[0] not in {*SCHEMES} - {"file"}
        if local and not is_local(self._url):
            raise self._unavailable(
                tree,
                f"its files in Git LFS are at {found.endpoint!r}",
                "correct .lfsconfig in the repository: the server must be one of HTTP or ssh",
            )
        await self._run(git_arguments.fetch_lfs(work_tree), deadline)
        missing = await self._workers.run(lfs.fill_pointers, work_tree, pointers, found.media)
        if missing:
            path = (work_tree / missing[0]).relative_to(files)
            raise self._unavailable(
                tree,
                f"Git LFS has no content for {path}",
                "push it with git lfs push, or remove the file from the commit",
            )

    async def _run(self, argv: tuple[str, ...], deadline: float) -> bytes:
        command = Command(
            argv=argv,
            environment=self._environment,
            timeout=max(0.0, deadline - self._clock.seconds()),
            stdout_limit=MAX_OUTPUT_BYTES,
        )
        return (await self._spawner.run(command)).stdout

    def _unavailable(self, tree: SourceTree, reason: str, advice: str) -> SourceUnavailable:
        return SourceUnavailable(
            source=public_url(self._url),
            what=tree.commit,
            reason=reason,
            advice=advice,
        )


# -- on worker threads --------------------------------------------------------


def without_working_tree(url: str) -> str:
    """
    Return the URL under which Nix fetches a repository of this machine as any other.

    Versions of Nix before 2.20 read a repository with a working tree in its place, where the
    attributes of ``nix/git-template`` do not count.
    """
    parts = urlsplit(url)
    if parts.scheme == "file" and Path(unquote(parts.path), ".git").exists():
        return f"{url.rstrip('/')}/.git"
    return url


def _make_empty(directory: Path) -> None:
    """
    Make an empty directory, in place of what is there.

    :raises StorageError: it cannot be made.
    """
    with translate_os_errors("check a commit out"):
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(parents=True)


def _remove_repositories(work_trees: list[Path]) -> None:
    for work_tree in work_trees:
        (work_tree / lfs.REPOSITORY).unlink()
