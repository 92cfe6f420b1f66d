"""
Connects to Google Cloud Storage: settings, credentials and a client.

Making a client blocks (credentials may come from a metadata server), and must happen
after twistd has forked: do it on a worker thread of the running daemon.

Credentials are Application Default Credentials: the file that
``google_application_credentials`` (``GOOGLE_APPLICATION_CREDENTIALS``) names, the one that
``gcloud auth application-default login`` stored, or the account of the machine that
the daemon runs on.  The account needs the role Storage Object Admin
(``roles/storage.objectAdmin``) on the bucket; to sign URLs without a key of its
own it needs ``iam.serviceAccounts.signBlob`` on itself as well
(``roles/iam.serviceAccountTokenCreator``).  Where ``STORAGE_EMULATOR_HOST`` is set,
the emulator there is used, without credentials.
"""

from __future__ import annotations

import json
import os
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import quote

import google.auth
from attrs import field, frozen
from google.auth.credentials import AnonymousCredentials, Credentials
from google.auth.exceptions import DefaultCredentialsError, MalformedError
from google.auth.transport.requests import AuthorizedSession
from google.cloud import storage
from google.oauth2 import service_account
from requests.adapters import HTTPAdapter

from nixery.storage.errors import StorageRefused

if TYPE_CHECKING:
    from requests import PreparedRequest, Response, Session

__all__ = ["CHUNK_SIZE", "Connection", "GcsSettings", "connect"]

SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)
"""The widest scope: permissions are controlled by the account's roles, as Google advises."""


CHUNK_SIZE = 16 * 2**20
"""
The bytes of a blob that are sent at a time: large enough that the round trip of a request does
not count, and small enough for memory, of which an upload takes up to five times as much.
"""


@frozen(kw_only=True)
class GcsSettings:
    """
    The settings of the bucket, and of its use.

    :param bucket: its name.
    :param endpoint: the base URL of the service; ``None``: Google's own, or that of
        an emulator.
    :param credentials: the file of the credentials; ``None``: as the environment
        says.
    :param signing_key: the file of the private key that signs URLs, in PEM.
    :param signing_account: the e-mail address of the account that owns the key.
    :param redirect: whether clients are redirected to the bucket, or get blobs through the daemon.
    :param chunk_size: bytes of a blob that are sent at a time, a multiple of 256 KiB.
    :param uploads: how many blobs are uploaded at a time.
    :param connections: how many connections are kept for further requests.
    """

    bucket: str
    endpoint: str | None = None
    credentials: Path | None = None
    signing_key: Path | None = field(default=None, repr=False)
    signing_account: str | None = None
    redirect: bool = True
    chunk_size: int = CHUNK_SIZE
    uploads: int = 4
    connections: int = 40


@frozen(kw_only=True, eq=False)
class Connection:
    """
    A client with its session and credentials; to be used from any thread.

    :param client: for metadata: names, sizes, moves.
    :param session: for requests that the client does not support, or not safely.
    :param credentials: the daemon's own.
    :param endpoint: the base URL of the service.
    """

    bucket: str
    client: Any  # google-cloud-storage publishes no types
    session: Session
    credentials: Credentials
    endpoint: str

    def url(self, *, part: str = "", name: str | None = None) -> str:
        """
        Return the URL of the bucket's objects, or of one of them.

        :param part: ``/upload`` or ``/download``.
        """
        objects = f"{self.endpoint}{part}/storage/v1/b/{quote(self.bucket, safe='')}/o"
        return objects if name is None else f"{objects}/{quote(name, safe='')}"

    def close(self) -> None:
        """Close the idle connections."""
        self.session.close()


class _PiecewiseAdapter(HTTPAdapter):
    """
    Sends bytes in pieces.

    A socket's time-out is the time in which ``sendall`` has to send all it was given.
    A body that is read from a file is sent piece by piece, and each piece has that time.
    """

    def send(self, request: PreparedRequest, *args: Any, **kwargs: Any) -> Response:
        if isinstance(request.body, bytes):
            # The type that requests declares is narrower than the types it accepts.
            request.body = cast("bytes", BytesIO(request.body))
        return super().send(request, *args, **kwargs)


def connect(settings: GcsSettings) -> Connection:
    """
    Find credentials and make a client.  Blocks; sends no request to the bucket.

    :raises StorageRefused: there are no credentials, or they cannot be used.
    """
    # Otherwise the client would fetch the bucket's metadata by itself, and be refused.
    os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "1")
    credentials = _find_credentials(settings)
    session = AuthorizedSession(credentials)
    # Ten connections are kept by default; any further connection is dropped after one
    # request.
    adapter = _PiecewiseAdapter(pool_maxsize=settings.connections, max_retries=0)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    try:
        client = storage.Client(
            project=None,  # objects belong to buckets, and only buckets to projects
            credentials=credentials,
            client_options={"api_endpoint": settings.endpoint} if settings.endpoint else None,
            _http=session,
        )
    except ValueError as error:  # credentials of another universe than the service's
        raise _credentials_error(settings, error) from error
    return Connection(
        bucket=settings.bucket,
        client=client,
        session=session,
        credentials=credentials,
        endpoint=str(client.api_endpoint).rstrip("/"),
    )


def _find_credentials(settings: GcsSettings) -> Credentials:
    if settings.endpoint is None and os.environ.get("STORAGE_EMULATOR_HOST"):
        return AnonymousCredentials()
    try:
        if settings.credentials is not None:
            return _load_credentials(settings.credentials)
        return google.auth.default(scopes=SCOPES)[0]
    except (DefaultCredentialsError, MalformedError, ValueError, OSError) as error:
        raise _credentials_error(settings, error) from error


def _credentials_error(settings: GcsSettings, error: Exception) -> StorageRefused:
    return StorageRefused(
        operation=f"find credentials for the bucket {settings.bucket}",
        reason=str(error.args[0] if len(error.args) == 1 else error).rstrip("."),
        advice=(
            "let google_application_credentials (GOOGLE_APPLICATION_CREDENTIALS) name the"
            " key file of a service account, or give this machine an account"
        ),
    )


def _load_credentials(path: Path) -> Credentials:
    info = json.loads(path.read_bytes())
    if not isinstance(info, dict):
        raise ValueError(f"{path} holds no credentials")
    credentials: Credentials
    if info.get("type") == "service_account":
        credentials = service_account.Credentials.from_service_account_info(info, scopes=SCOPES)
    else:
        credentials, _ = google.auth.load_credentials_from_file(str(path), scopes=SCOPES)
    return credentials
