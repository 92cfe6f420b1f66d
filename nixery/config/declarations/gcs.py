"""Settings of the Google Cloud Storage."""

from __future__ import annotations

from nixery.config import types
from nixery.config.setting import Setting

__all__ = ["GCS_SETTINGS"]

GCS_SETTINGS: tuple[Setting, ...] = (
    Setting(
        name="gcs_bucket",
        kind=types.TEXT,
        help="the bucket of the Google Cloud Storage",
        variable="GCS_BUCKET",
        requires=("storage_backend", "gcs"),
    ),
    Setting(
        name="gcs_signing_key",
        kind=types.PATH,
        help="the file of the private key that signs download URLs",
        variable="GCS_SIGNING_KEY",
        requires=("storage_backend", "gcs"),
        secret=True,
    ),
    Setting(
        name="gcs_signing_account",
        kind=types.TEXT,
        help="the service account that download URLs are signed for",
        variable="GCS_SIGNING_ACCOUNT",
        requires=("storage_backend", "gcs"),
    ),
    Setting(
        name="gcs_redirect",
        kind=types.BOOLEAN,
        help="whether clients are redirected to the bucket, or get blobs through the daemon",
        default=True,
        default_text="true",
        requires=("storage_backend", "gcs"),
        inverted_alias="gcs_proxy",
    ),
    Setting(
        name="gcs_endpoint",
        kind=types.URL,
        help="where the Google Cloud Storage is reached, if not at its usual address",
        default_text="$STORAGE_EMULATOR_HOST, else Google's own",
        requires=("storage_backend", "gcs"),
    ),
    # Other programs on the machine use this variable too: it requires nothing.
    Setting(
        name="google_application_credentials",
        kind=types.PATH,
        help="the file of the credentials for the Google Cloud Storage",
        variable="GOOGLE_APPLICATION_CREDENTIALS",
    ),
)
