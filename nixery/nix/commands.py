"""
Run the Nix commands of this machine, as coroutines.

    evaluate        nix-instantiate   names -> packages, their derivations written
    root_if_valid   nix-store         valid store paths -> rooted, the graph of what they need
    realise         nix-build         derivations -> store paths, rooted
    closure         nix-store         store paths -> the graph of what they need

:mod:`nixery.nix.arguments` builds the commands, :mod:`nixery.nix.error_parsing` and
:mod:`nixery.nix.build_errors` convert their failures, and :mod:`nixery.nix.evaluator` looks
packages up.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from uuid import uuid4

from attrs import evolve
from twisted.logger import Logger

from nixery.errors import UnexpectedOutput
from nixery.image.closure import RuntimeGraph, parse_db_dump
from nixery.image.names import PackageRequest
from nixery.image.packages import Evaluation, LookupResult, Package
from nixery.nix import arguments, resolve_arguments, store_location
from nixery.nix.build_errors import build_deadline_passed, build_failure
from nixery.nix.context import NixContext
from nixery.nix.error_parsing import INSTALL, command_missing, unusable
from nixery.nix.errors import BuildFailed, MissingDerivations, NixMisconfigured, NixUnusable
from nixery.nix.evaluator import Evaluator
from nixery.nix.gc_roots import make_directories, remove_all, remove_directory
from nixery.nix.indexer import PackageIndexer, list_packages
from nixery.nix.interface import Realisation, RootedClosure
from nixery.nix.internal_json import BuildLog
from nixery.nix.package_index import PackageIndex
from nixery.nix.package_indexes import PackageIndexes
from nixery.nix.progress import Progress
from nixery.nix.temp_roots import TempRootHolder
from nixery.process.errors import (
    CommandMissing,
    CommandOutput,
    OutputTooLarge,
    ProcessFailed,
    ProcessTimedOut,
)
from nixery.process.spawner import Command, ProcessResult
from nixery.runtime.deferreds import gather
from nixery.sources.source import PackageSet

__all__ = ["NixCommands"]

QUERY_TIMEOUT = 300.0
"""Timeout in seconds of a query of the store; long, for it may wait for a lock."""

OLDEST_VERSION = (2, 3)
"""The oldest version that is supported by the commands used here."""

PROBES = 3
"""Attempts to store a file and find it: a running garbage collection may remove it."""

_IGNORED = re.compile(
    r"ignoring the (?:client|user)-specified setting '(?P<name>[^']*)', because it is a restricted"
    r"|ignoring untrusted substituter '(?P<url>[^']*)'"
)
_NO_BUILD_GROUP = re.compile(r"group '(?P<name>[^'\n]*)' specified in 'build-users-group'")
_VERSION = re.compile(r"(\d+)\.(\d+)[0-9A-Za-z.+_-]*")


class NixCommands:
    """
    An implementation of :class:`nixery.nix.interface.Nix`.

    :param context: the commands run in it.
    :param resolve: the path of ``nix/resolve.nix``.
    :param has_content: as :func:`nixery.nix.store_location.has_content`.
    """

    _log = Logger()

    def __init__(
        self,
        context: NixContext,
        *,
        resolve: Path,
        has_content: Callable[[str, bytes], bool] = store_location.has_content,
    ) -> None:
        self._has_content = has_content
        self._context = context
        # Restricted evaluation refuses a path that contains a symlink.
        self._evaluator = Evaluator(context, resolve=resolve.resolve())
        self._holder = TempRootHolder(context)
        self._version = ""
        self._indexer: PackageIndexer | None = None

    async def check(self) -> str:
        """See :meth:`nixery.nix.interface.Nix.check`."""
        await self._context.workers.run(
            make_directories, self._context.settings.roots, self._context.settings.home
        )
        printed = _text(await self._query(arguments.version()))
        version = _VERSION.search(printed)
        if version is None:
            raise _no_nix(printed)
        if (int(version[1]), int(version[2])) < OLDEST_VERSION:
            raise NixMisconfigured(reason=f"version {version[0]} is too old: {INSTALL}")
        await self._check_store_location()
        probed = await self._query(arguments.probe_store())
        if _text(probed).strip() != arguments.STORE_PROBE:
            raise _no_nix(_text(probed))
        self._warn_of_ignored_settings(probed.stderr)
        self._version = version[0]
        return version[0]

    def version(self) -> str:
        """See :meth:`nixery.nix.interface.Nix.version`."""
        return self._version

    async def _check_store_location(self) -> None:
        """
        Check that the files of the store are at their store paths.

        :raises NixMisconfigured: they are elsewhere.
        """
        for _ in range(PROBES):
            content = uuid4().hex
            result = await self._query(arguments.store_text(content))
            path = store_location.parse_stored_path(result.stdout)
            ours = path.startswith(f"{arguments.STORE}/")
            if ours and await self._context.workers.run(
                self._has_content, path, content.encode("ascii")
            ):
                return
            # A running garbage collection may have removed it; Nix would then report it missing.
            if ours and _text(await self._query(arguments.check_validity([path]))):
                continue
            raise store_location.explain_misplacement(
                path, result.stderr, self._context.environment
            )
        raise NixUnusable(reason="a collection of its store removes what was just stored")

    async def probe(self) -> None:
        """
        Check that the store can still be queried; cheaper than :meth:`check`.

        :raises NixUnusable: it cannot.
        """
        printed = _text(await self._query(arguments.probe_store()))
        if printed.strip() != arguments.STORE_PROBE:
            raise _no_nix(printed)

    def evaluation_identity(self) -> Mapping[str, str]:
        """See :meth:`nixery.nix.interface.Nix.evaluation_identity`."""
        return self._context.settings.evaluation_identity()

    async def evaluate(
        self, package_set: PackageSet, system: str, requests: Sequence[PackageRequest]
    ) -> Evaluation:
        """See :meth:`nixery.nix.interface.Nix.evaluate`."""
        with self._used(package_set, system):
            return await self._evaluator.evaluate(package_set, system, requests)

    async def look_up(
        self, package_set: PackageSet, system: str, requests: Sequence[PackageRequest]
    ) -> Sequence[LookupResult]:
        """See :meth:`nixery.builds.package_lookup.PackageLookup.look_up`."""
        with self._used(package_set, system):
            return await self._evaluator.look_up(package_set, system, requests)

    def enable_indexing(self, indexes: PackageIndexes, building: Callable[[], bool]) -> None:
        """List each package set that is used from now on; see :class:`PackageIndexer`."""
        self._indexer = PackageIndexer(self._context, indexes, self._evaluator.lookup, building)
        self._evaluator.package_indexes = indexes

    def _used(self, package_set: PackageSet, system: str) -> AbstractContextManager[None]:
        return nullcontext() if self._indexer is None else self._indexer.used(package_set, system)

    async def list_packages(self, package_set: PackageSet, system: str) -> PackageIndex:
        """
        List the packages of a set as an evaluation finds them; takes a minute for nixpkgs.

        :raises NixeryError: the package set cannot be evaluated at all, or Nix failed.
        """
        return await list_packages(self._context, self._evaluator.lookup(package_set, system))

    def keep_evaluators(self) -> None:
        """Keep evaluators of the package sets that are in use from now on, until :meth:`stop`."""
        self._evaluator.keep_evaluators()

    def prepare_evaluation(self, package_set: PackageSet, system: str) -> None:
        """Prepare for a first evaluation of this package set; see :meth:`keep_evaluators`."""
        self._evaluator.prepare_evaluation(package_set, system)
        if self._indexer is not None:
            self._indexer.request(package_set, system)

    async def recall_names(self, package_set: PackageSet, system: str) -> None:
        """Read the names of a listed package set: the first misspelt one is told quickly then."""
        await self._evaluator.recall_names(package_set, system)

    def prewarm(self) -> None:
        """See :meth:`nixery.nix.interface.Nix.prewarm`."""
        self._holder.prewarm()

    async def root_if_valid(self, outputs: Sequence[str]) -> RootedClosure | None:
        """See :meth:`nixery.nix.interface.Nix.root_if_valid`."""
        return await self._holder.root_if_valid(outputs) if outputs else None

    def root_expired(self, realisation: Realisation) -> bool:
        """See :meth:`nixery.nix.interface.Nix.root_expired`."""
        return self._holder.root_expired(realisation)

    async def stop(self) -> None:
        """Stop all processes that run without being waited for."""
        if self._indexer is not None:
            await self._indexer.stop()
        await gather([self._holder.stop(), self._evaluator.stop()])

    async def realise(self, packages: Sequence[Package], progress: Progress) -> Realisation:
        """See :meth:`nixery.nix.interface.Nix.realise`."""
        try:
            return await self._realise(
                packages,
                lambda link: arguments.build(
                    self._context.settings, packages=packages, out_link=link
                ),
                progress,
            )
        except UnexpectedOutput as error:
            # The next try would build the same: a package says another outPath than its own.
            raise BuildFailed(
                derivation=packages[0].derivation if len(packages) == 1 else "",
                reason="the package set says other output paths than those that were built",
                log=(error.excerpt,),
                output=CommandOutput(argv=("nix-build",), status=0),
            ) from error

    async def reevaluate_and_realise(
        self,
        package_set: PackageSet,
        requests: Sequence[PackageRequest],
        evaluation: Evaluation,
        progress: Progress,
    ) -> Realisation:
        """See :meth:`nixery.nix.interface.Nix.reevaluate_and_realise`."""
        lookup = self._evaluator.lookup(package_set, evaluation.system)
        try:
            return await self._realise(
                evaluation.packages,
                lambda link: resolve_arguments.evaluate_and_build(lookup, requests, link),
                progress,
            )
        except UnexpectedOutput as error:
            # The package set is at a path, and was changed since.
            raise MissingDerivations(output=CommandOutput(argv=("nix-build",), status=0)) from error
        except NixUnusable:
            # Packages that cannot be evaluated together were evaluated in parts, and cannot be
            # evaluated and built by one command.
            return await self.realise(evaluation.packages, progress)

    async def _realise(
        self,
        packages: Sequence[Package],
        command: Callable[[Path], tuple[str, ...]],
        progress: Progress,
    ) -> Realisation:
        """
        Run a command that builds, and check that it has built the outputs of ``packages``.

        :param command: makes the command, given the first root.
        :raises UnexpectedOutput: it has built other store paths.
        """
        root = uuid4().hex
        outputs = sorted({output.path for package in packages for output in package.outputs})
        if not outputs:
            return Realisation(root=root, outputs=())
        try:
            directory = self._context.settings.roots / root
            await self._context.workers.run(make_directories, directory)
            log = BuildLog(progress=progress)
            built = await self._build(command(directory / "r"), log)
            # The output paths of content-addressed derivations could differ.
            if built != outputs:
                raise UnexpectedOutput(what="what nix-build built", excerpt=" ".join(built))
        except BaseException:
            # This handles a cancellation too: the child has ended by then.
            await self._remove(root)
            raise
        return Realisation(root=root, outputs=tuple(outputs), origins=log.origins())

    async def closure(self, outputs: Sequence[str]) -> RuntimeGraph:
        """See :meth:`nixery.nix.interface.Nix.closure`."""
        paths: set[str] = set()
        for chunk in arguments.chunks(sorted(outputs)):
            result = await self._query(arguments.query_closure(chunk))
            paths.update(_text(result).split())
        records = [
            (await self._query(arguments.dump(chunk))).stdout
            for chunk in arguments.chunks(sorted(paths))
        ]
        return await self._context.workers.run(parse_db_dump, b"".join(records))

    async def release(self, realisation: Realisation) -> None:
        """See :meth:`nixery.nix.interface.Nix.release`."""
        if not self._holder.release(realisation):
            await self._remove(realisation.root)

    async def sweep(self) -> None:
        """
        Remove the roots that an earlier run left.

        Has to be called before anything is built, because it removes all roots.  Never
        raises.
        """
        try:
            count = await self._context.workers.run(remove_all, self._context.settings.roots)
        except Exception:  # noqa: BLE001  # roots that are left only take disk space
            self._log.failure(
                "Cannot remove the roots in {roots}", roots=self._context.settings.roots
            )
        else:
            if count:
                self._log.info("removed {count} roots that an earlier run left", count=count)

    def _warn_of_ignored_settings(self, stderr: str) -> None:
        """Warn of settings that Nix ignores."""
        ignored = [match["name"] or match["url"] for match in _IGNORED.finditer(stderr)]
        if ignored:
            self._log.warn(
                "The Nix daemon does not trust this user and ignores {names}: set that in its own"
                " nix.conf, or add the user to trusted-users there.",
                names=", ".join(dict.fromkeys(ignored)),
            )
        group = _NO_BUILD_GROUP.search(stderr)
        if group is not None:
            self._log.warn(
                "Nix can download packages but not build them: it is run by root without its"
                " daemon, and the group {group} does not exist. Install the daemon (on Debian:"
                " apt-get install nix-setup-systemd), or let root build: set nix_options to"
                " {value}.",
                group=group["name"],
                value='{build-users-group: ""}',
            )
        for line in dict.fromkeys(stderr.splitlines()):
            known = _IGNORED.search(line) or _NO_BUILD_GROUP.search(line)
            if line.startswith("warning:") and not known:
                self._log.warn("Nix says: {line}", line=line)

    # -- commands ---------------------------------------------------------------

    async def _build(self, argv: tuple[str, ...], log: BuildLog) -> list[str]:
        """
        Run a command that builds.

        :param log: parses what it prints.
        :return: the store paths that were built or already valid, sorted.
        """
        command = Command(
            argv=argv,
            environment=self._context.environment,
            timeout=self._context.settings.build_deadline,
            on_stderr_line=log.feed,
        )
        try:
            result = await self._context.spawner.run(command)
        except CommandMissing as error:
            raise command_missing(error) from error
        except ProcessTimedOut as error:
            raise build_deadline_passed(error, log, self._context.settings) from error
        except ProcessFailed as error:
            raise build_failure(error, log, self._context.settings) from error
        return sorted(set(_text(result).split()))

    async def _query(self, argv: tuple[str, ...]) -> ProcessResult:
        """
        Run a command that fails only if Nix does not work.

        :raises NixUnusable: it failed.
        """
        command = Command(argv=argv, environment=self._context.environment, timeout=QUERY_TIMEOUT)
        try:
            return await self._context.spawner.run(command)
        except CommandMissing as error:
            raise command_missing(error) from error
        except ProcessTimedOut as error:
            raise NixUnusable(
                reason=f"{error.message}: does its daemon run?", output=error.output
            ) from error
        except OutputTooLarge as error:
            raise NixUnusable(reason=error.message, output=error.output) from error
        except ProcessFailed as error:
            stderr = error.output.stderr
            denial = await self._context.workers.run(store_location.explain_denial, stderr)
            if denial is not None:
                raise evolve(denial, output=error.output) from error
            raise unusable(error) from error

    async def _remove(self, root: str) -> None:
        try:
            await self._context.workers.run(remove_directory, self._context.settings.roots / root)
        except Exception:  # noqa: BLE001  # ``sweep`` removes it at the next start
            self._log.failure("the root {root} is left", root=root)


# -- output of commands -------------------------------------------------------


def _no_nix(printed: str) -> NixMisconfigured:
    return NixMisconfigured(reason=f"nix-store answers {printed[:200]!r}: {INSTALL}")


def _text(result: ProcessResult) -> str:
    return result.stdout.decode("utf-8", "replace")
