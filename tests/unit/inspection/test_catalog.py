"""The images that there are to look at: written down beside the answers, and found again."""

from __future__ import annotations

import os

from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred

from nixery.builds.build_record import BuildRecord
from nixery.builds.builder import Builder
from nixery.builds.image_cache import RECHECK_INTERVAL_SECONDS
from nixery.errors import StorageError
from nixery.image.image_index import ImageIndex
from nixery.image.manifests import Image
from nixery.image.names import Digest, Tag, parse_image_name
from nixery.inspection import catalog
from nixery.inspection.catalog import LISTED, REPORTS, ImageCatalog
from nixery.inspection.image_list import decode_entry
from nixery.inspection.page_data import PageData
from nixery.pulls.images import ImageService
from nixery.storage.filesystem.backend import FilesystemStorage
from nixery.storage.interface import ByteRange
from nixery.testing.fakes import FakeWallClock, InlineWorkers
from tests.support.builds import LATEST, BuilderCase, CountingStorage

SYSTEM = "x86_64-linux"


class ForgetfulStorage(CountingStorage):
    """Fails to write what pages are made of."""

    async def set_record(self, kind: str, key: str, value: bytes) -> None:
        if kind in (LISTED, REPORTS):
            raise StorageError(operation="store a record", reason="out of order")
        await super().set_record(kind, key, value)


class ImageCatalogTests(BuilderCase):
    """Tests of the image catalog, with a builder made of fakes."""

    catalog: ImageCatalog

    def make_builder(self) -> Builder:
        builder = super().make_builder()
        self.catalog = ImageCatalog(
            storage=self.storage,
            image_cache=builder.pipeline.image_cache,
            cpu=InlineWorkers(),
            clock=self.clock,
            wall_clock=FakeWallClock(self.clock),
        )
        builder.pipeline.on_built = self.catalog.record_build
        return builder

    def make_service(self) -> ImageService:
        service = super().make_service()
        service.recorder.on_recorded = self.catalog.record_served
        return service

    def page_data(self, name: str) -> PageData | None:
        found = self.now(self.catalog.find(parse_image_name(name, SYSTEM), LATEST))
        return None if found is None else self.now(self.catalog.page_data(found))

    def test_report_of_image_is_written_some_time_after_image_was_answered(self) -> None:
        """The report of an image is written some time after the image was answered."""
        image = self.build("git")
        self.assertEqual([], self.now(self.storage.list_records(REPORTS)))
        self.clock.advance(catalog.RETRY_PAUSE_SECONDS)
        self.assertEqual([image.manifests[0].digest], self.now(self.storage.list_records(REPORTS)))
        page_data = self.page_data("git")
        assert page_data is not None
        self.assertTrue(page_data.has_report)
        assert page_data.container is not None
        self.assertEqual("root", page_data.container.user)
        self.assertIn("/bin", page_data.container.environment[0])
        report = page_data.report
        self.assertEqual(["cacert", "git"], [each.attribute for each in report.packages])
        self.assertEqual(
            [blob.digest for blob in image.manifests[0].blobs()[1:]],
            [layer.digest for layer in report.layers],
        )
        self.assertEqual(
            {"bash-1.0", "cacert-1.0", "git-1.0", "glibc-1.0"},
            {path.name for path in report.paths},
        )

    def test_index(self) -> None:
        """An index is listed once; it shows the image of the registry's system, and all others."""
        name = parse_image_name("multi/git", SYSTEM)
        index = self.now(self.service.get_image(name, LATEST))
        assert isinstance(index, ImageIndex)
        self.assertEqual(self.now(self.catalog.find_image(name, LATEST)), index)
        own = index.images[SYSTEM].manifests[0]
        self.assertEqual(self.now(self.catalog.find(name, LATEST)), own)
        alone = parse_image_name("arm64/git", SYSTEM)
        self.assertEqual(
            self.now(self.catalog.find(alone, LATEST)), index.images["aarch64-linux"].manifests[0]
        )
        for each in (name, alone):
            self.assertEqual(self.now(self.catalog.find_index(each, LATEST)), index)
        other = parse_image_name("hello", SYSTEM)
        self.assertIsNone(self.now(self.catalog.find(other, LATEST)))
        self.assertIsNone(self.now(self.catalog.find_index(other, LATEST)))
        [entry] = self.now(self.catalog.read_entries(self.now(self.catalog.list_keys())))
        self.assertEqual(
            (entry.label, entry.digest, entry.platforms),
            ("multi/git:latest", index.manifests[0].digest, (SYSTEM, "aarch64-linux")),
        )
        self.assertEqual(list(entry.layers), [each.digest for each in own.blobs()[1:]])
        self.clock.advance(catalog.RETRY_PAUSE_SECONDS)
        for image in index.images.values():
            page_data = self.now(self.catalog.page_data(image.manifests[0]))
            self.assertTrue(page_data.has_report)

    def test_tag_remembers_what_it_has_meant(self) -> None:
        """The images that a tag meant before are told, the latest first, while they are stored."""
        name = parse_image_name("git", SYSTEM)
        images = [self.build(each) for each in ("git", "bash", "bash/git")]
        digests = [image.manifests[0].digest for image in images]

        def serve(*numbers: int) -> None:
            for number in numbers:
                self.clock.advance(1)
                self.catalog.record_served(name, LATEST, images[number])
                self.clock.advance(1)

        def earlier() -> list[Digest]:
            return [each.digest for each in self.now(self.catalog.earlier_images(f"git:{LATEST}"))]

        self.assertEqual([], earlier())
        serve(0)
        first = self.now(self.catalog.read_entries([f"git:{LATEST}"]))[0].first_served
        serve(1, 1, 2)
        self.assertEqual([digests[1], digests[0]], earlier())
        self.assertEqual(
            first, self.now(self.catalog.earlier_images(f"git:{LATEST}"))[1].first_served
        )
        serve(0)
        self.assertEqual([digests[2], digests[1]], earlier())
        self.storage.lose(digests[2])
        self.assertEqual([digests[1]], earlier())
        self.assertEqual([], list(self.now(self.catalog.earlier_images("absent:latest"))))

    def test_manifest_is_found_by_the_name_that_it_was_served_for(self) -> None:
        """A manifest is found by its digest for its own name alone, while it is stored."""
        image = self.build("git")
        name, other = parse_image_name("git", SYSTEM), parse_image_name("bash", SYSTEM)
        for manifest in image.manifests:
            self.assertEqual(
                manifest, self.now(self.catalog.find_served(name, manifest.digest, SYSTEM))
            )
            self.assertIsNone(self.now(self.catalog.find_served(other, manifest.digest, SYSTEM)))
        manifest = image.manifests[0]
        [_, layer, *_] = manifest.blobs()
        self.assertIsNone(self.now(self.catalog.find_served(name, layer.digest, SYSTEM)))
        multi = parse_image_name("multi/git", SYSTEM)
        index = self.now(self.service.get_image(multi, LATEST))
        assert isinstance(index, ImageIndex)
        for form in range(2):
            digest = index.manifests[form].digest
            for system, image in index.images.items():
                served = self.now(self.catalog.find_served(multi, digest, system))
                self.assertEqual(image.manifests[form], served)
            self.assertIsNone(self.now(self.catalog.find_served(multi, digest, "i686-linux")))
        for system, image in index.images.items():
            self.assertEqual(image.manifests[0], self.now(self.catalog.find(multi, LATEST, system)))
        self.storage.lose(manifest.digest)
        self.assertIsNone(self.now(self.catalog.find_served(name, manifest.digest, SYSTEM)))

    def test_looking_at_an_image_is_no_pull(self) -> None:
        """Its blobs' last use stays as it is, and the next pull is still recorded."""
        root = self.directory / "images"
        storage = FilesystemStorage(root, InlineWorkers())
        self.now(storage.start())
        self.storage = storage  # type: ignore[assignment]  # it counts nothing
        self.restart()
        self.build("git")
        self.clock.advance(catalog.RETRY_PAUSE_SECONDS)
        blobs = [path for path in (root / "blobs").rglob("*") if path.is_file()]

        def age() -> None:
            self.restart()
            for path in blobs:
                os.utime(path, (1e9, 1e9), follow_symlinks=False)

        def used() -> int:
            return sum(path.lstat().st_mtime > 1e9 for path in blobs if not path.is_symlink())

        age()
        for _ in range(2):
            self.assertIsNotNone(self.page_data("git"))
            self.clock.advance(RECHECK_INTERVAL_SECONDS)
        name = parse_image_name("git", SYSTEM)
        manifest = self.now(self.catalog.find(name, LATEST))
        assert manifest is not None
        self.assertEqual(
            manifest, self.now(self.catalog.find_served(name, manifest.digest, SYSTEM))
        )
        layer = manifest.blobs()[1].digest
        self.assertEqual(
            2, len(self.now(self.storage.read_part(layer, ByteRange(start=1, stop=3))))
        )
        self.assertEqual(0, used())
        self.assertIsNotNone(self.page_data("git"))
        self.build("git")
        self.assertGreater(used(), 0)

    def test_looked_at_early(self) -> None:
        """A lookup before the report is written waits for it, and it is written once."""
        self.build("git")
        found = self.now(self.catalog.find(parse_image_name("git", SYSTEM), LATEST))
        assert found is not None
        looks = [Deferred.fromCoroutine(self.catalog.page_data(found)) for _ in range(2)]
        for each in looks:
            self.assertNoResult(each)
        looks[0].cancel()
        self.failureResultOf(looks[0], CancelledError)
        self.clock.advance(catalog.RETRY_PAUSE_SECONDS)
        self.assertTrue(self.successResultOf(looks[1]).has_report)

    def test_looked_at_in_vain(self) -> None:
        """An image whose report cannot be written is shown without it."""
        self.storage = ForgetfulStorage()
        self.restart()
        self.build("git")
        found = self.now(self.catalog.find(parse_image_name("git", SYSTEM), LATEST))
        assert found is not None
        look = Deferred.fromCoroutine(self.catalog.page_data(found))
        self.clock.advance(catalog.RETRY_PAUSE_SECONDS)
        self.assertFalse(self.successResultOf(look).has_report)

    def test_report_that_cannot_be_read_is_as_good_as_none(self) -> None:
        """A report that cannot be read is as good as none."""
        image = self.build("git")
        self.clock.advance(catalog.RETRY_PAUSE_SECONDS)
        self.now(self.storage.set_record(REPORTS, image.manifests[0].digest, b"rubbish"))
        page_data = self.page_data("git")
        assert page_data is not None
        self.assertFalse(page_data.has_report)

    def test_image_that_was_never_served_is_not_found_and_not_built(self) -> None:
        """An image that was never served is not found, and looking for it builds nothing."""
        self.build("git")
        for name in ("hello", "shell/git", "arm64/git"):
            self.assertIsNone(self.page_data(name))
        self.assertIsNone(
            self.now(self.catalog.find(parse_image_name("git", SYSTEM), Tag("other")))
        )
        self.assertEqual(1, len(self.tracker.overview()))

    def test_image_whose_layers_are_gone_is_none(self) -> None:
        """An image whose layers are gone is none."""
        self.storage.lose(*self.build("git").digests)
        self.restart()
        self.assertIsNone(self.page_data("git"))

    def test_each_image_is_listed_once_under_name_that_it_was_first_asked_for_by(self) -> None:
        """Each image is listed once, under the name that it was first asked for by."""
        self.build("hello/git")
        self.build("git/hello")
        self.build("bash")
        names = self.now(self.catalog.list_keys())
        self.assertEqual(("bash:latest", "hello/git:latest"), tuple(names))
        bash, hello = self.now(self.catalog.read_entries(names))
        self.assertEqual(
            ("bash", "latest", SYSTEM, FakeWallClock(self.clock).now()),
            (bash.repository, bash.tag, bash.system, bash.first_served),
        )
        self.assertGreater(hello.size, bash.size)

    def test_entry_that_cannot_be_read_or_whose_name_is_none_is_left_out(self) -> None:
        """An entry that cannot be read, or whose name is none, is left out."""
        self.build("bash")
        record = self.now(self.storage.get_record(LISTED, "bash:latest"))
        assert record is not None
        self.now(self.storage.set_record(LISTED, "a:b", b"{}"))
        self.now(
            self.storage.set_record(LISTED, "c:d", record.replace(b'"bash"', b'"../<script>"'))
        )
        listed = self.now(self.catalog.read_entries(["a:b", "bash:latest", "c:d", "gone:latest"]))
        self.assertEqual([decode_entry(record)], list(listed))

    def test_images_that_have_a_layer_are_known_for_all_that_are_listed(self) -> None:
        """The images that have a layer are known for all that are listed."""
        git, hello = self.build("git"), self.build("hello")
        holders = self.now(self.catalog.images_by_layer())

        def labels(image: Image) -> set[tuple[str, ...]]:
            return {
                tuple(each.label for each in holders[blob.digest])
                for blob in image.manifests[0].blobs()[1:]
            }

        self.assertIn(("git:latest", "hello:latest"), labels(git))
        self.assertIn(("git:latest",), labels(git))
        self.assertNotIn(("git:latest",), labels(hello))

    def test_images_are_built_although_no_report_can_be_written(self) -> None:
        """Images are built although no report can be written."""
        self.storage = ForgetfulStorage()
        self.restart()
        self.build("git")
        self.clock.advance(catalog.RETRY_PAUSE_SECONDS)
        self.assertEqual([], self.now(self.storage.list_records(REPORTS)))

    def test_number_of_reports_that_wait_to_be_written_is_bounded(self) -> None:
        """The number of reports that wait to be written is bounded."""
        made: list[BuildRecord] = []
        self.builder.pipeline.on_built = made.append
        self.build("git")
        for number in range(2 * catalog.MAX_PENDING_REPORTS):
            digest = Digest(f"sha256:{number:064x}")
            self.catalog.record_build(evolve(made[0], digest=digest))
        self.clock.advance(catalog.RETRY_PAUSE_SECONDS)
        self.assertEqual(
            catalog.MAX_PENDING_REPORTS, len(self.now(self.storage.list_records(REPORTS)))
        )

    def test_daemon_that_stops_writes_down_what_it_has_made(self) -> None:
        """A daemon that stops writes down what it has made."""
        self.build("git")
        stopping = Deferred.fromCoroutine(self.catalog.stop())
        self.assertNoResult(stopping)
        self.clock.advance(catalog.RETRY_PAUSE_SECONDS)
        self.successResultOf(stopping)
        self.assertEqual(1, len(self.now(self.storage.list_records(REPORTS))))
