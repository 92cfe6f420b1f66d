"""Reads stored images for the commands of ``nixery-admin``."""

from __future__ import annotations

from nixery.image.manifests import Image, Manifest
from nixery.storage.filesystem.scan import Inventory, StoredImage

__all__ = ["read_image"]


def read_image(inventory: Inventory, stored: StoredImage) -> Image:
    """
    Read the manifests of an image; this is no use of it.

    :raises StorageError: one cannot be read.
    """
    manifests = []
    for digest in stored.manifests:
        media_type, _ = inventory.descriptions.get(digest) or ("", 0)
        body = inventory.blobs.read(digest, is_use=False)
        manifests.append(Manifest(media_type=media_type, digest=digest, body=body))
    return Image(manifests=tuple(manifests))
