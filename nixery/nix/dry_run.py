"""
Ask Nix which derivations it would build and which store paths it would download.

``nix-store --realise --dry-run`` answers in words, on standard error; no version has another form
of it.  Every line of the answer is either understood, or the whole is refused: a number that was
read wrongly would be believed.  These forms were printed by Nix 2.8, 2.26 and 2.34:

    this derivation will be built:                  these 2 derivations will be built:
    this path will be fetched (0.29 MiB download, 0.29 MiB unpacked):
    these 3 paths will be fetched (293.8 KiB download, 5.1 MiB unpacked):
    don't know how to build these paths:

Below each, one store path a line.  Sizes are rounded by Nix.  Nothing is built or downloaded apart
from the metadata in the binary caches, and no root is made.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from attrs import frozen

from nixery.errors import UnexpectedOutput
from nixery.image.closure import StorePath
from nixery.image.packages import Package
from nixery.nix import arguments
from nixery.nix.context import NixContext
from nixery.nix.error_parsing import command_missing, nix_at_fault
from nixery.process.errors import CommandMissing, OutputTooLarge, ProcessFailed
from nixery.process.spawner import Command
from nixery.runtime.sizes import parse_size

__all__ = ["DryRun", "DryRunner", "parse_dry_run"]

TIMEOUT_SECONDS = 60.0
"""Timeout in seconds: a binary cache that does not answer is tried five times by Nix."""

_BUILDS = re.compile(r"(this derivation|these \d+ derivations) will be built:")
_FETCHES = re.compile(
    r"(this path|these \d+ paths) will be fetched"
    r" \((?P<download>[\d.]+ [KMGT]?i?B) download, (?P<unpacked>[\d.]+ [KMGT]?i?B) unpacked\):"
)
_UNAVAILABLE = re.compile(
    r"don't know how to build these paths( \(may be caused by read-only store access\))?:"
)
_UNREACHABLE = re.compile(
    r"(?:(?:warning: |error: )+unable to download|disabling binary cache)"
    # Not yet the last attempt.
    r" '(?P<url>[a-z+]+://[^'/]*)[^']*'(?!.*; retrying in )"
)


@frozen(kw_only=True)
class DryRun:
    """
    The work by which outputs would become valid.

    :param known: false if Nix gave up because of the caches in ``unreachable``: all else is empty.
    :param builds: the derivations that would be built, each after those that it needs.
    :param fetches: the store paths that would be downloaded: those of the outputs, and those that
        the builds need.
    :param download_size: bytes that would be downloaded, as Nix rounds them.
    :param unpacked_size: bytes that they have unpacked, likewise.
    :param unavailable: the store paths that Nix can neither build nor download.
    :param unreachable: the URLs of binary caches that did not answer: what they have is in
        ``builds``.
    """

    known: bool = True
    builds: tuple[str, ...] = ()
    fetches: tuple[str, ...] = ()
    download_size: int = 0
    unpacked_size: int = 0
    unavailable: tuple[str, ...] = ()
    unreachable: tuple[str, ...] = ()


class DryRunner:
    """
    Runs ``nix-store --realise --dry-run``.

    :param context: the command runs in it.
    """

    def __init__(self, context: NixContext) -> None:
        self._context = context

    async def dry_run(self, packages: Sequence[Package]) -> DryRun:
        """
        Return the work by which the chosen outputs of packages would become valid.

        Cancelling stops the command.

        :param packages: their derivations are in the store.
        :raises UnexpectedOutput: the answer is not understood, or is an error of the packages.
        :raises ProcessTimedOut: binary caches did not answer in time.
        :raises NixUnusable: Nix itself failed.
        """
        if not any(package.outputs for package in packages):
            return DryRun()
        lines: list[str] = []
        command = Command(
            argv=arguments.dry_run(packages),
            environment=self._context.environment,
            timeout=TIMEOUT_SECONDS,
            on_stderr_line=lambda line: lines.append(line.decode("utf-8", "replace")),
        )
        try:
            await self._context.spawner.run(command)
        except CommandMissing as error:
            raise command_missing(error) from error
        except OutputTooLarge as error:
            raise UnexpectedOutput(what="a dry run", excerpt=error.message) from error
        except ProcessFailed as error:
            fault = nix_at_fault(error)
            if fault is not None:
                raise fault from error
            if unreachable := _unreachable(lines):
                return DryRun(known=False, unreachable=unreachable)
            raise UnexpectedOutput(what="a dry run", excerpt=error.output.stderr[-200:]) from error
        return parse_dry_run(lines)


def parse_dry_run(lines: Sequence[str]) -> DryRun:
    """
    Read the answer of a dry run.

    :raises UnexpectedOutput: a line is neither a warning nor of a known form.
    """
    builds: list[str] = []
    fetches: list[str] = []
    unavailable: list[str] = []
    download = unpacked = 0
    section: list[str] | None = None
    for line in lines:
        if section is not None and line.startswith("  /"):
            # Outputs of derivations that are missing are named as DERIVATION!OUTPUT by some.
            section.append(StorePath(line[2:].partition("!")[0]).path)
        elif _BUILDS.fullmatch(line):
            section = builds
        elif (found := _FETCHES.fullmatch(line)) is not None:
            section = fetches
            download += _size(found["download"])
            unpacked += _size(found["unpacked"])
        elif _UNAVAILABLE.fullmatch(line):
            section = unavailable
        elif line.strip() and not line.startswith("warning: ") and not _UNREACHABLE.match(line):
            raise UnexpectedOutput(what="a line of a dry run", excerpt=line)
    return DryRun(
        builds=tuple(builds),
        fetches=tuple(fetches),
        download_size=download,
        unpacked_size=unpacked,
        unavailable=tuple(unavailable),
        unreachable=_unreachable(lines),
    )


def _unreachable(lines: Sequence[str]) -> tuple[str, ...]:
    """Return the URLs of the binary caches that did not answer, each once."""
    found = (_UNREACHABLE.match(line) for line in lines)
    return tuple(dict.fromkeys(each["url"] for each in found if each is not None))


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise UnexpectedOutput(what="a size in a dry run", excerpt=text) from error
