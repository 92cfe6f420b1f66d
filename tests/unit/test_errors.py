"""
Tests for ``nixery.errors``.
"""

from __future__ import annotations

from importlib import import_module
from typing import ClassVar, get_origin, get_type_hints

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from nixery.builds.errors import CachedFailure
from nixery.config.errors import ConfigError
from nixery.errors import NixeryError, ShuttingDown, StorageError
from nixery.image.errors import PackageProblem, PackagesRefused, ProblemKind
from nixery.process.errors import CommandOutput
from nixery.storage.errors import StorageFull
from nixery.testing.error_types import error_types

TYPES = list(error_types().values())
"""Every type of error."""


def instances(kind: type[NixeryError]) -> st.SearchStrategy[NixeryError]:
    """Errors of a type, with any content that its fields may have."""
    special: dict[object, st.SearchStrategy[object]] = {
        float: st.floats(0, 1e6),
        NixeryError: st.builds(ShuttingDown),
        CommandOutput: st.builds(CommandOutput, argv=st.just(("nix-build", "x")), stderr=st.text()),
    }
    return st.builds(
        kind,
        **{
            name: special[hint] if hint in special else st.from_type(hint)
            for name, hint in get_type_hints(kind).items()
            if get_origin(hint) is not ClassVar
        },
    )


class TreeTests(SynchronousTestCase):
    """Tests that hold for every type of error."""

    def test_error_without_a_text_has_a_message(self) -> None:
        """An error has a message also if all of its texts are empty."""
        for kind in TYPES:
            hints = get_type_hints(kind)
            texts = {name: "" for name, hint in hints.items() if hint is str}
            if texts and all(hint is str for hint in hints.values()):
                self.assertTrue(kind(**texts).message, kind)

    @settings(max_examples=200)
    @given(st.sampled_from(TYPES).flatmap(instances))
    def test_error_has_a_message_whatever_its_fields_hold(self, error: NixeryError) -> None:
        """An error has a message whatever its fields hold, and can be raised and kept."""
        self.assertTrue(error.message or isinstance(error, ConfigError | PackagesRefused))
        self.assertEqual(str(error), error.message)
        try:
            raise error
        except NixeryError as caught:
            failure = Failure()
            self.assertIs(caught, error)
        failure.cleanFailure()
        self.assertIs(failure.check(NixeryError), NixeryError)
        self.assertRaises(type(error), failure.raiseException)

    def test_every_type_has_a_place_in_all_and_a_docstring(self) -> None:
        """Every type has a place in ``__all__`` and a docstring."""
        for kind in TYPES:
            self.assertIn(kind.__name__, import_module(kind.__module__).__all__)
            self.assertTrue(kind.__doc__)


class MessageTests(SynchronousTestCase):
    """Tests of the wording of some messages."""

    def test_all_packages_that_are_in_way_are_named_with_those_that_may_be_meant(self) -> None:
        """All packages that are in the way are named, with those that may be meant."""
        error = PackagesRefused(
            problems=(
                PackageProblem(
                    name="gti",
                    kind=ProblemKind.NOT_FOUND,
                    message="there is no package gti",
                    candidates=("git", "gitg"),
                ),
                PackageProblem(
                    name="steam", kind=ProblemKind.UNFREE, message="steam has an unfree license"
                ),
            )
        )
        self.assertEqual(
            error.message,
            "there is no package gti (did you mean git, gitg?); steam has an unfree license",
        )
        self.assertTrue(error.not_found)
        self.assertFalse(PackagesRefused(problems=error.problems[1:]).not_found)

    def test_evidence_tells_a_signal_from_a_status(self) -> None:
        """Evidence tells a signal from a status."""
        self.assertEqual(
            CommandOutput(argv=("nix-build", "x"), status=100).describe(),
            "nix-build exited with status 100",
        )
        self.assertEqual(
            CommandOutput(argv=("nix-build",), signal=9).describe(),
            "nix-build was ended by signal 9",
        )

    def test_remembered_failure_repeats_the_first_message(self) -> None:
        """A remembered failure repeats the first one's message and says how long it lasts."""
        error = CachedFailure(original=ShuttingDown(), retry_after=12.4)
        self.assertTrue(error.message.startswith(ShuttingDown().message))
        self.assertIn("12 s", error.message)

    def test_full_storage_is_a_failed_storage_that_says_what_to_do(self) -> None:
        """A full storage is a failed storage that says what to do."""
        error = StorageFull(operation="write a layer", reason="No space left on device")
        self.assertIsInstance(error, StorageError)
        self.assertIn("free some space", error.message)
