"""
Check images that are stored since before :data:`CONTENT_RULES` were in force.

The key of an image does not tell by which rules it was made.  To change all keys would make every
image again, with packages that may have to be built for it, and most would come out the
same.  So the record of an image names its rules, and an image of former ones is checked
when it is first asked for: its layers are read once, as one pull reads them.
"""

from __future__ import annotations

import os
from itertools import islice
from tempfile import SpooledTemporaryFile

from attrs import define, field
from twisted.logger import Logger

from nixery.image.manifests import Descriptor, Image
from nixery.layers.content_check import Entries, find_faults, read_entries
from nixery.layers.link_resolver import Kind
from nixery.runtime.single_flight import SingleFlight
from nixery.runtime.workers import Workers
from nixery.storage.interface import OpenFile, Storage, Stream

__all__ = ["CONTENT_RULES", "ImageCheck"]

CONTENT_RULES = 1
"""The rules for names and links that images are made by now; the first that records name."""

MAX_BYTES_IN_MEMORY = 64 * 2**20
"""A layer of more bytes is copied to a temporary file, where the storage has no files."""


@define(kw_only=True, eq=False)
class ImageCheck:
    """
    Checks stored images.

    :param storage: has the layers.
    :param workers: the thread pool in which they are read.
    """

    storage: Storage
    workers: Workers
    _jobs: SingleFlight[str, bool] = field(factory=SingleFlight, init=False)
    _log = Logger()

    async def is_sound(self, image: Image) -> bool:
        """
        Tell whether an image is as it would be made now; false also if that cannot be told.

        :raises BlobUnknown: a layer has been removed.
        :raises StorageError: the storage failed.
        """
        manifest = image.manifests[0]
        return await self._jobs.run(manifest.digest, lambda: self._check(image))

    async def _check(self, image: Image) -> bool:
        manifest = image.manifests[0]
        _, *layers = manifest.blobs()
        entries: dict[bytes, Kind | bytes] = {}
        try:
            for layer in layers:
                entries |= await self._read(layer)
            faults = await self.workers.run(lambda: [*islice(find_faults(entries), 1)])
        except ValueError as error:
            faults = [str(error)]
        if faults:
            self._log.warn(
                "image {digest} was built by older rules and is built again: {fault}",
                digest=manifest.digest,
                fault=faults[0],
            )
        return not faults

    async def _read(self, layer: Descriptor) -> Entries:
        """
        Read the entries of a layer.

        :raises ValueError: it cannot be read.
        """
        compression = layer.media_type.replace(".", "+").rpartition("+")[2]
        source = await self.storage.open(layer.digest, redirect=False)
        if isinstance(source, OpenFile):
            with os.fdopen(source.descriptor, "rb") as file:
                return await self.workers.run(read_entries, file, compression)
        if not isinstance(source, Stream):
            raise ValueError(f"its layer {layer.digest} cannot be read")
        with SpooledTemporaryFile(max_size=MAX_BYTES_IN_MEMORY) as copy:
            async for chunk in source.chunks:
                await self.workers.run(copy.write, chunk)
            copy.seek(0)
            return await self.workers.run(read_entries, copy, compression)
