"""Failures as answers."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from nixery import errors
from nixery.builds.errors import CachedFailure, ImageTimedOut
from nixery.errors import NixeryError
from nixery.http.error_responses import (
    MAX_LOG_LINES,
    MAX_MESSAGE,
    ErrorResponse,
    error_response,
    internal_error_response,
    printable,
)
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
    PackageProblem,
    PackagesRefused,
    ProblemKind,
    UnknownSystem,
)
from nixery.inspection.errors import ImageNotPulled
from nixery.layers.errors import MissingPath, ReservedName
from nixery.limits.errors import ImageTooLarge, QueueFull
from nixery.nix.errors import (
    BuildFailed,
    BuildTimedOut,
    EvaluationFailed,
    EvaluationTimedOut,
    MissingDerivations,
    NixUnusable,
    WrongSystem,
)
from nixery.process.errors import CommandMissing, CommandOutput
from nixery.sources.errors import (
    LookupsExceeded,
    SourceMissing,
    SourceUnavailable,
    UnknownRevision,
)
from nixery.storage.errors import (
    BlobsMissing,
    BlobUnknown,
    DigestMismatch,
    DiskSpaceLow,
    StorageFull,
    StorageUnavailable,
)

SECRET = "/secret/path"
OUTPUT = CommandOutput(argv=("nix-build", SECRET), status=1, stderr=SECRET)
DIGEST = "sha256:" + "0" * 64
DRV = "/nix/store/abc-hello.drv"


def refused(*kinds: ProblemKind) -> PackagesRefused:
    return PackagesRefused(
        problems=tuple(
            PackageProblem(name=f"p{n}", kind=kind, message=f"p{n} it is", candidates=("q",))
            for n, kind in enumerate(kinds)
        )
    )


BUILD_FAILED = BuildFailed(derivation=DRV, log=("one", "two"), output=OUTPUT)

EXPECTED: list[tuple[NixeryError, int, str]] = [
    (InvalidName(name="A", reason="r"), 400, "NAME_INVALID"),
    (InvalidDigest(digest="x"), 400, "DIGEST_INVALID"),
    (InvalidReference(reference="."), 404, "MANIFEST_UNKNOWN"),
    (UnknownRevision(tag="t", allowed=("latest",), source="s"), 404, "MANIFEST_UNKNOWN"),
    (ManifestUnknown(name="git", digest=DIGEST), 404, "MANIFEST_UNKNOWN"),
    (ImageNotPulled(image="git:latest"), 404, "MANIFEST_UNKNOWN"),
    (BlobUnknown(digest=DIGEST), 404, "BLOB_UNKNOWN"),
    (RangeNotSatisfiable(digest=DIGEST, size=7), 416, "SIZE_INVALID"),
    (refused(ProblemKind.NOT_FOUND), 404, "MANIFEST_UNKNOWN"),
    (refused(ProblemKind.UNFREE, ProblemKind.NOT_FOUND), 404, "MANIFEST_UNKNOWN"),
    (refused(ProblemKind.UNFREE), 422, "MANIFEST_INVALID"),
    (BUILD_FAILED, 422, "MANIFEST_INVALID"),
    (
        BuildTimedOut(derivation=DRV, seconds=60, setting="NIX_TIMEOUT", log=(), output=OUTPUT),
        422,
        "MANIFEST_INVALID",
    ),
    (
        EvaluationTimedOut(names=("git",), seconds=60, setting="NIX_TIMEOUT"),
        422,
        "MANIFEST_INVALID",
    ),
    (
        WrongSystem(
            derivation=DRV, required="aarch64-linux", available="x86_64-linux", output=OUTPUT
        ),
        422,
        "MANIFEST_INVALID",
    ),
    (ImageLimitExceeded(what="layers", value=9, limit=3), 422, "MANIFEST_INVALID"),
    (ImageTooLarge(what="files", value=9, limit=3, setting="s"), 422, "MANIFEST_INVALID"),
    (UnsupportedClient(reason="old"), 422, "MANIFEST_INVALID"),
    (ReservedName(path="/nix/store/x/.wh.y", packages=("x",)), 422, "MANIFEST_INVALID"),
    (
        ImageTimedOut(image="git", phase="packing", seconds=5, setting="build_deadline"),
        422,
        "MANIFEST_INVALID",
    ),
    (
        StillBuilding(image="git", doing="packing", seconds=30, retry_after=5),
        429,
        "TOOMANYREQUESTS",
    ),
    (QueueFull(waiting=64, retry_after=30), 429, "TOOMANYREQUESTS"),
    (LookupsExceeded(limit=30, retry_after=2), 429, "TOOMANYREQUESTS"),
    (EvaluationFailed(reason="it is broken", output=OUTPUT), 422, "MANIFEST_INVALID"),
    (MissingDerivations(output=OUTPUT), 503, "UNAVAILABLE"),
    (errors.ShuttingDown(), 503, "UNAVAILABLE"),
    (SourceMissing(path="/p", reason="r"), 503, "UNAVAILABLE"),
    (
        SourceUnavailable(source="s", what="w", reason="r", output=OUTPUT),
        503,
        "UNAVAILABLE",
    ),
    (errors.StorageError(operation="read", reason="EIO"), 503, "UNAVAILABLE"),
    (StorageFull(operation="write", reason="ENOSPC"), 507, "UNAVAILABLE"),
    (
        DiskSpaceLow(operation="make", reason="full", path="/s", free=1, needed=2),
        507,
        "UNAVAILABLE",
    ),
    (BlobsMissing(digests=(DIGEST,)), 503, "UNAVAILABLE"),
    (
        DigestMismatch(operation="o", reason="r", expected=DIGEST, actual=DIGEST),
        500,
        "UNKNOWN",
    ),
    (NixUnusable(reason="too old", output=OUTPUT), 500, "UNKNOWN"),
    (MissingPath(path="/nix/store/x", reason="r"), 500, "UNKNOWN"),
    (errors.UnexpectedOutput(what="w", excerpt="e"), 500, "UNKNOWN"),
    (UnknownSystem(system="vax", known=("x",)), 500, "UNKNOWN"),
    (CommandMissing(command="nix"), 500, "UNKNOWN"),
]


def read(problem: ErrorResponse) -> dict[str, Any]:
    [error] = json.loads(problem.body())["errors"]
    assert isinstance(error, dict)
    return error


class WatchTests(SynchronousTestCase):
    """Tests of the link to the page of a failed build."""

    def test_page_of_the_failed_build_is_named_however_long_the_story_is(self) -> None:
        """The page of the failed build is named, however long the story is."""
        error = StorageUnavailable(operation="write", reason="x" * 10_000)
        problem = error_response(error, "http://reg/builds/1")
        [answer] = json.loads(problem.body())["errors"]
        self.assertTrue(answer["message"].endswith("\nall of it: http://reg/builds/1"))
        self.assertEqual("http://reg/builds/1", answer["detail"]["watch"])


class TableTests(SynchronousTestCase):
    def test_each_failure_has_its_status(self) -> None:
        """Status and code are those that clients show best, and the message survives."""
        for error, status, code in EXPECTED:
            problem = error_response(error)
            self.assertEqual((status, code), (problem.status, problem.code), repr(error))
            document = read(problem)
            self.assertEqual(code, document["code"])
            self.assertEqual(error.message, document["message"])

    def test_every_type_has_an_answer(self) -> None:
        """An error of a type without an entry is a failure of ours: 500."""

        class Unheard(NixeryError):
            message = "what?"

        self.assertEqual(500, error_response(Unheard()).status)

    def test_evidence_stays_here(self) -> None:
        """Command lines and stderr, which name our own paths, are not sent."""
        for error, _, _ in EXPECTED:
            self.assertNotIn(SECRET.encode(), error_response(error).body())

    def test_remembered_failure_is_answered_like_a_new_one(self) -> None:
        """A remembered failure is answered like a new one, and says when to come back."""
        problem = error_response(CachedFailure(original=BUILD_FAILED, retry_after=41.2))
        self.assertEqual((422, "MANIFEST_INVALID"), (problem.status, problem.code))
        self.assertEqual(b"42", problem.headers[b"Retry-After"])
        self.assertEqual(DRV, read(problem)["detail"]["derivation"])
        self.assertEqual(42, read(problem)["detail"]["retry_after"])
        self.assertIn("two", read(problem)["message"])
        soon = error_response(CachedFailure(original=BUILD_FAILED, retry_after=0.0))
        self.assertEqual(b"1", soon.headers[b"Retry-After"])

    def test_client_is_told_when_to_come_back_and_where_to_watch(self) -> None:
        """A client that is to come back is told when, and where to watch meanwhile."""
        url = "http://reg/builds/abc"
        problem = error_response(
            StillBuilding(image="git", doing="building", seconds=25, retry_after=12.5, watch=url)
        )
        self.assertEqual(b"13", problem.headers[b"Retry-After"])
        self.assertIn(url, read(problem)["message"])
        self.assertEqual(
            {"image": "git", "doing": "building", "seconds": 25, "watch": url, "retry_after": 13},
            read(problem)["detail"],
        )
        full = error_response(QueueFull(waiting=64, retry_after=30))
        self.assertEqual(b"30", full.headers[b"Retry-After"])

    def test_passing_failures_say_when(self) -> None:
        """A daemon that stops will soon be back."""
        self.assertIn(b"Retry-After", error_response(errors.ShuttingDown()).headers)
        self.assertNotIn(b"Retry-After", error_response(BUILD_FAILED).headers)

    def test_unsatisfiable_ranges_tell_the_size(self) -> None:
        """RFC 9110 wants the size that a range could have been in."""
        problem = error_response(RangeNotSatisfiable(digest=DIGEST, size=7))
        self.assertEqual(b"bytes */7", problem.headers[b"Content-Range"])

    def test_failure_without_a_type_tells_where_to_look_and_nothing_else(self) -> None:
        """A failure without a type tells where to look and nothing else."""
        problem = internal_error_response("abc123")
        self.assertEqual((500, "UNKNOWN"), (problem.status, problem.code))
        self.assertIn("abc123", read(problem)["message"])


class DetailTests(SynchronousTestCase):
    def test_each_package_is_told_with_near_matches(self) -> None:
        """Each package with its kind and its near matches."""
        error = refused(ProblemKind.NOT_FOUND, ProblemKind.AMBIGUOUS)
        self.assertEqual(
            [
                {"name": "p0", "kind": "not-found", "message": "p0 it is", "candidates": ["q"]},
                {"name": "p1", "kind": "ambiguous", "message": "p1 it is", "candidates": ["q"]},
            ],
            read(error_response(error))["detail"]["packages"],
        )

    def test_logs_are_cut(self) -> None:
        """The last lines are sent, and of a long line its ends."""
        error = BuildFailed(
            derivation=DRV,
            log=(*map(str, range(1000)), "a" * 9999 + "z"),
            output=OUTPUT,
        )
        log = read(error_response(error))["detail"]["log"]
        self.assertEqual(MAX_LOG_LINES, len(log))
        self.assertEqual("999", log[-2])
        self.assertTrue(log[-1].endswith("az"))
        self.assertLess(len(log[-1]), 1000)

    def test_every_field_is_json(self) -> None:
        """Details of all types can be read back."""
        for error, _, _ in EXPECTED:
            self.assertIsInstance(read(error_response(error))["detail"], dict)


class TextTests(SynchronousTestCase):
    def test_long_messages_keep_both_ends(self) -> None:
        """A long message keeps its beginning (what failed) and its end (the reason)."""
        problem = ErrorResponse(status=422, code="X", message="BEGIN" + "x" * 100_000 + "END")
        message = read(problem)["message"]
        self.assertLessEqual(len(message), MAX_MESSAGE)
        self.assertTrue(message.startswith("BEGIN"))
        self.assertTrue(message.endswith("END"))
        self.assertIn("characters left out", message)

    @settings(max_examples=200)
    @given(text=st.text(max_size=200))
    def test_nothing_acts_on_a_terminal(self, text: str) -> None:
        """Escapes, bells, marks of direction and lone surrogates are spelled out."""
        for character in printable(text):
            self.assertTrue(character.isprintable() or character in "\n\t", repr(character))

    @settings(max_examples=200)
    @given(text=st.text(max_size=6000))
    def test_any_text_survives(self, text: str) -> None:
        """Any message makes a document within bounds, and a printable one is unchanged."""
        document = read(ErrorResponse(status=400, code="X", message=text, detail={"t": [text]}))
        self.assertLessEqual(len(document["message"]), MAX_MESSAGE)
        if text.isprintable() and len(text) <= MAX_MESSAGE:
            self.assertEqual(text, document["message"])

    def test_line_ends_survive(self) -> None:
        """A log is read by lines; colours are not worth a terminal's state."""
        self.assertEqual("a\n\tb \\x1b[31mc \\u202e", printable("a\n\tb \x1b[31mc \u202e"))
