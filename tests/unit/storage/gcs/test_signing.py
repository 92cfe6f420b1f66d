"""
Tests for :mod:`nixery.storage.gcs.signing`: the choice of the signer, and URLs without one.
"""

from __future__ import annotations

import json
from pathlib import Path
from threading import Event
from urllib.error import HTTPError

from attrs import evolve
from google.auth.credentials import AnonymousCredentials, Credentials
from google.auth.exceptions import RefreshError, TransportError
from requests.exceptions import ConnectionError as RequestsConnectionError
from twisted.trial.unittest import SynchronousTestCase

from nixery.errors import StorageError
from nixery.storage.errors import StorageRefused, StorageUnavailable
from nixery.storage.gcs.client import GcsSettings
from nixery.storage.gcs.retry import RetryPolicy
from nixery.storage.gcs.signing import IamUrls, KeyUrls, PublicUrls, Urls, choose_urls
from nixery.storage.interface import Redirect
from tests.support.fake_gcs.auth import ACCOUNT
from tests.support.fake_gcs.process import fake_gcs
from tests.support.gcs import BRIEF, HASTY, connection_to, fetch, make_storage, settings_for
from tests.unit.storage.test_contract import digest_of, finish


class AmbientCredentials(Credentials):
    """A machine's own account: no key, and no name before it was asked for."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.service_account_email = "default"
        self.error = error

    def refresh(self, request: object) -> None:
        if self.error is not None:
            raise self.error
        self.token = connection_to_any().token
        self.service_account_email = ACCOUNT


def connection_to_any() -> Credentials:
    """Credentials that the service admits."""
    credentials = connection_to(fake_gcs().make_bucket()).credentials
    if not credentials.valid:
        connection = connection_to(fake_gcs().make_bucket())
        list(connection.client.list_blobs(connection.bucket))
    return credentials


class SigningCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.bucket = fake_gcs().make_bucket()
        self.settings: GcsSettings = settings_for(self.bucket)
        self.connection = connection_to(self.bucket)
        self.bucket.put("layers/a b+c", b"here", media_type="x/y")
        self.addCleanup(fake_gcs().control, "heal")

    def choose(self, retry_policy: RetryPolicy = HASTY) -> Urls:
        return choose_urls(
            self.connection, self.settings, retry_policy, Event(), iam=self.bucket.server.url
        )

    def check(self, urls: Urls) -> None:
        """The URL of an object leads to it."""
        url = urls.cached_url("layers/a b+c") or urls.url("layers/a b+c", Event())
        self.assertEqual(b"here", fetch(url))


class ChoiceTests(SigningCase):
    """Tests of the choice of the signer of URLs."""

    def test_key_of_the_account_whose_file_the_credentials_are(self) -> None:
        """The key of the account whose file the credentials are."""
        urls = self.choose()
        self.assertIsInstance(urls, KeyUrls)
        self.assertFalse(urls.blocking)
        self.check(urls)

    def test_key_in_pem_and_account_it_belongs_to_whatever_credentials_are(self) -> None:
        """A key in PEM and the account it belongs to, whatever the credentials are."""
        self.connection = evolve(self.connection, credentials=AnonymousCredentials())
        key = Path(self.mktemp())
        key.write_text(json.loads(Path(str(self.settings.credentials)).read_text())["private_key"])
        self.settings = evolve(self.settings, signing_key=key, signing_account=ACCOUNT)
        urls = self.choose()
        self.assertIsInstance(urls, KeyUrls)
        self.check(urls)
        # The account is signed with.
        self.settings = evolve(self.settings, signing_account="other@example.org")
        with self.assertRaises(HTTPError) as caught:
            self.check(self.choose())
        with caught.exception as error:
            self.assertEqual(403, error.code)

    def test_key_that_cannot_be_used_is_refused_without_showing_it(self) -> None:
        """A key that cannot be used is refused, without showing it."""
        key = Path(self.mktemp())
        self.settings = evolve(self.settings, signing_key=key, signing_account=ACCOUNT)
        with self.assertRaises(StorageRefused) as caught:
            self.choose()
        self.assertIn("GCS_SIGNING_KEY", caught.exception.message)
        self.assertIn("No such file", caught.exception.message)
        key.write_text("-----BEGIN PRIVATE KEY-----\nsecret\n-----END PRIVATE KEY-----\n")
        with self.assertRaises(StorageRefused) as caught:
            self.choose()
        self.assertNotIn("secret", caught.exception.message)

    def test_iam_service_for_an_account_without_a_key(self) -> None:
        """The IAM service, for an account without a key."""
        self.connection = evolve(self.connection, credentials=AmbientCredentials())
        urls = self.choose()
        self.assertIsInstance(urls, IamUrls)
        self.assertTrue(urls.blocking)
        self.check(urls)

    def test_credentials_that_cannot_sign_yield_the_public_urls(self) -> None:
        """Credentials that cannot sign yield the public URLs."""
        for credentials in (AnonymousCredentials(), PersonsCredentials()):
            self.connection = evolve(self.connection, credentials=credentials)
            urls = self.choose()
            self.assertIsInstance(urls, PublicUrls)
            self.assertNotIn("?", urls.cached_url("layers/a b+c") or "?")
            self.assertRaises(HTTPError, self.check, urls).close()
        self.bucket.control("make", public=True)
        self.bucket.put("layers/a b+c", b"here")
        self.check(urls)

    def test_machine_account_may_not_sign(self) -> None:
        """A machine's account that may not sign for itself yields the public URLs, too."""
        self.connection = evolve(self.connection, credentials=AmbientCredentials())
        fake_gcs().control("fault", where="sign", action="status", value=403, times=10)
        self.assertIsInstance(self.choose(), PublicUrls)

    def test_iam_down_at_the_start(self) -> None:
        """An IAM service that is down when the daemon starts may be back later."""
        self.connection = evolve(self.connection, credentials=AmbientCredentials())
        fake_gcs().control("fault", where="sign", action="status", value=503, times=1000)
        urls = self.choose(BRIEF)
        self.assertIsInstance(urls, IamUrls)
        fake_gcs().control("heal")
        self.check(urls)

    def test_metadata_server_down(self) -> None:
        """While the metadata server is down, the account cannot be told."""
        down = TransportError(RequestsConnectionError("down"))
        self.connection = evolve(self.connection, credentials=AmbientCredentials(down))
        with self.assertRaises(StorageUnavailable):
            self.choose(BRIEF)
        gone = RefreshError("no such account")
        self.connection = evolve(self.connection, credentials=AmbientCredentials(gone))
        with self.assertRaises(StorageRefused) as caught:
            self.choose(BRIEF)
        self.assertIn("no such account", caught.exception.message)


class PersonsCredentials(Credentials):
    """Credentials of a person who has logged in."""

    def refresh(self, request: object) -> None:
        raise NotImplementedError


class IamTests(SigningCase):
    """The IAM service as the one who signs."""

    def setUp(self) -> None:
        super().setUp()
        self.urls = self.make(HASTY)

    def make(self, retry_policy: RetryPolicy) -> IamUrls:
        return IamUrls(self.connection, ACCOUNT, retry_policy, self.bucket.server.url)

    def signed(self) -> int:
        state = fake_gcs().control("state")
        return sum(name == "sign" for name, _ in state["log"])

    def test_url_is_signed_once_and_then_known(self) -> None:
        """A URL is signed once, and then known."""
        fake_gcs().control("heal")
        self.assertIsNone(self.urls.cached_url("layers/x"))
        first = self.urls.url("layers/x", Event())
        self.assertEqual(first, self.urls.url("layers/x", Event()))
        self.assertEqual(first, self.urls.cached_url("layers/x"))
        self.assertEqual(1, self.signed())

    def test_transient_faults_of_the_iam_service_do_not_change_the_result(self) -> None:
        """Transient faults of the IAM service do not change the result."""
        for action, value in (("status", 503), ("reset", 0), ("html", 0), ("drop", 0)):
            fake_gcs().control("fault", where="sign", action=action, value=value)
            self.urls = self.make(HASTY)
            self.check(self.urls)

    def test_fault_that_stays_is_given_up_and_the_next_url_is_signed(self) -> None:
        """A fault that stays is given up, and the next URL is signed."""
        fake_gcs().control("fault", where="sign", action="status", value=503, times=1000)
        self.urls = self.make(BRIEF)
        with self.assertRaises(StorageUnavailable):
            self.urls.url("layers/x", Event())
        fake_gcs().control("heal")
        self.check(self.urls)

    def test_account_that_may_not_sign_is_told_what_it_needs(self) -> None:
        """An account that may not sign is told what it needs."""
        fake_gcs().control("fault", where="sign", action="status", value=403, times=10)
        with self.assertRaises(StorageRefused) as caught:
            self.urls.url("layers/x", Event())
        self.assertIn("iam.serviceAccountTokenCreator", caught.exception.message)

    def test_signature_without_a_waiter_is_not_asked_for(self) -> None:
        """A signature without a waiter is not asked for."""
        stop = Event()
        stop.set()
        with self.assertRaises(StorageError):
            self.urls.url("layers/x", stop)

    def test_through_the_storage(self) -> None:
        """The storage has it sign on a thread, and only what is not known."""
        storage = make_storage(self.bucket, urls=self.urls)
        finish(storage.start())
        info = finish(storage.put(b"{}", "x/y"))
        fake_gcs().control("heal")
        for _ in range(3):
            source = finish(storage.open(digest_of(b"{}")))
            assert isinstance(source, Redirect)
            self.assertEqual(info, source.info)
            self.assertEqual(b"{}", fetch(source.url))
        self.assertEqual(1, self.signed())
