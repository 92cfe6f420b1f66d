"""
Tests for ``nixery.sources.lfs``.
"""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from nixery.sources.lfs import Pointer, fill_pointers, find_pointers, parse_pointer, work_trees

OID = "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03"
TEXT = f"version https://git-lfs.github.com/spec/v1\noid sha256:{OID}\nsize 6\n".encode()
EXTENDED = TEXT.replace(b"oid", b"ext-0-case sha256:0000\noid")


class PointerTests(SynchronousTestCase):
    """Tests of parsing pointers."""

    def test_forms_of_a_pointer(self) -> None:
        """All versions of the format are read, with extensions too."""
        plain = Pointer(oid=OID, size=6)
        self.assertEqual(parse_pointer(TEXT), plain)
        self.assertEqual(parse_pointer(TEXT.rstrip()), plain)
        for version in (b"https://hawser.github.com/spec/v1", b"http://git-media.io/v/2"):
            text = TEXT.replace(b"https://git-lfs.github.com/spec/v1", version)
            self.assertEqual(parse_pointer(text), plain)
        self.assertEqual(parse_pointer(EXTENDED), Pointer(oid=OID, size=6, extended=True))

    def test_text_about_a_pointer_is_none(self) -> None:
        """A text that holds a pointer, or resembles one, is not a pointer."""
        for text in (
            b"",
            b"#" + TEXT,
            TEXT + b"more\n",
            TEXT.replace(b"sha256", b"sha1"),
            TEXT.replace(OID.encode(), OID[1:].encode()),
            TEXT.replace(b"git-lfs.github.com", b"example.org"),
            TEXT.replace(b"\n", b"\r\n"),
        ):
            self.assertIsNone(parse_pointer(text), text)

    @given(st.binary(max_size=1024))
    def test_any_content_is_read(self, content: bytes) -> None:
        """Any content is a pointer or none, and is never an error."""
        pointer = parse_pointer(content)
        self.assertTrue(pointer is None or pointer.size >= 0)


class TreeTests(SynchronousTestCase):
    """Tests of pointers in directories."""

    def setUp(self) -> None:
        self.root = Path(self.mktemp()).absolute()
        (self.root / "a" / "sub").mkdir(parents=True)
        (self.root / ".git").write_text("gitdir: elsewhere\n")
        (self.root / "a" / "sub" / ".git").write_text("gitdir: elsewhere\n")
        for path in ("b", "a/big", "a/sub/theirs"):
            (self.root / path).write_bytes(TEXT)
        (self.root / "text").write_text("x" * 130)
        (self.root / "long").write_bytes(TEXT + b"x" * 1024)
        (self.root / "link").symlink_to("b")
        (self.root / "loop").symlink_to(".")
        (self.root / "dangling").symlink_to("nowhere")

    def test_pointers_of_one_repository(self) -> None:
        """Files are found by their content; links and other repositories are left alone."""
        self.assertEqual(set(find_pointers(self.root)), {"b", "a/big"})
        self.assertEqual(set(find_pointers(self.root / "a" / "sub")), {"theirs"})
        self.assertEqual(set(work_trees(self.root)), {self.root, self.root / "a" / "sub"})

    def test_content_takes_their_place(self) -> None:
        """Pointers are replaced, and files that were executable stay so."""
        media = Path(self.mktemp())
        content = media / OID[:2] / OID[2:4] / OID
        content.parent.mkdir(parents=True)
        content.write_text("hello\n")
        (self.root / "b").chmod(0o755)
        self.assertEqual(fill_pointers(self.root, find_pointers(self.root), media), [])
        for path, mode in (("b", 0o100), ("a/big", 0)):
            self.assertEqual((self.root / path).read_text(), "hello\n")
            self.assertEqual((self.root / path).stat().st_mode & 0o100, mode)
        self.assertEqual((self.root / "a" / "sub" / "theirs").read_bytes(), TEXT)

    def test_content_that_is_not_there_is_told(self) -> None:
        """Content that is missing or cut short, or that a program would change, is told."""
        media = Path(self.mktemp())
        content = media / OID[:2] / OID[2:4] / OID
        self.assertEqual(fill_pointers(self.root, find_pointers(self.root), media), ["a/big", "b"])
        content.parent.mkdir(parents=True)
        content.write_text("hell")
        self.assertEqual(fill_pointers(self.root, find_pointers(self.root), media), ["a/big", "b"])
        content.write_text("hello\n")
        (self.root / "b").write_bytes(EXTENDED)
        self.assertEqual(fill_pointers(self.root, find_pointers(self.root), media), ["b"])
