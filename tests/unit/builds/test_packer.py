"""Tests for :mod:`nixery.builds.packer`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ParamSpec, TypeVar

from attrs import define
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from nixery.builds.layer_cache import LayerRecord
from nixery.builds.packer import Packer
from nixery.image.names import Digest
from nixery.layers.compression import Compression
from nixery.layers.errors import MissingPath
from nixery.observability.context import BuildStats, current_build_stats
from nixery.storage.errors import UploadLost
from nixery.storage.interface import BlobInfo, BlobWriter
from nixery.testing.fakes import InlineWorkers, store_path
from nixery.testing.memory_storage import MemoryStorage
from tests.unit.storage.test_contract import finish

P = ParamSpec("P")
T = TypeVar("T")


@define(kw_only=True, eq=False)
class _FailingWriter:
    """A writer whose commit fails, as of a lost upload."""

    writer: BlobWriter

    def write(self, data: bytes, /) -> int:
        return self.writer.write(data)

    async def commit(self, digest: Digest, size: int, media_type: str) -> BlobInfo:
        raise UploadLost(operation="upload", reason="it is lost")

    async def abort(self) -> None:
        await self.writer.abort()


class _FailingStorage(MemoryStorage):
    """
    A storage that loses uploads.

    :param failing_uploads: which of them, counted from 1.
    """

    def __init__(self, *lost: int) -> None:
        super().__init__()
        self.failing_uploads = lost
        self.created = 0

    async def create(self) -> BlobWriter:
        self.created += 1
        writer = await super().create()
        return _FailingWriter(writer=writer) if self.created in self.failing_uploads else writer


class LostUploadTests(SynchronousTestCase):
    """Tests of layers whose upload is lost."""

    def setUp(self) -> None:
        self.store = Path(self.mktemp())
        self.path = store_path("hello-1.0")
        (self.store / Path(self.path.path).name).mkdir(parents=True)

    def packer(self, storage: MemoryStorage) -> Packer:
        return Packer(
            storage=storage,
            cpu=InlineWorkers(),
            max_batches=1,
            compression=Compression(),
            store_directory=str(self.store),
        )

    def test_layer_whose_upload_is_lost_is_packed_again(self) -> None:
        """A layer whose upload is lost is packed again."""
        storage = _FailingStorage(1)
        record = finish(self.packer(storage).get_layer([self.path], 1))
        self.assertEqual(record.size, finish(storage.stat(record.digest)).size)
        self.assertEqual(2, storage.created)

    def test_layer_whose_upload_is_lost_twice_is_given_up(self) -> None:
        """A layer whose upload is lost twice is given up."""
        storage = _FailingStorage(1, 2)
        with self.assertRaises(UploadLost):
            finish(self.packer(storage).get_layer([self.path], 1))
        self.assertEqual(2, storage.created)


class _GatedWorkers(InlineWorkers):
    """Workers whose calls begin when the test fires a Deferred."""

    def __init__(self) -> None:
        self.gate: Deferred[None] = Deferred()
        self.calls = 0

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        self.calls += 1
        if not self.gate.called:
            await self.gate
        return await super().run(function, *args, **kwargs)


class BatchTests(SynchronousTestCase):
    """Tests of small layers that are packed in one batch."""

    def setUp(self) -> None:
        self.store = Path(self.mktemp())
        self.store.mkdir()
        self.workers = _GatedWorkers()
        self.stats = BuildStats()
        self.addCleanup(current_build_stats.reset, current_build_stats.set(self.stats))

    def pack(self, storage: MemoryStorage, names: Sequence[str]) -> list[Deferred[LayerRecord]]:
        """Request layers of a store path each; all but the first have to wait for their turn."""
        packer = Packer(
            storage=storage,
            cpu=self.workers,
            max_batches=1,
            compression=Compression(),
            store_directory=str(self.store),
        )
        layers = [Deferred.fromCoroutine(packer.get_layer([store_path(name)], 1)) for name in names]
        self.assertEqual(1, self.workers.calls)
        self.workers.gate.callback(None)
        return layers

    def make(self, *names: str) -> None:
        for name in names:
            (self.store / Path(store_path(name).path).name).mkdir()

    def test_layers_that_wait_are_packed_by_one_call(self) -> None:
        """Layers that wait are packed by one call, and each is stored under its own digest."""
        names = ["a-1", "b-1", "c-1", "d-1"]
        self.make(*names)
        storage = MemoryStorage()
        records = [self.successResultOf(layer) for layer in self.pack(storage, names)]
        self.assertEqual(2, self.workers.calls)
        self.assertEqual(4, len({record.digest for record in records}))
        for record in records:
            self.assertEqual(record.size, finish(storage.stat(record.digest)).size)
        self.assertEqual(4, len(finish(storage.list_records("layer"))))
        self.assertEqual(4, self.stats.layers_packed)
        self.assertEqual(sum(record.size for record in records), self.stats.packed_bytes)

    def test_layer_whose_path_has_vanished_takes_none_with_it(self) -> None:
        """A layer whose store path has vanished does not fail the others of its batch."""
        names = ["a-1", "b-1", "c-1", "d-1"]
        self.make("a-1", "b-1", "d-1")
        storage = MemoryStorage()
        layers = self.pack(storage, names)
        self.assertIn("c-1", self.failureResultOf(layers.pop(2), MissingPath).value.path)
        for layer in layers:
            finish(storage.stat(self.successResultOf(layer).digest))

    def test_layers_whose_upload_is_lost_are_packed_again(self) -> None:
        """The layers of a batch with a lost upload are packed again, each by itself."""
        names = ["a-1", "b-1", "c-1"]
        self.make(*names)
        storage = _FailingStorage(1, 3)
        layers = self.pack(storage, names)
        for layer in layers:
            finish(storage.stat(self.successResultOf(layer).digest))
        # The first one twice, and the others together and then alone.
        self.assertEqual(2 + 2 + 2, storage.created)
