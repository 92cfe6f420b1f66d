"""
Map errors to HTTP responses: the only place where an error's HTTP status is decided.

The status decides how much of the message a person gets to read.  Docker 20.10 and
skopeo 1.9 print the message of a 404 or a 422 whole, and of a 500 nothing but its number;
``ctr`` shows the status alone.  So an error in the request, which the user can correct, is
a 404 or a 422 with the full explanation, and 500 or 503 mean that the daemon itself, or
a dependency of it, has failed: containerd retries those once.

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
    CrossSiteRequest,
    HostNotAllowed,
    LoginFailed,
    LoginRequired,
    LoginThrottled,
    TokenInvalid,
)
from nixery.builds.errors import CachedFailure, ImageTimedOut
from nixery.errors import NixeryError, ShuttingDown, StorageError
from nixery.http.registry.errors import (
    ManifestUnknown,
    RangeNotSatisfiable,
    RangesRefused,
    StillBuilding,
    UnsupportedClient,
)
from nixery.image.errors import (
    ImageLimitExceeded,
    InvalidDigest,
    InvalidName,
    InvalidReference,
    PackagesRefused,
    PlatformMissing,
)
from nixery.inspection.errors import ImageNotPulled
from nixery.layers.errors import ReservedName
from nixery.limits.errors import (
    BuildsExceeded,
    ImageTooLarge,
    PackagesDenied,
    QueueFull,
    RequestsExceeded,
    TooManyConnections,
    WorkAbandoned,
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
from nixery.sources.errors import LookupsExceeded, SourceMissing, SourceUnavailable, UnknownRevision
from nixery.storage.errors import (
    BlobsMissing,
    BlobUnknown,
    DigestMismatch,
    DiskSpaceLow,
    StorageFull,
    StorageRefused,
    StorageUnavailable,
)

__all__ = [
    "BAD_PAGE_SIZE",
    "MAX_LOG_LINES",
    "MAX_MESSAGE",
    "NO_CATALOG",
    "NO_REFERRERS",
    "ErrorResponse",
    "internal_error_response",
    "log_text",
    "printable",
    "error_response",
]

MAX_MESSAGE = 4096
"""The longest message, in characters: terminals and Kubernetes' events are small."""

MAX_LOG_LINES = 30
"""The most lines of a build's log in the detail of a response."""

_MAX_TEXT = 512
"""The longest other text in a response, in characters."""

_MAX_LOGGED = 512
"""The longest path or user agent in the log, in characters."""

Detail = str | int | float | bool | None | Sequence["Detail"] | Mapping[str, "Detail"]


@frozen(kw_only=True)
class ErrorResponse:
    """
    A response that reports an error.

    :param status: the HTTP status.
    :param code: from the specification's list.
    :param message: for a person.
    :param detail: the same for a program; the specification prescribes no structure.
    :param headers: headers of the response besides the usual ones.
    """

    status: int
    code: str
    message: str
    detail: Mapping[str, Detail] = Factory(dict)
    headers: Mapping[bytes, bytes] = Factory(dict)

    def body(self, request_id: str = "") -> bytes:
        """
        Return the JSON document, without characters that could act on a terminal.

        :param request_id: the id under which the log has the request; empty: left out.
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


# Every list of packages is a repository here.  An empty catalog would be false,
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

# One line for each type; a type that is not listed is answered like its nearest listed
# base class, in the last resort like NixeryError: as a failure of the daemon.
_STATUS: Mapping[type[NixeryError], tuple[int, str]] = {
    # The request names something malformed or unknown.
    InvalidName: (400, "NAME_INVALID"),
    InvalidDigest: (400, "DIGEST_INVALID"),
    InvalidReference: (404, "MANIFEST_UNKNOWN"),
    UnknownRevision: (404, "MANIFEST_UNKNOWN"),
    ImageNotPulled: (404, "MANIFEST_UNKNOWN"),
    ManifestUnknown: (404, "MANIFEST_UNKNOWN"),
    BlobUnknown: (404, "BLOB_UNKNOWN"),
    # The list has no code for ranges; this one is at least about sizes.
    RangeNotSatisfiable: (416, "SIZE_INVALID"),
    # Clients of partial pulls halve the number of ranges upon 400, and fail upon other statuses.
    RangesRefused: (400, "SIZE_INVALID"),
    # The client is not authenticated, or not authorized.
    LoginRequired: (401, "UNAUTHORIZED"),
    LoginFailed: (401, "UNAUTHORIZED"),
    TokenInvalid: (401, "UNAUTHORIZED"),
    LoginThrottled: (429, "TOOMANYREQUESTS"),
    AccessDenied: (403, "DENIED"),
    PackagesDenied: (403, "DENIED"),
    HostNotAllowed: (403, "DENIED"),
    CrossSiteRequest: (403, "DENIED"),
    # The image cannot be made, and trying again changes nothing.  PackagesRefused
    # is a 404 if any of its packages does not exist, see error_response().
    PackagesRefused: (422, "MANIFEST_INVALID"),
    BuildFailed: (422, "MANIFEST_INVALID"),
    BuildTimedOut: (422, "MANIFEST_INVALID"),
    EvaluationTimedOut: (422, "MANIFEST_INVALID"),
    ImageLimitExceeded: (422, "MANIFEST_INVALID"),
    ReservedName: (422, "MANIFEST_INVALID"),
    PlatformMissing: (422, "MANIFEST_INVALID"),
    UnsupportedClient: (422, "MANIFEST_INVALID"),
    ImageTimedOut: (422, "MANIFEST_INVALID"),
    # No builder for the system: the operator has to add one, but it is the user who has to
    # know why there is no arm64 image, and no retry will find a builder.
    WrongSystem: (422, "MANIFEST_INVALID"),
    # The package set is broken as a whole.  Like a package, it is input and not part of
    # the daemon: the tag chose its revision, the user who pulls is often the one who broke
    # it, and a 500 would hide the reason from that user and be retried in vain.
    EvaluationFailed: (422, "MANIFEST_INVALID"),
    # A later retry may succeed; 429 is the one status on which podman and skopeo retry.
    StillBuilding: (429, "TOOMANYREQUESTS"),
    QueueFull: (429, "TOOMANYREQUESTS"),
    WorkAbandoned: (429, "TOOMANYREQUESTS"),
    RequestsExceeded: (429, "TOOMANYREQUESTS"),
    LookupsExceeded: (429, "TOOMANYREQUESTS"),
    BuildsExceeded: (429, "TOOMANYREQUESTS"),
    TooManyConnections: (503, "UNAVAILABLE"),
    # Temporary failures of the daemon's dependencies.
    MissingDerivations: (503, "UNAVAILABLE"),
    ShuttingDown: (503, "UNAVAILABLE"),
    SourceMissing: (503, "UNAVAILABLE"),
    SourceUnavailable: (503, "UNAVAILABLE"),
    StorageError: (503, "UNAVAILABLE"),
    StorageFull: (507, "UNAVAILABLE"),
    DiskSpaceLow: (507, "UNAVAILABLE"),
    NixDiskFull: (507, "UNAVAILABLE"),
    BlobsMissing: (503, "UNAVAILABLE"),
    # The operator has to grant a permission; no retry helps.
    StorageRefused: (500, "UNKNOWN"),
    # Stored data, or data about to be stored, is corrupt.
    DigestMismatch: (500, "UNKNOWN"),
    NixeryError: (500, "UNKNOWN"),
}

_RETRY_AFTER: Mapping[type[NixeryError], int] = {
    ShuttingDown: 5,
    MissingDerivations: 30,
    SourceUnavailable: 30,
    StorageUnavailable: 10,
    BlobsMissing: 5,
    StorageFull: 300,
    DiskSpaceLow: 300,
    NixDiskFull: 300,
    TooManyConnections: 5,
}
"""Seconds in Retry-After, for failures that are known to be temporary."""


def error_response(error: NixeryError, log: str | None = None) -> ErrorResponse:
    """
    Make the response to a typed error.

    :param log: the URL of the page of the build that failed, if there is one.
    """
    # A cached failure gets the same status and code as the original one.
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
        | LookupsExceeded
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
        # The message is shortened to leave room for the URL, which is useless if cut off.
        message = f"{_shortened(message, MAX_MESSAGE - len(log) - 20)}\nall of it: {log}"
    return ErrorResponse(status=status, code=code, message=message, detail=detail, headers=headers)


def internal_error_response(reference: str) -> ErrorResponse:
    """
    Make the response to an unexpected exception, without its unvetted text.

    :param reference: the id under which the daemon's log has the exception.
    """
    return ErrorResponse(
        status=500,
        code="UNKNOWN",
        message=f"the registry failed; its log has the reason under the reference {reference}",
        detail={"reference": reference},
    )


def printable(text: str) -> str:
    """
    Return ``text`` with everything but line ends, tabs and printable characters
    escaped, so that terminal sequences in a build's log have no effect where it is shown.
    """
    if text.isprintable():
        return text
    return "".join(
        character
        if character in "\n\t" or character.isprintable()
        else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


# There are few clients, and they repeat the same requests.
@lru_cache(maxsize=1024)
def log_text(data: bytes) -> str:
    """Decode and escape bytes from a client, for a line in the log."""
    return printable(data[:_MAX_LOGGED].decode("utf-8", "backslashreplace")).replace("\n", "\\n")


def _shortened(text: str, limit: int) -> str:
    """
    Cut out the middle of ``text`` if it is longer than ``limit``: the failed step is named
    at the beginning, and the reason is at the end of the log.
    """
    if len(text) <= limit:
        return text
    head = limit // 4
    tail = limit - head - 40  # the line between them is shorter than this
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
    """Return an error's fields for programs; never argv or stderr, which contain local paths."""
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
        case BuildFailed(derivation=derivation, log=log, reason=reason):
            return {"derivation": derivation, "reason": reason, "log": log[-MAX_LOG_LINES:]}
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
            return {
                "derivation": derivation,
                "required": required,
                "available": available,
                "features": error.features,
            }
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
    RangesRefused: ("reason",),
    ImageLimitExceeded: ("what", "value", "limit"),
    ImageTooLarge: ("what", "value", "limit", "setting"),
    ReservedName: ("path", "packages"),
    PackagesDenied: ("packages",),
    RequestsExceeded: ("rate", "burst"),
    BuildsExceeded: ("limit", "period", "setting"),
    LookupsExceeded: ("limit",),
    ImageTimedOut: ("image", "phase", "seconds", "setting"),
    StillBuilding: ("image", "doing", "seconds", "watch"),
    QueueFull: ("waiting",),
}
"""Errors whose detail consists of some of their fields, unchanged."""
