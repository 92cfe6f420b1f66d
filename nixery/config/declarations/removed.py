"""Settings that no longer exist; they are accepted, ignored and warned of for one release."""

from __future__ import annotations

__all__ = ["REMOVED_SETTINGS"]

REMOVED_SETTINGS = (
    "blob_recheck",
    "gcs_chunk_size",
    "gcs_workers",
    "layer_affinity",
    "layer_classes",
    "layer_common_share",
    "layer_minimum_size",
    "layer_popularity_threshold",
    "layer_size_threshold",
    "layer_unit_size",
    "manifest_memory",
    "manifest_ttl",
    "retention_interval",
    "source_timeout",
    "storage_workers",
)
