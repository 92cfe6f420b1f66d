"""
Verified fakes: implementations for tests that are checked against the contract of each interface.

They ship with the package so that code that builds on it can be tested with them. The memory
storage (:mod:`nixery.testing.memory_storage`) is one more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ParamSpec, TypeVar

from attrs import define, field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from nixery.errors import NixeryError
from nixery.image.closure import PathInfo, RuntimeGraph, StorePath
from nixery.image.errors import PackageProblem, PackagesRefused, ProblemKind
from nixery.image.names import PackageRequest, Tag
from nixery.image.packages import Evaluation, Output, Package
from nixery.nix.dry_run import DryRun
from nixery.nix.errors import MissingDerivations
from nixery.nix.interface import Realisation, RootedClosure
from nixery.nix.progress import Phase, Progress
from nixery.process.errors import CommandOutput
from nixery.runtime.clocks import WallTime
from nixery.sources.errors import UnknownRevision
from nixery.sources.source import PackageSet, Revision, path_revision
from nixery.sources.tag_policy import LATEST

__all__ = [
    "FakeNix",
    "FakePackage",
    "FakeSources",
    "FakeWallClock",
    "InlineWorkers",
    "store_path",
]

P = ParamSpec("P")
T = TypeVar("T")

_ALPHABET = "0123456789abcdfghijklmnpqrsvwxyz"


def store_path(name: str, salt: str = "") -> StorePath:
    """Return a store path of the given name, whose hash depends on the name and ``salt``."""
    number = int.from_bytes(hashlib.sha256(f"{name}\0{salt}".encode()).digest()[:20], "big")
    digits = "".join(_ALPHABET[(number >> (5 * place)) & 31] for place in range(32))
    return StorePath(f"/nix/store/{digits}-{name}")


@define(eq=False)
class FakeWallClock:
    """
    Implements :class:`nixery.runtime.clocks.WallClock` by a monotonic clock, and can be set.

    :param clock: the monotonic clock.
    :param offset: by how many seconds the wall clock is ahead of it.
    """

    clock: IReactorTime
    offset: float = 1_800_000_000.0

    def now(self) -> WallTime:
        return WallTime(self.clock.seconds() + self.offset)

    def step(self, seconds: float) -> None:
        """Set the clock forward, or back by a negative number of seconds."""
        self.offset += seconds


@define(kw_only=True, eq=False)
class InlineWorkers:
    """Implements :class:`nixery.runtime.workers.Workers` on the calling thread."""

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return function(*args, **kwargs)


@define(kw_only=True, eq=False)
class FakeSources:
    """
    Implements :class:`nixery.sources.interface.Sources` with given revisions.

    :param revisions: the revisions by their tags; they may be changed at any time.
    :param path: the path that every revision is fetched to.
    :param before_fetch: awaited by every fetch.
    """

    revisions: dict[str, Revision]
    path: Path = Path("/package-set")
    before_fetch: Callable[[], Deferred[None]] | None = None

    resolved: list[str] = field(factory=list, init=False)
    fetched: list[Revision] = field(factory=list, init=False)

    @classmethod
    def at_path(cls, path: Path) -> FakeSources:
        """Make it behave as a package set at a path: ``latest`` alone, and not pinned."""
        return cls(revisions={LATEST: path_revision(path)}, path=path)

    async def resolve(self, tag: Tag) -> Revision:
        self.resolved.append(tag)
        if tag not in self.revisions:
            raise UnknownRevision(tag=tag, allowed=tuple(self.revisions), source="the fake source")
        return self.revisions[tag]

    async def fetch(self, revision: Revision) -> PackageSet:
        self.fetched.append(revision)
        if self.before_fetch is not None:
            await self.before_fetch()
        return PackageSet(revision=revision, path=self.path)

    async def tags(self) -> Sequence[str]:
        return sorted(self.revisions)


@frozen(kw_only=True)
class FakePackage:
    """
    A package of a :class:`FakeNix`.

    :param attribute: its attribute path.
    :param version: becomes part of its name.
    :param files: its files, by path below its output.
    :param references: the attributes of the packages it refers to.
    :param failure: the error that building it fails with, if any.
    """

    attribute: str
    version: str = "1.0"
    files: Mapping[str, bytes] = field(factory=dict, hash=False)
    references: tuple[str, ...] = ()
    failure: NixeryError | None = None

    @property
    def path(self) -> StorePath:
        """The store path of its only output."""
        return store_path(f"{self.attribute.replace('.', '-')}-{self.version}")


@define(kw_only=True, eq=False)
class FakeNix:
    """
    Implements :class:`nixery.nix.interface.Nix` with a directory and a list of packages.

    :param store: the directory in place of ``/nix/store``.
    :param packages: the packages that exist.
    :param before_realise: called before each realisation; its result is awaited.
    :param can_root_valid_paths: true if paths that exist already can be protected by a root.
    """

    store: Path
    packages: Sequence[FakePackage]
    before_realise: Callable[[], Deferred[None]] | None = None
    can_root_valid_paths: bool = False

    package_sets: list[PackageSet] = field(factory=list, init=False)
    evaluations: list[tuple[str, ...]] = field(factory=list, init=False)
    evaluated_to_build: list[tuple[str, ...]] = field(factory=list, init=False)
    realisations: list[tuple[str, ...]] = field(factory=list, init=False)
    roots: set[str] = field(factory=set, init=False)
    rooted: list[tuple[str, ...]] = field(factory=list, init=False)
    collected_derivations: int = field(default=0, init=False)
    """The number of the next realisations that find their derivations garbage-collected."""
    builds_in_vain: int = field(default=0, init=False)
    """The number of builds that have begun when derivations are found garbage-collected."""

    async def check(self) -> str:
        return "2.8.0"

    def version(self) -> str:
        return "2.8.0"

    def evaluation_identity(self) -> Mapping[str, str]:
        return {"config": "{}"}

    async def evaluate(
        self, package_set: PackageSet, system: str, requests: Sequence[PackageRequest]
    ) -> Evaluation:
        self.package_sets.append(package_set)
        self.evaluations.append(tuple(item.name for item in requests))
        known = {package.attribute: package for package in self.packages}
        missing = [item for item in requests if item.name not in known]
        refused = [item.name for item in missing if not item.optional]
        if refused:
            raise PackagesRefused(
                problems=tuple(
                    PackageProblem(
                        name=name,
                        kind=ProblemKind.NOT_FOUND,
                        message=f"there is no package {name}",
                    )
                    for name in refused
                )
            )
        found = sorted({item.name for item in requests if item.name in known})
        return Evaluation(
            packages=tuple(_evaluated(known[name]) for name in found),
            missing_optional=tuple(item.name for item in missing),
            system=system,
        )

    def prewarm(self) -> None: ...

    async def root_if_valid(self, outputs: Sequence[str]) -> RootedClosure | None:
        wanted = self._closure(
            [each.attribute for each in self.packages if each.path.path in outputs]
        )
        if not self.can_root_valid_paths or any(
            not (self.store / Path(package.path.path).name).exists() for package in wanted
        ):
            return None
        self.rooted.append(tuple(sorted(outputs)))
        root = f"held-{len(self.rooted)}"
        self.roots.add(root)
        return RootedClosure(
            realisation=Realisation(root=root, outputs=tuple(sorted(outputs))),
            graph=await self.closure(outputs),
        )

    async def realise(self, packages: Sequence[Package], progress: Progress) -> Realisation:
        self.realisations.append(tuple(package.attribute for package in packages))
        progress.phase(Phase.BUILDING)
        if self.before_realise is not None:
            await self.before_realise()
        if self.collected_derivations:
            self.collected_derivations -= 1
            raise MissingDerivations(
                output=CommandOutput(argv=("nix-build",), status=1), builds=self.builds_in_vain
            )
        wanted = self._closure([package.attribute for package in packages])
        for package in wanted:
            if package.failure is not None:
                raise package.failure
            _write(self.store, package)
        root = str(len(self.realisations))
        self.roots.add(root)
        outputs = sorted(output.path for package in packages for output in package.outputs)
        return Realisation(root=root, outputs=tuple(outputs))

    async def reevaluate_and_realise(
        self,
        package_set: PackageSet,
        requests: Sequence[PackageRequest],
        evaluation: Evaluation,
        progress: Progress,
    ) -> Realisation:
        self.package_sets.append(package_set)
        self.evaluated_to_build.append(tuple(item.name for item in requests))
        return await self.realise(evaluation.packages, progress)

    async def closure(self, outputs: Sequence[str]) -> RuntimeGraph:
        known = {package.attribute: package for package in self.packages}
        attributes = [each.attribute for each in self.packages if each.path.path in outputs]
        paths = {
            package.path: PathInfo(
                path=package.path,
                nar_hash="0" * 64,
                nar_size=sum(len(data) for data in package.files.values()) + 1,
                references=tuple(sorted(known[name].path for name in package.references)),
            )
            for package in self._closure(attributes)
        }
        return RuntimeGraph(paths=paths)

    async def dry_run(self, packages: Sequence[Package]) -> DryRun:
        wanted = self._closure([package.attribute for package in packages])
        return DryRun(
            builds=tuple(
                f"{package.path.path}.drv"
                for package in wanted
                if not (self.store / Path(package.path.path).name).exists()
            )
        )

    def root_expired(self, realisation: Realisation) -> bool:
        return realisation.root not in self.roots

    async def release(self, realisation: Realisation) -> None:
        self.roots.discard(realisation.root)

    def _closure(self, attributes: Sequence[str]) -> list[FakePackage]:
        known = {package.attribute: package for package in self.packages}
        wanted: dict[str, FakePackage] = {}
        pending = list(attributes)
        while pending:
            name = pending.pop()
            if name not in wanted:
                wanted[name] = known[name]
                pending += known[name].references
        return [wanted[name] for name in sorted(wanted)]


def _evaluated(package: FakePackage) -> Package:
    return Package(
        requested=(package.attribute,),
        attribute=package.attribute,
        name=package.path.name,
        pname=package.attribute,
        version=package.version,
        description="",
        priority=5,
        derivation=f"{package.path.path}.drv",
        outputs=(Output(name="out", path=package.path.path),),
    )


def _write(store: Path, package: FakePackage) -> None:
    root = store / Path(package.path.path).name
    if root.exists():
        return
    root.mkdir(parents=True)
    for name, data in package.files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        file.chmod(0o555 if name.startswith("bin/") else 0o444)
