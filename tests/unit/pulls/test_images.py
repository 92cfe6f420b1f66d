"""Tests for :mod:`nixery.pulls.images`: what is answered without Nix, and what is not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred

from nixery.builds.errors import CachedFailure
from nixery.builds.settings import BuildLimits
from nixery.errors import ShuttingDown
from nixery.image.errors import PackagesRefused
from nixery.image.names import Tag, parse_image_name
from nixery.image.packages import Evaluation
from nixery.nix.errors import BuildFailed, EvaluationTimedOut
from nixery.sources.errors import UnknownRevision
from nixery.sources.source import Revision, path_revision
from nixery.storage.errors import StorageFull
from nixery.testing.fakes import FakeNix
from tests.support.builds import FAILURE, LATEST, PACKAGES, BuilderCase


def commit(name: str) -> Revision:
    """A revision that always evaluates to the same packages."""
    return Revision(
        identity={"kind": "git", "url": "file:///set", "commit": name}, pinned=True, label=name
    )


class PinnedTests(BuilderCase):
    """A source that is resolved to commits."""

    def setUp(self) -> None:
        super().setUp()
        self.sources.revisions = {"latest": commit("one"), "v1": commit("one"), "v2": commit("two")}

    def update(self, attribute: str, failure: BuildFailed | None = None) -> None:
        """A new commit, in which one package has another version."""
        self.sources.revisions["latest"] = commit("three")
        self.nix.packages = [
            evolve(package, version="2.0", failure=failure)
            if package.attribute == attribute
            else package
            for package in self.nix.packages
        ]

    def test_a_warm_pull_does_not_run_nix(self) -> None:
        """The request alone identifies the image, also for another process."""
        first = self.build("hello")
        self.assertEqual(self.build("hello"), first)
        self.restart()
        self.assertEqual(self.build("hello"), first)
        self.assertEqual(len(self.nix.evaluations), 1)

    def test_two_tags_of_one_commit(self) -> None:
        """The commit decides which image is served, and not the tag that names it."""
        self.assertEqual(
            self.build("hello"), self.successResultOf(self.request("hello", Tag("v1")))
        )
        self.assertEqual(len(self.nix.evaluations), 1)

    def test_new_commit_with_the_same_outputs_is_recognised(self) -> None:
        """Is evaluated, and recognised where its outputs are the same."""
        first = self.build("hello")
        self.assertEqual(self.successResultOf(self.request("hello", Tag("v2"))), first)
        self.assertEqual((len(self.nix.evaluations), len(self.nix.realisations)), (2, 1))

    def test_names_and_systems_are_told_apart(self) -> None:
        """Another name, or another system, is another request."""
        self.build("hello")
        self.build("bash/hello")
        self.build("arm64/hello")
        self.assertEqual(len(self.nix.evaluations), 3)

    def test_a_moved_reference(self) -> None:
        """The new commit is served as soon as the reference names it."""
        first = self.build("hello")
        self.update("hello")
        self.assertNotEqual(self.build("hello"), first)

    def test_unknown_revision_starts_no_evaluation(self) -> None:
        """They never start an evaluation."""
        self.failureResultOf(self.request("hello", Tag("v9")), UnknownRevision)
        self.assertEqual(self.nix.evaluations, [])

    def test_a_client_that_leaves_while_it_is_fetched(self) -> None:
        """The build goes on, and is found done by the next pull."""
        gate: Deferred[None] = Deferred()
        self.sources.before_fetch = lambda: gate
        waiting = self.request("hello")
        waiting.cancel()
        self.failureResultOf(waiting, CancelledError)
        gate.callback(None)
        self.build("hello")
        self.assertEqual(len(self.nix.realisations), 1)

    def test_nothing_new_is_begun(self) -> None:
        """Nothing new is begun; what is known is still served."""
        self.build("hello")
        self.successResultOf(Deferred.fromCoroutine(self.service.stop()))
        self.build("hello")
        self.failureResultOf(self.request("git"), ShuttingDown)

    def test_stopping_while_it_is_noted(self) -> None:
        """An image that was built in time is answered, after the last note of it."""
        gates: list[Deferred[None]] = []
        set_record = self.storage.set_record

        async def wait(kind: str, key: str, value: bytes) -> None:
            if kind == "served":
                gates.append(Deferred())
                await gates[-1]
            await set_record(kind, key, value)

        self.patch(self.storage, "set_record", wait)
        asked = self.request("hello")
        stopped = Deferred.fromCoroutine(self.service.stop())
        self.assertNoResult(stopped)
        gates[0].callback(None)
        self.successResultOf(asked)
        self.successResultOf(stopped)

    def test_a_full_storage(self) -> None:
        """A stored image is served, although its records cannot be written."""
        image = self.build("hello")
        self.restart()

        async def refuse(*_: object) -> None:
            raise StorageFull(operation="write", reason="no space left")

        self.patch(self.storage, "set_record", refuse)
        self.assertEqual(self.build("hello"), image)

    def test_a_blob_that_is_gone(self) -> None:
        """A blob reported missing is made again by the next pull."""
        image = self.build("hello")
        layer = image.manifests[0].blobs()[1]
        self.clock.advance(1)
        self.storage.lose(layer.digest)
        self.assertEqual(self.build("hello"), image)
        self.assertNotEqual(self.now(self.storage.missing(image.digests)), frozenset())
        self.service.invalidate_checks()
        self.assertEqual(self.build("hello"), image)
        self.assertEqual(self.now(self.storage.missing(image.digests)), frozenset())


class StaleTests(PinnedTests):
    """The same, and the old image is served while the new one is being made."""

    def setUp(self) -> None:
        super().setUp()
        self.stale_while_revalidate = 100.0
        self.restart()

    def test_a_moved_reference(self) -> None:
        """The pull returns at once, the build runs behind it, and the next one has it."""
        first = self.build("hello")
        gate: Deferred[None] = Deferred()
        self.nix.before_realise = lambda: gate
        self.update("hello")
        self.assertEqual(self.build("hello"), first)
        self.assertEqual(self.build("hello"), first)
        gate.callback(None)
        self.assertNotEqual(self.build("hello"), first)
        self.assertEqual(len(self.nix.realisations), 2)

    def test_after_a_restart(self) -> None:
        """The current image of a tag is read from storage after a restart."""
        first = self.build("hello")
        self.restart()
        self.nix.before_realise = Deferred
        self.update("hello")
        self.assertEqual(self.build("hello"), first)

    def test_not_for_ever(self) -> None:
        """After a while the pull waits for the build."""
        self.build("hello")
        self.nix.before_realise = Deferred
        self.update("hello")
        self.build("hello")
        self.clock.advance(100)
        self.assertNoResult(self.request("hello"))

    def test_a_failure_is_told_in_the_end(self) -> None:
        """An update that does not build is served over for a while, not for ever."""
        first = self.build("hello")
        self.update("hello", failure=FAILURE)
        self.assertEqual(self.build("hello"), first)
        self.clock.advance(100)
        self.failureResultOf(self.request("hello"), BuildFailed)
        self.assertEqual(self.flushLoggedErrors(), [])

    def test_nothing_to_serve(self) -> None:
        """A name that was never served is waited for, and so is another tag."""
        self.build("hello")
        self.nix.before_realise = Deferred
        self.update("hello")
        self.assertNoResult(self.request("git"))


class UnpinnedTests(BuilderCase):
    """A directory that may change at any moment."""

    def change(self) -> None:
        self.nix.packages = [
            evolve(package, version="2.0") if package.attribute == "hello" else package
            for package in self.nix.packages
        ]

    def test_every_pull_looks(self) -> None:
        """A change is served by the next pull."""
        first = self.build("hello")
        self.change()
        self.assertNotEqual(self.build("hello"), first)

    def test_head_and_get_are_one_pull(self) -> None:
        """A HEAD followed by its GET evaluates once, and what follows looks again."""
        head = self.successResultOf(self.request("hello", is_head=True))
        self.assertEqual(self.build("hello"), head)
        self.assertEqual(len(self.nix.evaluations), 1)
        self.change()
        self.assertNotEqual(self.build("hello"), head)

    def test_a_head_is_not_kept_for_long(self) -> None:
        """A GET much later is another pull."""
        head = self.successResultOf(self.request("hello", is_head=True))
        self.change()
        self.clock.advance(30)
        self.assertNotEqual(self.build("hello"), head)

    def test_head_is_no_get_it_looks_for_itself(self) -> None:
        """A HEAD is no GET: it looks for itself."""
        head = self.successResultOf(self.request("hello", is_head=True))
        self.change()
        self.assertNotEqual(self.successResultOf(self.request("hello", is_head=True)), head)

    def test_time_to_live(self) -> None:
        """An evaluation is believed as long as the operator says."""
        self.evaluation_ttl = 60.0
        self.restart()
        first = self.build("hello")
        self.change()
        self.clock.advance(59)
        self.assertEqual(self.build("hello"), first)
        self.clock.advance(1)
        self.assertNotEqual(self.build("hello"), first)

    def test_a_change_during_an_evaluation(self) -> None:
        """A pull after a change does not join the evaluation that began before it."""
        evaluate = FakeNix.evaluate
        gates: list[Deferred[None]] = []

        async def slow(nix: FakeNix, *arguments: Any) -> Evaluation:
            result = await evaluate(nix, *arguments)
            gates.append(Deferred())
            await gates[-1]
            return result

        first = self.build("hello")
        self.patch(FakeNix, "evaluate", slow)
        self.request("hello")
        self.change()
        after = self.request("hello")
        gates[-1].callback(None)
        self.assertNotEqual(self.successResultOf(after), first)

    def test_pulls_before_an_evaluation_begins(self) -> None:
        """Those who wait for their turn share one evaluation."""
        self.limits = BuildLimits(max_evaluations=1)
        self.restart()
        evaluate = FakeNix.evaluate
        gate: Deferred[None] = Deferred()

        async def slow(nix: FakeNix, *arguments: Any) -> Evaluation:
            await gate
            return await evaluate(nix, *arguments)

        self.patch(FakeNix, "evaluate", slow)
        asked = [self.request("git"), *(self.request("hello") for _ in range(5))]
        gate.callback(None)
        for each in asked:
            self.successResultOf(each)
        self.assertEqual(len(self.nix.evaluations), 2)

    def test_a_change_during_a_build(self) -> None:
        """A pull after a change does not join the build of the state before it."""
        self.nix.before_realise = Deferred
        self.request("hello")
        self.change()
        self.request("hello")
        self.assertEqual((len(self.nix.evaluations), len(self.nix.realisations)), (2, 2))
        self.request("hello")
        self.assertEqual((len(self.nix.evaluations), len(self.nix.realisations)), (3, 2))


class ObservedTests(BuilderCase):
    """A directory whose changes are observed."""

    def setUp(self) -> None:
        super().setUp()
        self.observe("1")

    def observe(self, version: str | None) -> None:
        self.sources.revisions = {"latest": path_revision(self.directory, version=version)}

    def change(self, version: str | None) -> None:
        """Change a package, as an observer sees it."""
        self.observe(version)
        self.nix.packages = [
            evolve(package, version=f"2.{version}") if package.attribute == "hello" else package
            for package in self.nix.packages
        ]

    def test_unchanged(self) -> None:
        """A set that did not change is not evaluated again, by HEAD and GET, however much later."""
        first = self.build("hello")
        self.clock.advance(86400)
        self.assertEqual(self.successResultOf(self.request("hello", is_head=True)), first)
        self.assertEqual(self.build("hello"), first)
        self.assertEqual(len(self.nix.evaluations), 1)
        self.assertEqual(self.service.evaluation_lookups.memory, 2)

    def test_changed(self) -> None:
        """A change is served by the next pull, which alone evaluates."""
        first = self.build("hello")
        self.change("2")
        second = self.build("hello")
        self.assertNotEqual(second, first)
        self.assertEqual(self.build("hello"), second)
        self.assertEqual(len(self.nix.evaluations), 2)

    def test_unknown_for_a_while(self) -> None:
        """While changes may go unseen every pull looks, and nothing is kept from that time."""
        self.build("hello")
        self.change(None)
        second = self.build("hello")
        self.change(None)
        self.nix.packages = PACKAGES
        self.assertNotEqual(self.build("hello"), second)
        self.observe("2")
        self.build("hello")
        self.assertEqual(len(self.nix.evaluations), 4)

    def test_no_head_is_kept_for_a_while_of_changes(self) -> None:
        """Two changes of many files, which take a moment to be watched, are seen by their pulls."""
        self.build("hello")
        self.change(None)
        head = self.successResultOf(self.request("hello", is_head=True))
        self.change(None)
        self.nix.packages = PACKAGES
        self.assertNotEqual(self.build("hello"), head)

    def test_a_new_process_knows_nothing(self) -> None:
        """A version means nothing to another process, which may have the same number."""
        first = self.build("hello")
        self.restart()
        self.change("1")
        self.assertNotEqual(self.build("hello"), first)

    def change_during_evaluation(self, change: Callable[[], None]) -> None:
        """Let the next evaluation read what was before a change, and end after it."""
        evaluate = FakeNix.evaluate
        changes = [change]

        async def changing(nix: FakeNix, *arguments: Any) -> Evaluation:
            try:
                return await evaluate(nix, *arguments)
            finally:
                if changes:
                    changes.pop()()

        self.patch(FakeNix, "evaluate", changing)

    def test_a_change_during_an_evaluation(self) -> None:
        """The package set is evaluated once more; later pulls have that result."""
        self.change_during_evaluation(lambda: self.change("2"))
        image = self.build("hello")
        self.assertEqual(len(self.nix.evaluations), 2)
        self.assertEqual(self.build("hello"), image)
        self.assertEqual(len(self.nix.evaluations), 2)
        self.change("3")
        self.assertNotEqual(self.build("hello"), image)

    def test_a_change_mends_a_failure(self) -> None:
        """A failure of files that have changed in the meantime is not told."""
        packages, self.nix.packages = self.nix.packages, []

        def mend() -> None:
            self.nix.packages = packages
            self.observe("2")

        self.change_during_evaluation(mend)
        self.build("hello")

    def test_a_pull_after_a_change_joins_no_earlier_one(self) -> None:
        """An evaluation that began before a change is not the answer to a pull after it."""
        gate: Deferred[None] = Deferred()
        self.sources.before_fetch = lambda: gate
        earlier = self.request("hello")
        self.sources.before_fetch = None
        self.change("2")
        later = self.build("hello")
        self.change("3")
        gate.callback(None)
        self.assertNotEqual(self.successResultOf(earlier), later)

    def test_failures_are_forgotten_after_a_change(self) -> None:
        """A failure that is kept, since it took long, is not the answer after a change."""
        failure = EvaluationTimedOut(names=("hello",), seconds=1, setting="eval_timeout")

        async def fail(*_: object) -> Evaluation:
            raise failure

        evaluate = FakeNix.evaluate
        self.patch(FakeNix, "evaluate", fail)
        self.failureResultOf(self.request("hello"), EvaluationTimedOut)
        self.patch(FakeNix, "evaluate", evaluate)
        self.failureResultOf(self.request("hello"), CachedFailure)
        self.change("2")
        self.build("hello")

    def test_failures_are_told(self) -> None:
        """A failure of files that did not change."""
        self.failureResultOf(self.request("nothing"), PackagesRefused)

    def test_one_build_for_all(self) -> None:
        """A pull during the build of the same version joins it, without an evaluation."""
        self.nix.before_realise = Deferred
        self.request("hello")
        self.request("hello")
        self.assertEqual((len(self.nix.evaluations), len(self.nix.realisations)), (1, 1))

    def test_a_blob_that_is_gone(self) -> None:
        """An image whose blobs are gone is evaluated and made again."""
        image = self.build("hello")
        self.clock.advance(1)
        self.storage.lose(image.manifests[0].blobs()[1].digest)
        self.service.invalidate_checks()
        self.assertEqual(self.build("hello"), image)
        self.assertEqual(len(self.nix.evaluations), 2)


class TagTests(BuilderCase):
    """The tags of a name."""

    def tags(self, name: str) -> Sequence[str]:
        return self.now(self.service.list_tags(parse_image_name(name, "x86_64-linux")))

    def test_configured_and_served(self) -> None:
        """The tags listed are those of the configuration and those the name was served under."""
        self.sources.revisions = {"latest": commit("one"), "v1": commit("one")}
        self.successResultOf(self.request("hello", Tag("v1")))
        self.sources.revisions = {"latest": commit("one")}
        self.assertEqual(self.tags("hello"), ["latest", "v1"])
        self.assertEqual(self.tags("git"), ["latest"])

    def test_names_that_ask_for_the_same_have_the_same_tags(self) -> None:
        """Names that ask for the same have the same tags."""
        self.sources.revisions = {"latest": commit("one"), "v1": commit("one")}
        self.successResultOf(self.request("git/hello", Tag("v1")))
        self.sources.revisions = {"latest": commit("one")}
        self.assertEqual(self.tags("hello/git"), ["latest", "v1"])

    def test_failures_are_not_served(self) -> None:
        """A pull that failed leaves no tag."""
        self.sources.revisions = {"latest": commit("one"), "v1": commit("one")}
        self.failureResultOf(self.request("broken", Tag("v1")), BuildFailed)
        self.sources.revisions = {"latest": commit("one")}
        self.assertEqual(self.tags("broken"), [LATEST])
