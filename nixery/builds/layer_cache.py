"""
A cache of layers by layer key.

Layer records are kept in storage, where other instances and later runs find them; the cache
in memory is bounded.  As in :mod:`nixery.builds.image_cache`, a record is checked before it
is used.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, MutableMapping, Sequence

from attrs import define, field, frozen
from cachetools import LRUCache
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from nixery.errors import NixeryError
from nixery.image.canonical_json import canonical_json
from nixery.image.manifests import ImageLayer
from nixery.image.names import Digest, parse_digest
from nixery.storage.interface import BlobWriter, PendingBlob, Storage

__all__ = ["LAYERS", "LayerCache", "LayerRecord"]

LAYERS = "layer"
"""The kind of the records of layers."""

LOOKUP_BATCH_SIZE = 32
"""
The number of layers that are looked up together.  An image has up to a hundred: the first of
them that have to be packed keep the packing threads busy while the others are looked up.
"""


@frozen(kw_only=True)
class LayerRecord:
    """
    A layer that is stored.

    :param digest: of its compressed bytes, the blob.
    :param size: of its compressed bytes.
    :param diff_id: the digest of its uncompressed bytes.
    :param uncompressed_size: of its uncompressed bytes.
    :param annotations: those that its descriptors need.
    """

    digest: Digest
    size: int
    diff_id: Digest
    uncompressed_size: int
    annotations: Mapping[str, str] = field(factory=dict, hash=False)

    def image_layer(self, compression: str, contents: Sequence[str]) -> ImageLayer:
        """Return the layer as a part of an image; parameters as of :class:`ImageLayer`."""
        return ImageLayer(
            digest=self.digest,
            size=self.size,
            diff_id=self.diff_id,
            uncompressed_size=self.uncompressed_size,
            compression=compression,
            annotations=self.annotations,
            contents=tuple(contents),
        )

    def encode(self) -> bytes:
        """Return the record as it is stored: canonical JSON."""
        return canonical_json(
            {
                "digest": self.digest,
                "size": self.size,
                "diff_id": self.diff_id,
                "uncompressed_size": self.uncompressed_size,
                **({"annotations": {**self.annotations}} if self.annotations else {}),
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> LayerRecord:
        """
        Read a record that :meth:`encode` wrote.

        :raises ValueError: it is not a layer record.
        """
        try:
            value = json.loads(data)
            return cls(
                digest=parse_digest(value["digest"]),
                size=int(value["size"]),
                diff_id=parse_digest(value["diff_id"]),
                uncompressed_size=int(value["uncompressed_size"]),
                annotations=_parse_annotations(value.get("annotations", {})),
            )
        except (KeyError, TypeError, OverflowError, RecursionError, NixeryError) as error:
            raise ValueError(f"no layer record: {error}") from error


def _parse_annotations(value: object) -> Mapping[str, str]:
    if not isinstance(value, dict) or not all(isinstance(each, str) for each in value.values()):
        raise TypeError("annotations are a mapping to text")
    return value


@define(kw_only=True, eq=False)
class LayerCache:
    """
    The layers that are stored, by layer key.

    :param storage: keeps the layers, and a record for each.
    :param max_cached: the number of records that are also kept in memory.
    """

    storage: Storage
    max_cached: int = 65536
    _recent: MutableMapping[str, LayerRecord] = field(init=False)
    _pending_lookups: list[tuple[str, Deferred[LayerRecord | None]]] = field(
        factory=list, init=False
    )
    _lookup_running: bool = field(default=False, init=False)
    _log = Logger()

    def __attrs_post_init__(self) -> None:
        self._recent = LRUCache(self.max_cached)

    async def get(self, key: str) -> LayerRecord | None:
        """
        Return the layer if its blob exists; ``None`` if it has to be made.

        Layers that are requested while others are being looked up are looked up together
        afterwards.

        :raises StorageError: the storage failed.
        """
        waiter: Deferred[LayerRecord | None] = Deferred()
        self._pending_lookups.append((key, waiter))
        if not self._lookup_running:
            # No waiter owns the look-up, so a cancelled waiter does not end it for the others.
            Deferred.fromCoroutine(self._run_lookups())
        return await waiter

    async def add(
        self, layers: Mapping[str, tuple[LayerRecord, BlobWriter]], media_type: str
    ) -> list[LayerRecord]:
        """
        Publish layers.

        :param layers: by layer key; each with the writer of its blob, which is closed.
        :return: the layers to name in a manifest, in order: those that were published first
            under these keys, because other manifests name them already.
        :raises StorageError: the storage failed.
        """
        stored_records = await self.storage.commit_many(
            [
                PendingBlob(
                    writer=writer,
                    digest=record.digest,
                    size=record.size,
                    media_type=media_type,
                    record=(LAYERS, key, record.encode()),
                )
                for key, (record, writer) in layers.items()
            ]
        )
        published = []
        for (key, (record, _)), stored_record in zip(layers.items(), stored_records, strict=True):
            try:
                first = LayerRecord.decode(stored_record)
            except ValueError:
                await self.storage.set_record(LAYERS, key, record.encode())
                first = record
            self._recent[key] = first
            published.append(first)
        return published

    async def _run_lookups(self) -> None:
        """Look up the requested layers until no request is left."""
        self._lookup_running = True
        while self._pending_lookups:
            batch, self._pending_lookups = (
                self._pending_lookups[:LOOKUP_BATCH_SIZE],
                self._pending_lookups[LOOKUP_BATCH_SIZE:],
            )
            found: dict[str, LayerRecord] | Failure
            try:
                found = await self._find({key for key, _ in batch})
            except Exception:  # noqa: BLE001  # passed to the waiters
                found = Failure()
            for key, waiter in batch:
                if not waiter.called:
                    waiter.callback(found if isinstance(found, Failure) else found.get(key))
        self._lookup_running = False

    async def _find(self, keys: Collection[str]) -> dict[str, LayerRecord]:
        """Return those of the layers whose blobs exist, and withdraw the others."""
        found = {key: self._recent[key] for key in keys if key in self._recent}
        unknown = sorted(set(keys) - found.keys())
        if unknown:
            for key, text in (await self.storage.get_records(LAYERS, unknown)).items():
                try:
                    found[key] = LayerRecord.decode(text)
                except ValueError as error:
                    await self.discard(key, str(error))
        if not found:
            return found
        # Checked each time: a missing layer is then packed while its store paths exist, and
        # not noticed by a pull.
        missing = await self.storage.missing({record.digest for record in found.values()})
        for key, record in list(found.items()):
            if record.digest in missing:
                del found[key]
                await self.discard(key, f"there is no blob {record.digest}")
        self._recent.update(found)
        return found

    async def discard(self, key: str, reason: str) -> None:
        """
        Forget a layer; it is made again when it is needed next.

        :raises StorageError: the storage failed.
        """
        self._log.warn(
            "the record of layer {key} is unusable and is withdrawn: {reason}",
            key=key,
            reason=reason,
        )
        self._recent.pop(key, None)
        await self.storage.delete_record(LAYERS, key)
