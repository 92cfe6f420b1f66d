"""
List a whole store, or a whole package set.

Only counting popularity uses this: the daemon looks up single packages and never all.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from nixery.errors import UnexpectedOutput
from nixery.image.closure import STORE
from nixery.nix import arguments
from nixery.nix.context import NixContext
from nixery.nix.error_parsing import command_missing, error_text, nix_at_fault, unusable
from nixery.nix.errors import EvaluationFailed, NixUnusable
from nixery.nix.narinfo import store_names
from nixery.process.errors import CommandMissing, ProcessFailed, ProcessTimedOut
from nixery.process.spawner import Command, ProcessResult
from nixery.sources.source import PackageSet

__all__ = ["StoreListing"]

QUERY_TIMEOUT = 300.0

LISTING_TIMEOUT = 1800.0
"""Timeout in seconds of listing a package set: nixpkgs takes a minute or two."""


class StoreListing:
    """
    Lists all store paths, or all attributes of a package set.

    :param context: the commands run in it.
    :param expression: the path of ``nix/attributes.nix``.
    """

    def __init__(self, context: NixContext, *, expression: Path) -> None:
        self._context = context
        self._expression = expression

    async def attributes(
        self, package_set: PackageSet, system: str, without: Sequence[str]
    ) -> tuple[str, ...]:
        """
        List the attribute paths of all packages of a set.

        :param without: top-level names that are left out.
        :raises EvaluationFailed: the set cannot be listed, or not in time.
        :raises NixUnusable: Nix itself failed.
        """
        argv = arguments.attributes(
            self._context.settings,
            expression=self._expression,
            package_set=package_set,
            system=system,
            without=without,
        )
        try:
            result = await self._run(argv, LISTING_TIMEOUT)
        except ProcessTimedOut as error:
            raise EvaluationFailed(
                reason=f"listing it took longer than {LISTING_TIMEOUT:g} s",
                output=error.output,
            ) from error
        except ProcessFailed as error:
            fault = nix_at_fault(error)
            if fault is not None:
                raise fault from error
            raise EvaluationFailed(
                reason=error_text(error.output.stderr, self._context.settings), output=error.output
            ) from error
        return await self._context.workers.run(_names, result.stdout)

    async def all_paths(self) -> tuple[str, ...]:
        """
        List all valid store paths, without derivations, sorted.

        :raises NixUnusable: Nix itself failed.
        """
        return await self.valid(await self._context.workers.run(_store_paths))

    async def valid(self, paths: Iterable[str]) -> tuple[str, ...]:
        """
        Return those of the store paths that are valid, sorted.

        :raises NixUnusable: Nix itself failed.
        """
        valid: set[str] = set()
        for chunk in arguments.chunks(sorted(set(paths))):
            try:
                result = await self._run(arguments.check_validity(chunk), QUERY_TIMEOUT)
            except ProcessTimedOut as error:
                raise NixUnusable(
                    reason=f"{error.message}: does its daemon run?", output=error.output
                ) from error
            except ProcessFailed as error:
                raise unusable(error) from error
            valid |= {*chunk} - {*result.stdout.decode("utf-8", "replace").split()}
        return tuple(sorted(valid))

    async def _run(self, argv: tuple[str, ...], timeout: float) -> ProcessResult:
        command = Command(argv=argv, environment=self._context.environment, timeout=timeout)
        try:
            return await self._context.spawner.run(command)
        except CommandMissing as error:
            raise command_missing(error) from error


def _names(output: bytes) -> tuple[str, ...]:
    try:
        names = json.loads(output.decode("utf-8", "replace"))
    except ValueError as error:
        raise UnexpectedOutput(what="the list of attributes", excerpt=repr(output[:200])) from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise UnexpectedOutput(what="the list of attributes", excerpt=repr(output[:200]))
    return tuple(names)


def _store_paths() -> list[str]:
    """List the entries of the store that look like store paths; others are locks and links."""
    paths: list[str] = []
    for name in os.listdir(STORE):
        with suppress(UnexpectedOutput):
            paths += [f"{STORE}/{each}" for each in store_names([f"{STORE}/{name}"])]
    return paths
