"""
Tests of what a collection removes, and of what it never does: beside pulls and builds,
and wherever it dies.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from nixery.image.canonical_json import canonical_json
from nixery.image.manifests import OCI_INDEX, digest_of
from nixery.image.names import Digest
from nixery.storage.errors import BlobUnknown, CollectionRunning
from nixery.storage.filesystem import garbage_collector, scan
from nixery.storage.filesystem.garbage_collector import (
    Collection,
    Step,
    collect,
    purge,
    run_blocking,
)
from nixery.storage.filesystem.gc_policy import Policy
from nixery.storage.filesystem.publish_lock import attempt_collection, attempt_removal, publishing
from nixery.storage.interface import OpenFile
from tests.support.stores import OLD, StoreCase
from tests.support.system_calls import Call, before_system_calls, states_before_changes
from tests.support.trees import below
from tests.unit.storage.filesystem.test_backend import as_files
from tests.unit.storage.test_contract import finish

DAY = 86400.0


class Unhurried(StoreCase):
    """Files that have just been written may be judged at once: nothing races here."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(scan, "TIMESTAMP_RESOLUTION_SECONDS", float("-inf"))


class AttachmentTests(Unhurried):
    """Tests of what is attached to images: documents, bundles and signatures."""

    def kinds(self) -> dict[str, int]:
        """Count the records of what is attached."""
        kinds = ("bundle", "document", "signature")
        return {kind: len(finish(self.storage.list_records(kind))) for kind in kinds}

    def test_it_lives_as_long_as_its_image(self) -> None:
        """An attachment stays while its image is kept, however old it is, and goes with it."""
        old, new = self.image("old", b"1"), self.image("new", b"2")
        of_old = self.attach(*old, name="old")
        of_new = self.attach(*new, name="new")
        self.assertGreater(len(of_old), 10)
        self.assertEqual({"bundle": 4, "document": 4, "signature": 4}, self.kinds())
        self.age(10 * DAY)
        self.age(3 * DAY, *new)
        done = self.collect(max_age=5 * DAY)
        self.assertEqual((1, {"new"}), (done.images, self.images()))
        self.assertTrue(of_new <= self.stored())
        common = of_old & self.attached_to(new)
        self.assertTrue(self.stored().isdisjoint(of_old - common))
        self.assertEqual({"bundle": 2, "document": 2, "signature": 2}, self.kinds())
        self.assert_sound()

    def attached_to(self, manifests: tuple[Digest, ...]) -> set[Digest]:
        attached = self.inventory().attached_blobs()
        return {blob for each in manifests for blob in attached[each]}

    def test_it_counts_as_its_image(self) -> None:
        """Manifests that are attached are no images, and all of it is of its image's size."""
        manifests = self.image("one", b"1")
        attached = self.attach(*manifests)
        [image] = self.inventory().stored_images()
        self.assertEqual(manifests, image.manifests)
        self.assertTrue(attached <= image.needs)
        self.assertEqual((), image.broken)

    def test_purge_takes_it_along(self) -> None:
        """An image that is removed by hand takes along what is attached to it, at once."""
        attached = self.attach(*self.image("one", b"1"))
        inventory = self.inventory()
        run_blocking(purge(str(self.root), inventory.stored_images(), inventory, dry_run=False))
        self.assertEqual(set(), self.stored() & attached)
        self.assertEqual({"bundle": 0, "document": 0, "signature": 0}, self.kinds())

    def test_it_is_garbage_without_its_image(self) -> None:
        """An attachment of a manifest that is gone is removed like any other garbage."""
        manifests = self.image("one", b"1")
        attached = self.attach(*manifests)
        inventory = self.inventory()
        for digest in manifests:
            os.unlink(inventory.path(digest))
        finish(self.storage.delete_record("image", "one"))
        self.assertEqual([], self.inventory().stored_images())
        self.age()
        self.collect()
        self.assertTrue(self.stored().isdisjoint(attached))
        self.assertEqual({"bundle": 0, "document": 0, "signature": 0}, self.kinds())


class IndexTests(Unhurried):
    """Tests of indexes of images for several platforms."""

    def setUp(self) -> None:
        super().setUp()
        self.manifests = self.index("index", {"one": (b"1", b"2"), "two": (b"3",)})

    def images_by_key(self) -> dict[str, tuple[Digest, ...]]:
        return {key: manifests or () for key, manifests in self.inventory().images.items()}

    def test_it_keeps_its_images(self) -> None:
        """A pull of an index is one of its images, which stay whole for as long as it stays."""
        self.age(10 * DAY)
        self.age(1 * DAY, *self.manifests)
        self.assertEqual(0, self.collect(max_age=5 * DAY).images)
        self.assertEqual({"index", "one", "two"}, self.images())
        self.assert_sound()
        self.assertIn(digest_of(b"3"), self.stored())

    def test_it_goes_with_them(self) -> None:
        """An index that nobody pulls goes with its images, and nothing is left over."""
        self.attach(*self.manifests, name="index")
        self.age(10 * DAY)
        self.assertEqual(3, self.collect(max_age=5 * DAY).images)
        self.collect(max_bytes=0)
        self.assertEqual(set(), self.stored())
        for kind in ("served", "bundle", "document", "signature"):
            self.assertEqual([], finish(self.storage.list_records(kind)))

    def test_it_goes_first(self) -> None:
        """Images that are pulled by themselves stay when the index was not pulled for long."""
        self.age(10 * DAY)
        self.age(1 * DAY, *self.images_by_key()["one"])
        self.assertEqual(2, self.collect(max_age=5 * DAY).images)
        self.assertEqual({"one"}, self.images())
        self.assert_sound()

    def test_an_image_is_removed_by_hand(self) -> None:
        """The index goes with the first of its images; the other one stays."""
        inventory = self.inventory()
        chosen = [each for each in inventory.stored_images() if each.keys == ["two"]]
        run_blocking(purge(str(self.root), chosen, inventory, dry_run=False))
        self.assertEqual({"one"}, self.images())
        self.assertTrue(self.stored().isdisjoint(self.manifests))
        self.assert_sound()

    def test_it_counts_as_an_image(self) -> None:
        """An index needs all that its images need; its platforms are told."""
        images = {each.keys[0]: each for each in self.inventory().stored_images()}
        one, two = images["one"], images["two"]
        index = images["index"]
        self.assertEqual(index.parts, {*one.manifests, *two.manifests})
        self.assertEqual(index.needs, {*self.manifests, *one.needs, *two.needs})
        self.assertEqual((), index.broken)
        self.assertEqual([("index", "latest")], self.inventory().tags(index))

    def test_without_a_record(self) -> None:
        """An index that no record names is kept for as long as an image is."""
        finish(self.storage.delete_record("image", "index"))
        self.age(1 * DAY)
        self.collect(max_age=5 * DAY)
        self.assertTrue(self.stored().issuperset(self.manifests))
        self.assert_sound()
        self.age(10 * DAY)
        self.collect(max_age=5 * DAY)
        self.assertTrue(self.stored().isdisjoint(self.manifests))

    def test_indexes_of_referrers(self) -> None:
        """An index of what refers to a manifest is garbage like any blob that nothing names."""
        body = b'{"manifests":[{"digest":"sha256:%s"}]}' % (b"0" * 64)
        finish(self.storage.put(body, OCI_INDEX))
        self.assertNotIn(digest_of(body), self.inventory().manifests)
        self.age(10 * DAY)
        self.collect()
        self.assertNotIn(digest_of(body), self.stored())


class PolicyTests(Unhurried):
    """Tests of the choice of blobs to remove, and of the order."""

    def test_nothing_to_do(self) -> None:
        """Without limits, images stay however old they are."""
        self.image("one", b"1", b"2")
        self.age()
        done = self.collect()
        self.assertEqual((0, 0, 0), (done.images, done.blobs, done.records))
        self.assertEqual(done.total, self.inventory().total)
        self.assert_sound()

    def test_unreferenced_blob_is_removed_after_the_grace(self) -> None:
        """An unreferenced blob is removed with its record once it is older than the grace."""
        self.image("one", b"1")
        self.layer(b"stray")
        self.assertEqual(0, self.collect().blobs)
        self.age()
        done = self.collect()
        self.assertEqual((1, 5, 1), (done.blobs, done.freed, done.records))
        self.assertNotIn(digest_of(b"stray"), self.stored())
        self.assertEqual({"one"}, self.images())
        self.assert_sound()

    def test_images_that_were_not_pulled_for_long_go_with_what_only_they_name(self) -> None:
        """Images that were not pulled for long go, with what only they name."""
        old = self.image("old", b"own", b"shared")
        new = self.image("new", b"shared", b"other")
        for digest in (*old, *new):
            value = canonical_json({"digest": digest})
            finish(self.storage.add_record("member", f"n/{digest}", value))
        self.age(10 * DAY)
        # Its manifests were looked at: it was pulled.
        self.age(3 * DAY, *self.inventory().images["new"] or ())
        done = self.collect(max_age=5 * DAY)
        self.assertEqual({"new"}, self.images())
        self.assertEqual((1, 4), (done.images, done.blobs))
        self.assertIn(digest_of(b"shared"), self.stored())
        self.assertTrue(self.stored().isdisjoint({*old, digest_of(b"own")}))
        self.assertEqual(["n-new/latest"], finish(self.storage.list_records("served")))
        left = finish(self.storage.list_records("member"))
        self.assertEqual([f"n/{digest}" for digest in sorted(new)], left)
        self.assert_sound()

    def test_images_pulled_longest_ago_go_first(self) -> None:
        """Those pulled longest ago go first, and no more than need to."""
        for number in range(5):
            manifests = self.image(f"image-{number}", b"%d" % number * 10_000)
            self.age((20 - number) * DAY, *manifests)
        self.age(20 * DAY, *(digest_of(b"%d" % number * 10_000) for number in range(5)))
        done = self.collect(max_bytes=33_000)
        self.assertEqual({"image-2", "image-3", "image-4"}, self.images())
        self.assertLessEqual(done.total, 33_000)
        self.assertEqual(done.total, self.inventory().total)
        self.assert_sound()

    def test_images_pulled_lately_stay_whatever_their_size_and_result_says_so(self) -> None:
        """Images pulled lately stay, whatever their size, and the result says so."""
        self.image("one", b"1" * 10_000)
        self.age(DAY)  # a little older than the grace, but a mark may be old
        done = self.collect(max_bytes=1, max_age=1.0)
        self.assertEqual({"one"}, self.images())
        self.assertGreater(done.over, 10_000)
        self.assertIn("within the grace period", done.describe())

    def test_rehearsal_says_what_would_go_and_nothing_goes(self) -> None:
        """A rehearsal says what would go, and nothing goes."""
        self.image("one", b"1" * 1000)
        self.layer(b"stray")
        self.age()
        before = self.stored()
        rehearsed = self.collect(max_bytes=0, dry_run=True)
        self.assertEqual(before, self.stored())
        done = self.collect(max_bytes=0)
        self.assertEqual(
            (rehearsed.images, rehearsed.blobs, rehearsed.freed),
            (done.images, done.blobs, done.freed),
        )
        self.assertEqual(set(), self.stored())

    def test_manifest_without_a_record(self) -> None:
        """A manifest that is only pulled by its digest keeps its layers, and has its age."""
        manifests = self.image("one", b"1")
        self.image("one", b"2")  # the record names another now
        self.age()
        self.collect()
        self.assertTrue({*manifests, digest_of(b"1")} <= self.stored())
        finish(self.storage.stat(manifests[0]))
        self.collect(max_age=DAY)
        self.assertIn(digest_of(b"1"), self.stored())
        self.assertNotIn(digest_of(b"2"), self.stored())
        self.assert_sound()

    def test_halves_of_blobs(self) -> None:
        """Bytes without a description go, and descriptions without bytes."""
        one, two = (self.inventory().path(self.layer(data)) for data in (b"1", b"2"))
        os.unlink(one)
        os.unlink(two + ".json")
        self.age()
        self.collect()
        self.assertFalse(os.path.lexists(one + ".json"))
        self.assertFalse(os.path.lexists(two))

    def test_files_for_descriptions_and_records_are_collected_alike(self) -> None:
        """Descriptions and records that are files, as they once were, count and go alike."""
        self.image("old", b"own", b"shared")
        new = self.image("new", b"shared", b"other")
        self.layer(b"stray")
        as_files(self.root)
        self.assertEqual([], [path for path in below(self.root) if path.is_symlink()])
        self.age(10 * DAY)
        self.age(3 * DAY, *new)
        done = self.collect(max_age=5 * DAY)
        self.assertEqual({"new"}, self.images())
        self.assertEqual((1, 5), (done.images, done.blobs))
        self.assertEqual(5, len(self.stored()))
        self.assertEqual([], os.listdir(self.root / "tmp"))
        self.assert_sound()

    def test_purging_removes_images_just_pulled(self) -> None:
        """Purging removes images just pulled, but not blobs that other images name."""
        self.image("one", b"own", b"shared")
        self.image("two", b"shared")
        self.layer(b"stray")
        found = self.inventory()
        (unit,) = (each for each in found.stored_images() if each.keys == ["one"])
        done = run_blocking(purge(str(self.root), [unit], found, dry_run=False))
        self.assertEqual((1, 4), (done.images, done.blobs))
        self.assertEqual({"two"}, self.images())
        self.assertTrue({digest_of(b"shared"), digest_of(b"stray")} <= self.stored())
        self.assert_sound()

    def test_one_at_a_time(self) -> None:
        """A second collection is refused."""
        with attempt_collection(str(self.root)), self.assertRaises(CollectionRunning):
            self.collect()


class UseTests(Unhurried):
    """Tests of the operations that count as a use, and of their cost."""

    def test_looks_are_uses(self) -> None:
        """Every access to a blob renews its time of use, unless that is recent."""
        digest = self.layer(b"1")
        path = self.inventory().path(digest)

        def opened() -> None:
            source = finish(self.storage.open(digest))
            assert isinstance(source, OpenFile)
            os.close(source.descriptor)

        looks: list[Callable[[], object]] = [
            lambda: finish(self.storage.stat(digest)),
            lambda: finish(self.storage.missing([digest])),
            lambda: finish(self.storage.read(digest)),
            opened,
        ]
        for look in looks:
            self.age()
            before = os.stat(path).st_mtime
            look()
            after = os.stat(path).st_mtime_ns
            self.assertGreater(after, before * 1e9 + 1e9)
            look()
            self.assertEqual(after, os.stat(path).st_mtime_ns)

    def test_times_in_the_future(self) -> None:
        """A time that a wrong clock left is put right."""
        digest = self.layer(b"1")
        self.age(-OLD)
        finish(self.storage.stat(digest))
        self.assertLess(self.inventory().files[digest].used, time.time() + 60)

    def test_files_of_others(self) -> None:
        """Blobs are served even if their time of use cannot be set."""
        digest = self.layer(b"1")
        self.age()
        for error in (PermissionError(1, "no"), OSError(30, "read-only")):

            def refuse(call: Call, error: OSError = error) -> None:
                if call.name == "os.utime":
                    raise error

            with before_system_calls(refuse):
                self.assertEqual(b"1", finish(self.storage.read(digest)))

    def test_removed_while_looked_at(self) -> None:
        """A blob that goes between look and mark is absent."""
        digest = self.layer(b"1")
        self.age()
        path = self.inventory().path(digest)

        def remove(call: Call) -> None:
            if call.name == "os.utime":
                os.unlink(path)

        with before_system_calls(remove), self.assertRaises(BlobUnknown):
            finish(self.storage.stat(digest))
        self.assertFalse(os.path.exists(path))


class RaceTests(StoreCase):
    """A collection step by step, and others in between."""

    def work(self, **policy: float) -> Collection:
        return collect(str(self.root), Policy(grace=0.0, **policy))  # type: ignore[arg-type]  # fields by their names

    def at_every_step(
        self, between: Callable[[], object], *, age: float = OLD, **policy: float
    ) -> int:
        """
        Let something happen after each step in turn, each time in a new collection.

        :return: how many steps there are.
        """
        for number in range(2000):
            self.image("old", b"1", b"2")
            self.image("other", b"2", b"3")
            self.layer(b"stray")
            self.age(age)
            self.patch(scan, "TIMESTAMP_RESOLUTION_SECONDS", float("-inf"))
            work = self.work(**policy)
            step, ended = -1, False
            for step, _ in enumerate(work):
                if step == number:
                    between()
                    self.assert_sound()
                    ended = True
            self.assert_sound()
            if not ended:
                return step
        raise AssertionError("the collection never ends")

    def setUp(self) -> None:
        super().setUp()
        # Steps of single directories are more than a test wants.
        self.patch(garbage_collector, "read_files", _at_once(scan.read_files))
        self.patch(garbage_collector, "read_names", _at_once(scan.read_names))

    def test_image_published_during_a_collection_is_whole(self) -> None:
        """An image of blobs that are about to go is whole whenever it is published."""
        for policy in ({"max_bytes": 0}, {"max_age": 1.0}):
            steps = self.at_every_step(lambda: self.image("new", b"2", b"stray"), **policy)
            self.assertGreater(steps, 3)

    def test_used_a_moment_ago(self) -> None:
        """Naming a blob shows even where a look at it would not be noted again."""
        self.at_every_step(lambda: self.image("new", b"2", b"stray"), age=100.0, max_bytes=0)

    def test_publication_that_began_before_the_collection_is_seen(self) -> None:
        """One that began before the collection, and names blobs when it has looked, is seen."""
        stray = self.layer(b"stray")
        self.age()
        self.patch(scan, "TIMESTAMP_RESOLUTION_SECONDS", float("-inf"))
        parts, record = self.parts("slow", b"stray")
        found = self.inventory()
        work = self.work()
        with publishing(str(self.root)):
            found.blobs.claim(stray)
            for _ in range(20):
                next(work)
            for data, media_type in parts:
                found.blobs.put(data, media_type)
            found.records.set("image", "slow", record)
        run_blocking(work)
        self.assertIn(stray, self.stored())
        self.assert_sound()

    def test_same_image_meanwhile(self) -> None:
        """So is one that is made again while it is being removed."""
        self.at_every_step(lambda: self.image("old", b"1", b"2"), max_bytes=0)

    def test_image_that_is_looked_at_in_time_is_spared_whole(self) -> None:
        """An image that is looked at in time is spared, whole."""

        def pull() -> None:
            manifests = self.inventory().images.get("old")
            if manifests is None:
                return
            needs = [*manifests, digest_of(b"1"), digest_of(b"2")]
            if not finish(self.storage.missing(needs)):
                self.spared += 1

        self.spared = 0
        self.at_every_step(pull, max_bytes=0)
        self.assertGreater(self.spared, 1)

    def test_waits_for_publication(self) -> None:
        """Nothing is removed during a publication; and nothing blocks."""
        self.image("old", b"1")
        self.age()
        self.patch(scan, "TIMESTAMP_RESOLUTION_SECONDS", float("-inf"))
        with publishing(str(self.root)):
            work = self.work(max_bytes=0)
            paces = [next(work) for _ in range(20)]
            self.assertEqual([Step.WAIT] * 5, paces[-5:])
            self.assertEqual({"old"}, self.images())
        run_blocking(work)
        self.assertEqual(set(), self.images())

    def test_publishers_share_the_lock_and_exclude_removals(self) -> None:
        """Any number publish at once, and none while something is removed."""
        root = str(self.root)
        with publishing(root), publishing(root), attempt_removal(root) as held:
            self.assertFalse(held)
        with attempt_removal(root) as held:
            self.assertTrue(held)

    def test_blob_written_at_moment_of_listing_stays_until_next_collection(self) -> None:
        """A blob written at the moment of the listing stays until the next collection."""
        self.layer(b"stray")
        self.assertEqual(0, self.collect(grace=0.0).blobs)
        self.settle()
        self.assertEqual(1, self.collect(grace=0.0).blobs)

    def test_blob_that_is_removed_while_open_can_be_read_to_its_end(self) -> None:
        """A blob that is removed while open can be read to its end."""
        manifests = self.image("old", b"1" * 100_000)
        source = finish(self.storage.open(digest_of(b"1" * 100_000)))
        assert isinstance(source, OpenFile)
        self.age()
        self.patch(scan, "TIMESTAMP_RESOLUTION_SECONDS", float("-inf"))
        self.collect(max_bytes=0)
        self.assertTrue(self.stored().isdisjoint(manifests))
        self.assertEqual([], os.listdir(self.root / "tmp"))
        with os.fdopen(source.descriptor, "rb") as file:
            self.assertEqual(b"1" * 100_000, file.read())

    def test_index_of_images_that_are_about_to_go(self) -> None:
        """An index is whole whenever it is published, of images that are about to go."""
        images = {"old": (b"1", b"2"), "other": (b"2", b"3")}
        for policy in ({"max_bytes": 0}, {"max_age": 1.0}):
            self.at_every_step(lambda: self.index("index", images), **policy)

    def test_index_that_is_pulled_in_time_is_spared_whole(self) -> None:
        """An index that is looked at while it is about to go keeps the images that it names."""
        images = {"old": (b"1", b"2"), "other": (b"2", b"3")}
        self.index("index", images)

        def pull() -> None:
            manifests = self.inventory().images.get("index")
            if manifests is None:
                self.index("index", images)
                self.age()
            else:
                finish(self.storage.missing(manifests))

        self.at_every_step(pull, max_bytes=0)

    def publish(self, kind: str, name: str, layers: list[bytes]) -> None:
        self.image(name, *layers)
        if kind == "index":
            self.index("index", {name: layers, "image-x": layers[:1]})

    @settings(max_examples=25)
    @given(
        st.lists(
            st.tuples(
                st.sampled_from(
                    ["publish", "index", "pull", "age", "begin", "step", "abandon", "layer"]
                ),
                st.integers(0, 4),
                st.sets(st.integers(0, 5), min_size=1, max_size=3),
            ),
            max_size=30,
        )
    )
    def test_no_order_of_operations_leaves_a_manifest_that_names_a_removed_blob(
        self, history: list[tuple[str, int, set[int]]]
    ) -> None:
        """No order of operations leaves a manifest that names a removed blob."""
        self.setUp()
        work: Collection | None = None
        with mock.patch.object(scan, "TIMESTAMP_RESOLUTION_SECONDS", -1e18):
            for action, number, parts in history:
                layers = [b"layer %d" % part for part in sorted(parts)]
                match action:
                    case "publish" | "index":
                        self.publish(action, f"image-{number}", layers)
                    case "layer":
                        self.layer(layers[0])
                    case "pull":
                        finish(self.storage.missing([digest_of(layer) for layer in layers]))
                    case "age":
                        self.age(OLD + number * DAY)
                    case "begin" if work is None:
                        work = self.work(max_bytes=number * 500)
                    case "step" if work is not None:
                        for _ in range(number + 1):
                            if next(work, None) is None:
                                work = None
                                break
                    case "abandon" if work is not None:
                        work.close()
                        work = None
                self.assert_sound()
            if work is not None:
                run_blocking(work)
                self.assert_sound()


class CrashTests(Unhurried):
    """Tests of what a collection leaves that dies before one of its changes of files."""

    def test_crash_leaves_nothing_dangling(self) -> None:
        """Nothing dangles then, the next one finishes the work, and nothing is left over."""
        self.image("old", b"1", b"2")
        self.image("new", b"2", b"3")
        self.age()
        finish(self.storage.missing(self.inventory().images["new"] or ()))
        self.layer(b"recent")
        with states_before_changes(self.root) as states:
            self.collect(max_age=DAY)
        self.assertGreater(len(states), 15)
        for root in (*states, self.root):
            self.root = root
            self.storage = self.open_storage()
            self.assertEqual([], os.listdir(self.root / "tmp"))
            self.assert_sound()
            self.assertIn("new", self.images())
            self.collect(max_age=DAY)
            self.assert_sound()
            self.assertEqual({"new"}, self.images())
            self.assertNotIn(digest_of(b"1"), self.inventory().files)
            self.assertIn(digest_of(b"recent"), self.stored())

    def test_crash_while_an_index_goes(self) -> None:
        """Wherever a collection dies, no index names a manifest that is gone."""
        index = self.index("index", {"one": (b"1",), "two": (b"2",)})
        self.age()
        with states_before_changes(self.root) as states:
            self.collect(max_age=DAY)
        self.assertGreater(len(states), 15)
        for root in (*states, self.root):
            self.root = root
            self.storage = self.open_storage()
            self.assert_sound()
            self.collect(max_age=DAY)
            self.assertEqual(set(), self.images())
            self.assertTrue(self.stored().isdisjoint(index))

    def test_crash_among_what_is_attached(self) -> None:
        """Wherever a collection dies, no manifest that is attached lacks its blobs."""
        manifest, *_ = self.image("old", b"1")
        attached = self.attach(manifest)
        self.age()
        with states_before_changes(self.root) as states:
            self.collect(max_age=DAY)
        self.assertGreater(len(states), 20)
        for root in (*states[::3], self.root):
            self.root = root
            self.storage = self.open_storage()
            self.assert_sound()
            self.collect(max_age=DAY)
            self.assertTrue(self.stored().isdisjoint(attached))


def _at_once(steps: Callable[..., object]) -> Callable[..., object]:
    def all_of_them(found: object) -> list[None]:
        for _ in steps(found):  # type: ignore[attr-defined]  # a generator function
            pass
        return [None]

    return all_of_them
