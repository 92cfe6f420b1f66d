"""
Failures as answers: the only place that knows which error is which HTTP status.

The status decides what a person gets to read.  Docker 20.10 and skopeo 1.9 print
the message of a 404 or a 422 whole, and of a 500 nothing but its number; ``ctr``
shows the status alone.  So what a user asked for, and can ask for otherwise, is a
404 or a 422 with the whole story, and 500 or 503 mean that the daemon itself, or
what it stands on, has failed: containerd tries those once more.

Codes are those of the OCI distribution specification, version 1.1, section "Error
Codes"; where its list has none, those of Docker's own registry.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache

from attrs import Factory, frozen

from nixery.access.errors import (
    AccessDenied,
    LoginFailed,
    LoginRequired,
    LoginThrottled,
    TokenInvalid,
)
from nixery.builds.errors import CachedFailure, ImageTimedOut, QueueFull
from nixery.errors import NixeryError, ShuttingDown, StorageError
from nixery.http.registry.errors import (
    ManifestUnknown,
    RangeNotSatisfiable,
    StillBuilding,
    UnsupportedClient,
)
from nixery.image.errors import (
    ImageLimitExceeded,
    InvalidDigest,
    InvalidName,
    InvalidReference,
    PackagesRefused,
)
from nixery.limits.errors import (
    BuildsExceeded,
    ImageTooLarge,
    PackagesDenied,
    RequestsExceeded,
    TooManyConnections,
)
from nixery.nix.errors import (
    BuildFailed,
    BuildTimedOut,
    EvaluationFailed,
    EvaluationTimedOut,
    MissingDerivations,
    NixDiskFull,
    WrongSystem,
)
from nixery.sources.errors import SourceMissing, SourceUnavailable, UnknownRevision
from nixery.storage.errors import (
    BlobsMissing,
    BlobUnknown,
    DigestMismatch,
    DiskSpaceLow,
    StorageRefused,
    StorageUnavailable,
)

__all__ = [
    "BAD_PAGE_SIZE",
    "MAX_LOG_LINES",
    "MAX_MESSAGE",
    "NO_CATALOG",
    "NO_REFERRERS",
    "NO_ROUTE",
    "READ_ONLY",
    "ErrorResponse",
    "internal_error_response",
    "log_text",
    "printable",
    "error_response",
]

MAX_MESSAGE = 4096
"""The longest message, in characters: terminals and Kubernetes' events are small."""

MAX_LOG_LINES = 30
"""The most lines of a build's log that an answer carries as data."""

_MAX_TEXT = 512
"""The longest other text in an answer, in characters."""

_MAX_LOGGED = 512
"""The longest path or user agent in the log, in characters."""

Detail = str | int | float | bool | None | Sequence["Detail"] | Mapping[str, "Detail"]


@frozen(kw_only=True)
class ErrorResponse:
    """
    An answer that says what went wrong.

    :param status: the HTTP status.
    :param code: from the specification's list.
    :param message: for a person.
    :param detail: the same for a program; unstructured, says the specification.
    :param headers: what the answer has besides the usual headers.
    """

    status: int
    code: str
    message: str
    detail: Mapping[str, Detail] = Factory(dict)
    headers: Mapping[bytes, bytes] = Factory(dict)

    def body(self, request_id: str = "") -> bytes:
        """
        The JSON document, with nothing in it that could act on a terminal.

        :param request_id: what the log has about it, if it is to be told.
        """
        detail = self.detail
        if request_id:
            detail = {**detail, "request_id": request_id}
        error = {
            "code": self.code,
            "message": _shortened(printable(self.message), MAX_MESSAGE),
            "detail": _cleaned(detail),
        }
        return json.dumps({"errors": [error]}).encode("ascii")


READ_ONLY = ErrorResponse(
    status=405,
    code="UNSUPPORTED",
    message="this registry builds its images itself: nothing can be pushed to it or deleted",
    headers={b"Allow": b"GET, HEAD"},
)

NO_ROUTE = ErrorResponse(
    status=404,
    code="UNSUPPORTED",
    message="the registry API has no such path",
)

# Every list of packages is a repository here.  An empty catalog would be a lie,
# and the specification has dropped the route.
NO_CATALOG = ErrorResponse(
    status=404,
    code="UNSUPPORTED",
    message="there is no list of repositories: every combination of packages is one",
)

NO_REFERRERS = ErrorResponse(
    status=404,
    code="MANIFEST_UNKNOWN",
    message="no signatures, attestations or other referrers are stored here",
)

BAD_PAGE_SIZE = ErrorResponse(
    status=400,
    # The specification has no code for it; this is what Docker's registry says.
    code="PAGINATION_NUMBER_INVALID",
    message="n has to be a number of tags, 0 or more",
)

# One line for each type; a type that is not listed is answered like the nearest
# one above it in the tree, and at last like NixeryError: as a failure of ours.
_STATUS: Mapping[type[NixeryError], tuple[int, str]] = {
    # What was asked for has no meaning here.
    InvalidName: (400, "NAME_INVALID"),
    InvalidDigest: (400, "DIGEST_INVALID"),
    InvalidReference: (404, "MANIFEST_UNKNOWN"),
    UnknownRevision: (404, "MANIFEST_UNKNOWN"),
    ManifestUnknown: (404, "MANIFEST_UNKNOWN"),
    BlobUnknown: (404, "BLOB_UNKNOWN"),
    # No code of the list is about ranges; this one is at least about sizes.
    RangeNotSatisfiable: (416, "SIZE_INVALID"),
    # Who asks is not known, or is known and may not.
    LoginRequired: (401, "UNAUTHORIZED"),
    LoginFailed: (401, "UNAUTHORIZED"),
    TokenInvalid: (401, "UNAUTHORIZED"),
    LoginThrottled: (429, "TOOMANYREQUESTS"),
    AccessDenied: (403, "DENIED"),
    PackagesDenied: (403, "DENIED"),
    # The image cannot be made, and trying again changes nothing.  PackagesRefused
    # is a 404 if any of its packages does not exist, see problem_of().
    PackagesRefused: (422, "MANIFEST_INVALID"),
    BuildFailed: (422, "MANIFEST_INVALID"),
    BuildTimedOut: (422, "MANIFEST_INVALID"),
    EvaluationTimedOut: (422, "MANIFEST_INVALID"),
    ImageLimitExceeded: (422, "MANIFEST_INVALID"),
    ImageTooLarge: (422, "MANIFEST_INVALID"),
    UnsupportedClient: (422, "MANIFEST_INVALID"),
    ImageTimedOut: (422, "MANIFEST_INVALID"),
    # For want of a builder: the operator's to mend, but it is the user who has to
    # know why there is no arm64 image, and no retry will find a builder.
    WrongSystem: (422, "MANIFEST_INVALID"),
    # The package set is broken as a whole.  It is data of ours no more than a
    # package is: the tag chose its revision, who pulls is often who broke it, and
    # a 500 would keep the reason from them and be retried in vain.
    EvaluationFailed: (422, "MANIFEST_INVALID"),
    # It will do to ask again: the one status on which podman and skopeo do.
    StillBuilding: (429, "TOOMANYREQUESTS"),
    QueueFull: (429, "TOOMANYREQUESTS"),
    RequestsExceeded: (429, "TOOMANYREQUESTS"),
    BuildsExceeded: (429, "TOOMANYREQUESTS"),
    TooManyConnections: (503, "UNAVAILABLE"),
    # Passing states of what the daemon stands on.
    MissingDerivations: (503, "UNAVAILABLE"),
    ShuttingDown: (503, "UNAVAILABLE"),
    SourceMissing: (503, "UNAVAILABLE"),
    SourceUnavailable: (503, "UNAVAILABLE"),
    StorageError: (503, "UNAVAILABLE"),
    DiskSpaceLow: (507, "UNAVAILABLE"),
    NixDiskFull: (507, "UNAVAILABLE"),
    BlobsMissing: (503, "UNAVAILABLE"),
    # The operator's to mend; no retry changes what a service permits.
    StorageRefused: (500, "UNKNOWN"),
    # What is stored, or was about to be, is not what it should be.
    DigestMismatch: (500, "UNKNOWN"),
    NixeryError: (500, "UNKNOWN"),
}

_RETRY_AFTER: Mapping[type[NixeryError], int] = {
    ShuttingDown: 5,
    MissingDerivations: 30,
    SourceUnavailable: 30,
    StorageUnavailable: 10,
    BlobsMissing: 5,
    DiskSpaceLow: 300,
    NixDiskFull: 300,
    TooManyConnections: 5,
}
"""Seconds, for failures that are known to pass by themselves."""


def error_response(error: NixeryError, log: str | None = None) -> ErrorResponse:
    """
    The answer to a typed failure.

    :param log: the URL of the page of the build that failed, if there is one.
    """
    # A failure that is remembered is answered as it was when it was new.
    original = error.original if isinstance(error, CachedFailure) else error
    kind = next(kind for kind in type(original).__mro__ if kind in _STATUS)
    status, code = _STATUS[kind]
    if isinstance(original, PackagesRefused) and original.not_found:
        status, code = 404, "MANIFEST_UNKNOWN"
    detail = dict(_detail(original))
    headers = {}
    retry_after = _RETRY_AFTER.get(type(original))
    if isinstance(
        error,
        CachedFailure
        | StillBuilding
        | QueueFull
        | LoginThrottled
        | RequestsExceeded
        | BuildsExceeded,
    ):
        retry_after = max(1, math.ceil(error.retry_after))
        detail["retry_after"] = retry_after
    if retry_after is not None:
        headers[b"Retry-After"] = b"%d" % retry_after
    if isinstance(original, LoginRequired):
        headers[b"WWW-Authenticate"] = original.challenge.encode("ascii", "replace")
    if isinstance(original, RangeNotSatisfiable):
        headers[b"Content-Range"] = b"bytes */%d" % original.size
    message = error.message
    if log is not None:
        detail["watch"] = log
        # What fits is left for the story itself: an address without its end is none.
        message = f"{_shortened(message, MAX_MESSAGE - len(log) - 20)}\nall of it: {log}"
    return ErrorResponse(status=status, code=code, message=message, detail=detail, headers=headers)


def internal_error_response(reference: str) -> ErrorResponse:
    """
    The answer to a failure that nobody foresaw, and whose text nobody has vetted.

    :param reference: what to look for in the daemon's log.
    """
    return ErrorResponse(
        status=500,
        code="UNKNOWN",
        message=f"the registry failed; its log has the reason under the reference {reference}",
        detail={"reference": reference},
    )


def printable(text: str) -> str:
    """
    ``text`` with everything but line ends, tabs and printable characters
    escaped: terminal sequences in a build's log stay text wherever they are shown.
    """
    if text.isprintable():
        return text
    return "".join(
        character
        if character in "\n\t" or character.isprintable()
        else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


# Clients are few, and ask the same again and again.
@lru_cache(maxsize=1024)
def log_text(data: bytes) -> str:
    """Make text of what a client has sent, fit for a line in a log."""
    return printable(data[:_MAX_LOGGED].decode("utf-8", "backslashreplace")).replace("\n", "\\n")


def _shortened(text: str, limit: int) -> str:
    """
    ``text`` without its middle, if it is longer than ``limit``: what failed
    stands at the beginning, and why at the end of the log.
    """
    if len(text) <= limit:
        return text
    head = limit // 4
    tail = limit - head - 40  # what stands between them is shorter than this
    left_out = len(text) - head - tail
    return f"{text[:head]}\n[{left_out} characters left out]\n{text[-tail:]}"


def _cleaned(detail: Detail) -> Detail:
    if isinstance(detail, str):
        return _shortened(printable(detail), _MAX_TEXT)
    if isinstance(detail, Mapping):
        return {key: _cleaned(value) for key, value in detail.items()}
    if isinstance(detail, Sequence):
        return [_cleaned(value) for value in detail]
    return detail


def _detail(error: NixeryError) -> Mapping[str, Detail]:
    """The fields that a program may want; never argv or stderr, which name our paths."""
    match error:
        case PackagesRefused(problems=problems):
            return {
                "packages": [
                    {
                        "name": problem.name,
                        "kind": problem.kind.value,
                        "message": problem.message,
                        "candidates": problem.candidates,
                    }
                    for problem in problems
                ]
            }
        case BuildFailed(derivation=derivation, log=log):
            return {"derivation": derivation, "log": log[-MAX_LOG_LINES:]}
        case BuildTimedOut(derivation=derivation, log=log, seconds=seconds):
            return {
                "derivation": derivation,
                "log": log[-MAX_LOG_LINES:],
                "seconds": seconds,
                "setting": error.setting,
                "silent": error.silent,
            }
        case EvaluationTimedOut(names=names, seconds=seconds, setting=setting):
            return {"names": names, "seconds": seconds, "setting": setting}
        case WrongSystem(derivation=derivation, required=required, available=available):
            return {"derivation": derivation, "required": required, "available": available}
        case _:
            return {name: getattr(error, name) for name in _PLAIN.get(type(error), ())}


_PLAIN: Mapping[type[NixeryError], Sequence[str]] = {
    InvalidName: ("name", "reason"),
    AccessDenied: ("packages",),
    InvalidReference: ("reference",),
    InvalidDigest: ("digest",),
    UnknownRevision: ("tag", "allowed"),
    ManifestUnknown: ("name", "digest"),
    BlobUnknown: ("digest",),
    RangeNotSatisfiable: ("digest", "size"),
    ImageLimitExceeded: ("what", "value", "limit"),
    ImageTooLarge: ("what", "value", "limit", "setting"),
    PackagesDenied: ("packages",),
    RequestsExceeded: ("rate", "burst"),
    BuildsExceeded: ("limit", "period", "setting"),
    ImageTimedOut: ("image", "phase", "seconds", "setting"),
    StillBuilding: ("image", "doing", "seconds", "watch"),
    QueueFull: ("waiting",),
}
"""Errors whose detail is some of their fields, as they are."""
