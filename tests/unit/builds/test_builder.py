"""Tests for :mod:`nixery.builds.builder`: the pipeline over verified fakes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import LogLevel, capturedLogs

from nixery.builds.builder import DEADLINE_MARGIN_SECONDS, Builder, BuildLimits
from nixery.builds.errors import CachedFailure, ImageTimedOut, QueueFull
from nixery.builds.realisation import MAX_REEVALUATIONS
from nixery.errors import ShuttingDown, StorageError
from nixery.image.closure import RuntimeGraph
from nixery.image.errors import PackagesRefused
from nixery.image.manifests import OCI_MANIFEST, parse_manifest
from nixery.image.names import Digest, Tag, escape_attribute
from nixery.image.packages import Package
from nixery.layers.grouping import Popularity
from nixery.nix.errors import BuildFailed, MissingDerivations, NixUnusable
from nixery.nix.interface import Realisation
from nixery.nix.progress import Progress
from nixery.sources.errors import UnknownRevision
from nixery.storage.errors import BlobUnknown
from nixery.testing.fakes import FakeNix
from tests.support.builds import FAILURE, PACKAGES, BuilderCase, CountingStorage


@define(kw_only=True, eq=False)
class AskedNix(FakeNix):
    """Notes what it is asked."""

    asked: list[str] = field(factory=list, init=False)

    async def realise(self, packages: Sequence[Package], progress: Progress) -> Realisation:
        realisation = await super().realise(packages, progress)
        self.asked.append("realised")
        return realisation

    async def closure(self, outputs: Sequence[str]) -> RuntimeGraph:
        self.asked.append("closure")
        return await super().closure(outputs)


class BuilderTests(BuilderCase):
    """From a name to an image."""

    def test_an_image_holds_its_packages(self) -> None:
        """The layers hold the closure, and the root leads to it."""
        files = self.files(self.build("hello"))
        glibc, _, hello, *_ = PACKAGES
        self.assertEqual(files[hello.path.path[1:] + "/bin/hello"], b"hello")
        self.assertEqual(files[glibc.path.path[1:] + "/lib/libc.so"], b"c" * 1000)
        self.assertEqual(files["bin/hello"], hello.path.path + "/bin/hello")
        self.assertNotIn("bin/git", files)

    def test_new_popularity_data(self) -> None:
        """Data that arrive while the daemon runs shape what is asked for from then on."""
        current = Popularity()
        waiting: list[Deferred[Popularity]] = [Deferred()]

        async def popularity() -> Popularity:
            return await waiting[0] if waiting else current

        self.builder.popularity = popularity
        first = self.ask("hello")
        self.assertEqual([], self.nix.evaluations)
        waiting.pop().callback(current)
        known = self.successResultOf(first)
        self.assertEqual(known, self.build("hello"))
        begun = self.storage.begun
        current = Popularity(transitive={"glibc": 9, "hello": 9}, setsize=9)
        changed = self.build("hello")
        # The same layers otherwise grouped: what is grouped as before is not packed again.
        self.assertNotEqual(known.manifests[0].digest, changed.manifests[0].digest)
        self.assertLess(self.storage.begun - begun, begun)
        self.assertEqual(changed, self.build("hello"))
        current = Popularity()
        self.assertEqual(known, self.build("hello"))

    def test_everything_named_is_stored(self) -> None:
        """Manifests, config and layers can be read as soon as the image is there."""
        image = self.build("git/hello")
        for manifest in image.manifests:
            self.assertEqual(self.now(self.storage.read(manifest.digest)), manifest.body)
            info = self.now(self.storage.stat(manifest.digest))
            self.assertEqual(info.media_type, manifest.media_type)
        self.assertEqual(self.now(self.storage.missing(image.digests)), frozenset())

    def test_the_config_knows_shell_and_certificates(self) -> None:
        """Cmd and SSL_CERT_FILE follow what the root holds."""

        def config(name: str) -> dict[str, Any]:
            [digest, *_] = [
                blob.digest for blob in parse_manifest(self.build(name).choose([OCI_MANIFEST]).body)
            ]
            value: dict[str, Any] = json.loads(self.blob(digest))["config"]
            return value

        self.assertEqual(config("bash")["Cmd"], ["/bin/bash"])
        self.assertNotIn("Cmd", config("hello"))
        self.assertIn("SSL_CERT_FILE=/etc/ssl/certs/ca-bundle.crt", config("hello")["Env"])

    def test_the_order_of_names_does_not_matter(self) -> None:
        """Names that ask for the same get the same image."""
        self.assertEqual(self.build("git/hello"), self.build("hello/git/hello"))
        self.assertEqual(len(self.nix.realisations), 1)

    def test_a_known_image_is_not_built(self) -> None:
        """The second pull evaluates, because a path may have changed, and no more."""
        first = self.build("hello")
        begun = self.storage.begun
        self.assertEqual(self.build("hello"), first)
        self.assertEqual(len(self.nix.realisations), 1)
        self.assertEqual(len(self.nix.evaluations), 2)
        self.assertEqual(self.storage.begun, begun)

    def test_another_process_knows_it_too(self) -> None:
        """An image stored by one daemon is found by the next."""
        first = self.build("hello")
        self.restart()
        self.assertEqual(self.build("hello"), first)
        self.assertEqual(len(self.nix.realisations), 1)

    def test_layers_are_shared(self) -> None:
        """An image that shares packages packs what is new, and its root."""
        self.build("hello")
        begun = self.storage.begun
        self.build("git/hello")
        # git, bash, and the root: glibc, hello and the certificates are there.
        self.assertEqual(self.storage.begun - begun, 3)

    def test_a_blob_that_is_gone_is_made_again(self) -> None:
        """A manifest never names a blob that was removed."""
        image = self.build("hello")
        _, layer, *_ = parse_manifest(image.manifests[0].body)
        del self.storage._blobs[layer.digest]
        self.clock.advance(10)
        again = self.build("hello")
        self.assertEqual(again, image)
        self.assertEqual(self.now(self.storage.missing(image.digests)), frozenset())

    def test_one_build_for_all_who_ask(self) -> None:
        """Twenty pulls of a cold image are one build, and a client may leave."""
        gate: Deferred[None] = Deferred()
        self.nix.gate = lambda: gate
        waiting = [self.ask("hello") for _ in range(20)]
        waiting[0].cancel()
        self.failureResultOf(waiting[0], CancelledError)
        gate.callback(None)
        images = {self.successResultOf(each).manifests[0].digest for each in waiting[1:]}
        self.assertEqual(len(images), 1)
        self.assertEqual(len(self.nix.realisations), 1)

    def test_a_layer_of_two_images_is_packed_once(self) -> None:
        """Two images that are built at once pack what they share once."""
        gates: list[Deferred[None]] = []

        def gate() -> Deferred[None]:
            gates.append(Deferred())
            return gates[-1]

        self.nix.gate = gate
        both = self.ask("hello"), self.ask("bash")
        for each in gates:
            each.callback(None)
        for asked in both:
            self.successResultOf(asked)
        # glibc and the certificates once, hello, bash, and two roots.
        self.assertEqual(self.storage.begun, 6)

    def test_unknown_packages(self) -> None:
        """All packages that do not exist are named, and nothing is built."""
        refused = self.failureResultOf(self.ask("hello/nope/neither"), PackagesRefused).value
        self.assertEqual([problem.name for problem in refused.problems], ["neither", "nope"])
        self.assertEqual(self.nix.realisations, [])

    def test_other_tags(self) -> None:
        """A path has one revision; other tags never reach Nix."""
        self.failureResultOf(self.ask("hello", Tag("v1")), UnknownRevision)
        self.assertEqual(self.nix.evaluations, [])

    def test_failures_are_remembered_for_a_while(self) -> None:
        """A build that failed is not tried again for a minute, and then it is."""
        self.failureResultOf(self.ask("broken"), BuildFailed)
        self.clock.advance(59)
        remembered = self.failureResultOf(self.ask("broken"), CachedFailure).value
        self.assertEqual(remembered.original, FAILURE)
        self.assertEqual(remembered.retry_after, 1)
        self.assertEqual(len(self.nix.realisations), 1)
        self.clock.advance(1)
        self.failureResultOf(self.ask("broken"), BuildFailed)
        self.assertEqual(len(self.nix.realisations), 2)

    def test_storage_failures_are_not_remembered(self) -> None:
        """A build that failed on the storage is tried again at once."""
        self.storage.full = True
        self.failureResultOf(self.ask("hello"), StorageError)
        self.storage.full = False
        self.build("hello")

    def test_roots_are_released(self) -> None:
        """A build's roots are dropped, whether it succeeds or fails."""
        self.build("hello")
        self.storage.full = True
        self.failureResultOf(self.ask("git"), StorageError)
        self.assertEqual(self.nix.roots, set())

    def test_derivations_that_were_collected(self) -> None:
        """Each collection between evaluation and build costs an evaluation, up to a limit."""
        self.nix.collected = 2
        self.build("hello")
        self.assertEqual(len(self.nix.evaluations), 3)
        self.nix.collected = MAX_REEVALUATIONS + 1
        self.failureResultOf(self.ask("git"), MissingDerivations)

    def test_what_is_there_is_held(self) -> None:
        """A closure already in the store is rooted, not realised, and gives the same image."""
        self.nix = AskedNix(store=self.directory / "store", packages=PACKAGES, holds=True)
        self.restart()
        built = self.build("hello")
        # In vain at first: the packages were not built.
        self.assertEqual(["realised", "closure"], self.nix.asked)
        self.storage = CountingStorage()
        self.restart()
        self.nix.asked.clear()
        self.assertEqual(built, self.build("hello"))
        self.assertEqual([], [what for what in self.nix.asked if what == "realised"])
        self.assertEqual(1, len(self.nix.holdings))
        self.assertEqual(set(), self.nix.roots)

    def test_what_is_held_is_released(self) -> None:
        """A build that fails lets go of what it held."""
        self.nix = FakeNix(store=self.directory / "store", packages=PACKAGES, holds=True)
        self.restart()
        self.build("hello")
        self.storage = CountingStorage()
        self.restart()
        self.storage.full = True
        self.failureResultOf(self.ask("hello"), StorageError)
        self.assertEqual(1, len(self.nix.holdings))
        self.assertEqual(set(), self.nix.roots)

    def test_what_is_lost_is_not_trusted(self) -> None:
        """Layers that were packed without protection are forgotten, and made again."""
        self.nix = FakeNix(store=self.directory / "store", packages=PACKAGES, holds=True)
        self.restart()
        built = self.build("hello")
        self.storage = CountingStorage()
        self.restart()
        packing = Builder._pack

        async def pack(*arguments: Any) -> Any:
            packed = await packing(*arguments)
            self.nix.roots.clear()
            return packed

        patched = self.patch(Builder, "_pack", pack)
        error = self.failureResultOf(self.ask("hello"), NixUnusable).value
        self.assertIn("try again", error.message)
        # That of the root, which holds nothing of the store.
        self.assertEqual(1, len(self.now(self.storage.list_records("layer"))))
        begun = self.storage.begun
        patched.restore()
        self.assertEqual(built, self.build("hello"))
        self.assertGreater(self.storage.begun, begun)

    # -- builds that take long ----------------------------------------------------

    def gates(self) -> list[Deferred[None]]:
        """Hold builds back, with a Deferred to release each that has begun."""
        gates: list[Deferred[None]] = []

        def gate() -> Deferred[None]:
            gates.append(Deferred())
            return gates[-1]

        self.nix.gate = gate
        return gates

    def limited(self, **fields: Any) -> list[Deferred[None]]:
        """Make a builder with limits; return the Deferreds that release its builds."""
        self.limits = BuildLimits(**fields)
        self.restart()
        return self.gates()

    def states(self) -> dict[str, str]:
        return {build.image: build.state.value for build in self.book.overview()}

    def test_bounded_builds(self) -> None:
        """As many images are made at once as may; others wait, and one too many is refused."""
        gates = self.limited(builds=1, queue=1)
        first, second = self.ask("hello"), self.ask("git")
        self.assertEqual(len(gates), 1)
        self.assertEqual(self.states(), {"hello": "running", "git": "queued"})
        self.failureResultOf(self.ask("bash"), QueueFull)
        # The refusal is not remembered.
        gates[0].callback(None)
        self.successResultOf(first)
        self.assertEqual(self.states(), {"hello": "succeeded", "git": "running"})
        third = self.ask("bash")
        for gate in gates[1:]:
            gate.callback(None)
        gates[-1].callback(None)
        self.successResultOf(second)
        self.successResultOf(third)

    def test_joining_is_free(self) -> None:
        """A request for an image that is being made, or queued, takes no place in the queue."""
        gates = self.limited(builds=1, queue=1)
        waiting = [self.ask(name) for name in ("hello", "git", "hello", "git", "git/git")]
        for gate in range(2):
            gates[gate].callback(None)
        for each in waiting:
            self.successResultOf(each)

    def test_an_image_is_made_whoever_waits(self) -> None:
        """A client that leaves during the evaluation gets its image built all the same."""
        evaluated: Deferred[None] = Deferred()
        evaluate = FakeNix.evaluate

        async def slowly(*arguments: Any) -> Any:
            await evaluated
            return await evaluate(*arguments)

        self.patch(FakeNix, "evaluate", slowly)
        asked = self.ask("hello")
        asked.cancel()
        self.failureResultOf(asked, CancelledError)
        evaluated.callback(None)
        self.assertEqual(len(self.nix.realisations), 1)
        self.build("hello")
        self.assertEqual(len(self.nix.realisations), 1)

    def test_progress(self) -> None:
        """The tracker tells the phases of a build, and its outcome."""
        image = self.build("hello")
        [build] = self.book.overview()
        self.assertEqual(
            [stage.phase.value for stage in build.stages],
            ["evaluating", "building", "packing", "storing"],
        )
        self.assertEqual((build.state.value, build.image), ("succeeded", "hello"))
        self.assertEqual(build.digest, image.manifests[0].digest)
        [count] = build.counts
        self.assertEqual((count.done, count.unit), (count.expected, "layers"))
        # Pulls of what is known are no builds.
        self.build("hello")
        self.assertEqual(len(self.book.overview()), 1)

    def test_failed_progress(self) -> None:
        """A failed build stays in the tracker, and is there once."""
        for _ in range(3):
            self.ask("broken").addErrback(lambda _: None)
        [build] = self.book.overview()
        assert build.problem is not None
        self.assertEqual(build.problem.derivation, FAILURE.derivation)

    def test_one_image_by_two_names(self) -> None:
        """A request for an image that is being made under another name follows that build."""
        gates = self.gates()
        first = self.ask("hello")
        escaped = self.ask(escape_attribute("hello"))
        second, made = self.book.overview()
        self.assertEqual((made.follows, second.follows), (None, made.id))
        gates[0].callback(None)
        self.assertEqual(self.successResultOf(first), self.successResultOf(escaped))
        self.assertEqual(self.states(), {"hello": "succeeded"})

    def test_deadline(self) -> None:
        """An image that takes too long as a whole is given up, and that is remembered."""
        self.limited(builds=1, deadline=60)
        waiting = self.ask("hello")
        self.clock.advance(60 + DEADLINE_MARGIN_SECONDS)
        error = self.failureResultOf(waiting, ImageTimedOut).value
        self.assertEqual((error.seconds, error.setting), (60, "build_deadline"))
        self.failureResultOf(self.ask("hello"), CachedFailure)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_waiting_is_not_building(self) -> None:
        """The deadline begins when the turn has come."""
        gates = self.limited(builds=1, deadline=1000)
        first, second = self.ask("hello"), self.ask("git")
        self.clock.advance(1000)
        gates[0].callback(None)
        self.successResultOf(first)
        self.clock.advance(1000)
        gates[1].callback(None)
        self.successResultOf(second)

    def test_stopping_gives_time(self) -> None:
        """Builds that run may end while the daemon stops; no others begin."""
        gates = self.limited(builds=1, stop_grace=10)
        running, queued = self.ask("hello"), self.ask("git")
        with capturedLogs() as logs:
            stopped = Deferred.fromCoroutine(self.service.stop())
            self.failureResultOf(queued, ShuttingDown)
            self.failureResultOf(self.ask("bash"), ShuttingDown)
        # That the daemon stops is no fault of an image.
        self.assertEqual([], [each for each in logs if each["log_level"] > LogLevel.info])
        self.clock.advance(9)
        self.assertNoResult(stopped)
        gates[0].callback(None)
        self.successResultOf(running)
        self.successResultOf(stopped)
        self.assertEqual((self.nix.roots, len(gates)), (set(), 1))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stopping_does_not_wait_for_ever(self) -> None:
        """A build still running after the grace period is cancelled, and tracked as such."""
        self.limited(stop_grace=10)
        waiting = self.ask("hello")
        stopped = Deferred.fromCoroutine(self.service.stop())
        self.clock.advance(10)
        self.failureResultOf(waiting, ShuttingDown)
        self.successResultOf(stopped)
        self.assertEqual(self.states(), {"hello": "cancelled"})
        self.assertEqual(self.nix.roots, set())

    def test_unforeseen_failures(self) -> None:
        """An unforeseen failure is logged, even if no client waits any more."""
        gates = self.gates()
        asked = self.ask("hello")
        asked.cancel()
        self.failureResultOf(asked, CancelledError)
        gates[0].errback(ZeroDivisionError())
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_stopping(self) -> None:
        """A daemon that stops takes no new builds and cancels those that run."""
        self.nix.gate = Deferred
        waiting = self.ask("hello")
        self.successResultOf(Deferred.fromCoroutine(self.service.stop()))
        self.failureResultOf(waiting, ShuttingDown)
        self.failureResultOf(self.ask("git"), ShuttingDown)
        self.assertEqual(self.nix.roots, set())

    def test_a_missing_blob_is_unknown(self) -> None:
        """The storage of these tests tells what is missing."""
        digest = Digest("sha256:" + "0" * 64)
        failing = Deferred.fromCoroutine(self.storage.stat(digest))
        self.failureResultOf(failing, BlobUnknown)
