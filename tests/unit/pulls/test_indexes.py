"""Tests for indexes: one tag for the images of several platforms, in :mod:`nixery.pulls.images`."""

from __future__ import annotations

import json
from collections.abc import Sequence

from attrs import define, evolve, field
from twisted.internet.defer import Deferred

from nixery.builds.views import BuildState
from nixery.errors import NixeryError
from nixery.image.errors import PackageProblem, PackagesRefused, ProblemKind
from nixery.image.image_index import ImageIndex
from nixery.image.manifests import Image
from nixery.image.names import PackageRequest, Tag, parse_image_name
from nixery.image.packages import Evaluation, Package
from nixery.limits.build_quota import BuildQuota
from nixery.limits.errors import BuildsExceeded
from nixery.nix.errors import EvaluationTimedOut, WrongSystem
from nixery.nix.interface import Realisation
from nixery.nix.progress import Progress
from nixery.process.errors import CommandOutput
from nixery.pulls.images import ImageService
from nixery.pulls.incomplete_indexes import ATTEMPT_WAIT_SECONDS
from nixery.pulls.repository_blobs import RepositoryBlobs
from nixery.sources.source import PackageSet, Revision
from nixery.storage.errors import StorageFull
from nixery.testing.fakes import FakeNix
from tests.support.builds import FAILURE, LATEST, PACKAGES, BuilderCase

AMD64, ARM64 = "x86_64-linux", "aarch64-linux"

NO_BUILDER = WrongSystem(
    derivation="/nix/store/x.drv",
    required=ARM64,
    available=AMD64,
    output=CommandOutput(argv=("nix-build",), status=1),
)

UNSUPPORTED = PackagesRefused(
    problems=(
        PackageProblem(
            name="hello", kind=ProblemKind.UNSUPPORTED, message="hello is not for aarch64-linux"
        ),
    )
)

TIMED_OUT = EvaluationTimedOut(names=("hello",), seconds=1.0, setting="eval_timeout")


@define(kw_only=True, eq=False)
class SystemsNix(FakeNix):
    """
    A Nix whose derivations are of one system each.

    :param refusals: the errors that evaluations fail with, by system.
    :param failures: the errors that builds fail with, by system.
    :param gates: hold up builds, by system.
    """

    refusals: dict[str, NixeryError] = field(factory=dict)
    failures: dict[str, NixeryError] = field(factory=dict)
    gates: dict[str, Deferred[None]] = field(factory=dict)

    async def evaluate(
        self, package_set: PackageSet, system: str, requests: Sequence[PackageRequest]
    ) -> Evaluation:
        evaluation = await super().evaluate(package_set, system, requests)
        if system in self.refusals:
            raise self.refusals[system]
        return evolve(
            evaluation,
            packages=tuple(
                evolve(package, derivation=f"{package.derivation}-{system}")
                for package in evaluation.packages
            ),
        )

    async def realise(self, packages: Sequence[Package], progress: Progress) -> Realisation:
        for system, gate in self.gates.items():
            if any(package.derivation.endswith(system) for package in packages):
                await gate
        for system, error in self.failures.items():
            if any(package.derivation.endswith(system) for package in packages):
                self.realisations.append(tuple(package.attribute for package in packages))
                raise error
        return await super().realise(packages, progress)


class IndexCase(BuilderCase):
    """A registry that serves two platforms, of a source that is resolved to commits."""

    skips = True

    def setUp(self) -> None:
        super().setUp()
        self.nix = self.systems = SystemsNix(store=self.directory / "store", packages=PACKAGES)
        self.sources.revisions = {"latest": self.commit("one")}
        self.restart()

    def commit(self, name: str) -> Revision:
        return Revision(
            identity={"kind": "git", "url": "file:///set", "commit": name}, pinned=True, label=name
        )

    def make_service(self) -> ImageService:
        return evolve(super().make_service(), skips_missing_platforms=self.skips)

    def request(self, name: str, tag: Tag = LATEST, *, is_head: bool = False) -> Deferred[Image]:
        parsed = parse_image_name(name, AMD64, (AMD64, ARM64))
        image = Deferred.fromCoroutine(self.service.get_image(parsed, tag, is_head=is_head))
        self.requests.append(image)
        return image

    def index(self, name: str = "hello") -> ImageIndex:
        image = self.build(name)
        assert isinstance(image, ImageIndex)
        return image


class IndexTests(IndexCase):
    """Indexes whose platforms can all be had."""

    def test_both_platforms(self) -> None:
        """A tag without an architecture is an index of the images that the architectures choose."""
        index = self.index()
        self.assertEqual(list(index.images), [AMD64, ARM64])
        self.assertEqual(index.skipped, {})
        for name, system in (("amd64/hello", AMD64), ("arm64/hello", ARM64)):
            self.assertEqual(self.build(name), index.images[system])
        self.assertEqual((len(self.nix.evaluations), len(self.nix.realisations)), (2, 2))
        self.assertEqual(self.now(self.storage.missing(index.digests)), frozenset())

    def test_a_warm_pull_does_not_run_nix(self) -> None:
        """The request alone identifies the index, also for another process, in the same bytes."""
        first = self.index()
        self.assertIs(self.build("multi/hello"), first)
        self.restart()
        self.assertEqual(self.index(), first)
        self.assertEqual(len(self.nix.evaluations), 2)

    def test_platforms_that_were_built_alone(self) -> None:
        """The image of a platform that was built alone is part of the index."""
        arm64 = self.build("arm64/hello")
        self.assertEqual(self.index().images[ARM64], arm64)
        self.assertEqual((len(self.nix.evaluations), len(self.nix.realisations)), (2, 2))

    def test_one_build(self) -> None:
        """One build shows what is done for all platforms, beside each other."""
        gates: list[Deferred[None]] = []

        def wait() -> Deferred[None]:
            gates.append(Deferred())
            return gates[-1]

        self.nix.before_realise = wait
        asked, again = self.request("hello"), self.request("multi/hello")
        self.assertEqual(len(gates), 2)
        [build] = self.tracker.overview()
        self.assertEqual((build.image, build.state), ("hello", BuildState.RUNNING))
        self.assertEqual(build.describe_activity(), "amd64: building; arm64: building")
        gates[0].callback(None)
        [build] = self.tracker.overview()
        self.assertEqual(build.describe_activity(), "amd64: done; arm64: building")
        self.assertNoResult(asked)
        gates[1].callback(None)
        index = self.successResultOf(asked)
        self.assertIs(self.successResultOf(again), index)
        [build] = self.tracker.overview()
        self.assertEqual(
            (build.state, build.digest), (BuildState.SUCCEEDED, index.manifests[0].digest)
        )

    def test_a_platform_that_is_being_built(self) -> None:
        """The build of a platform that another client waits for is joined, and shown."""
        gate: Deferred[None] = Deferred()
        self.nix.before_realise = lambda: gate
        alone = self.request("arm64/hello")
        asked = self.request("hello")
        build = self.tracker.pin(parse_image_name("hello", AMD64, (AMD64, ARM64)), LATEST)
        assert build is not None
        self.assertEqual(build.describe_activity(), "amd64: building; arm64: building")
        gate.callback(None)
        index = self.successResultOf(asked)
        assert isinstance(index, ImageIndex)
        self.assertEqual(self.successResultOf(alone), index.images[ARM64])
        self.assertEqual(len(self.nix.realisations), 2)

    def test_the_log_names_the_platform(self) -> None:
        """A line of the log says which platform it is about."""
        name = parse_image_name("hello", AMD64, (AMD64, ARM64))
        build = self.tracker.begin(name, LATEST).pin()
        build.part(name.for_system(ARM64)).log("configuring")
        self.assertEqual(build.output.tail(0, 9).lines, ("arm64> configuring",))

    def test_builds_of_a_client(self) -> None:
        """An index is as many builds of its client as it has platforms."""
        gate: Deferred[None] = Deferred()
        self.nix.before_realise = lambda: gate
        self.builder.build_quota = BuildQuota(max_concurrent=2)
        index = self.by("alice", "hello")
        self.failureResultOf(self.by("alice", "git"), BuildsExceeded)
        self.failureResultOf(self.by("alice", "arm64/git"), BuildsExceeded)
        gate.callback(None)
        self.successResultOf(index)
        self.successResultOf(self.by("alice", "git"))

    def test_hourly_builds(self) -> None:
        """Each image counts; a quota that is used up is no missing platform."""
        self.builder.build_quota = BuildQuota(max_per_hour=3, seconds=self.clock.seconds)
        self.successResultOf(self.by("alice", "hello"))
        self.failureResultOf(self.by("alice", "git"), BuildsExceeded)
        self.clock.advance(1200)
        self.successResultOf(self.by("alice", "git"))

    def test_a_platforms_blob_is_gone(self) -> None:
        """Only what is missing is made again, and the index with it."""
        index = self.index()
        config = index.images[ARM64].manifests[0].blobs()[0].digest
        self.storage.lose(config)
        self.clock.advance(60)
        self.assertEqual(self.index(), index)
        self.assertEqual(len(self.nix.realisations), 3)
        self.assertEqual(self.now(self.storage.missing(index.digests)), frozenset())

    def test_the_index_is_gone(self) -> None:
        """An index whose bytes were removed is made again without Nix."""
        index = self.index()
        self.storage.lose(index.manifests[1].digest)
        self.clock.advance(60)
        self.assertEqual(self.index(), index)
        self.assertEqual((len(self.nix.evaluations), len(self.nix.realisations)), (2, 2))

    def test_a_source_that_may_change_unseen(self) -> None:
        """Every pull evaluates all platforms, and builds only what has changed."""
        self.sources.revisions["latest"] = evolve(self.commit("one"), pinned=False)
        first = self.index()
        self.assertEqual(self.index(), first)
        self.assertEqual((len(self.nix.evaluations), len(self.nix.realisations)), (4, 2))
        self.nix.packages = [
            evolve(each, version="2.0") if each.attribute == "hello" else each
            for each in self.nix.packages
        ]
        self.assertNotEqual(self.index(), first)
        self.assertEqual(len(self.nix.realisations), 4)

    def test_stale_index(self) -> None:
        """The index of the old revision is served as a whole while the new one is being made."""
        self.stale_while_revalidate = 60.0
        self.restart()
        first = self.index()
        gate: Deferred[None] = Deferred()
        self.nix.before_realise = lambda: gate
        self.nix.packages = [evolve(each, version="2.0") for each in self.nix.packages]
        self.sources.revisions["latest"] = self.commit("two")
        self.assertEqual(self.index(), first)
        gate.callback(None)
        second = self.index()
        for system in (AMD64, ARM64):
            self.assertNotEqual(second.images[system], first.images[system])

    def test_head_and_get(self) -> None:
        """The evaluations of a HEAD are used by the GET that follows."""
        self.sources.revisions["latest"] = evolve(self.commit("one"), pinned=False)
        head = self.successResultOf(self.request("hello", is_head=True))
        self.assertEqual(self.index(), head)
        self.assertEqual(len(self.nix.evaluations), 2)

    def test_blobs_of_the_name(self) -> None:
        """All blobs of all platforms belong to the name, and to the names they had before."""
        index, other = self.index(), self.index("git")
        self.restart()
        blobs = RepositoryBlobs(self.storage, self.builder.pipeline.image_cache)
        name = parse_image_name("hello", AMD64, (AMD64, ARM64))
        for digest in index.digests:
            self.assertTrue(self.now(blobs.contains(name, digest)))
        for digest in other.digests - index.digests:
            self.assertFalse(self.now(blobs.contains(name, digest)))
        # The setting may be changed, and clients have pinned digests.
        before = parse_image_name("hello", AMD64)
        self.assertTrue(self.now(blobs.contains(before, index.manifests[0].digest)))
        bash = self.build("amd64/bash")
        self.assertTrue(
            self.now(
                blobs.contains(
                    parse_image_name("bash", AMD64, (AMD64, ARM64)), bash.manifests[0].digest
                )
            )
        )

    def test_tags(self) -> None:
        """An index is listed under the tags that it was served by."""
        self.sources.revisions["v1"] = self.commit("one")
        self.successResultOf(self.request("hello", Tag("v1")))
        name = parse_image_name("multi/hello", AMD64)
        self.assertEqual(self.now(self.service.list_tags(name)), ["latest", "v1"])


class SkippedPlatformTests(IndexCase):
    """Platforms that are not available, and are left out."""

    def test_an_unsupported_package(self) -> None:
        """A package that are not for a platform leaves it out, with the reason."""
        self.systems.refusals[ARM64] = UNSUPPORTED
        index = self.index()
        self.assertEqual(list(index.images), [AMD64])
        self.assertEqual(index.skipped, {ARM64: "hello is not for aarch64-linux"})
        self.assertEqual(
            json.loads(index.manifests[0].body)["annotations"],
            {"nixery.platform.skipped.arm64": "hello is not for aarch64-linux"},
        )

    def test_several_unsupported_packages(self) -> None:
        """Several packages that are not for a platform are named after one reason."""
        [problem] = UNSUPPORTED.problems
        self.systems.refusals[ARM64] = PackagesRefused(
            problems=tuple(evolve(problem, name=name) for name in ("a", "b"))
        )
        self.assertEqual({ARM64: "not for aarch64-linux: a, b"}, self.index().skipped)

    def test_no_builder(self) -> None:
        """So does a derivation that cannot be built here, and one that fails to build."""
        for error, reason in ((NO_BUILDER, "has to be built on aarch64"), (FAILURE, "failed")):
            self.systems.failures[ARM64] = error
            self.sources.revisions["latest"] = self.commit(reason)
            self.clock.advance(61)
            index = self.index()
            self.assertEqual(list(index.images), [AMD64])
            self.assertIn(reason, index.skipped[ARM64])
            self.assertNotIn("log", index.skipped[ARM64])

    def test_it_is_tried_again(self) -> None:
        """A platform is tried again after a minute, and only that one."""
        self.systems.failures[ARM64] = NO_BUILDER
        first = self.index()
        self.clock.advance(59)
        self.assertIs(self.index(), first)
        self.assertEqual((len(self.nix.evaluations), len(self.nix.realisations)), (2, 2))
        self.clock.advance(2)
        self.assertEqual(self.index(), first)
        self.assertEqual((len(self.nix.evaluations), len(self.nix.realisations)), (3, 3))
        del self.systems.failures[ARM64]
        self.clock.advance(61)
        self.assertEqual(list(self.index().images), [AMD64, ARM64])

    def test_another_process_tries_at_once(self) -> None:
        """An index that lacks a platform is never taken for the whole one."""
        self.systems.failures[ARM64] = NO_BUILDER
        first = self.index()
        del self.systems.failures[ARM64]
        self.restart()
        index = self.index()
        self.assertEqual(list(index.images), [AMD64, ARM64])
        self.assertEqual(index.images[AMD64], first.images[AMD64])

    def test_observed_sources(self) -> None:
        """The same holds for a source whose changes are observed."""
        self.sources.revisions["latest"] = evolve(self.commit("one"), pinned=False, version="1")
        self.systems.failures[ARM64] = NO_BUILDER
        first = self.index()
        self.clock.advance(59)
        self.assertIs(self.index(), first)
        self.assertEqual(len(self.nix.evaluations), 2)
        self.clock.advance(2)
        del self.systems.failures[ARM64]
        self.assertEqual(list(self.index().images), [AMD64, ARM64])

    def hold_builds(self, system: str) -> Deferred[None]:
        """Hold the builds of a system up from now on."""
        gate: Deferred[None] = Deferred()
        self.systems.gates[system] = gate
        return gate

    def assert_slow_failure_delays_nobody(self) -> None:
        """While a platform is tried again for long, the index without it is served."""
        self.systems.failures[ARM64] = FAILURE
        first = self.index()
        self.clock.advance(61)
        gate = self.hold_builds(ARM64)
        begins = self.request("hello")
        self.assertNoResult(begins)
        self.assertEqual(self.index(), first)
        self.clock.advance(ATTEMPT_WAIT_SECONDS)
        self.assertEqual(self.successResultOf(begins), first)
        self.assertEqual(self.tracker.active_names(), ("hello",))
        # The attempt lasts longer than a failure is remembered: it is joined, not begun again.
        self.clock.advance(61)
        joins = self.request("hello")
        self.clock.advance(ATTEMPT_WAIT_SECONDS)
        self.assertEqual(self.successResultOf(joins), first)
        self.assertEqual(self.tracker.active_names(), ("hello",))
        attempts = len(self.nix.realisations)
        del self.systems.failures[ARM64]
        gate.callback(None)
        self.assertEqual(list(self.index().images), [AMD64, ARM64])
        self.assertEqual(len(self.nix.realisations), attempts + 1)

    def test_a_platform_that_fails_slowly(self) -> None:
        """A platform that takes long to fail does not hold up the clients of the others."""
        self.assert_slow_failure_delays_nobody()

    def test_a_platform_of_an_observed_source_that_fails_slowly(self) -> None:
        """The same holds for a source whose changes are observed."""
        self.sources.revisions["latest"] = evolve(self.commit("one"), pinned=False, version="1")
        self.assert_slow_failure_delays_nobody()

    def test_a_platform_of_a_source_that_may_change_unseen_and_fails_slowly(self) -> None:
        """The same holds for a source that every pull evaluates."""
        self.sources.revisions["latest"] = evolve(self.commit("one"), pinned=False)
        self.assert_slow_failure_delays_nobody()

    def test_an_attempt_that_is_refused(self) -> None:
        """A known index is served to a client that may not begin the next attempt."""
        self.systems.failures[ARM64] = NO_BUILDER
        first = self.index()
        self.clock.advance(61)
        self.builder.build_quota = BuildQuota(max_concurrent=0)
        self.assertEqual(self.successResultOf(self.by("alice", "hello")), first)

    def test_the_configured_platform(self) -> None:
        """The configured system is left out like any other."""
        self.systems.refusals[AMD64] = UNSUPPORTED
        self.assertEqual(list(self.index().images), [ARM64])

    def test_all_fail(self) -> None:
        """If no platform is available, the pull fails as that of the configured system does."""
        self.systems.refusals = {AMD64: UNSUPPORTED, ARM64: FAILURE}
        self.assertIs(self.failureResultOf(self.request("hello")).value, UNSUPPORTED)
        self.assertTrue(
            self.failureResultOf(self.request("nothing"), PackagesRefused).value.not_found
        )

    def test_other_failures(self) -> None:
        """A failure that are not about a platform is that of the pull."""
        full = StorageFull(operation="write", reason="no space left")
        for error in (TIMED_OUT, full):
            self.systems.failures[ARM64] = error
            self.assertIs(self.failureResultOf(self.request("hello")).value, error)
            self.clock.advance(61)
        [build, *_] = self.tracker.overview()
        self.assertEqual(build.state, BuildState.FAILED)


class FailingPlatformTests(IndexCase):
    """Platforms that are not available, where the whole fails."""

    skips = False

    def test_the_pull_fails(self) -> None:
        """The failure of the platform is that of the pull; the other's image is kept."""
        self.systems.failures[ARM64] = NO_BUILDER
        self.assertIs(self.failureResultOf(self.request("hello")).value, NO_BUILDER)
        self.build("amd64/hello")
        self.assertEqual(len(self.nix.realisations), 2)
        self.systems.refusals[ARM64] = UNSUPPORTED
        self.assertIs(self.failureResultOf(self.request("git")).value, UNSUPPORTED)
