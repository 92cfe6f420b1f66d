"""
Summarizes an image that has no report from its manifest and its config.

Images that were made before reports were kept, or by another instance that keeps none, are shown by
their layers alone: sizes and digests, and the line of the image's history that names the content of
each.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from nixery.errors import NixeryError
from nixery.image.manifests import Manifest
from nixery.image.names import parse_digest
from nixery.inspection.report import ImageReport, ReportedLayer

__all__ = ["summarize_manifest"]

_HISTORY_PREFIX = "nixery: "
_MAX_TITLE_CHARACTERS = 120


def summarize_manifest(manifest: Manifest, config: bytes) -> ImageReport:
    """
    Make a report that holds the layers and nothing else. Unpacked sizes, which no manifest has, are
    0.

    :param config: the bytes of the manifest's config.
    :raises ValueError: the config was not made by this registry.
    :raises UnexpectedOutput: the manifest is not a manifest.
    """
    _, *blobs = manifest.blobs()
    try:
        value = json.loads(config)
        diff_ids = [parse_digest(each) for each in value["rootfs"]["diff_ids"]]
        titles = [_title(each) for each in value["history"]]
        layers = tuple(
            ReportedLayer(
                digest=blob.digest,
                size=blob.size,
                diff_id=diff_id,
                uncompressed_size=0,
                title=title,
                reason="not known: the image was made before that was written down",
                paths=(),
            )
            for blob, diff_id, title in zip(blobs, diff_ids, titles, strict=True)
        )
        system = f"{value['os']}/{value['architecture']}"
    except (KeyError, TypeError, ValueError, RecursionError, NixeryError) as error:
        raise ValueError(f"no config of an image: {error}") from error
    return ImageReport(
        digest=manifest.digest,
        system=system,
        source="",
        popularity="",
        packages=(),
        layers=layers,
        paths=(),
    )


def _title(history: Mapping[str, object]) -> str:
    text = str(history["created_by"]).removeprefix(_HISTORY_PREFIX)
    return text if len(text) <= _MAX_TITLE_CHARACTERS else text[: _MAX_TITLE_CHARACTERS - 1] + "…"
