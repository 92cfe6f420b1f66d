"""
Collects the references of whole package sets from a channel, a store or a package set.

The references of a store path are known when it has been built: to the store that has it, and to a
binary cache. ``nixery-popcount`` can collect them from three sources.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from attrs import evolve, frozen
from twisted.web.client import HTTPConnectionPool

from nixery.cli.common import NullProgress
from nixery.cli.console import print_note
from nixery.cli.progress_bar import progress_bar
from nixery.config.config import Config
from nixery.image.closure import RuntimeGraph
from nixery.image.packages import Package
from nixery.nix.context import NixContext
from nixery.nix.interface import Nix
from nixery.nix.narinfo import parse_store_paths, store_names
from nixery.popularity.binary_cache import Crawler
from nixery.popularity.count import References
from nixery.popularity.decompress import decompress
from nixery.popularity.package_set import evaluate_all, realise_all
from nixery.popularity.reference_log import ReferenceLog
from nixery.runtime.http_download import Fetcher, make_fetcher
from nixery.runtime.workers import Workers
from nixery.wiring.nix import make_nix, make_nix_context, make_store_listing
from nixery.wiring.sources import fetch_package_set

__all__ = ["CACHE", "ReferenceCollector"]

CHANNELS = "https://channels.nixos.org"
CACHE = "https://cache.nixos.org"

MAX_LIST_BYTES = 512 * 1024**2
"""
Maximum size of a channel's list of store paths, unpacked, in bytes; that of nixpkgs has some 10 MB.
"""

LIST_TIMEOUT_SECONDS = 600.0
NARINFO_TIMEOUT_SECONDS = 30.0
"""Seconds that a download may take; a narinfo is tried again then."""

EVALUATION_TIMEOUT_SECONDS = 1800.0
"""Seconds: hundreds of packages are evaluated at once."""


@frozen(kw_only=True)
class ReferenceCollector:
    """
    Collects the references of package sets, and shows the progress on standard error.

    Each method returns the references, and their origin as a text for people.

    :param config: the daemon's configuration.
    :param connections: maximum number of concurrent requests to a binary cache.
    """

    config: Config
    # Any: the global reactor has no type.
    reactor: Any
    workers: Workers
    environ: Mapping[str, str]
    connections: int

    async def from_channel(self, channel: str, cache: str | None) -> tuple[References, str]:
        """
        Collect from all store paths that a channel lists, and their dependencies.

        :param channel: its name, or the URL of the list.
        :param cache: the URL of its binary cache, if it is another than nixpkgs'.
        :raises NixeryError: the list could not be fetched, or the cache failed.
        """
        url = channel if "://" in channel else f"{CHANNELS}/{channel}/store-paths.xz"
        with self._fetcher(LIST_TIMEOUT_SECONDS) as fetcher:
            packed = await fetcher.fetch(url, MAX_LIST_BYTES)
        listed = await self.workers.run(_read_list, packed)
        print_note(f"{url} lists {len(listed)} store paths")
        return await self._crawl(listed, cache or CACHE), f"channel {channel}"

    async def from_store(self, paths: Sequence[str]) -> tuple[References, str]:
        """
        Collect from this machine's store.

        :param paths: only these and their dependencies, if any are given.
        :raises NixUnusable: Nix failed, or does not know a path.
        """
        with self._nix_context(self.config) as context:
            nix = make_nix(context).nix
            await nix.check()
            if paths:
                roots: Sequence[str] = await self.workers.run(_resolve_links, paths)
            else:
                roots = await make_store_listing(context).all_paths()
            return _references(await nix.closure(roots)), "a Nix store"

    async def from_package_set(
        self, excluded: Sequence[str], *, realise: bool, cache: str | None
    ) -> tuple[References, str]:
        """
        Collect from all packages of the configured package set.

        :param excluded: attribute paths, or patterns of them, that are left out.
        :param realise: whether to build what is not in the store.
        :param cache: the URL of a binary cache that is asked in place of the store.
        :raises NixeryError: Nix or the cache failed.
        """
        nix_config, sources = self.config.nix, self.config.sources
        config = evolve(
            self.config,
            nix=evolve(
                nix_config, eval_timeout=max(nix_config.eval_timeout, EVALUATION_TIMEOUT_SECONDS)
            ),
        )
        source = f"{sources.source.describe()}, {sources.system}"
        with self._nix_context(config) as context:
            nix, listing = make_nix(context).nix, make_store_listing(context)
            await nix.check()
            package_set = await fetch_package_set(sources, self.reactor, context)
            # Patterns cannot keep Nix from evaluating an attribute that ends the evaluation; names
            # do.
            attributes = await listing.attributes(package_set, sources.system, excluded)
            selected = [name for name in attributes if not _matches(name, excluded)]
            with progress_bar("evaluating", lines=True) as bar:
                evaluated = await evaluate_all(
                    nix, package_set, sources.system, selected, bar.update
                )
            _print_names(evaluated.refused, "packages cannot be used")
            if realise:
                return await self._build_and_collect(nix, evaluated.packages), source
            outputs = sorted({each.path for item in evaluated.packages for each in item.outputs})
            if cache is not None:
                names = await self.workers.run(store_names, outputs)
                return await self._crawl(names, cache), source
            valid = await listing.valid(outputs)
            if len(valid) < len(outputs):
                print_note(
                    f"{len(outputs) - len(valid)} of {len(outputs)} outputs are not in the store"
                    " and are not counted: --realise builds them, --cache URL asks a binary cache"
                )
            return _references(await nix.closure(valid)), source

    async def _build_and_collect(self, nix: Nix, packages: Sequence[Package]) -> References:
        with progress_bar("building", lines=True) as bar:
            built = await realise_all(nix, packages, NullProgress(), bar.update)
        try:
            _print_names(built.failed, "packages failed to build")
            return _references(await nix.closure(built.outputs))
        finally:
            for realisation in built.realisations:
                await nix.release(realisation)

    async def _crawl(self, names: Sequence[str], cache: str) -> References:
        directory = self.config.storage.cache_directory / "popcount"
        with (
            ReferenceLog(directory, cache) as log,
            self._fetcher(NARINFO_TIMEOUT_SECONDS) as fetcher,
            progress_bar("asking the cache", lines=True) as bar,
        ):
            crawler = Crawler(
                cache=cache,
                fetch=fetcher.fetch,
                log=log,
                workers=self.workers,
                clock=self.reactor,
                progress=bar.update,
                connections=self.connections,
            )
            found = await crawler.crawl(names)
        _print_names(found.missing, f"store paths are not in {cache}")
        _print_names(found.unusable, "store paths have descriptions that cannot be used")
        return found.references

    @contextmanager
    def _nix_context(self, config: Config) -> Iterator[NixContext]:
        # The roots of a daemon on this machine belong to it alone.
        with tempfile.TemporaryDirectory(prefix="nixery-popcount-") as directory:
            yield make_nix_context(
                config,
                self.workers,
                self.reactor,
                self.environ,
                state_directory=Path(directory),
            )

    @contextmanager
    def _fetcher(self, timeout: float) -> Iterator[Fetcher]:
        pool = HTTPConnectionPool(self.reactor)
        pool.maxPersistentPerHost = self.connections
        try:
            yield make_fetcher(self.reactor, self.workers, self.environ, timeout=timeout, pool=pool)
        finally:
            pool.closeCachedConnections()


def _read_list(packed: bytes) -> tuple[str, ...]:
    return parse_store_paths(decompress(packed, MAX_LIST_BYTES))


def _resolve_links(paths: Sequence[str]) -> list[str]:
    """Resolve ``result`` links and profiles to store paths."""
    return [os.path.realpath(path) for path in paths]


def _references(graph: RuntimeGraph) -> References:
    return {
        _base_name(path.path): [_base_name(used.path) for used in info.references]
        for path, info in graph.paths.items()
    }


def _base_name(path: str) -> str:
    return path.rpartition("/")[2]


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _print_names(names: Sequence[str], description: str, limit: int = 5) -> None:
    if names:
        rest = f" and {len(names) - limit} more" if len(names) > limit else ""
        print_note(f"{len(names)} {description}: {', '.join(names[:limit])}{rest}")
