"""Tests of the errors of ``nixery-admin warm``."""

from __future__ import annotations

from unittest.mock import patch

from OpenSSL.SSL import Error
from twisted.internet import error as errors
from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectError, ConnectionDone, DNSLookupError
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.client import ResponseNeverReceived

from nixery.cli.admin.prewarm import PullResponse, prewarm
from nixery.cli.admin.registry_client import RegistryClient
from nixery.runtime.errors import FetchFailed


class ErrorTests(SynchronousTestCase):
    """The errors that a user of ``warm`` reads."""

    def reason(self, error: Exception) -> str:
        """Return the message for a request that fails with ``error``."""
        with patch("treq.get", lambda *_, **__: fail(error)):
            asked = Deferred.fromCoroutine(RegistryClient("https://r.example").get("/v2/", "*/*"))
        failed: FetchFailed = self.failureResultOf(asked, FetchFailed).value
        return failed.message

    def test_authority_that_is_not_trusted_is_told_with_the_way_to_trust_it(self) -> None:
        """A certificate of an unknown authority is named so, with the variable that helps."""
        cause = Error([("SSL routines", "", "certificate verify failed")])
        text = self.reason(ResponseNeverReceived([Failure(cause)]))
        self.assertIn("set SSL_CERT_FILE to a PEM file", text)
        self.assertNotIn("Failure", text)

    def test_faults_of_the_address_are_told_with_what_to_write(self) -> None:
        """A wrong scheme, host or port is told with the option that changes it."""
        for cause, advice in (
            (Error([("SSL routines", "", "wrong version number")]), "write http:// in --url"),
            (ConnectionDone(), "write https:// in --url"),
            (errors.ConnectionRefusedError("Connection refused"), "start the registry, or give"),
            (DNSLookupError("no results"), "there is no such host"),
        ):
            text = self.reason(ResponseNeverReceived([Failure(cause)]))
            self.assertIn(advice, text)
            self.assertNotIn("Failure", text)

    def test_causes_are_told_without_the_types_around_them(self) -> None:
        """Other errors are told by their causes."""
        for error in (
            ResponseNeverReceived([Failure(ConnectError(string="refused"))]),
            ConnectError(string="refused"),
        ):
            text = self.reason(error)
            self.assertIn("refused", text)
            self.assertNotIn("Failure", text)

    def test_401_says_how_to_log_in(self) -> None:
        """An answer of 401 says which options log in; another error does not."""

        async def client(path: str) -> PullResponse:
            return PullResponse(status=401 if "git" in path else 404, message="log in first")

        results = self.successResultOf(
            Deferred.fromCoroutine(
                prewarm(
                    ["git", "htop"],
                    client=client,
                    clock=Clock(),
                    jobs=1,
                    deadline=1,
                    on_result=lambda _result: None,
                )
            )
        )
        self.assertEqual(
            [
                "401: log in first (log in with --user and --password-file)",
                "404: log in first",
            ],
            [each.error for each in results],
        )
