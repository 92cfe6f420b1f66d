"""A base for tests of the build pipeline, over verified fakes."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from nixery.builds.builder import Builder
from nixery.builds.candidates import CandidateSearch
from nixery.builds.image_cache import ImageCache
from nixery.builds.image_check import ImageCheck
from nixery.builds.pipeline import ImagePipeline
from nixery.builds.settings import BuildLimits, ImageSettings
from nixery.builds.tracker import BuildTracker
from nixery.errors import StorageError
from nixery.image.manifests import Image, parse_manifest
from nixery.image.names import Digest, Tag, parse_image_name
from nixery.layers.grouping import LayerSettings, Popularity
from nixery.layers.tarball import Compression
from nixery.limits.build_quota import current_client
from nixery.nix.errors import BuildFailed
from nixery.nix.interface import Nix
from nixery.process.errors import CommandOutput
from nixery.pulls.images import ImageService
from nixery.pulls.tag_recorder import TagRecorder
from nixery.runtime.workers import Workers
from nixery.sources.interface import Sources
from nixery.storage.interface import BlobWriter, Stream
from nixery.testing.fakes import FakeNix, FakePackage, FakeSources, FakeWallClock, InlineWorkers
from nixery.testing.memory_storage import MemoryStorage

T = TypeVar("T")

LATEST = Tag("latest")

FAILURE = BuildFailed(
    derivation="/nix/store/x.drv",
    log=("no",),
    output=CommandOutput(argv=("nix-build",), status=100),
)

PACKAGES = (
    FakePackage(attribute="glibc", files={"lib/libc.so": b"c" * 1000}),
    FakePackage(attribute="bash", files={"bin/bash": b"bash"}, references=("glibc",)),
    FakePackage(attribute="hello", files={"bin/hello": b"hello"}, references=("glibc",)),
    FakePackage(attribute="git", files={"bin/git": b"git"}, references=("glibc", "bash")),
    FakePackage(attribute="broken", failure=FAILURE),
    FakePackage(attribute="whiteout", files={"share/t/.wh.nix": b"", "share/t/x": b""}),
    FakePackage(attribute="uses-whiteout", files={"bin/x": b""}, references=("whiteout",)),
    FakePackage(attribute="cacert", files={"etc/ssl/certs/ca-bundle.crt": b"certificates"}),
)


class CountingStorage(MemoryStorage):
    """Counts created blobs, and fails if ``failing`` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.created = 0
        self.failing = False

    async def create(self) -> BlobWriter:
        self.created += 1
        if self.failing:
            raise StorageError(operation="begin a blob", reason="out of order")
        return await super().create()


class BuilderCase(SynchronousTestCase):
    """The base of tests of the whole pipeline, over verified fakes."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.requests: list[Deferred[Image]] = []
        self.storage = CountingStorage()
        self.directory = Path(self.mktemp())
        self.sources = FakeSources.at_path(self.directory)
        self.nix = FakeNix(store=self.directory / "store", packages=PACKAGES)
        self.tracker = BuildTracker(clock=self.clock, wall_clock=FakeWallClock(self.clock))
        self.limits = BuildLimits()
        self.evaluation_ttl = 0.0
        self.stale_while_revalidate = 0.0
        self.restart()
        self.addCleanup(self.stop)
        # mypy holds the fakes against the protocols here.
        self.checked: tuple[Nix, Workers, Sources] = (self.nix, InlineWorkers(), self.sources)

    def make_builder(self) -> Builder:
        images = ImageCache(
            storage=self.storage,
            seconds=self.clock.seconds,
            is_sound=ImageCheck(storage=self.storage, workers=InlineWorkers()).is_sound,
        )
        pipeline = ImagePipeline(
            sources=self.sources,
            nix=self.nix,
            storage=self.storage,
            image_cache=images,
            cpu=InlineWorkers(),
            max_batches=2,
            compression=Compression(),
            clock=self.clock,
            limits=self.limits,
            store_directory=str(self.directory / "store"),
        )
        return Builder(
            pipeline=pipeline,
            settings=ImageSettings(
                layers=LayerSettings(budget=94),
                popularity=Popularity(direct={"glibc": 1000, "bash": 500}),
                compression=Compression(),
            ),
            failure_cache_ttl=60,
        )

    def make_service(self) -> ImageService:
        """Make the service that returns images from the builder of this test."""
        return ImageService(
            sources=self.sources,
            builder=self.builder,
            image_cache=self.builder.pipeline.image_cache,
            storage=self.storage,
            tracker=self.tracker,
            seconds=self.clock.seconds,
            candidates=CandidateSearch(workers=InlineWorkers(), seconds=self.clock.seconds),
            recorder=TagRecorder(storage=self.storage),
            evaluation_ttl=self.evaluation_ttl,
            stale_while_revalidate=self.stale_while_revalidate,
        )

    def stop(self) -> None:
        """Stop the service and drop the results that the test did not read."""
        Deferred.fromCoroutine(self.service.stop())
        for request in self.requests:
            request.addErrback(lambda _: None)

    def restart(self) -> None:
        """Replace builder and service, as a new process on the same storage would."""
        self.builder = self.make_builder()
        self.service = self.make_service()

    def by(self, client: str, name: str) -> Deferred[Image]:
        """Request an image as a client."""
        token = current_client.set((client,))
        try:
            return self.request(name)
        finally:
            current_client.reset(token)

    def request(self, name: str, tag: Tag = LATEST, *, is_head: bool = False) -> Deferred[Image]:
        parsed = parse_image_name(name, "x86_64-linux")
        image = Deferred.fromCoroutine(self.service.get_image(parsed, tag, is_head=is_head))
        self.requests.append(image)
        return image

    def build(self, name: str) -> Image:
        return self.successResultOf(self.request(name))

    def now(self, coroutine: Coroutine[Deferred[Any], Any, T]) -> T:
        return self.successResultOf(Deferred.fromCoroutine(coroutine))

    def blob(self, digest: Digest) -> bytes:
        source = self.now(self.storage.open(digest))
        assert isinstance(source, Stream)
        chunks = source.chunks

        async def collect() -> bytes:
            return b"".join([chunk async for chunk in chunks])

        return self.now(collect())

    def files(self, image: Image) -> dict[str, bytes | str]:
        """All files and symlinks of an image, with their contents and targets."""
        found: dict[str, bytes | str] = {}
        _, *layers = parse_manifest(image.manifests[0].body)
        for layer in layers:
            data = io.BytesIO(gzip.decompress(self.blob(layer.digest)))
            with tarfile.open(fileobj=data) as archive:
                for member in archive:
                    if member.isfile():
                        file = archive.extractfile(member)
                        assert file is not None
                        found[member.name] = file.read()
                    elif member.issym():
                        found[member.name] = member.linkname
        return found
