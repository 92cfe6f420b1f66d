"""Text without what terminals act on."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from nixery.runtime.terminal import plain_text


class PlainTextTests(SynchronousTestCase):
    """Escapes and control characters go, everything else stays."""

    def test_colours_titles_links_and_lone_escapes_are_left_out(self) -> None:
        """Colours, titles, links and lone escapes are left out."""
        for text, plain in (
            ("\x1b[31;1merror:\x1b[0m no", "error: no"),
            ("\x1b]0;title\x07x\x1b]8;;http://a\x1b\\y", "xy"),
            ("a\x1b", "a"),
            ("\x1b(Bx\x1bMy", "xy"),
            ("one\r\ntwo\tthree\rfour\x00\x9b", "one\ntwo\tthreefour"),
        ):
            self.assertEqual(plain_text(text), plain)

    def test_bytes_are_utf_8(self) -> None:
        """Bytes are UTF-8; what is not, is replaced."""
        self.assertEqual(plain_text("\u00fc\u2713".encode() + b"\xff"), "\u00fc\u2713\ufffd")

    @settings(max_examples=200)
    @given(st.text(alphabet=st.sampled_from("\x1b[]0;m\\\x07ab\n\t\r\x9b(é"), max_size=30))
    def test_nothing_that_a_terminal_acts_on_is_left(self, text: str) -> None:
        """Nothing that a terminal acts on is left, and doing it again changes nothing."""
        plain = plain_text(text)
        self.assertTrue(all(char.isprintable() or char in "\n\t" for char in plain), plain)
        self.assertEqual(plain_text(plain), plain)
