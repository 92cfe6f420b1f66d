"""Settings of the Google Cloud Storage."""

from __future__ import annotations

from pathlib import Path

from attrs import frozen

from nixery.config import types, url_types
from nixery.config.setting import setting

__all__ = ["GcsConfig"]


@frozen(kw_only=True)
class GcsConfig:
    """Settings of the Google Cloud Storage."""

    gcs_bucket: str | None = setting(
        types.TEXT,
        "bucket of Google Cloud Storage",
        variable="GCS_BUCKET",
        requires=("storage_backend", "gcs"),
    )
    gcs_signing_key: Path | None = setting(
        types.PATH,
        "private key file that signs download URLs",
        variable="GCS_SIGNING_KEY",
        requires=("storage_backend", "gcs"),
        secret=True,
    )
    gcs_signing_account: str | None = setting(
        types.TEXT,
        "service account that download URLs are signed for",
        variable="GCS_SIGNING_ACCOUNT",
        requires=("storage_backend", "gcs"),
    )
    gcs_redirect: bool = setting(
        types.BOOLEAN,
        "redirect clients to the bucket, instead of sending blobs through the daemon",
        default=True,
        requires=("storage_backend", "gcs"),
        inverted_alias="gcs_proxy",
    )
    gcs_endpoint: str | None = setting(
        url_types.URL,
        "URL of Google Cloud Storage, if not the usual one",
        default_text="$STORAGE_EMULATOR_HOST, else Google's own",
        requires=("storage_backend", "gcs"),
    )
    google_application_credentials: Path | None = setting(
        types.PATH,
        "credentials file for Google Cloud Storage",
        variable="GOOGLE_APPLICATION_CREDENTIALS",
    )
