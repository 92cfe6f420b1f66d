"""Settings that no longer exist; they are accepted, ignored and warned of for one release."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["REMOVED_SETTINGS"]

REMOVED_SETTINGS: Mapping[str, str] = {
    "blob_recheck": "",
    "client_burst": "",
    "compression_level": "write it behind the kind, as compression: gzip-0",
    "evaluations": "it is max_builds",
    "failure_cache_ttl": "",
    "failure_ttl": "",
    "fetch_timeout": "",
    "gcs_chunk_size": "",
    "gcs_workers": "",
    "head_timeout": "",
    "layer_affinity": "",
    "layer_classes": "",
    "layer_common_share": "",
    "layer_minimum_size": "",
    "layer_popularity_threshold": "",
    "layer_size_threshold": "",
    "layer_unit_size": "",
    "manifest_memory": "",
    "manifest_ttl": "",
    "max_connections": "the limit of open files says it (LimitNOFILE=, ulimit -n)",
    "max_evaluations": "it is max_builds",
    "max_queue": "it is 16 times max_builds",
    "max_queued_builds": "it is 16 times max_builds",
    "min_response_rate": "",
    "min_send_rate": "",
    "nix_max_silent": "it is half of nix_timeout",
    "popularity_refresh": "to fetch them again, remove popularity in the state directory",
    "request_read_timeout": "",
    "requests_per_client_burst": "",
    "retention_grace": "it is a day; nixery-admin gc has --grace",
    "retention_interval": "",
    "send_timeout": "",
    "source_keep": "",
    "source_retention": "",
    "source_timeout": "",
    "stall_timeout": "",
    "storage_workers": "",
}
"""The removed settings, and what to do instead, if anything."""
