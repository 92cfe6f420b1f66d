"""
The Nix of this machine: the coroutines that run its commands.

    evaluate   nix-instantiate   names -> packages, their derivations written
    hold       nix-store         valid store paths -> rooted, the graph of what they need
    realise    nix-build         derivations -> store paths, rooted
    closure    nix-store         store paths -> the graph of what they need

How the commands are called is in :mod:`nixery.nixside.nixargs`, what their failures mean in
:mod:`nixery.nixside.nixfaults`, and how packages are looked up in :mod:`nixery.nixside.nixeval`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from uuid import uuid4

from attrs import evolve
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from nixery.errors import (
    CommandMissing,
    Evidence,
    MissingDerivations,
    NixMisconfigured,
    NixUnusable,
    OutputTooLarge,
    ProcessFailed,
    ProcessTimedOut,
    UnexpectedOutput,
)
from nixery.graph import RuntimeGraph, parse_dump
from nixery.interfaces import Held, Progress, Realisation, Workers
from nixery.names import Requirement
from nixery.nixside import nixargs, nixplace, resolveargs
from nixery.nixside.nixargs import NixSettings
from nixery.nixside.nixeval import Evaluator
from nixery.nixside.nixfaults import (
    INSTALL,
    build_deadline_passed,
    build_failure,
    command_missing,
    unusable,
)
from nixery.nixside.nixhold import Holder
from nixery.nixside.nixlog import BuildLog
from nixery.nixside.nixroots import make_directories, remove_all, remove_directory
from nixery.packages import Answer, Evaluation, Package
from nixery.process import Command, ProcessResult, Spawner
from nixery.sources import PackageSet
from nixery.waiting import gather

__all__ = ["NixCommands"]

QUERY_TIMEOUT = 300.0
"""Seconds for a command that only asks the store: long, for it may wait for a lock."""

OLDEST = (2, 3)
"""The oldest version whose commands work as they are called here."""

PROBES = 3
"""How many files are stored before their absence counts, while a collection removes them."""

_IGNORED = re.compile(
    r"ignoring the (?:client|user)-specified setting '(?P<name>[^']*)', because it is a restricted"
    r"|ignoring untrusted substituter '(?P<url>[^']*)'"
)
_VERSION = re.compile(r"(\d+)\.(\d+)[0-9A-Za-z.+_-]*")


class NixCommands:
    """
    An implementation of :class:`nixery.interfaces.Nix`.

    :param spawner: runs the commands.
    :param clock: what deadlines of several commands together are measured with.
    :param workers: for the file system and for reading long answers; not the pool
        that packs layers, whose threads are busy for long.
    :param settings: how Nix is to be used.
    :param resolve: the path of ``nix/resolve.nix``.
    :param environ: the environment of this process.
    :param holds: as :func:`nixery.nixside.nixplace.holds`.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        spawner: Spawner,
        clock: IReactorTime,
        workers: Workers,
        settings: NixSettings,
        resolve: Path,
        environ: Mapping[str, str],
        holds: Callable[[str, bytes], bool] = nixplace.holds,
    ) -> None:
        self._holds = holds
        self._spawner = spawner
        self._workers = workers
        self._settings = settings
        self._environment = nixargs.environment(environ, settings)
        self._evaluator = Evaluator(
            spawner=spawner,
            clock=clock,
            workers=workers,
            settings=settings,
            # Restricted evaluation refuses a path that leads through a symlink.
            resolve=resolve.resolve(),
            environment=self._environment,
        )
        self._holder = Holder(
            spawner=spawner, clock=clock, workers=workers, environment=self._environment
        )

    async def check(self) -> str:
        """As :meth:`nixery.interfaces.Nix.check` says."""
        await self._workers.run(make_directories, self._settings.roots, self._settings.home)
        printed = _text(await self._query(nixargs.version()))
        version = _VERSION.search(printed)
        if version is None:
            raise _no_nix(printed)
        if (int(version[1]), int(version[2])) < OLDEST:
            raise NixMisconfigured(reason=f"version {version[0]} is too old: {INSTALL}")
        await self._check_place()
        probed = await self._query(nixargs.probe_store())
        if _text(probed).strip() != nixargs.STORE_PROBE:
            raise _no_nix(_text(probed))
        self._tell_ignored(probed.stderr)
        return version[0]

    async def _check_place(self) -> None:
        """:raises NixMisconfigured: the files of the store are not where their paths say."""
        for _ in range(PROBES):
            content = uuid4().hex
            stored = await self._query(nixargs.store_text(content))
            path = _stored_path(stored)
            ours = path.startswith(f"{nixargs.STORE}/")
            if ours and await self._workers.run(self._holds, path, content.encode("ascii")):
                return
            # A collection that runs may have taken it; Nix would know.
            if ours and _text(await self._query(nixargs.check_validity([path]))):
                continue
            raise nixplace.explain_misplacement(path, stored.stderr, self._environment)
        raise NixUnusable(reason="a collection of its store removes what was just stored")

    async def probe(self) -> None:
        """
        Find out whether the store can still be asked; cheaper than :meth:`check`.

        :raises NixUnusable: it cannot.
        """
        printed = _text(await self._query(nixargs.probe_store()))
        if printed.strip() != nixargs.STORE_PROBE:
            raise _no_nix(printed)

    def evaluation_identity(self) -> Mapping[str, str]:
        """As :meth:`nixery.interfaces.Nix.evaluation_identity` says."""
        return self._settings.evaluation_identity()

    async def evaluate(
        self, package_set: PackageSet, system: str, requirements: Sequence[Requirement]
    ) -> Evaluation:
        """As :meth:`nixery.interfaces.Nix.evaluate` says."""
        return await self._evaluator.evaluate(package_set, system, requirements)

    async def look_up(
        self, package_set: PackageSet, system: str, requirements: Sequence[Requirement]
    ) -> Sequence[Answer]:
        """As :meth:`nixery.building.lookup.Looker.look_up` says."""
        return await self._evaluator.look_up(package_set, system, requirements)

    def stand_by(self) -> None:
        """Have a process ready for each next evaluation from now on, until :meth:`stop`."""
        self._evaluator.stand_by()

    def expect(self, package_set: PackageSet, system: str) -> None:
        """The first evaluation is likely to be of this package set; see :meth:`stand_by`."""
        self._evaluator.expect(package_set, system)

    def prepare(self) -> None:
        """As :meth:`nixery.interfaces.Nix.prepare` says."""
        self._holder.prepare()

    async def hold(self, outputs: Sequence[str]) -> Held | None:
        """As :meth:`nixery.interfaces.Nix.hold` says."""
        return await self._holder.hold(outputs) if outputs else None

    def lost(self, realisation: Realisation) -> bool:
        """As :meth:`nixery.interfaces.Nix.lost` says."""
        return self._holder.lost(realisation)

    async def stop(self) -> None:
        """Let go of all that is held, and of what stands by."""
        await gather([self._holder.stop(), self._evaluator.stop()])

    async def realise(self, packages: Sequence[Package], progress: Progress) -> Realisation:
        """As :meth:`nixery.interfaces.Nix.realise` says."""
        return await self._realise(
            packages,
            lambda link: nixargs.build(self._settings, packages=packages, out_link=link),
            progress,
        )

    async def realise_anew(
        self,
        package_set: PackageSet,
        requirements: Sequence[Requirement],
        evaluation: Evaluation,
        progress: Progress,
    ) -> Realisation:
        """As :meth:`nixery.interfaces.Nix.realise_anew` says."""
        lookup = self._evaluator.lookup(package_set, evaluation.system)
        try:
            return await self._realise(
                evaluation.packages,
                lambda link: resolveargs.evaluate_and_build(lookup, requirements, link),
                progress,
            )
        except UnexpectedOutput as error:
            # The package set lies at a path, and was changed since.
            raise MissingDerivations(evidence=Evidence(argv=("nix-build",), status=0)) from error
        except NixUnusable:
            # Packages that cannot be evaluated together have been evaluated in parts.
            return await self.realise(evaluation.packages, progress)

    async def _realise(
        self,
        packages: Sequence[Package],
        command: Callable[[Path], tuple[str, ...]],
        progress: Progress,
    ) -> Realisation:
        """
        :param command: what builds, given the first root.
        :raises UnexpectedOutput: it has not built what was wanted.
        """
        root = uuid4().hex
        wanted = sorted({output.path for package in packages for output in package.outputs})
        if not wanted:
            return Realisation(root=root, outputs=())
        try:
            directory = self._settings.roots / root
            await self._workers.run(make_directories, directory)
            built = await self._build(command(directory / "r"), progress)
            # Derivations whose outputs are named by their content could differ.
            if built != wanted:
                raise UnexpectedOutput(what="what nix-build built", excerpt=" ".join(built))
        except BaseException:
            # A cancellation too: it has waited for the child.
            await self._remove(root)
            raise
        return Realisation(root=root, outputs=tuple(wanted))

    async def closure(self, outputs: Sequence[str]) -> RuntimeGraph:
        """As :meth:`nixery.interfaces.Nix.closure` says."""
        paths: set[str] = set()
        for chunk in nixargs.chunks(sorted(outputs)):
            result = await self._query(nixargs.query_closure(chunk))
            paths.update(_text(result).split())
        records = [
            (await self._query(nixargs.dump(chunk))).stdout
            for chunk in nixargs.chunks(sorted(paths))
        ]
        return await self._workers.run(parse_dump, b"".join(records))

    async def release(self, realisation: Realisation) -> None:
        """As :meth:`nixery.interfaces.Nix.release` says."""
        if not self._holder.release(realisation):
            await self._remove(realisation.root)

    async def sweep(self) -> None:
        """
        Remove the roots that an earlier run left.

        To be called before anything is built: whatever is there is taken for
        abandoned.  Never raises.
        """
        try:
            count = await self._workers.run(remove_all, self._settings.roots)
        except Exception:  # noqa: BLE001  # what is left costs disk, and no more
            self._log.failure("roots in {roots} are left", roots=self._settings.roots)
        else:
            if count:
                self._log.info("removed {count} roots that an earlier run left", count=count)

    def _tell_ignored(self, said: str) -> None:
        """Warn of what Nix does not do although it is told to."""
        ignored = [match["name"] or match["url"] for match in _IGNORED.finditer(said)]
        if ignored:
            self._log.warn(
                "Nix's daemon does not trust this user and ignores {names}:"
                " set that in its own nix.conf, or list the user there in trusted-users",
                names=", ".join(dict.fromkeys(ignored)),
            )
        for line in dict.fromkeys(said.splitlines()):
            if line.startswith("warning:") and not _IGNORED.search(line):
                self._log.warn("Nix says: {line}", line=line)

    # -- commands ---------------------------------------------------------------

    async def _build(self, argv: tuple[str, ...], progress: Progress) -> list[str]:
        """:return: the store paths that have been built or were there, sorted."""
        log = BuildLog(progress=progress)
        command = Command(
            argv=argv,
            environment=self._environment,
            timeout=self._settings.build_deadline,
            on_stderr_line=log.line,
        )
        try:
            result = await self._spawner.run(command)
        except CommandMissing as error:
            raise command_missing(error) from error
        except ProcessTimedOut as error:
            raise build_deadline_passed(error, log, self._settings) from error
        except ProcessFailed as error:
            raise build_failure(error, log, self._settings) from error
        return sorted(set(_text(result).split()))

    async def _query(self, argv: tuple[str, ...]) -> ProcessResult:
        """:raises NixUnusable: a command fails that has no other reason to."""
        command = Command(argv=argv, environment=self._environment, timeout=QUERY_TIMEOUT)
        try:
            return await self._spawner.run(command)
        except CommandMissing as error:
            raise command_missing(error) from error
        except ProcessTimedOut as error:
            raise NixUnusable(
                reason=f"{error.message}: does its daemon run?", evidence=error.evidence
            ) from error
        except OutputTooLarge as error:
            raise NixUnusable(reason=error.message, evidence=error.evidence) from error
        except ProcessFailed as error:
            said = error.evidence.stderr
            denial = await self._workers.run(nixplace.explain_denial, said)
            if denial is not None:
                raise evolve(denial, evidence=error.evidence) from error
            raise unusable(error) from error

    async def _remove(self, root: str) -> None:
        try:
            await self._workers.run(remove_directory, self._settings.roots / root)
        except Exception:  # noqa: BLE001  # it is swept when the daemon starts again
            self._log.failure("the root {root} is left", root=root)


# -- what is printed ---------------------------------------------------------


def _no_nix(printed: str) -> NixMisconfigured:
    return NixMisconfigured(reason=f"nix-store answers {printed[:200]!r}: {INSTALL}")


def _stored_path(result: ProcessResult) -> str:
    """:raises UnexpectedOutput: it is none."""
    try:
        path = json.loads(result.stdout)
    except ValueError:
        path = None
    if not isinstance(path, str) or not path.startswith("/"):
        raise UnexpectedOutput(what="the path of a stored file", excerpt=_text(result))
    return path


def _text(result: ProcessResult) -> str:
    return result.stdout.decode("utf-8", "replace")
