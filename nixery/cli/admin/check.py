"""
Tries the configured package source out, as the daemon would use it.

The steps are those of a pull, with the code of the daemon: Nix is checked, the tag looked up, the
revision fetched and packages evaluated. The state is in a directory of its own, so that nothing
cached hides what is wrong, and a daemon that runs is not disturbed.
"""

from __future__ import annotations

import os
import pwd
import tempfile
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from attrs import define, evolve, field
from twisted.internet.defer import Deferred
from twisted.logger import LogEvent, LogLevel, formatEvent, globalLogPublisher

from nixery.cli.admin.check_report import CheckReport, CheckStep, FetchedTree
from nixery.cli.common import Command, evaluate
from nixery.cli.errors import CommandRefused
from nixery.config.config import Config
from nixery.errors import NixeryError
from nixery.image.errors import PackagesRefused, ProblemKind
from nixery.image.names import DEFAULT_PACKAGES, ImageName, PackageRequest, Tag
from nixery.nix.context import NixContext
from nixery.runtime.reactor_time import run_reactor_and_return
from nixery.runtime.workers import Workers
from nixery.sources.search_path import PinnedArchive, search_path_of
from nixery.sources.source import PackageSet, Revision, is_pinned_path
from nixery.sources.source_trees import source_trees
from nixery.wiring.nix import make_nix, make_nix_context
from nixery.wiring.sources import make_sources

__all__ = ["check_source", "refuse_another_user", "without_packages"]

T = TypeVar("T")


def without_packages(system: str) -> ImageName:
    """Return the name for a check that names no packages: what every image may have."""
    requests = [PackageRequest(name=name, exact=True, optional=True) for name in DEFAULT_PACKAGES]
    return ImageName(repository="", package_requests=tuple(requests), system=system)


def check_source(
    config: Config, name: ImageName, tag: Tag, environ: Mapping[str, str], *, count: bool
) -> CheckReport:
    """
    Try the configured source out, on the global reactor.

    :param name: the packages that are evaluated.
    :param count: whether all packages of the set are counted, which takes minutes for nixpkgs.
    :raises CommandRefused: another user owns the daemon's directories.
    :raises SystemExit: it was interrupted.
    """
    refuse_another_user(config)
    report = CheckReport(source=config.sources.source.describe(), tag=str(tag), system=name.system)
    check = _Check(config=config, name=name, tag=tag, environ=environ, report=report)

    # Any: the global reactor has no type.
    def main(reactor: Any) -> Deferred[None]:
        return Command(name="nixery-admin").run(
            reactor, lambda workers: check.run(reactor, workers, count=count)
        )

    with check.collect_warnings():
        run_reactor_and_return(main)
    return check.report


def refuse_another_user(config: Config) -> None:
    """
    Refuse to run as another user than the daemon's.

    It has other credentials; and what it makes in the cache directory, the daemon could not change.

    :raises CommandRefused: the cache directory belongs to another user.
    """
    directory = config.storage.cache_directory
    try:
        owner = directory.stat().st_uid
    except OSError:
        return
    if owner != os.geteuid():
        try:
            user = pwd.getpwuid(owner).pw_name
        except KeyError:
            user = str(owner)
        raise CommandRefused(
            reason=f"{directory} belongs to {user}, whose credentials the registry uses: run the"
            f" command as that user"
        )


@define(kw_only=True)
class _Check:
    config: Config
    name: ImageName
    tag: Tag
    environ: Mapping[str, str]
    report: CheckReport
    # Any: as in check_source.
    _reactor: Any = field(init=False, default=None)

    async def run(self, reactor: Any, workers: Workers, *, count: bool) -> None:
        self._reactor = reactor
        with tempfile.TemporaryDirectory(prefix="nixery-check-") as directory:
            context = make_nix_context(
                self.config, workers, reactor, self.environ, state_directory=Path(directory)
            )
            try:
                await self._run_steps(context, count=count)
            except NixeryError as error:
                self.report = evolve(self.report, problem=_with_advice(error))

    async def _run_steps(self, context: NixContext, *, count: bool) -> None:
        nix = make_nix(context).nix
        version = await self._step("nix", nix.check())
        self._conclude(f"Nix {version}")
        package_set = await self._fetch(context)
        try:
            evaluation = await self._step("evaluate", evaluate(nix, package_set, self.name))
        finally:
            await nix.stop()
        if not package_set.flake:  # whose inputs are fetched before, and named among the trees
            roots = await context.workers.run(_link_targets, context.settings.source_roots)
            trees = {str(each.path) for each in self.report.fetched}
            self.report = evolve(self.report, pins=sorted(roots - trees))
        packages = [(each.attribute, each.name) for each in evaluation.packages]
        self.report = evolve(self.report, packages=packages)
        self._conclude(", ".join(name for _, name in packages) or "the set, without packages")
        if count:
            index = await self._step("count", nix.list_packages(package_set, self.name.system))
            self.report = evolve(self.report, package_count=len(index.entries))
            self._conclude(f"{len(index.entries)} packages")
            if index.skipped:
                self._warn(f"{index.skipped} names of the package set cannot be evaluated")

    async def _fetch(self, context: NixContext) -> PackageSet:
        sources = make_sources(self.config.sources, self._reactor, context).sources
        try:
            await self._step("source", sources.start())
            self._conclude(self.report.source)
            revision = await self._step("resolve", sources.resolve(self.tag))
            self.report = evolve(
                self.report, revision=revision, unpinned=_unpinned(self.config, revision)
            )
            self._conclude(revision.label)
            package_set = await self._step("fetch", sources.fetch(revision))
        finally:
            await sources.stop()
        self.report = evolve(self.report, fetched=_fetched(revision, package_set))
        self._conclude(str(package_set.path))
        return package_set

    async def _step(self, name: str, work: Coroutine[Deferred[Any], Any, T]) -> T:
        began = self._reactor.seconds()
        try:
            return await work
        finally:
            step = CheckStep(name=name, seconds=self._reactor.seconds() - began)
            self.report = evolve(self.report, steps=[*self.report.steps, step])

    def _conclude(self, result: str) -> None:
        """Note the result of the last step."""
        *before, last = self.report.steps
        self.report = evolve(self.report, steps=[*before, evolve(last, result=result)])

    def _warn(self, text: str) -> None:
        if text not in self.report.warnings:
            self.report = evolve(self.report, warnings=[*self.report.warnings, text])

    @contextmanager
    def collect_warnings(self) -> Iterator[None]:
        """Collect what the daemon would log as a warning."""

        def observe(event: LogEvent) -> None:
            level = event.get("log_level")
            if level is not None and level >= LogLevel.warn:
                self._warn(formatEvent(event))

        observer: Any = observe  # as a function, it implements ILogObserver
        globalLogPublisher.addObserver(observer)
        try:
            yield
        finally:
            globalLogPublisher.removeObserver(observer)


_ADVICE = {
    ProblemKind.UNFREE: "{allowUnfree: true}",
    ProblemKind.BROKEN: "{allowBroken: true}",
    ProblemKind.INSECURE: "{permittedInsecurePackages: [NAME-VERSION]}",
    ProblemKind.UNSUPPORTED: "{allowUnsupportedSystem: true}",
}
"""Values of ``nixpkgs_config`` that allow what is refused, which clients are not told."""


def _with_advice(error: NixeryError) -> str:
    """Return what went wrong, with what an operator can do about it."""
    kinds = {each.kind for each in error.problems} if isinstance(error, PackagesRefused) else set()
    advice = [
        f"nixpkgs_config: {value} allows it" for kind, value in _ADVICE.items() if kind in kinds
    ]
    return "; ".join([error.message, *advice])


def _fetched(revision: Revision, package_set: PackageSet) -> Sequence[FetchedTree]:
    """Return what was fetched for a package set: itself, overlays, entries of nix_path, inputs."""
    paths = (package_set.path, *package_set.overlays)
    places = dict(package_set.search_path)
    return [
        *(
            FetchedTree(url=tree.url, commit=tree.commit, path=path)
            for tree, path in zip(source_trees(revision), paths, strict=False)
        ),
        *(
            FetchedTree(url=entry.url, commit=entry.sha256, path=places[name])
            for name, entry in search_path_of(revision).entries.items()
            if isinstance(entry, PinnedArchive)
        ),
        *(
            FetchedTree(url=f"input {each.name}", commit=each.rev, path=each.path)
            for each in package_set.inputs
        ),
    ]


def _unpinned(config: Config, revision: Revision) -> Sequence[str]:
    """Return what may change while the revision stays the same, and what to do about it."""
    identity = revision.identity
    found = [
        f"{path} may change at any moment: a path in the Nix store, or a commit of a git"
        " repository, does not"
        for path in dict.fromkeys(identity.values())
        if path.startswith("/") and not is_pinned_path(Path(path))
    ]
    if config.nix.allow_unpinned_fetches:
        found.append(
            "packages may fetch what has no hash: pin it, and switch allow_unpinned_fetches off"
        )
    if not revision.pinned and not found:
        found.append(f"{revision.label} may change at any moment")
    return found


def _link_targets(directory: Path) -> set[str]:
    """Return where the links in a directory lead, those to derivations left out."""
    if not directory.exists():
        return set()
    targets = (str(path.readlink()) for path in directory.iterdir() if path.is_symlink())
    return {target for target in targets if not target.endswith(".drv")}
