"""Formats the list of stored images, for people and for programs."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from nixery.artifacts.attachment import decode_attachments
from nixery.artifacts.simple_signing import decode_signature
from nixery.builds.documents import DOCUMENTS
from nixery.cli.admin.stored import named_images, platform_images, skipped_platforms
from nixery.cli.console import heading
from nixery.errors import StorageError
from nixery.image.image_index import platform_label
from nixery.image.manifests import parse_manifest
from nixery.image.names import Digest
from nixery.inspection.catalog import REPORTS
from nixery.inspection.report_file import decode_report
from nixery.runtime.sizes import format_size
from nixery.storage.errors import BlobUnknown
from nixery.storage.filesystem.scan import Inventory, StoredImage

__all__ = ["to_plain_data", "describe_image", "format_table"]


def to_plain_data(inventory: Inventory, images: Sequence[StoredImage]) -> list[dict[str, object]]:
    """Return images as plain data: names, digests, sizes in bytes, last pull in ISO 8601."""
    all_images = inventory.stored_images()
    reference_counts = Counter(
        digest for image in named_images(inventory) for digest in image.needs
    )
    return [
        {
            "images": [f"{name}:{tag}" for name, tag in inventory.tags(image)],
            "digest": image.manifests[0],
            "size": _size(inventory, image.needs),
            "own": _size(inventory, [each for each in image.needs if reference_counts[each] == 1]),
            "shared": _size(
                inventory, [each for each in image.needs if reference_counts[each] > 1]
            ),
            "last_pull": datetime.fromtimestamp(image.used, UTC).isoformat(timespec="seconds"),
            "missing": list(image.broken),
            **(_platforms(inventory, image, all_images) if image.parts else {}),
        }
        for image in reversed(images)
    ]


def format_table(inventory: Inventory, images: Sequence[StoredImage]) -> str:
    """Format images as a table, most recently pulled first."""
    rows = [("IMAGE", "SIZE", "OWN", "LAST PULL", "DIGEST")]
    for row in to_plain_data(inventory, images):
        names = row["images"]
        assert isinstance(names, list)
        platforms = row.get("platforms", {})
        assert isinstance(platforms, dict)
        suffix = f" ({', '.join(platforms)})" if platforms else ""
        suffix += " (incomplete)" if row["missing"] else ""
        for index, name in enumerate(names or ["(no name: pulled by digest)"]):
            first = index == 0
            rows.append(
                (
                    str(name) + suffix,
                    format_size(int(str(row["size"]))) if first else "",
                    format_size(int(str(row["own"]))) if first else "",
                    str(row["last_pull"])[:16].replace("T", " ") if first else "",
                    str(row["digest"])[7:19],
                )
            )
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    lines = [
        "  ".join(
            text.rjust(width) if column in (1, 2) else text.ljust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    total = f"{len(images)} images, {len(inventory.files)} blobs, {format_size(inventory.total)}"
    return "\n".join([heading(lines[0], sys.stdout), *lines[1:], total])


def describe_image(inventory: Inventory, image: StoredImage) -> dict[str, object]:
    """Format all that is known of one image: manifests, layers, packages."""
    (data,) = to_plain_data(inventory, [image])
    images = platform_images(inventory, image, inventory.stored_images())
    if image.parts:
        data["platforms"] = {
            platform_label(system): describe_image(inventory, each)
            for system, each in images.items()
        }
    manifests: list[dict[str, object]] = []
    layers: Sequence[Mapping[str, object]] = ()
    config: Mapping[str, object] = {}
    for digest in image.manifests:
        description = inventory.descriptions.get(digest)
        manifests.append({"digest": digest, "media_type": description[0] if description else None})
        if image.parts:
            continue
        try:
            first, *rest = parse_manifest(inventory.blobs.read(digest))
            layers = [{"digest": each.digest, "size": each.size} for each in rest]
            config = json.loads(inventory.blobs.read(first.digest))
        except (StorageError, ValueError):
            continue
    return {
        **data,
        "manifests": manifests,
        "layers": layers,
        **_packages(config),
        **_contents(inventory, image.manifests[0]),
        "signatures": _signatures(inventory, image),
    }


def _platforms(
    inventory: Inventory, index: StoredImage, images: Sequence[StoredImage]
) -> dict[str, object]:
    """Return the platforms of an index, with the digests of their images, and those it lacks."""
    return {
        "platforms": {
            platform_label(system): each.manifests[0]
            for system, each in platform_images(inventory, index, images).items()
        },
        "skipped": {
            platform_label(system): reason
            for system, reason in skipped_platforms(inventory, index).items()
        },
    }


def _signatures(inventory: Inventory, image: StoredImage) -> list[dict[str, object]]:
    """Return what was signed of an image by its names, and by which key."""
    found: list[dict[str, object]] = []
    for (kind, key), digest in sorted(inventory.other_records.items()):
        if kind != "signature" or digest not in image.manifests:
            continue
        try:
            signature = decode_signature(inventory.records.get(kind, key) or b"")
            payload = json.loads(inventory.blobs.read(signature.payload.digest, is_use=False))
            reference = payload["critical"]["identity"]["docker-reference"]
        except (BlobUnknown, StorageError, ValueError, KeyError, TypeError):
            continue
        found.append({"reference": reference, "manifest": digest, "key": signature.key_id})
    return sorted(found, key=lambda each: (str(each["reference"]), str(each["manifest"])))


def _contents(inventory: Inventory, digest: Digest) -> dict[str, object]:
    """Return the documents about an image, and the number of its store paths by licence."""
    records = inventory.records
    try:
        attachments = decode_attachments(records.get(DOCUMENTS, digest) or b"")
    except ValueError:
        attachments = ()
    try:
        report = decode_report(records.get(REPORTS, digest) or b"")
    except ValueError:
        licenses = without = None
    else:
        licenses, without = report.license_counts, report.unlicensed
    return {
        "documents": [
            {"type": each.artifact_type, "digest": each.blob.digest, "size": each.blob.size}
            for each in attachments
        ],
        "licenses": licenses,
        "paths_without_license": without,
    }


def _packages(config: Mapping[str, object]) -> dict[str, object]:
    container_config = config.get("config")
    labels = container_config.get("Labels") if isinstance(container_config, dict) else None
    history = config.get("history")
    contents = (
        [
            each.get("comment") or each.get("created_by")
            for each in history
            if isinstance(each, dict)
        ]
        if isinstance(history, list)
        else []
    )
    return {"labels": labels or {}, "contents": contents}


def _size(inventory: Inventory, digests: Sequence[Digest] | frozenset[Digest]) -> int:
    return sum(inventory.files[each].size for each in digests if each in inventory.files)
