"""Tests that any text of a file, a command or a host is read, or refused as promised."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from tests.fuzz.parser_targets import TEXTS, Text

EXAMPLES = 12


def broken(text: Text) -> st.SearchStrategy[bytes]:
    """Good texts with a piece replaced by something else, and anything at all."""
    pieces = st.one_of(
        st.binary(max_size=6),
        st.sampled_from(
            [b"null", b"-1", b"1e999", b"{}", b"[]", b'""', b"\x00", b"\n", b"\xed\xa0"]
        ),
    )
    seeds = [seed for seed in text.seeds if len(seed) < 1000] or [b""]

    def spoil(seed: bytes, start: int, length: int, piece: bytes) -> bytes:
        at = start % (len(seed) + 1)
        return seed[:at] + piece + seed[at + length :]

    spoiled = st.builds(
        spoil, st.sampled_from(seeds), st.integers(0, 999), st.integers(0, 8), pieces
    )
    return st.one_of(spoiled, st.binary(max_size=100), st.text(max_size=40).map(str.encode))


class TextTests(SynchronousTestCase):
    """Nothing but the promised failures."""

    def test_texts_that_caused_trouble_once_or_could_are_read_or_refused(self) -> None:
        """Texts that caused trouble once, or could, are read or refused."""
        for name, text in TEXTS.items():
            for seed in text.seeds:
                with self.subTest(name=name, seed=seed[:80]):
                    text.read(seed)

    def test_any_bytes_are_read_or_refused_as_promised(self) -> None:
        """Any bytes are read, or refused as promised."""
        for name, text in TEXTS.items():
            with self.subTest(name=name):
                check = given(broken(text))(text.read)
                settings(max_examples=EXAMPLES)(check)()
