"""
Retries requests: decides which errors are temporary, how long to retry, and when to stop.

google-cloud-storage has retries of its own.  Their sleeps cannot be interrupted, they
do not notice that a build was cancelled, and they do not treat a page of HTML
with status 200, as a captive portal sends it, as a temporary error.
This module has one policy for all requests, in whichever way they are made: pauses end when
the task is stopped, and there is a retry deadline, which is reset only on progress.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import responses
from threading import Event
from typing import TypeVar

from attrs import frozen
from google.api_core.exceptions import GoogleAPICallError
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError
from requests.exceptions import ConnectTimeout, RequestException
from requests.exceptions import Timeout as RequestTimeout
from urllib3.exceptions import HTTPError

from nixery.errors import StorageError
from nixery.runtime.retry import Attempts, Backoff
from nixery.storage.errors import StorageRefused, StorageUnavailable

__all__ = [
    "RetryState",
    "UnexpectedResponse",
    "RetryPolicy",
    "attempt",
    "stopped",
    "translate_errors",
]

T = TypeVar("T")

TEMPORARY_STATUSES = frozenset({408, 429, 500, 502, 503, 504})
"""HTTP statuses of temporary errors."""

BACKOFF = Backoff(first=0.25, longest=8.0, jitter=0.5)

GRANT_ADVICE = (
    "give the account that the daemon uses the role Storage Object Admin on the bucket"
    " (roles/storage.objectAdmin)"
)


@frozen(kw_only=True)
class RetryPolicy:
    """
    The time limits of requests and their retries, all in seconds.

    :param connect: to connect, and to send a piece of a request.
    :param read: to wait for the next byte of an answer.
    :param total: the retry deadline, after which no retry begins; counted from the first
        try, or from the last progress.
    :param backoff: the pauses between the tries.
    """

    connect: float = 5.0
    read: float = 30.0
    total: float = 75.0
    backoff: Backoff = BACKOFF

    @property
    def timeouts(self) -> tuple[float, float]:
        """Return the time-outs in the form that ``requests`` takes."""
        return self.connect, self.read


class UnexpectedResponse(Exception):
    """The answer did not come from the service, but from something in between."""


class RetryState:
    """
    The tries of one operation, on one thread.

    :param operation: the operation, as a verb phrase.
    :param stop: stops it, at the next chunk or pause.
    """

    def __init__(self, operation: str, retry_policy: RetryPolicy, stop: Event) -> None:
        self.operation = operation
        self._retry_policy = retry_policy
        self._stop = stop
        self.progressed()

    def progressed(self) -> None:
        """Reset the retry deadline, after progress."""
        policy = self._retry_policy
        self._attempts = Attempts(policy.backoff, time.monotonic(), policy.total)

    def check(self) -> None:
        """:raises StorageError: the task was stopped."""
        if self._stop.is_set():
            raise stopped(self.operation)

    def failed(self, error: Exception) -> None:
        """
        Pause before the next try.

        :raises StorageUnavailable: the retry deadline has passed.
        :raises StorageError: the task was stopped.
        :raises Exception: ``error`` itself, if it is not temporary.
        """
        self.check()
        if not _is_temporary(error):
            raise error
        pause = self._attempts.next_pause(time.monotonic())
        if pause is None:
            raise StorageUnavailable(operation=self.operation, reason=_describe(error)) from error
        self._stop.wait(pause)
        self.check()


def attempt(operation: str, retry_policy: RetryPolicy, stop: Event, function: Callable[[], T]) -> T:
    """
    Call ``function`` until it returns, and return its result.

    :raises StorageUnavailable: it had not succeeded by the retry deadline.
    :raises StorageError: the task was stopped.
    :raises Exception: any error of ``function`` that is not temporary.
    """
    attempts = RetryState(operation, retry_policy, stop)
    attempts.check()
    while True:
        try:
            return function()
        # The exceptions that are raised here are not documented: they come from requests,
        # urllib3 and three Google libraries.
        except Exception as error:  # noqa: BLE001
            attempts.failed(error)


def stopped(operation: str) -> StorageError:
    """Make the error of an operation that was stopped."""
    return StorageError(operation=operation, reason="it was stopped")


@contextmanager
def translate_errors(operation: str) -> Iterator[None]:
    """Turn exceptions of the libraries into errors of the storage."""
    try:
        yield
    except GoogleAPICallError as error:
        if error.code in (401, 403):
            raise StorageRefused(
                operation=operation, reason=_describe(error), advice=GRANT_ADVICE
            ) from error
        raise StorageError(operation=operation, reason=_describe(error)) from error
    except GoogleAuthError as error:
        raise StorageRefused(
            operation=operation,
            reason=_describe(error),
            advice="see whether the daemon's credentials are still valid",
        ) from error
    except (RequestException, HTTPError, UnexpectedResponse) as error:
        raise StorageError(operation=operation, reason=_describe(error)) from error


def _is_temporary(error: Exception) -> bool:
    """Tell whether an error is temporary, so that a retry may succeed."""
    if isinstance(error, GoogleAPICallError):
        return error.code in TEMPORARY_STATUSES
    if isinstance(error, DefaultCredentialsError):
        return False
    if isinstance(error, GoogleAuthError):
        # An error of the token service or the metadata server; a refusal such as a
        # revoked key is final, and google-auth distinguishes the two.
        return bool(error.retryable) or _is_transport_error(error)
    return isinstance(error, RequestException | HTTPError | UnexpectedResponse | ConnectionError)


def _is_transport_error(error: Exception) -> bool:
    return any(isinstance(each, RequestException | OSError) for each in _chain(error))


def _describe(error: Exception) -> str:
    """
    Describe an error for the log and for clients.

    The libraries' own texts are not used, because they contain URLs: anyone who has the URL
    of an upload can write to it.
    """
    if isinstance(error, GoogleAPICallError):
        code = int(error.code or 0)
        messages = [str(each["message"]) for each in error.errors or () if each.get("message")]
        messages.append(responses.get(code, "an unknown status"))
        return f"the service answered {code}, {messages[0]}"
    if isinstance(error, ConnectTimeout):
        return "nothing answers at the service's address"
    if isinstance(error, RequestTimeout):
        return "the service does not answer in time"
    if isinstance(error, UnexpectedResponse):
        return str(error)
    if isinstance(error, GoogleAuthError):
        text = _lost_connection(error) if _is_transport_error(error) else str(error.args[0])[:300]
        return f"the credentials could not be used: {text}"
    if isinstance(error, RequestException) and isinstance(error, ValueError):
        return "the answer is not the service's: no JSON"
    return _lost_connection(error)


def _lost_connection(error: Exception) -> str:
    for each in _chain(error):
        if isinstance(each, OSError) and each.strerror:
            return f"the connection failed: {each.strerror}"
    return "the connection to the service was lost"


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, the errors that it wraps, and those it was raised from."""
    pending: list[object] = [error]
    seen: set[int] = set()
    while pending:
        each = pending.pop()
        if isinstance(each, BaseException) and id(each) not in seen:
            seen.add(id(each))
            yield each
            pending += [each.__cause__, each.__context__, *each.args, getattr(each, "reason", None)]
