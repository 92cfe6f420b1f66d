"""Tests for :mod:`nixery.layers.ustar`."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
from pathlib import Path
from typing import Literal

from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from nixery.layers.ustar import BLOCK, DIRECTORY, END, FILE, SYMLINK, header, padding

# As ``tarfile`` numbers them.
USTAR: Literal[0] = 0
GNU: Literal[1] = 1

PARTS = st.binary(min_size=1, max_size=255).filter(
    lambda part: b"/" not in part and b"\0" not in part and part not in (b".", b"..")
)
NAMES = st.lists(PARTS, min_size=1, max_size=4).map(b"/".join)


def parse(archive: bytes) -> list[tarfile.TarInfo]:
    """Return the members that the standard library reads from an archive."""
    with tarfile.open(
        fileobj=io.BytesIO(archive), mode="r:", encoding="utf-8", errors="surrogateescape"
    ) as entries:
        return entries.getmembers()


def golden(
    style: Literal[0, 1], name: bytes, kind: bytes, mode: int, size: int = 0, target: bytes = b""
) -> bytes:
    """The header that the standard library writes."""
    info = tarfile.TarInfo(name.decode("utf-8", "surrogateescape"))
    info.type, info.mode, info.size, info.mtime = kind, mode, size, 1
    info.linkname = target.decode("utf-8", "surrogateescape")
    return info.tobuf(style, "utf-8", "surrogateescape")


class HeaderTests(SynchronousTestCase):
    """Tests that headers are as other programs write and read them."""

    def test_files_directories_and_symlinks_are_written_as_tarfile_writes_them(self) -> None:
        """Files, directories and symlinks are written as ``tarfile`` writes them."""
        for name, kind, mode, size, target in (
            (b"nix/store/a-hello/bin/hello", FILE, 0o555, 12345, b""),
            (b"nix", DIRECTORY, 0o755, 0, b""),
            (b"bin/sh", SYMLINK, 0o777, 0, b"/nix/store/a-bash/bin/bash"),
            (b"tmp", DIRECTORY, 0o1777, 0, b""),
            (b"\xff\xfe odd \xc3\xa4", FILE, 0o444, (8 << 30) - 1, b""),
        ):
            written = name + b"/" if kind == DIRECTORY else name
            self.assertEqual(
                header(written, kind=kind, mode=mode, size=size, target=target),
                golden(USTAR, name, kind, mode, size, target),
            )

    def test_name_that_fits_into_prefix_and_name_needs_one_block_as_in_tarfile(self) -> None:
        """A name that fits into prefix and name needs one block, as in ``tarfile``."""
        for name in (b"p" * 155 + b"/" + b"n" * 100, b"a/" * 60 + b"b", b"p/" + b"n" * 99):
            written = header(name, kind=FILE, mode=0o444)
            self.assertEqual(len(written), BLOCK)
            self.assertEqual(written, golden(USTAR, name, FILE, 0o444))

    def test_name_that_does_not_split_gets_a_record_as_gnu_tar_and_tarfile_do_it(self) -> None:
        """A name that does not split gets a record, as GNU tar and ``tarfile`` do it."""
        for name in (b"n" * 101, b"p" * 156 + b"/" + b"n" * 100, b"p/" + b"n" * 101):
            self.assertEqual(
                header(name, kind=FILE, mode=0o444, size=7),
                golden(GNU, name, FILE, 0o444, 7),
            )

    def test_link_target_of_more_than_100_bytes_gets_record_with_long_name_too(self) -> None:
        """A link target of more than 100 bytes gets a record, with a long name too."""
        for name in (b"short", b"n" * 150):
            for target in (b"t" * 101, b"../" * 300 + b"t", b"t" * 511, b"t" * 512):
                self.assertEqual(
                    header(name, kind=SYMLINK, mode=0o777, target=target),
                    golden(GNU, name, SYMLINK, 0o777, 0, target),
                )

    def test_target_at_the_limit(self) -> None:
        """A link target of 100 bytes fills its field and needs no record."""
        written = header(b"link", kind=SYMLINK, mode=0o777, target=b"t" * 100)
        self.assertEqual(len(written), BLOCK)
        self.assertEqual(parse(written + END)[0].linkname, "t" * 100)

    def test_size_of_8_gib_and_more_is_read_back(self) -> None:
        """8 GiB and more are written in base 256, and read back by GNU tar and ``tarfile``."""
        for size in (8 << 30, (8 << 30) + 1, 1 << 40):
            written = header(b"large", kind=FILE, mode=0o444, size=size)
            self.assertEqual(written, golden(GNU, b"large", FILE, 0o444, size))
            self.assertEqual(tarfile.TarInfo.frombuf(written, "utf-8", "strict").size, size)
            listed = subprocess.run(
                ["tar", "--list", "--verbose"], input=written, capture_output=True, check=False
            )
            self.assertIn(str(size).encode(), listed.stdout)

    def test_behind_large_file(self) -> None:
        """An entry behind 8 GiB and more is found by GNU tar and ``tarfile``."""
        size = (8 << 30) + 100
        path = Path(self.mktemp())
        with path.open("wb") as archive:
            archive.write(header(b"large", kind=FILE, mode=0o444, size=size))
            archive.seek(size, os.SEEK_CUR)  # Nothing of it is on the disk.
            archive.write(padding(size))
            archive.write(header(b"behind", kind=FILE, mode=0o555, size=5) + b"found")
            archive.write(padding(5) + END)
        with tarfile.open(path, "r:") as entries:
            behind = entries.extractfile("behind")
            assert behind is not None
            self.assertEqual(behind.read(), b"found")
            self.assertEqual(entries.getmember("large").size, size)
        extracted = subprocess.run(
            ["tar", "--extract", "--to-stdout", "--file", path, "behind"],
            capture_output=True,
            check=True,
        )
        self.assertEqual(extracted.stdout, b"found")

    def test_names_around_every_limit_are_read_back_whole(self) -> None:
        """Names around every limit, of files and directories, are read back whole."""
        for length in (*range(98, 103), *range(153, 158), *range(253, 260), 511, 512, 513, 1000):
            for parts in (1, 2, 5):
                name = (b"x" * (length // parts) + b"/") * (parts - 1)
                name += b"y" * (length - len(name))
                self.assertEqual(len(name), length)
                for kind, written in ((FILE, name), (DIRECTORY, name + b"/")):
                    (entry,) = parse(header(written, kind=kind, mode=0o755) + END)
                    self.assertEqual(entry.name.encode(), name)
                    self.assertEqual(entry.isdir(), kind == DIRECTORY)

    @given(NAMES, NAMES, st.integers(0, 0o7777))
    @example(b"\xff" * 100, b"\xff" * 100, 0)
    @example(b"\xff" * 155 + b"/" + b"\xff" * 100, b"\xff", 0o7777)
    @settings(max_examples=150)
    def test_any_bytes_of_name_and_target_come_back_unchanged(
        self, name: bytes, target: bytes, mode: int
    ) -> None:
        """Any bytes of name and target come back unchanged."""
        (entry,) = parse(header(name, kind=SYMLINK, mode=mode, target=target) + END)
        self.assertEqual(entry.name.encode("utf-8", "surrogateescape"), name)
        self.assertEqual(entry.linkname.encode("utf-8", "surrogateescape"), target)
        self.assertEqual((entry.mode, entry.mtime, entry.uid, entry.gid), (mode, 1, 0, 0))

    def test_contents_are_padded_to_whole_blocks(self) -> None:
        """Contents are padded to whole blocks, and not at all where they fill one."""
        lengths = [len(padding(size)) for size in (0, 1, 511, 512, 513)]
        self.assertEqual(lengths, [0, 511, 1, 0, 511])
