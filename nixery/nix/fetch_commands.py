"""
Run the Nix commands that fetch a source, and root what they have fetched.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Protocol

from attrs import evolve
from twisted.logger import Logger

from nixery.errors import UnexpectedOutput
from nixery.nix import fetch_arguments
from nixery.nix.context import NixContext
from nixery.nix.error_parsing import command_missing, error_text, input_of, nix_at_fault
from nixery.process.errors import CommandMissing, OutputTooLarge, ProcessFailed, ProcessTimedOut
from nixery.process.spawner import Command, ProcessResult
from nixery.runtime.retry import THREE_ATTEMPTS, retry
from nixery.sources.errors import CommitMissing, SourceUnavailable
from nixery.sources.flakes import lock_copy, locked_tree, read_flake
from nixery.sources.git_errors import advice_on, git_failure, git_reason
from nixery.sources.source import FlakeSource, SourceTree

__all__ = ["STORE_PATH", "FetchCommands", "describe", "unavailable"]

MAX_OUTPUT_BYTES = 64 * 1024

ROOT_TIMEOUT = 300.0
"""Timeout in seconds of making a root, which waits for a running collection."""

_NO_SHALLOW = re.compile(r"does not support shallow (?:capabilities|clients|requests)")
"""
git's messages for a server that only serves complete histories: a static web server, or
one that is configured so.
"""

_FLAKE_ADVICE = (
    "if it needs a password or a token, give Nix access-tokens or a netrc-file (nix_options_file),"
    " and git an SSH key or a credential helper of the user that the registry runs as"
)

_GIT_FAILED = re.compile(r"program '?git'? failed")
_WRONG_HASH = re.compile(r"hash mismatch in file downloaded from '")
_OTHER_CONTENT = re.compile(r"(?:NAR )?hash mismatch|store path mismatch")
_NOT_OF_FLAKE = re.compile(r".* (?:leads out|is no directory) of the flake")  # fetch_flake.nix
_NOT_THERE = re.compile(r"HTTP error (?:404|410)")
STORE_PATH = re.compile(r"/nix/store/[0-9a-z]{32}-[0-9A-Za-z+\-._?=]+")


class _Arguments(Protocol):
    """Makes a command that fetches."""

    def __call__(self, *, shallow: bool) -> tuple[str, ...]:
        """
        Return the command.

        :param shallow: whether to leave the history out.
        """


class FetchCommands:
    """
    Runs the commands.

    :param context: the commands run in it, but for their environment.
    :param environment: their environment, which git's is part of.
    :param fetch_nix: the path of ``nix/fetch.nix``.
    """

    _log = Logger()

    def __init__(
        self, context: NixContext, *, environment: Mapping[str, str], fetch_nix: Path
    ) -> None:
        self._context = context
        self._environment = environment
        self._fetch_nix = fetch_nix
        # The URLs of servers that cannot leave the history out.
        self._whole: set[str] = set()

    async def fetch(self, tree: SourceTree, without: Path | None = None) -> str:
        """
        Fetch a commit.

        :param without: a list of files that are left out.
        :return: the store path, which is not protected from garbage collection.
        """
        path = await self._fetch_as_it_is(tree, without)
        if tree.flake is None or not tree.flake.allow_unlocked:
            return path
        return await self._fetch_locked(tree, tree.flake, path)

    async def hold(self, tree: SourceTree, root: Path, without: Path | None = None) -> None:
        """
        Fetch a commit, and protect it from garbage collection, by one command.

        :param root: becomes a root that refers to the commit.
        :param without: as for :meth:`fetch`.
        """
        make = partial(fetch_arguments.fetch_and_root, tree, self._fetch_nix, root, without=without)
        await self._run(tree, make)

    async def root(self, link: Path, path: str) -> bool:
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

    async def _fetch_as_it_is(self, tree: SourceTree, without: Path | None = None) -> str:
        result = await self._run(
            tree, partial(fetch_arguments.fetch, tree, self._fetch_nix, without=without)
        )
        return _store_path(result.stdout)

    async def _fetch_locked(self, tree: SourceTree, source: FlakeSource, path: str) -> str:
        """
        Fetch a flake with a lock file that fits it, as it is in a copy if need be.

        :param path: what was fetched of the flake as it is.
        :return: what was fetched of the copy.
        """
        run = self._context.workers.run
        flake = await run(read_flake, source, Path(path))
        command = fetch_arguments.lock_flake(flake.url, source.ttl)
        printed = (await self._persist(tree, command)).stdout
        copy = await run(lock_copy, flake, printed, self._context.settings.home)
        if copy is None:
            return path
        try:
            return await self._fetch_as_it_is(locked_tree(source, flake, copy))
        finally:
            await run(partial(shutil.rmtree, copy.parent, ignore_errors=True))

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
                "Fetching {url} with its history: its server does not send single commits",
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
        except (ProcessTimedOut, OutputTooLarge) as error:
            raise unavailable(tree, error.message, error) from error
        except ProcessFailed as error:
            fault = nix_at_fault(error)
            if fault is not None:
                raise fault from error
            if tree.kind == "archive" and _NOT_THERE.search(error.output.stderr):
                raise CommitMissing(url=tree.url, commit=tree.commit) from error
            if tree.flake is None and advice_on(error.output.stderr) is not None:
                raise git_failure(error, source=tree.url, what=tree.commit) from error
            reason = error_text(error.output.stderr, self._context.settings)
            # The trace names an input, which ``unavailable`` tells.
            reason = reason.partition("\n… ")[0]
            if _GIT_FAILED.match(reason):
                reason = git_reason(error.output.stderr)
            if tree.kind == "hashed" and _WRONG_HASH.search(error.output.stderr):
                raise evolve(
                    unavailable(tree, reason, error),
                    advice="if that is what it should be, its hash in nix_path has to be corrected",
                ) from error
            raise unavailable(tree, reason, error) from error


def describe(tree: SourceTree) -> str:
    """Describe what is fetched, for people."""
    return tree.commit or "its present state"


def unavailable(
    tree: SourceTree,
    reason: str,
    error: ProcessFailed | ProcessTimedOut | OutputTooLarge | None = None,
) -> SourceUnavailable:
    """
    Return the error for a source that could not be fetched.

    :param reason: the reason, for people.
    :param error: the failure of the command, if one failed.
    """
    output = error.output if error is not None else None
    failure = SourceUnavailable(source=tree.url, what=describe(tree), reason=reason, output=output)
    if tree.flake is None or output is None:
        return failure
    name = input_of(output.stderr)
    what = f"{failure.what} (its input {name})" if name else failure.what
    advice = advice_on(output.stderr) or _FLAKE_ADVICE
    if _OTHER_CONTENT.search(reason):
        advice = (
            "if that is what it should be, the hash in flake.lock or in the URL has to be renewed"
        )
    elif _NOT_OF_FLAKE.match(reason):
        advice = "correct flake.lock: nix flake lock writes it"
    return evolve(failure, what=what, advice=advice)


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
    if not isinstance(path, str) or not STORE_PATH.fullmatch(path):
        raise UnexpectedOutput(
            what="what Nix fetched", excerpt=printed[:200].decode("utf-8", "replace")
        )
    return path
