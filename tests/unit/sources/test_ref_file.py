"""Tests for :mod:`nixery.sources.ref_file`."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from nixery.sources.ref_file import RefFile
from nixery.sources.source import ResolvedRef

founds = st.builds(
    ResolvedRef,
    commit=st.text("0123456789abcdef", min_size=40, max_size=40),
    ref=st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=10),
)


class LastKnownTests(SynchronousTestCase):
    """A small file."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp()) / "deep" / "git.json"
        self.file = RefFile(self.path)

    def test_nothing_is_known_in_the_beginning(self) -> None:
        """Nothing is known in the beginning."""
        self.assertEqual(self.file.load(), {})

    @settings(max_examples=30)
    @given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), founds, max_size=4))
    def test_saved_refs_are_loaded_in_the_same_order(
        self, references: dict[str, ResolvedRef]
    ) -> None:
        """Saved refs are loaded in the same order."""
        self.file.save(references)
        self.assertEqual(list(RefFile(self.path).load().items()), list(references.items()))

    def test_file_in_another_format_is_an_error_and_never_yields_a_commit(self) -> None:
        """A file in another format is an error, and never yields a commit."""
        self.file.save({})
        commit = '{"commit": "HEAD", "ref": null}'
        for text in (
            "",
            "{",
            "[]",
            '{"version": 2}',
            f'{{"version": 1, "references": [["k", {commit}]]}}',
        ):
            self.path.write_text(text)
            self.assertRaises(ValueError, self.file.load)

    def test_replaced_at_once(self) -> None:
        """A writer that was killed leaves the old file, and its temporary file does no harm."""
        self.file.save({"k": ResolvedRef(commit="a" * 40)})
        self.path.with_suffix(".new").write_text("{ half")
        self.assertEqual(set(self.file.load()), {"k"})
        self.file.save({"l": ResolvedRef(commit="b" * 40)})
        self.assertEqual(set(self.file.load()), {"l"})
        self.assertEqual([each.name for each in self.path.parent.iterdir()], ["git.json"])
