"""Tests for :mod:`nixery.building.packer`."""

from __future__ import annotations

from pathlib import Path

from attrs import define
from twisted.trial.unittest import SynchronousTestCase

from nixery.building.packer import Packer
from nixery.errors import UploadLost
from nixery.interfaces import BlobInfo, BlobWriter
from nixery.names import Digest
from nixery.packing.compression import Compression
from nixery.storage.memory import MemoryStorage
from nixery.testing import InlineWorkers, store_path
from tests.unit.test_storage_contract import finish


@define(kw_only=True, eq=False)
class _LosingWriter:
    """A writer that loses what it was given."""

    writer: BlobWriter

    def write(self, data: bytes, /) -> int:
        return self.writer.write(data)

    async def commit(self, digest: Digest, size: int, media_type: str) -> BlobInfo:
        raise UploadLost(operation="upload", reason="it is lost")

    async def commit_as(
        self, digest: Digest, size: int, media_type: str, record: tuple[str, str, bytes]
    ) -> bytes:
        raise UploadLost(operation="upload", reason="it is lost")

    async def abort(self) -> None:
        await self.writer.abort()


class _LosingStorage(MemoryStorage):
    """A storage whose first uploads are lost."""

    def __init__(self, losses: int) -> None:
        super().__init__()
        self.losses = losses
        self.created = 0

    async def create(self) -> BlobWriter:
        self.created += 1
        writer = await super().create()
        return _LosingWriter(writer=writer) if self.created <= self.losses else writer


class LossTests(SynchronousTestCase):
    """Uploads that the storage loses."""

    def setUp(self) -> None:
        self.store = Path(self.mktemp())
        self.path = store_path("hello-1.0")
        (self.store / Path(self.path.path).name).mkdir(parents=True)

    def packer(self, storage: MemoryStorage) -> Packer:
        return Packer(
            storage=storage,
            cpu=InlineWorkers(),
            slots=1,
            compression=Compression(),
            store=str(self.store),
        )

    def test_once(self) -> None:
        """A layer whose upload is lost is packed again."""
        storage = _LosingStorage(losses=1)
        record = finish(self.packer(storage).store_paths([self.path]))
        self.assertEqual(record.size, finish(storage.stat(record.digest)).size)
        self.assertEqual(2, storage.created)

    def test_twice(self) -> None:
        """A layer whose upload is lost twice is given up."""
        storage = _LosingStorage(losses=2)
        with self.assertRaises(UploadLost):
            finish(self.packer(storage).store_paths([self.path]))
        self.assertEqual(2, storage.created)
