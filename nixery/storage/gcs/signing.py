"""
Signs the URLs that blobs are fetched from.

A URL with Google's V4 signature lets any client that has it read one object for some
minutes.  It is signed by

- a separate key, ``gcs_signing_key`` and ``gcs_signing_account``;
- the key of the service account, if the daemon's credentials are its key file;
- Google's IAM service, for accounts without an available key (a machine's own account):
  one request for each URL, which is therefore cached for half of its lifetime;
- no key, if none of these works: then the URL is the object's public one, and
  the bucket has to be publicly readable.

A URL is signed for GET alone, so that a HEAD request for it is refused.
"""

from __future__ import annotations

import base64
import json
from datetime import timedelta
from threading import Event, Lock
from typing import Protocol
from urllib.parse import quote

from attrs import evolve
from cachetools import TTLCache
from google.auth.credentials import AnonymousCredentials, Credentials, Signing
from google.auth.crypt import RSASigner, Signer
from google.auth.transport.requests import Request
from google.oauth2 import service_account
from twisted.logger import Logger

from nixery.storage.errors import StorageRefused, StorageUnavailable
from nixery.storage.gcs.client import Connection, GcsSettings
from nixery.storage.gcs.http import request
from nixery.storage.gcs.retry import RetryPolicy, UnexpectedResponse, attempt, translate_errors

__all__ = ["URL_LIFETIME_SECONDS", "IamUrls", "KeyUrls", "PublicUrls", "Urls", "choose_urls"]

URL_LIFETIME_SECONDS = 300.0
"""Seconds for which a URL is valid."""

IAM = "https://iamcredentials.googleapis.com"

MAX_CACHED_URLS = 20_000
"""Maximum number of cached URLs that the IAM service has signed."""

_log = Logger()


class Urls(Protocol):
    """Makes the URLs that objects are fetched from."""

    blocking: bool
    """True if :meth:`url` may send a request, and has to be called on a worker thread."""

    def cached_url(self, name: str) -> str | None:
        """Return the URL of an object, if that takes no request."""

    def url(self, name: str, stop: Event) -> str:
        """
        Return the URL of an object.

        :param stop: set when the URL is not needed any more.
        :raises StorageError: it cannot be signed.
        """


class PublicUrls:
    """Makes URLs without signatures."""

    blocking = False

    def __init__(self, connection: Connection) -> None:
        self._base = f"{connection.endpoint}/{quote(connection.bucket, safe='')}"

    def cached_url(self, name: str) -> str:
        return f"{self._base}/{quote(name)}"

    def url(self, name: str, _stop: Event) -> str:
        return self.cached_url(name)


class KeyUrls:
    """
    Signs URLs with a local key: a third of a millisecond each, on any thread.

    :param signer: an account with its key.
    """

    blocking = False

    def __init__(self, connection: Connection, signer: Signing) -> None:
        self._connection = connection
        self._signer = signer

    def cached_url(self, name: str) -> str:
        return _sign(self._connection, name, self._signer)

    def url(self, name: str, _stop: Event) -> str:
        return self.cached_url(name)


class IamUrls:
    """
    Has Google's IAM service sign URLs.

    :param account: the e-mail address of the account.
    :param retry_policy: the retry policy for the IAM service.
    :param iam: its base URL.
    """

    blocking = True

    def __init__(
        self, connection: Connection, account: str, retry_policy: RetryPolicy, iam: str = IAM
    ) -> None:
        self._connection = connection
        self._account = account
        self._retry_policy = retry_policy
        self._iam = iam
        self._lock = Lock()
        self._cache: TTLCache[str, str] = TTLCache(MAX_CACHED_URLS, URL_LIFETIME_SECONDS / 2)

    def cached_url(self, name: str) -> str | None:
        with self._lock:
            return self._cache.get(name)

    def url(self, name: str, stop: Event) -> str:
        cached = self.cached_url(name)
        if cached is not None:
            return cached
        signer = _IamSigner(self, stop)
        url = _sign(
            self._connection,
            name,
            service_account.Credentials(
                signer=signer, service_account_email=self._account, token_uri=""
            ),
        )
        with self._lock:
            self._cache[name] = url
        return url

    def sign(self, message: bytes, stop: Event) -> bytes:
        """
        Return the signature of ``message``.

        google-auth has this too, but with pauses that cannot be interrupted and a time-out
        of two minutes.

        :raises StorageRefused: the account may not sign.
        :raises StorageUnavailable: the service does not answer.
        """
        body = json.dumps({"payload": base64.b64encode(message).decode("ascii")}).encode("ascii")
        account = quote(self._account, safe="@")
        url = f"{self._iam}/v1/projects/-/serviceAccounts/{account}:signBlob"

        def request_signature() -> bytes:
            response = request(
                self._connection,
                self._retry_policy,
                "POST",
                url,
                headers={"Content-Type": "application/json"},
                data=body,
            )
            try:
                return base64.b64decode(response.json()["signedBlob"], validate=True)
            except (KeyError, TypeError, ValueError) as error:
                raise UnexpectedResponse("the IAM service answers without a signature") from error

        try:
            with translate_errors("sign a URL"):
                return attempt("sign a URL", self._retry_policy, stop, request_signature)
        except StorageRefused as error:
            raise evolve(error, advice=_grant(self._account)) from error


class _IamSigner(Signer):
    """Implements the signer interface of the library."""

    key_id = None

    def __init__(self, urls: IamUrls, stop: Event) -> None:
        self._urls = urls
        self._stop = stop

    def sign(self, message: bytes | str) -> bytes:
        data = message.encode("utf-8") if isinstance(message, str) else message
        return self._urls.sign(data, self._stop)


def choose_urls(
    connection: Connection,
    settings: GcsSettings,
    retry_policy: RetryPolicy,
    stop: Event,
    iam: str = IAM,
) -> Urls:
    """
    Choose how URLs are signed.

    Blocks: keys are parsed once, here, and for an account that depends on the IAM service
    a test signature is requested.

    :raises StorageRefused: the key cannot be used.
    :raises StorageUnavailable: the account cannot be determined at the moment.
    """
    if settings.signing_key is not None:
        return KeyUrls(connection, _load_key(settings))
    credentials = connection.credentials
    if isinstance(credentials, AnonymousCredentials):
        return PublicUrls(connection)
    if isinstance(credentials, service_account.Credentials):
        return KeyUrls(connection, credentials)
    account = _find_account(connection, credentials, retry_policy, stop)
    if account is None:
        reason = "the daemon's credentials are a person's, who has no key to sign with"
    else:
        urls = IamUrls(connection, account, retry_policy, iam)
        try:
            urls.sign(b"trial", stop)
        except StorageUnavailable as error:
            # The IAM service may be available again before the first blob is requested.
            _log.warn("{error}", error=error)
            return urls
        except StorageRefused as error:
            reason = error.message
        else:
            return urls
    _log.warn(
        "URLs of blobs are not signed, because {reason}."
        " They work only if everyone can read the bucket {bucket}.",
        reason=reason,
        bucket=settings.bucket,
    )
    return PublicUrls(connection)


def _sign(connection: Connection, name: str, signer: Signing) -> str:
    blob = connection.client.bucket(connection.bucket).blob(name)
    return str(
        blob.generate_signed_url(
            version="v4",
            expiration=timedelta(seconds=URL_LIFETIME_SECONDS),
            method="GET",
            credentials=signer,
            api_access_endpoint=connection.endpoint,
        )
    )


def _load_key(settings: GcsSettings) -> Signing:
    assert settings.signing_key is not None
    try:
        signer = RSASigner.from_string(settings.signing_key.read_bytes())
    except (ValueError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no RSA key in PEM"
        raise StorageRefused(
            operation=f"read the key in {settings.signing_key}",
            reason=str(reason),
            advice="gcs_signing_key (GCS_SIGNING_KEY) names the file of a private key in PEM",
        ) from error
    return service_account.Credentials(
        signer=signer, service_account_email=settings.signing_account, token_uri=""
    )


def _find_account(
    connection: Connection, credentials: Credentials, retry_policy: RetryPolicy, stop: Event
) -> str | None:
    """Return the account of credentials without a key; ``None`` if they are a person's."""

    def refresh() -> None:
        credentials.refresh(Request(connection.session))

    if not hasattr(credentials, "service_account_email"):
        return None
    # A machine's account is called `default` before the metadata server is asked.
    with translate_errors("find the daemon's account"):
        attempt("find the daemon's account", retry_policy, stop, refresh)
    return str(credentials.service_account_email)


def _grant(account: str) -> str:
    return (
        f"give {account} the role Service Account Token Creator on itself"
        " (roles/iam.serviceAccountTokenCreator), or set gcs_signing_key"
    )
