"""Tests for :mod:`nixery.inspection.estimator`, over the verified fakes of the build pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred

from nixery.builds.candidates import CandidateSearch
from nixery.builds.settings import BuildLimits
from nixery.errors import NixeryError, UnexpectedOutput
from nixery.image.errors import PackagesRefused
from nixery.image.names import Tag, parse_image_name
from nixery.image.packages import Evaluation, Package
from nixery.image.patterns import parse_patterns
from nixery.inspection.catalog import ImageCatalog
from nixery.inspection.errors import ImageNotPulled
from nixery.inspection.estimate import (
    MAX_NAMES,
    UNKNOWN_SIZE,
    Accuracy,
    Estimate,
    Held,
    StorePlan,
    names_of,
)
from nixery.inspection.estimator import MAX_RUNNING, MAX_WAITING, Estimator
from nixery.inspection.image_comparer import ImageComparer
from nixery.inspection.pull_sizes import DEFAULT_RATIOS
from nixery.limits.errors import ImageTooLarge, PackagesDenied, QueueFull
from nixery.limits.package_rules import PackageRules
from nixery.nix.dry_run import DryRun
from nixery.pulls.tag_records import SERVED, tag_record_key
from nixery.sources.errors import UnknownRevision
from nixery.sources.source import path_revision
from nixery.testing.fakes import FakeNix, FakeWallClock, InlineWorkers, store_path
from tests.support.builds import LATEST, BuilderCase

SYSTEM = "x86_64-linux"
NAME = "bash/git"


class FakeDryRunner:
    """Answers as it is told to."""

    def __init__(self) -> None:
        self.answer: DryRun | NixeryError = DryRun()
        self.asked: list[list[str]] = []

    async def dry_run(self, packages: Sequence[Package]) -> DryRun:
        self.asked.append([package.attribute for package in packages])
        if isinstance(self.answer, NixeryError):
            raise self.answer
        return self.answer


class EstimatorCase(BuilderCase):
    """An estimator over the fakes."""

    def setUp(self) -> None:
        super().setUp()
        self.nix.can_root_valid_paths = True
        self.dry_runner = FakeDryRunner()
        self.catalog = ImageCatalog(
            storage=self.storage,
            image_cache=self.builder.pipeline.image_cache,
            cpu=InlineWorkers(),
            clock=self.clock,
            wall_clock=FakeWallClock(self.clock),
        )
        self.estimator = self.make_estimator()

    def make_estimator(self, *, skips_missing_platforms: bool = True) -> Estimator:
        return Estimator(
            sources=self.sources,
            builder=self.builder,
            dry_runner=self.dry_runner,
            catalog=self.catalog,
            comparer=ImageComparer(catalog=self.catalog, storage=self.storage, cpu=InlineWorkers()),
            candidates=CandidateSearch(workers=InlineWorkers(), seconds=self.clock.seconds),
            skips_missing_platforms=skips_missing_platforms,
        )

    def ask(
        self, name: str = NAME, having: Held | None = None, *, platforms: Sequence[str] = ()
    ) -> Deferred[Estimate]:
        parsed = parse_image_name(name, SYSTEM, platforms)
        return Deferred.fromCoroutine(self.estimator.estimate("alice", parsed, LATEST, having))

    def estimate(
        self, name: str = NAME, having: str | None = None, *, platforms: Sequence[str] = ()
    ) -> Estimate:
        held = None if having is None else Held(parse_image_name(having, SYSTEM), LATEST)
        found = self.successResultOf(self.ask(name, held, platforms=platforms))
        # Nothing was built, and nothing is kept from garbage collection.
        self.assertEqual(set(), {root for root in self.nix.roots if root.startswith("held")})
        return found

    def pin(self) -> None:
        """Make the tag mean a commit."""
        self.sources.revisions[LATEST] = path_revision(Path(store_path("set").path))

    def paths_of(self, *attributes: str) -> list[str]:
        return sorted(each.path.path for each in self.nix.packages if each.attribute in attributes)

    def derivations(self, *attributes: str) -> tuple[str, ...]:
        return tuple(f"{path}.drv" for path in self.paths_of(*attributes))


class ReadyTests(EstimatorCase):
    """Images that are stored."""

    def test_stored_image_is_ready_with_exact_sizes(self) -> None:
        """The estimate of a stored image has the layers and the bytes of its manifest."""
        image = self.build(NAME)
        builds, roots = len(self.nix.realisations), len(self.nix.rooted)
        found = self.estimate()
        _, *layers = image.manifests[0].blobs()
        self.assertTrue(found.ready)
        own = found.own
        self.assertEqual(image.manifests[0].digest, own.digest)
        self.assertEqual(len(layers), own.pull.layers)
        self.assertEqual(sum(layer.size for layer in layers), own.pull.size)
        self.assertIs(Accuracy.EXACT, own.pull.accuracy)
        self.assertIsNone(own.store)
        self.assertIsNone(own.shared)
        self.assertEqual((builds, roots), (len(self.nix.realisations), len(self.nix.rooted)))
        self.assertEqual([], self.dry_runner.asked)

    def test_image_of_a_commit_is_found_without_an_evaluation(self) -> None:
        """A commit that an image was built of is not evaluated again."""
        self.pin()
        self.build(NAME)
        evaluations = len(self.nix.evaluations)
        found = self.estimate()
        self.assertTrue(found.ready)
        self.assertIsNone(found.own.evaluation)
        self.assertEqual(evaluations, len(self.nix.evaluations))

    def test_estimate_keeps_no_image_in_the_storage(self) -> None:
        """An estimate does not count as a use of what is stored."""
        self.build(NAME)
        self.restart()
        self.estimator = self.make_estimator()
        used: list[bool] = []
        missing = self.storage.missing

        async def note(digests, *, record_use=True):  # type: ignore[no-untyped-def]
            used.append(record_use)
            return await missing(digests, record_use=record_use)

        self.patch(self.storage, "missing", note)
        self.assertTrue(self.estimate().ready)
        self.assertIn(False, used)
        self.assertNotIn(True, used)

    def test_layers_of_an_image_that_the_client_has_are_shared(self) -> None:
        """The layers that both images have are those of the manifests."""
        one, other = self.build(NAME), self.build("bash")
        held = {layer.digest for layer in other.manifests[0].blobs()[1:]}
        both = [layer for layer in one.manifests[0].blobs()[1:] if layer.digest in held]
        shared = self.estimate(having="bash").own.shared
        assert shared is not None
        self.assertTrue(both)
        self.assertEqual((len(both), sum(each.size for each in both)), (shared.layers, shared.size))
        self.assertIs(Accuracy.EXACT, shared.accuracy)
        itself = self.estimate(having=NAME).own
        self.assertEqual(itself.pull, itself.shared)

    def test_image_of_the_client_may_be_named_by_its_digest(self) -> None:
        """A digest that was served under the name is found, and no other."""
        image = self.build(NAME)
        name = parse_image_name(NAME, SYSTEM)
        held = Held(name, image.manifests[0].digest)
        found = self.successResultOf(self.ask(having=held))
        self.assertEqual(found.own.pull, found.own.shared)
        self.assertEqual(f"{NAME}@{image.manifests[0].digest}", found.json()["with"])
        other = Held(parse_image_name("git", SYSTEM), image.manifests[0].digest)
        self.failureResultOf(self.ask(having=other), ImageNotPulled)

    def test_image_that_was_never_pulled_cannot_be_compared_with(self) -> None:
        """An image that the registry does not know is an error that names it."""
        self.build(NAME)
        held = Held(parse_image_name("hello", SYSTEM), LATEST)
        failure = self.failureResultOf(self.ask(having=held), ImageNotPulled)
        self.assertIn("hello:latest", failure.value.message)


class ValidTests(EstimatorCase):
    """Images whose closure is in the Nix store."""

    def setUp(self) -> None:
        super().setUp()
        self.build(NAME)
        self.digests = {each.digest for each in self.build(NAME).manifests[0].blobs()[1:]}

    def forget_images(self) -> None:
        """Remove the records of images, and keep the layers."""
        for key in self.now(self.storage.list_records("image")):
            self.now(self.storage.delete_record("image", key))
        self.restart()
        self.estimator = self.make_estimator()

    def forget_layers(self) -> None:
        for key in self.now(self.storage.list_records("layer")):
            self.now(self.storage.delete_record("layer", key))

    def test_plan_of_stored_layers_is_exact(self) -> None:
        """An image whose layers are all stored is priced as its manifest would be."""
        before = self.estimate().own
        self.forget_images()
        found = self.estimate().own
        self.assertFalse(found.ready)
        self.assertEqual(before.pull, found.pull)
        self.assertEqual(StorePlan(all_valid=True, valid_paths=4), found.store)
        self.assertEqual([], self.dry_runner.asked)

    def test_layers_that_are_not_packed_are_estimated(self) -> None:
        """Without the layers, their number is exact, and the size is estimated."""
        before = self.estimate().own.pull
        self.forget_images()
        self.forget_layers()
        found = self.estimate().own.pull
        self.assertIs(Accuracy.ESTIMATE, found.accuracy)
        self.assertEqual(before.layers, found.layers)
        assert found.size is not None
        self.assertGreater(found.size, 1000 * DEFAULT_RATIOS["gzip"])
        self.assertNotEqual(before.size, found.size)

    def test_valid_closure_that_is_too_large_is_refused(self) -> None:
        """A closure over the limit is the error of a pull."""
        self.forget_images()
        self.limits = BuildLimits(max_closure_size=1000)
        self.restart()
        self.estimator = self.make_estimator()
        self.failureResultOf(self.ask(), ImageTooLarge)
        self.assertEqual([], self.dry_runner.asked)

    def test_stored_layers_of_the_client_s_image_are_shared(self) -> None:
        """The records of layers tell what the client has of an image that is to be built."""
        self.build("hello")
        # The image of bash and git is to be built again; that of hello is there.
        served = tag_record_key(parse_image_name(NAME, SYSTEM), LATEST)
        key = self.now(self.storage.get_record(SERVED, served))
        assert key is not None
        self.now(self.storage.delete_record("image", key.decode()))
        self.restart()
        self.estimator = self.make_estimator()
        self.catalog.image_cache = self.builder.pipeline.image_cache
        found = self.estimate(having="hello").own
        self.assertFalse(found.ready)
        assert found.shared is not None
        self.assertEqual(1, found.shared.layers)
        self.assertIs(Accuracy.EXACT, found.shared.accuracy)


class UnbuiltTests(EstimatorCase):
    """Images that have to be downloaded or built by Nix."""

    def test_builds_and_downloads_are_those_of_the_dry_run(self) -> None:
        """The estimate has Nix's figures; with builds, the size of the image is not known."""
        [drv] = self.derivations("git")
        fetched = store_path("gcc-13").path
        self.dry_runner.answer = DryRun(
            builds=(drv,),
            fetches=(fetched, *self.paths_of("bash")),
            download_size=1000,
            unpacked_size=5000,
            unreachable=("https://cache.example",),
        )
        found = self.estimate().own
        self.assertFalse(found.ready)
        store = found.store
        assert store is not None
        self.assertEqual(("git-1.0",), store.built_names)
        self.assertEqual(("gcc-13", "bash-1.0"), store.fetched_names)
        self.assertEqual((1000, 5000), (store.download_size, store.unpacked_size))
        self.assertEqual(("https://cache.example",), store.unreachable)
        self.assertEqual([["bash", "cacert", "git"]], self.dry_runner.asked)
        self.assertEqual([], self.nix.realisations)

    def test_downloads_alone_give_a_lower_bound(self) -> None:
        """If nothing is built, the downloads are the closure, apart from what is valid."""
        self.dry_runner.answer = DryRun(
            fetches=tuple(self.paths_of("bash", "cacert", "git", "glibc")),
            download_size=400_000,
            unpacked_size=1_000_000,
        )
        pull = self.estimate().own.pull
        self.assertIs(Accuracy.LOWER_BOUND, pull.accuracy)
        self.assertEqual(round(1_000_000 * DEFAULT_RATIOS["gzip"]), pull.size)
        self.assertIsNone(pull.layers)

    def test_valid_outputs_count_with_their_closure(self) -> None:
        """Outputs that are valid already are counted, with all that they need."""
        self.build("bash")
        self.dry_runner.answer = DryRun(builds=self.derivations("git"))
        found = self.estimate().own
        assert found.store is not None
        self.assertEqual(3, found.store.valid_paths)
        self.assertIs(Accuracy.LOWER_BOUND, found.pull.accuracy)

    def test_builds_are_not_available_where_nothing_is_built(self) -> None:
        """A registry that only downloads tells what no cache has as not available."""
        self.estimator.substitute_only = True
        self.dry_runner.answer = DryRun(builds=self.derivations("git"))
        store = self.estimate().own.store
        assert store is not None
        self.assertEqual(((), ("git-1.0",)), (store.built, store.unavailable_names))

    def test_image_that_would_be_too_large_is_refused_as_a_pull_is(self) -> None:
        """An image over the limit is the error of a pull, valid or not."""
        self.limits = BuildLimits(max_closure_size=1000)
        self.restart()
        self.estimator = self.make_estimator()
        answer = DryRun(fetches=tuple(self.paths_of("git")), download_size=10, unpacked_size=2000)
        self.dry_runner.answer = answer
        self.failureResultOf(self.ask(), ImageTooLarge)
        self.dry_runner.answer = evolve(answer, unpacked_size=900)
        self.successResultOf(self.ask())

    def test_nothing_known_is_no_number(self) -> None:
        """If all is built, nothing is known of the image's size."""
        self.dry_runner.answer = DryRun(builds=self.derivations("bash", "cacert", "git"))
        self.assertEqual(UNKNOWN_SIZE, self.estimate().own.pull)

    def test_answer_that_is_not_understood_is_told_as_unknown(self) -> None:
        """An answer of Nix that is not understood gives no number at all."""
        self.dry_runner.answer = UnexpectedOutput(what="a line", excerpt="4 paths will be copied")
        found = self.estimate().own
        assert found.store is not None
        self.assertFalse(found.store.known)
        data = found.store.json()
        fetched, built = data["fetched"], data["built"]
        assert isinstance(fetched, dict)
        assert isinstance(built, dict)
        self.assertEqual(
            [None] * 5,
            [
                data["valid_paths"],
                fetched["paths"],
                fetched["download_size"],
                fetched["unpacked_size"],
                built["derivations"],
            ],
        )
        self.assertEqual(UNKNOWN_SIZE, found.pull)

    def test_caches_that_do_not_answer_are_told_without_numbers(self) -> None:
        """If Nix gives up because of a cache, the cache is told and all else is unknown."""
        caches = ("https://a.example",)
        self.dry_runner.answer = DryRun(known=False, unreachable=caches)
        store = self.estimate().own.store
        assert store is not None
        self.assertEqual((False, caches), (store.known, store.unreachable))
        self.assertIsNone(store.json()["valid_paths"])

    def test_collected_derivations_are_told_as_unknown(self) -> None:
        """Derivations that a garbage collection took are not told as unavailable packages."""
        self.dry_runner.answer = DryRun(unavailable=self.derivations("git"))
        store = self.estimate().own.store
        assert store is not None
        self.assertFalse(store.known)
        self.assertEqual((), store.unavailable)


class RequestTests(EstimatorCase):
    """Images that may be estimated, and the clients that may do so."""

    def test_misspelt_names_are_refused_as_a_pull_refuses_them(self) -> None:
        """A package that does not exist, or is not served, is the error of a pull."""
        self.failureResultOf(self.ask("gti"), PackagesRefused)
        self.builder.package_rules = PackageRules(denied=parse_patterns(["git"]))
        self.failureResultOf(self.ask("git"), PackagesDenied)

    def test_tag_that_names_no_revision_is_refused(self) -> None:
        """A tag is resolved as that of a pull."""
        name = parse_image_name(NAME, SYSTEM)
        asked = Deferred.fromCoroutine(self.estimator.estimate("alice", name, Tag("none")))
        self.failureResultOf(asked, UnknownRevision)

    def test_estimates_wait_for_their_turn_and_leave_with_their_client(self) -> None:
        """Few estimates evaluate at once; others wait, and a client that leaves frees a turn."""
        cancelled: list[None] = []
        waiting: list[Deferred[Evaluation]] = []

        async def evaluate(_nix: FakeNix, *_: object) -> Evaluation:
            waiting.append(Deferred(lambda _: cancelled.append(None)))
            return await waiting[-1]

        self.patch(FakeNix, "evaluate", evaluate)
        asked = [self.ask() for _ in range(MAX_RUNNING + MAX_WAITING)]
        self.assertEqual(MAX_RUNNING, len(waiting))
        self.failureResultOf(self.ask(), QueueFull)
        asked[0].cancel()
        self.failureResultOf(asked[0], CancelledError)
        self.assertEqual([None], cancelled)
        self.assertEqual(MAX_RUNNING + 1, len(waiting))
        for each in asked[1:]:
            each.addErrback(lambda _: None)
            each.cancel()


class PlatformTests(EstimatorCase):
    """Indexes."""

    PLATFORMS = (SYSTEM, "aarch64-linux")

    def test_each_platform_has_its_price(self) -> None:
        """Platforms are priced one by one: one is ready, another is to be built."""
        evaluate = FakeNix.evaluate

        async def for_system(nix, package_set, system, requests):  # type: ignore[no-untyped-def]
            return evolve(await evaluate(nix, package_set, system, requests), system=system)

        self.patch(FakeNix, "evaluate", for_system)
        self.pin()
        self.build(NAME)
        self.nix.can_root_valid_paths = False
        self.dry_runner.answer = DryRun(builds=self.derivations("git"))
        found = self.estimate(platforms=self.PLATFORMS)
        self.assertEqual(["amd64", "arm64"], [each.platform for each in found.platforms])
        self.assertEqual([True, False], [each.ready for each in found.platforms])
        self.assertFalse(found.ready)
        self.assertIs(found.platforms[0], found.own)
        assert found.platforms[1].store is not None
        self.assertEqual(("git-1.0",), found.platforms[1].store.built_names)

    def test_missing_platform_is_told_with_its_reason(self) -> None:
        """A platform without the package is left out, as in the index; not so if all are needed."""
        evaluate = FakeNix.evaluate

        async def one_only(nix, package_set, system, requests):  # type: ignore[no-untyped-def]
            if system != SYSTEM:
                requests = [evolve(item, name="none") for item in requests]
            return await evaluate(nix, package_set, system, requests)

        self.patch(FakeNix, "evaluate", one_only)
        found = self.estimate(platforms=self.PLATFORMS)
        self.assertEqual("", found.own.missing)
        self.assertIn("there is no package none", found.platforms[1].missing)
        self.estimator = self.make_estimator(skips_missing_platforms=False)
        self.failureResultOf(self.ask(platforms=self.PLATFORMS), PackagesRefused)

    def test_index_without_any_platform_is_an_error(self) -> None:
        """If no platform has the package, the error is that of the first."""
        self.failureResultOf(self.ask("none", platforms=self.PLATFORMS), PackagesRefused)


class NamesTests(EstimatorCase):
    """Names of many store paths."""

    def test_only_the_first_names_are_told_and_all_are_counted(self) -> None:
        """A long list is cut, its number is not."""
        paths = tuple(store_path(f"p{number}-1.drv").path for number in range(50))
        self.assertEqual(MAX_NAMES, len(names_of(paths)))
        self.dry_runner.answer = DryRun(builds=paths)
        store = self.estimate().own.store
        assert store is not None
        built = store.json()["built"]
        assert isinstance(built, dict)
        self.assertEqual((50, MAX_NAMES), (built["derivations"], len(built["names"])))
