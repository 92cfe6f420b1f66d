"""
Resolve tags to revisions, and fetch revisions as package sets to this machine.

:mod:`nixery.sources.tag_policy` maps tags to references, and :mod:`nixery.sources.ref_cache`
looks references up; this module combines both.  Concurrent requests for a commit share one
fetch.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from time import gmtime

from attrs import evolve, field, frozen
from twisted.internet.defer import CancelledError
from twisted.logger import Logger

from nixery.errors import ShuttingDown
from nixery.image.names import Tag
from nixery.runtime.clocks import WallClock
from nixery.runtime.deferreds import gather
from nixery.runtime.single_flight import SingleFlight
from nixery.runtime.workers import Workers
from nixery.sources.errors import CommitMissing, SourceMissing, SourceUnavailable
from nixery.sources.flakes import flake_revision, flake_tree, read_flake
from nixery.sources.interface import TreeFetcher
from nixery.sources.ref_cache import RefCache
from nixery.sources.search_path import SearchPath, search_path_of
from nixery.sources.source import (
    NIXPKGS_URL,
    FlakeSource,
    PackageSet,
    PathSource,
    ResolvedRef,
    Revision,
    Source,
    SourceTree,
    overlay_paths,
    path_revision,
    revision_of,
)
from nixery.sources.source_trees import source_trees
from nixery.sources.tag_policy import (
    KNOWN_YEAR,
    LATEST,
    GitCommit,
    GitRefs,
    NixpkgsCommit,
    Reference,
    TagPolicy,
    configured_tags,
    references,
    unknown_revision,
)
from nixery.sources.tree_watch import TreeWatch

__all__ = ["Resolver", "ResolverSettings"]


@frozen(kw_only=True)
class ResolverSettings:
    """
    The settings of a :class:`Resolver`.

    :param tag_policy: decides which tags may be asked for.
    :param overlays: files or directories with the operator's overlays.
    :param search_path: what evaluations may read besides the package set and the overlays.
    :param nixpkgs_url: the URL of the archive of a nixpkgs commit.
    :param unpinned_fetches: whether evaluations may fetch what changes, so that no revision stands
        for the content.
    """

    source: Source
    tag_policy: TagPolicy = field(factory=TagPolicy)
    overlays: tuple[Path, ...] = ()
    search_path: SearchPath = field(factory=SearchPath)
    nixpkgs_url: str = NIXPKGS_URL
    unpinned_fetches: bool = False


class Resolver:
    """
    An implementation of :class:`nixery.sources.interface.Sources`.

    :param settings: the source of the packages.
    :param git: the references of the git repository; ``None`` for sources of other kinds.
    :param channels: the references of the channel host.
    :param fetcher: fetches commits.
    :param workers: for the file system.
    :param wall_clock: tells the year, after which no channel is named yet.
    :param watch: observes the configured paths outside the Nix store; ``None`` if there are none,
        or if nothing is kept for as long as they do not change.
    """

    _log = Logger()

    def __init__(
        self,
        settings: ResolverSettings,
        *,
        git: RefCache | None,
        channels: RefCache,
        fetcher: TreeFetcher,
        workers: Workers,
        wall_clock: WallClock,
        watch: TreeWatch | None = None,
    ) -> None:
        self._settings = settings
        self._git = git
        self._channels = channels
        self._fetcher = fetcher
        self._workers = workers
        self._wall_clock = wall_clock
        self._watch = watch
        # The paths without symlinks, for the version of the files that they were looked up for.
        self._known_paths: tuple[str, _RealPaths] | None = None
        self._fetches: SingleFlight[tuple[SourceTree, str | None], Path] = SingleFlight()
        self._pinned_revision: Revision | None = None
        # That of the last version of a path's files.
        self._observed_revision: Revision | None = None
        self._stopping = False

    async def start(self) -> None:
        """
        Check the configured paths and load the stored references; makes no request.

        :raises SourceMissing: the package set at a path is not there, or an overlay.
        :raises CommandMissing: there is no git, where it is needed.
        """
        self._stopping = False
        source = self._settings.source
        if isinstance(source, PathSource):
            await self._workers.run(_check_path, source.path, _PACKAGE_SET)
        if isinstance(source, FlakeSource) and source.kind == "path":
            file = Path(source.location, source.directory, "flake.nix")
            await self._workers.run(_real_path, file, _FLAKE)
        for overlay in self._settings.overlays:
            await self._workers.run(_check_path, overlay, _OVERLAY)
        for path in self._settings.search_path.paths:
            await self._workers.run(_real_path, path, _ENTRY)
        if self._settings.tag_policy.any_commit:
            self._log.warn(
                "allow_any_commit is on: users who may pull can have any code built, because"
                " hosts serve commits of forks under the repository's address."
            )
        if self._watch is not None:
            self._watch.start()
        for ref_cache in self._ref_caches():
            await ref_cache.start()

    async def stop(self) -> None:
        """Cancel running look-ups and fetches; returns when they have ended."""
        self._stopping = True
        if self._watch is not None:
            await self._watch.stop()
        for ref_cache in self._ref_caches():
            await ref_cache.stop()
        await self._fetches.stop()

    async def resolve(self, tag: Tag) -> Revision:
        """See :meth:`nixery.sources.interface.Sources.resolve`."""
        settings, source = self._settings, self._settings.source
        if isinstance(source, PathSource):
            if tag != LATEST:
                raise unknown_revision(source, settings.tag_policy, tag)
            if self._pinned_revision is not None:
                return self._pinned_revision
            paths, version = await self._real_paths()
            observed = self._observed_revision
            if observed is not None and observed.version == version:
                return observed
            rest = 1 + len(settings.overlays)
            revision = path_revision(paths[0], paths[1:rest], version=version)
            revision = self._extend(revision, paths[rest:], version)
            # The paths are in the Nix store, without symlinks: they never change, and a
            # cached answer need not wait for a thread.
            if revision.pinned and paths == (
                source.path,
                *settings.overlays,
                *settings.search_path.paths,
            ):
                self._pinned_revision = revision
            if revision.version is not None:
                self._observed_revision = revision
            return revision
        if isinstance(source, FlakeSource):
            return await self._resolve_flake(source, tag)
        requested = references(source, settings.tag_policy, tag, year=self._year())
        resolved, *base = await gather(self._find(each, tag) for each in requested)
        paths, version = await self._real_paths()
        rest = len(settings.overlays)
        revision = revision_of(
            source,
            requested[0].describe(),
            resolved,
            base=base[0] if base else None,
            overlays=paths[:rest],
            nixpkgs_url=settings.nixpkgs_url,
            version=version,
        )
        return self._extend(revision, paths[rest:], version)

    def _extend(self, revision: Revision, paths: _RealPaths, version: str | None) -> Revision:
        """
        Extend a revision by the search path.

        :param paths: the real paths of the search path.
        """
        settings = self._settings
        revision = settings.search_path.with_paths(paths).extend(revision, version=version)
        return evolve(revision, pinned=False) if settings.unpinned_fetches else revision

    async def _resolve_flake(self, source: FlakeSource, tag: Tag) -> Revision:
        settings = self._settings
        if source.repository is not None:
            [reference] = references(source, settings.tag_policy, tag)
            resolved = await self._find(reference, tag)
            return flake_revision(source, reference.describe(), resolved)
        if tag != LATEST:
            raise unknown_revision(source, settings.tag_policy, tag)
        if source.kind != "path":
            return flake_revision(source, LATEST, None)
        [path], version = await self._real_paths()
        return flake_revision(source, LATEST, None, path=path, version=version)

    async def fetch(self, revision: Revision) -> PackageSet:
        """See :meth:`nixery.sources.interface.Sources.fetch`."""
        source = self._settings.source
        if isinstance(source, FlakeSource):
            file = await self._fetch(flake_tree(source, revision), revision.version)
            flake = await self._workers.run(read_flake, source, file)
            return PackageSet(
                revision=revision, path=flake.tree, flake=flake.argument, inputs=flake.inputs
            )
        search_path = search_path_of(revision)
        package_set = await self._fetch_package_set(revision)
        archives = await gather(self._fetch(archive.tree) for archive in search_path.archives)
        return evolve(package_set, search_path=search_path.on_disk(archives))

    async def _fetch_package_set(self, revision: Revision) -> PackageSet:
        overlays = overlay_paths(revision)
        trees = source_trees(revision)
        if not trees:
            path = Path(revision.identity["path"])
            return PackageSet(revision=revision, path=path, overlays=overlays)
        path, *overlay_trees = await gather(self._fetch(tree) for tree in trees)
        return PackageSet(revision=revision, path=path, overlays=(*overlay_trees, *overlays))

    async def tags(self) -> Sequence[str]:
        """See :meth:`nixery.sources.interface.Sources.tags`."""
        settings = self._settings
        return configured_tags(settings.source, settings.tag_policy, year=self._year())

    # -- references -------------------------------------------------------------

    def _year(self) -> int:
        """Return the last two digits of this year."""
        return max(KNOWN_YEAR, gmtime(self._wall_clock.now()).tm_year % 100)

    def _ref_caches(self) -> tuple[RefCache, ...]:
        return (self._channels,) if self._git is None else (self._git, self._channels)

    async def _find(self, reference: Reference, tag: Tag) -> ResolvedRef:
        """
        Look a reference up.

        :raises UnknownRevision: it does not exist.
        """
        if isinstance(reference, NixpkgsCommit):
            return ResolvedRef(commit=reference.commit)
        source, tag_policy = self._settings.source, self._settings.tag_policy
        # A missing reference that is configured is the operator's error, not the client's.
        configured = reference in references(source, tag_policy, LATEST)
        ref_cache = self._channels
        if isinstance(reference, GitRefs | GitCommit) and self._git is not None:
            ref_cache = self._git
        resolved = await ref_cache.find(reference, configured=configured)
        if resolved is None:
            raise unknown_revision(source, tag_policy, tag)
        return resolved

    # -- fetching ---------------------------------------------------------------

    async def _fetch(self, tree: SourceTree, version: str | None = None) -> Path:
        """
        Fetch a tree, once for all who ask for it.

        :param version: of a tree at a path: a fetch that was begun before a change is not joined.
        """
        if self._stopping:
            raise ShuttingDown

        async def fetch_tree() -> Path:
            try:
                return await self._fetcher.fetch(tree)
            except CancelledError as error:
                raise ShuttingDown from error
            except CommitMissing as error:
                raise unknown_revision(
                    self._settings.source, self._settings.tag_policy, tree.commit
                ) from error
            except SourceUnavailable as error:
                self._log.warn("{error}", error=error, output=error.output)
                # The branch may have been rewritten since it was looked up.
                for ref_cache in self._ref_caches():
                    ref_cache.invalidate(tree.commit)
                raise

        return await self._fetches.run((tree, version), fetch_tree)

    # -- paths ------------------------------------------------------------------

    async def _real_paths(self) -> tuple[_RealPaths, str | None]:
        """
        Return the configured paths without symlinks, and the observed version of their files.

        The package set comes before the overlays, and the search path comes last.

        :raises SourceMissing: one does not exist.
        """
        # Read first: what is looked up after that is as old as this version, or newer.
        version = None if self._watch is None else await self._watch.settled_version()
        if self._known_paths is not None and self._known_paths[0] == version:
            return self._known_paths[1], version
        settings, source = self._settings, self._settings.source
        configured = [(path, _OVERLAY) for path in settings.overlays]
        configured += [(path, _ENTRY) for path in settings.search_path.paths]
        if isinstance(source, PathSource):
            configured.insert(0, (source.path, _PACKAGE_SET))
        if isinstance(source, FlakeSource) and source.kind == "path":
            configured.insert(0, (Path(source.location), _FLAKE))
        paths = tuple([await self._workers.run(_real_path, *each) for each in configured])
        if version is not None:
            self._known_paths = version, paths
        return paths, version


# -- on worker threads --------------------------------------------------------

_RealPaths = tuple[Path, ...]

_PACKAGE_SET = "package set"
_OVERLAY = "overlay"
_ENTRY = "entry of the search path"
_FLAKE = "flake"

_SETTINGS = {
    _OVERLAY: "overlays",
    _ENTRY: "nix_path or extra_paths",
    _FLAKE: "flake (NIXERY_FLAKE, --flake)",
}
"""The settings that say where others than the package set are."""


def _check_path(path: Path, kind: str) -> None:
    """
    Check that a path can be evaluated.

    :raises SourceMissing: there is nothing to evaluate at it.
    """
    if _real_path(path, kind).is_dir():
        _real_path(path / "default.nix", kind)


def _real_path(path: Path, kind: str) -> Path:
    """
    Resolve the symlinks of a path, which restricted evaluation refuses.

    :raises SourceMissing: the path does not exist.
    """
    try:
        return Path(os.path.realpath(path, strict=True))
    except OSError as error:
        reason = error.strerror or str(error)
        if kind in _SETTINGS:
            raise SourceMissing(
                path=str(path), reason=reason, kind=kind, setting=_SETTINGS[kind]
            ) from error
        raise SourceMissing(path=str(path), reason=reason) from error
