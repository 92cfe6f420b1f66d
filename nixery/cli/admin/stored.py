"""Reads stored images and indexes for the commands of ``nixery-admin``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from nixery.cli.errors import CommandRefused
from nixery.config.declarations.sources import SourceConfig
from nixery.image.manifests import Image, Manifest
from nixery.image.names import parse_digest, parse_image_name, parse_tag
from nixery.pulls.tag_records import tag_record_key, tag_record_prefix
from nixery.storage.filesystem.scan import Inventory, StoredImage

__all__ = [
    "find_images",
    "named_images",
    "platform_images",
    "read_image",
    "skipped_platforms",
    "with_platforms",
]


def read_image(inventory: Inventory, stored: StoredImage) -> Image:
    """
    Read the manifests of an image, or of an index and its images; this is no use of it.

    :raises StorageError: one cannot be read.
    """
    manifests = []
    for digest in (*stored.manifests, *sorted(stored.parts)):
        media_type, _ = inventory.descriptions.get(digest) or ("", 0)
        body = inventory.blobs.read(digest, is_use=False)
        manifests.append(Manifest(media_type=media_type, digest=digest, body=body))
    return Image(manifests=tuple(manifests))


def named_images(inventory: Inventory) -> list[StoredImage]:
    """Return the images, the least recently pulled one first, without those of indexes alone."""
    images = inventory.stored_images()
    parts = {digest for index in images for digest in index.parts}
    tagged = set(inventory.tag_records.values())
    return [
        image
        for image in images
        if not parts.issuperset(image.manifests) or tagged.intersection(image.keys)
    ]


def find_images(inventory: Inventory, image: str, sources: SourceConfig) -> list[StoredImage]:
    """
    Return the images that an argument means: a name, a name and a tag, or a digest.

    :raises InvalidName: it is none of these.
    :raises CommandRefused: there is no such image.
    """
    images = inventory.stored_images()
    if "@" in image or image.startswith("sha256:"):
        digest = parse_digest(image.rpartition("@")[2])
        found = [stored for stored in images if digest in stored.manifests]
    else:
        text, _, tag = image.partition(":")
        wanted = parse_tag(tag) if tag else None
        # The daemon may have been given other platforms than this command, or had others before:
        # the image of one system, or an index.
        for platforms in dict.fromkeys((sources.platforms, (), (sources.system,))):
            name = parse_image_name(text.strip("/"), sources.system, platforms)
            keys = {
                key
                for each, key in inventory.tag_records.items()
                if (
                    each.startswith(tag_record_prefix(name))
                    if wanted is None
                    else each == tag_record_key(name, wanted)
                )
            }
            found = [stored for stored in images if keys.intersection(stored.keys)]
            if found:
                break
    if not found:
        raise CommandRefused(reason=f"{image} is not stored: nixery-admin list shows what is")
    return found


def platform_images(
    inventory: Inventory, index: StoredImage, images: Iterable[StoredImage]
) -> dict[str, StoredImage]:
    """
    Return the images of an index by their Nix systems, in its order.

    :param images: all images.
    """
    owners = {digest: image for image in images for digest in image.manifests}
    try:
        first = [
            (str(each["system"]), each["manifests"][0]["digest"])
            for each in _record(inventory, index)["platforms"]
        ]
    except (IndexError, KeyError, TypeError):
        return {}
    return {system: owners[digest] for system, digest in first if digest in owners}


def skipped_platforms(inventory: Inventory, index: StoredImage) -> dict[str, str]:
    """Return the Nix systems that an index lacks, and why."""
    try:
        skipped = _record(inventory, index)["skipped"]
        return {str(system): str(reason) for system, reason in skipped.items()}
    except (AttributeError, KeyError, TypeError):
        return {}


def with_platforms(inventory: Inventory, chosen: Iterable[StoredImage]) -> list[StoredImage]:
    """Add the images that only the indexes among some images name."""
    named = {image.manifests for image in named_images(inventory)}
    images = inventory.stored_images()
    found = {image.manifests: image for image in chosen}
    kept = {digest for index in images if index.manifests not in found for digest in index.parts}
    for image in images:
        is_part = any(not index.parts.isdisjoint(image.manifests) for index in found.values())
        if is_part and image.manifests not in named and kept.isdisjoint(image.manifests):
            found[image.manifests] = image
    return list(found.values())


def _record(inventory: Inventory, index: StoredImage) -> Mapping[str, Any]:
    for key in index.keys:
        try:
            value = json.loads(inventory.records.get("image", key) or b"")
        except ValueError:
            continue
        if isinstance(value, dict):
            return value
    return {}
