"""Real Nix: the price of an image before it is pulled, beside a binary cache in a directory."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from nixery.builds.builder import Builder
from nixery.builds.candidates import CandidateSearch
from nixery.builds.image_cache import ImageCache
from nixery.builds.pipeline import ImagePipeline
from nixery.builds.settings import ImageSettings
from nixery.builds.tracker import BuildTracker
from nixery.image.errors import PackagesRefused
from nixery.image.names import Tag, parse_image_name
from nixery.inspection.catalog import ImageCatalog
from nixery.inspection.estimate import Accuracy, PlatformEstimate, StorePlan
from nixery.inspection.estimator import Estimator
from nixery.inspection.image_comparer import ImageComparer
from nixery.layers.plan import LayerSettings, Popularity
from nixery.layers.tarball import Compression
from nixery.nix.commands import NixCommands
from nixery.nix.dry_run import DryRunner
from nixery.runtime.clocks import SystemWallClock
from nixery.runtime.data_files import nix_directory
from nixery.testing.fakes import FakeSources, InlineWorkers
from nixery.testing.memory_storage import MemoryStorage
from tests.integration.nixenv import (
    make_nix,
    make_nix_context,
    nix_environment,
    nix_missing,
    path_set,
)
from tests.integration.test_nix import SYSTEM, Recorder

CHAIN = Path(__file__).resolve().parent / "sets" / "chain"

LATEST = Tag("latest")


def copy_to_cache(paths: Sequence[str], cache: Path) -> None:
    """Copy store paths and what they refer to into a binary cache."""
    subprocess.run(
        [
            *("nix", "--extra-experimental-features", "nix-command"),
            *("copy", "--to", cache.as_uri(), *paths),
        ],
        env=nix_environment(),
        check=True,
        capture_output=True,
    )


class EstimateTests(TestCase):
    """
    A store of the test's own beside a cache that has ``tool`` and what it refers to.

    Nothing can be built in such a store, which is not at its place: so nothing is by mistake.
    """

    timeout = 120
    skip = nix_missing()

    # Trial waits for the result, which unittest's type does not know.
    def setUp(self) -> Deferred[None]:  # type: ignore[override]
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.salt = uuid4().hex
        self.store = self.directory / "root" / "nix" / "store"
        return Deferred.fromCoroutine(self.prepare(self.directory / "cache"))

    async def prepare(self, cache: Path) -> None:
        await self.fill(cache)
        self.use_cache(cache.as_uri())

    def use_cache(self, url: str) -> None:
        """Use one binary cache from now on."""
        lines = (
            *("build-users-group =", "require-sigs = false", "download-attempts = 1"),
            f"substituters = {url}",
        )
        environ = nix_environment() | {
            "NIX_REMOTE": f"local?root={self.directory / 'root'}",
            "NIX_CONFIG": "\n".join(lines),
        }
        self.context = make_nix_context(self.directory, environ=environ, config={"salt": self.salt})
        self.nix = NixCommands(self.context, resolve=nix_directory() / "resolve.nix")
        self.addCleanup(lambda: Deferred.fromCoroutine(self.nix.stop()))
        self.estimator = self.make_estimator()

    async def fill(self, cache: Path) -> None:
        """Build ``tool`` in the machine's own store, and copy it to a cache."""
        own = make_nix(self.directory, config={"salt": self.salt})
        name = parse_image_name("tool", SYSTEM)
        evaluation = await own.evaluate(path_set(CHAIN), SYSTEM, name.package_requests)
        realisation = await own.realise(evaluation.packages, Recorder())
        copy_to_cache(realisation.outputs, cache)
        await own.release(realisation)
        await own.stop()

    def make_estimator(self) -> Estimator:
        clock, workers = cast(Any, reactor), InlineWorkers()
        storage = MemoryStorage()
        cache = ImageCache(storage=storage, seconds=clock.seconds)
        sources = FakeSources.at_path(CHAIN)
        pipeline = ImagePipeline(
            sources=sources,
            nix=self.nix,
            storage=storage,
            image_cache=cache,
            cpu=workers,
            max_batches=2,
            compression=Compression(),
            clock=clock,
            store_directory=str(self.store),
        )
        builder = Builder(
            pipeline=pipeline,
            settings=ImageSettings(
                layers=LayerSettings(), popularity=Popularity(), compression=Compression()
            ),
            failure_cache_ttl=60,
        )
        catalog = ImageCatalog(
            storage=storage,
            image_cache=cache,
            cpu=workers,
            clock=clock,
            wall_clock=SystemWallClock(),
        )
        return Estimator(
            sources=sources,
            builder=builder,
            dry_runner=DryRunner(self.context),
            catalog=catalog,
            comparer=ImageComparer(catalog=catalog, storage=storage, cpu=workers),
            candidates=CandidateSearch(workers=workers, seconds=clock.seconds),
        )

    def outputs(self) -> set[str]:
        """Return the names of the store's paths without those that an evaluation writes."""
        if not self.store.exists():
            return set()
        return {
            path.name.partition("-")[2]
            for path in self.store.iterdir()
            if path.suffix != ".drv" and not path.name.startswith(".")
        }

    async def estimate(self, name: str) -> PlatformEstimate:
        """Estimate an image; nothing is built or downloaded, and no root is left."""
        before = self.outputs()
        found = await self.estimator.estimate("alice", parse_image_name(name, SYSTEM), LATEST)
        self.assertEqual(before, self.outputs())
        roots = self.directory / "state" / "gcroots"
        self.assertEqual([], [*roots.iterdir()] if roots.exists() else [])
        [platform] = found.platforms
        return platform

    async def realise(self, name: str) -> None:
        """Make an image's packages valid, which the cache has."""
        parsed = parse_image_name(name, SYSTEM)
        evaluation = await self.nix.evaluate(path_set(CHAIN), SYSTEM, parsed.package_requests)
        await self.nix.release(await self.nix.realise(evaluation.packages, Recorder()))

    async def test_downloads_are_told_with_their_sizes(self) -> None:
        """Packages that a cache has are downloads; their sizes give a lower bound of the image."""
        found = await self.estimate("tool")
        store = found.store
        assert store is not None
        self.assertTrue(store.known)
        self.assertEqual({"base-1", "tool-1"}, set(store.fetched_names))
        self.assertEqual(((), ()), (store.built, store.unavailable))
        self.assertIsNotNone(store.unpacked_size)
        self.assertIn(found.pull.accuracy, (Accuracy.LOWER_BOUND, Accuracy.UNKNOWN))

    async def test_builds_are_told_with_the_downloads_that_they_need(self) -> None:
        """A package that no cache has is a build, with downloads, and of an unknown size."""
        store = (await self.estimate("app")).store
        assert store is not None
        self.assertEqual(("app-1",), store.built_names)
        self.assertEqual({"base-1", "tool-1"}, set(store.fetched_names))

    async def test_cache_that_does_not_answer_is_told(self) -> None:
        """A cache that cannot be reached is told, beside the builds that it may save."""
        # The discard service, where nothing listens.
        self.use_cache("http://127.0.0.1:9")
        store = (await self.estimate("tool")).store
        assert store is not None
        self.assertEqual(("http://127.0.0.1:9",), store.unreachable)
        self.assertEqual(("base-1", "tool-1"), store.built_names)
        self.assertEqual((), store.fetched)

    async def test_valid_closure_is_planned_to_the_layer(self) -> None:
        """If the store has all, the layers are planned; nothing is downloaded or built."""
        await self.realise("tool")
        found = await self.estimate("tool")
        self.assertEqual(StorePlan(all_valid=True, valid_paths=2), found.store)
        self.assertIs(Accuracy.ESTIMATE, found.pull.accuracy)
        both = (await self.estimate("app")).store
        assert both is not None
        self.assertEqual((("app-1",), ()), (both.built_names, both.fetched))
        half = await self.estimate("tool/app")
        assert half.store is not None
        self.assertEqual(2, half.store.valid_paths)

    async def test_stored_image_has_the_planned_layers(self) -> None:
        """An image is ready once it is stored, with as many layers as were planned."""
        await self.realise("tool")
        planned = await self.estimate("tool")
        builder = self.estimator.builder
        name = parse_image_name("tool", SYSTEM)
        request = await builder.request(name, await self.estimator.sources.resolve(LATEST))
        tracker = BuildTracker(clock=cast(Any, reactor), wall_clock=SystemWallClock())
        progress = tracker.begin(name, LATEST)
        image = await builder.build(request, await builder.evaluate(request, progress), progress)
        progress.succeed(image.manifests[0].digest)
        found = await self.estimate("tool")
        self.assertTrue(found.ready)
        self.assertEqual(image.manifests[0].digest, found.digest)
        self.assertEqual(planned.pull.layers, found.pull.layers)
        self.assertIs(Accuracy.EXACT, found.pull.accuracy)
        await builder.pipeline.stop()

    async def test_misspelt_name_is_the_error_of_a_pull(self) -> None:
        """A misspelt name is refused with the names that may have been meant."""
        with self.assertRaises(PackagesRefused) as caught:
            await self.estimate("tol")
        self.assertIn("tool", caught.exception.message)
