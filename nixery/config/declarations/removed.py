"""Settings that no longer exist; they are accepted, ignored and warned of for one release."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["REMOVED_SETTINGS"]

REMOVED_SETTINGS: Mapping[str, str] = {
    "blob_recheck": "",
    "compression_level": "write it behind the kind, as compression: gzip-0",
    "gcs_chunk_size": "",
    "gcs_workers": "",
    "layer_affinity": "",
    "layer_classes": "",
    "layer_common_share": "",
    "layer_minimum_size": "",
    "layer_popularity_threshold": "",
    "layer_size_threshold": "",
    "layer_unit_size": "",
    "manifest_memory": "",
    "manifest_ttl": "",
    "retention_interval": "",
    "source_timeout": "",
    "storage_workers": "",
}
"""The removed settings, and what to do instead, if anything."""
