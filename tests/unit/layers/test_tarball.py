"""Tests for :mod:`nixery.layers.tarball`."""

from __future__ import annotations

import gzip
import io
import os
import random
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

import nixery
from nixery.errors import ShuttingDown
from nixery.layers.compression import PIECE_BYTES
from nixery.layers.errors import MissingPath, ReservedName
from nixery.layers.name_check import check_names
from nixery.layers.tarball import Compression, PackedLayer, TreeEntry, pack_store_paths, pack_tree
from tests.support.trees import (
    File,
    Link,
    Node,
    Seen,
    make_removable,
    make_tree,
    normalised,
    read_with_gnu_tar,
    read_with_tarfile,
)

GZIP = Compression()
KINDS = (GZIP, Compression(kind="zstd"), Compression(kind="none"))

ROOTS: Seen = {b"nix": ("directory", 0o755, b""), b"nix/store": ("directory", 0o755, b"")}

PART = st.one_of(
    st.binary(min_size=1, max_size=12),
    st.sampled_from(
        [b"x" * 99, b"x" * 100, b"y" * 255, b"\xff\xfe", b" ", b"-rf", b"a\nb", b"\xc3\xa4", b"\\n"]
    ),
    st.sampled_from(
        [b".wh", b".whx", b"x.wh.", b".WH.x", b"...", b".x ", b"PaxHeaders.0", b"C:", b"LongLink"]
    ),
).filter(
    lambda part: (
        b"/" not in part
        and b"\0" not in part
        and part not in (b".", b"..")
        and not part.startswith(b".wh.")
    )
)
WHITEOUT = st.builds(
    bytes.__add__,
    st.just(b".wh."),
    st.sampled_from([b"", b"nix", b".wh..opq", b".wh.plnk", b"\xff"]),
)
TARGET = st.one_of(
    st.binary(min_size=1, max_size=20).filter(lambda target: b"\0" not in target),
    st.sampled_from([b"t" * 100, b"t" * 101, b"../" * 90 + b"t"]),
)
LEAF: st.SearchStrategy[Node] = st.one_of(
    st.builds(File, st.binary(max_size=600), st.booleans()), st.builds(Link, TARGET)
)
TREE: st.SearchStrategy[Node] = st.recursive(
    LEAF, lambda below: st.dictionaries(PART, below, max_size=4), max_leaves=10
)


class PackingTestCase(SynchronousTestCase):
    """A store of this test's own, and what is packed from it."""

    def setUp(self) -> None:
        self.store = self.make_store({})

    def make_store(self, paths: dict[str, Node]) -> str:
        """A new store that holds ``paths``."""
        store: str = os.path.abspath(self.mktemp())
        make_tree(os.fsencode(store), {os.fsencode(name): node for name, node in paths.items()})
        return store

    def pack(
        self,
        *names: str,
        store: str | None = None,
        should_stop: Callable[[], bool] | None = None,
        compression: Compression = GZIP,
    ) -> tuple[bytes, PackedLayer]:
        """The layer of store paths by their names."""
        written: list[bytes] = []
        packed = pack_store_paths(
            [f"/nix/store/{name}" for name in names],
            written.append,
            compression=compression,
            store=self.store if store is None else store,
            should_stop=should_stop,
        )
        return b"".join(written), packed

    def assert_archive(self, archive: bytes, expected: Seen) -> None:
        """Both readers find exactly ``expected``."""
        self.assertEqual(read_with_tarfile(archive), expected)
        scratch = self.mktemp()
        self.addCleanup(make_removable, scratch)
        self.assertEqual(read_with_gnu_tar(archive, scratch), expected)

    def assert_packs(self, paths: dict[str, Node]) -> None:
        """``paths`` come back out of the archive."""
        expected = dict(ROOTS)
        for name, node in paths.items():
            expected |= normalised(b"nix/store/" + os.fsencode(name), node)
        store = self.make_store(paths)
        for compression in KINDS:
            archive, _ = self.pack(*paths, store=store, compression=compression)
            self.assert_archive(archive, expected)


class ContentTests(PackingTestCase):
    """Tests that the archive holds the contents of the store paths."""

    def test_directories_empty_ones_too_files_programs_and_symlinks(self) -> None:
        """Directories, empty ones too, files, programs and symlinks; all of several paths."""
        self.assert_packs(
            {
                "b-hello": {
                    b"bin": {b"hello": File(b"\x7fELF", executable=True), b"hi": Link(b"hello")},
                    b"share": {b"empty": {}, b"doc": {b"README": File(b"read me\n")}},
                },
                "a-dangling": {b"lib": Link(b"/nix/store/not-there")},
            }
        )

    def test_store_path_may_itself_be_a_file_a_program_or_a_symlink(self) -> None:
        """A store path may itself be a file, a program or a symlink."""
        self.assert_packs(
            {
                "a-file": File(b"x" * 513),
                "b-script": File(b"#!/bin/sh\n", executable=True),
                "c-link": Link(b"a-file"),
            }
        )

    def test_no_paths_make_an_archive_of_the_two_directories(self) -> None:
        """No paths make an archive of the two directories."""
        archive, _ = self.pack()
        self.assert_archive(archive, ROOTS)

    def test_sizes_around_a_block_and_around_a_piece_alone_and_behind_each_other(self) -> None:
        """Sizes around a block and around a piece, alone and behind each other."""
        noise = random.Random(2).randbytes(2 * PIECE_BYTES + 1)
        # Three headers precede the first file's content: 1,536 bytes.
        sizes = [
            0,
            1,
            511,
            512,
            513,
            PIECE_BYTES - 1,
            PIECE_BYTES,
            PIECE_BYTES + 1,
            2 * PIECE_BYTES,
        ]
        sizes += [PIECE_BYTES - 1536 + more for more in (-513, -512, -511, -1, 0, 1)]
        for size in sizes:
            self.assert_packs({"a-file": File(noise[:size])})
        self.assert_packs(
            {"a-many": {b"%02d" % n: File(noise[:size]) for n, size in enumerate(sizes)}}
        )

    def test_holes_are_packed_as_the_zeros_that_they_are(self) -> None:
        """Holes are packed as the zeros that they are."""
        path = Path(self.store, "a-sparse")
        with path.open("wb") as file:
            file.write(b"begin")
            file.truncate(5_000_000)
        archive, packed = self.pack("a-sparse")
        seen = read_with_tarfile(archive)[b"nix/store/a-sparse"]
        self.assertEqual(seen, ("file", 0o444, b"begin" + bytes(4_999_995)))
        self.assertLess(packed.size, 100_000)

    def test_hard_links_to_others_in_layer_or_to_outside_are_files_of_their_own(self) -> None:
        """Hard links, to others in the layer or to the outside, are files of their own."""
        path = Path(self.store, "a-links")
        path.mkdir()
        Path(path, "one").write_bytes(b"same")
        os.link(Path(path, "one"), Path(path, "two"))
        archive, _ = self.pack("a-links")
        file = ("file", 0o444, b"same")
        top = {b"nix/store/a-links": ("directory", 0o555, b"")}
        self.assert_archive(
            archive, ROOTS | top | {b"nix/store/a-links/one": file, b"nix/store/a-links/two": file}
        )

    def test_tree_may_be_deeper_than_pythons_calls(self) -> None:
        """A tree may be deeper than Python's calls."""
        path = os.fsencode(self.store) + b"/a-deep" + b"/d" * 1100
        # Neither Python's functions nor the test runner's own cleaning go so deep.
        self.addCleanup(subprocess.run, ["rm", "-r", self.store], check=True)
        subprocess.run(["mkdir", "-p", path], check=True)
        archive, _ = self.pack("a-deep")
        self.assertIn(b"nix/store/a-deep" + b"/d" * 1100, read_with_tarfile(archive))

    def test_same_as_tarfile(self) -> None:
        """A small archive is, byte for byte, the one that ``tarfile`` writes."""
        store = self.make_store(
            {
                "a-x": {
                    b"run": File(b"go", executable=True),
                    b"data": File(b"text"),
                    b"l": Link(b"k"),
                }
            }
        )
        expected = io.BytesIO()
        with tarfile.open(fileobj=expected, mode="w", format=tarfile.USTAR_FORMAT) as archive:
            for name, kind, mode, data, target in (
                ("nix", tarfile.DIRTYPE, 0o755, b"", ""),
                ("nix/store", tarfile.DIRTYPE, 0o755, b"", ""),
                ("nix/store/a-x", tarfile.DIRTYPE, 0o555, b"", ""),
                ("nix/store/a-x/data", tarfile.REGTYPE, 0o444, b"text", ""),
                ("nix/store/a-x/l", tarfile.SYMTYPE, 0o777, b"", "k"),
                ("nix/store/a-x/run", tarfile.REGTYPE, 0o555, b"go", ""),
            ):
                info = tarfile.TarInfo(name)
                info.type, info.mode, info.size, info.mtime = kind, mode, len(data), 1
                info.linkname = target
                archive.addfile(info, io.BytesIO(data))
        layer, packed = self.pack("a-x", store=store)
        content = gzip.decompress(layer)
        # ``tarfile`` fills up to a record of 20 blocks.
        self.assertEqual(content.ljust(tarfile.RECORDSIZE, b"\0"), expected.getvalue())
        self.assertEqual(packed.uncompressed_size, len(content))

    @given(st.dictionaries(st.sampled_from(["a-x", "b-y", "c-z"]), TREE, min_size=1))
    @settings(max_examples=60)
    def test_two_readers_find_any_tree_in_its_archive(self, paths: dict[str, Node]) -> None:
        """Both readers find any contents of a store path in the archive."""
        self.assert_packs(paths)

    @given(
        st.dictionaries(
            st.sampled_from(["a-x", "b-y"]),
            st.dictionaries(PART, st.dictionaries(st.one_of(PART, WHITEOUT), LEAF, max_size=3)),
            min_size=1,
        )
    )
    @settings(max_examples=40)
    def test_names_that_delete_files_are_refused(self, paths: dict[str, Node]) -> None:
        """A name that begins with ``.wh.`` is refused, by its path in the image, when it is
        packed and before."""
        store = self.make_store(paths)
        refused: set[str] = set()
        for name, top in paths.items():
            assert isinstance(top, dict)
            for part, below in top.items():
                for each in (each for each in below if each.startswith(b".wh.")):
                    path = part.decode("utf-8", "backslashreplace")
                    last = each.decode("utf-8", "backslashreplace")
                    refused.add(f"/nix/store/{name}/{path}/{last}")
        if refused:
            for check in (
                lambda: self.pack(*paths, store=store),
                lambda: check_names([f"/nix/store/{name}" for name in paths], store=store),
            ):
                self.assertIn(self.assertRaises(ReservedName, check).path, refused)
        else:
            check_names([f"/nix/store/{name}" for name in paths], store=store)
            self.pack(*paths, store=store)

    def test_names_are_checked_in_the_store_path_itself_alone(self) -> None:
        """Links are not followed by the check of names; files and what is gone are told apart."""
        store = self.make_store(
            {"a-link": Link(b"b-bad"), "b-bad": {b".wh.x": File()}, "c-file": File()}
        )
        check_names(["/nix/store/a-link", "/nix/store/c-file"], store=store)
        error = self.assertRaises(ReservedName, check_names, ["/nix/store/b-bad"], store=store)
        self.assertEqual(error.path, "/nix/store/b-bad/.wh.x")


class DeterminismTests(PackingTestCase):
    """The same paths make the same layer."""

    PATHS: ClassVar[dict[str, Node]] = {
        "a-hello": {
            name: File(name * 50, executable=name < b"m")
            for name in (b"z", b"a", b"M", b"\xff\xfe", b"a.b", b"a-b", b"\xc3\xa4", b"e" * 120)
        },
        "b-git": {b"a": {b"x": File(b"1"), b"empty": {}}, b"a!": Link(b"a"), b"a0": File(b"2")},
    }

    def test_entries_are_ordered_by_bytes_of_their_names(self) -> None:
        """Entries follow each other by the bytes of their names, contents behind their
        directory."""
        archive, _ = self.pack("b-git", store=self.make_store(self.PATHS))
        names = list(read_with_tarfile(archive))
        below = [name.removeprefix(b"nix/store/b-git") for name in names[2:]]
        self.assertEqual(below, [b"", b"/a", b"/a/empty", b"/a/x", b"/a!", b"/a0"])

    def test_circumstances_of_packing_do_not_matter(self) -> None:
        """Neither the order of creation, nor umask, modes, times or the order and
        repetition of the request matter."""
        first = self.make_store(self.PATHS)
        self.addCleanup(os.umask, os.umask(0o077))
        second = self.make_store(
            {
                name: dict(reversed(node.items())) if isinstance(node, dict) else node
                for name, node in reversed(self.PATHS.items())
            }
        )
        for name in ("a-hello/M", "b-git/a/x"):
            os.utime(Path(second, name), (1e9, 1e9))
        Path(second, "b-git/a").chmod(0o700)
        self.assertEqual(
            self.pack("a-hello", "b-git", store=first),
            self.pack("b-git", "a-hello", "b-git", store=second),
        )

    def test_process_with_another_locale_where_names_do_not_decode_packs_same(self) -> None:
        """A process with another locale, where names do not decode, packs the same."""
        store = self.make_store(self.PATHS)
        program = (
            "import sys; from nixery.layers.tarball import *\n"
            "assert sys.getfilesystemencoding() == 'ascii', sys.getfilesystemencoding()\n"
            "print(pack_store_paths(sys.argv[2:], len, compression=Compression(),"
            " store=sys.argv[1]).digest)"
        )
        # An extension module cannot be imported of a path that such a process cannot
        # decode, as that of a checkout may be: this one can.
        links = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, links)
        places: list[Path] = []
        for place in (str(Path(nixery.__file__).parent.parent), *sys.path):
            places.append(links / str(len(places)))
            places[-1].symlink_to(Path(place).absolute())
        environment = {
            **os.environ,
            "LC_ALL": "C",
            "PYTHONCOERCECLOCALE": "0",
            "PYTHONUTF8": "0",
            "PYTHONPATH": os.pathsep.join(map(str, places)),
        }
        printed = subprocess.run(
            [sys.executable, "-c", program, store, "/nix/store/a-hello", "/nix/store/b-git"],
            env=environment,
            stdout=subprocess.PIPE,
            check=True,
        )
        _, packed = self.pack("a-hello", "b-git", store=store)
        self.assertEqual(printed.stdout.decode().strip(), packed.digest)

    def test_threads_that_pack_at_the_same_time_do_not_disturb_each_other(self) -> None:
        """Threads that pack at the same time do not disturb each other."""
        noise = random.Random(3).randbytes(3_000_000)
        store = self.make_store({**self.PATHS, "c-noise": File(noise)})
        with ThreadPoolExecutor(4) as pool:
            results = list(
                pool.map(lambda _: self.pack("a-hello", "b-git", "c-noise", store=store), range(8))
            )
        self.assertEqual(results, [results[0]] * 8)


class FailureTests(PackingTestCase):
    """A layer is whole or it is an error."""

    def assert_missing(self, name: str, reason: str, path: str | None = None) -> MissingPath:
        """Packing ``name`` fails at ``path``, for ``reason``."""
        error: MissingPath = self.assertRaises(MissingPath, self.pack, name)
        self.assertIn(reason, error.reason)
        self.assertEqual(error.path, f"{self.store}/{path or name}")
        return error

    def test_store_path_that_is_not_there(self) -> None:
        """A store path that is not there."""
        self.assert_missing("a-absent", "No such file")

    def test_no_store_path(self) -> None:
        """Paths elsewhere, the store itself, and paths inside of store paths are refused."""
        for path in ("/etc/passwd", "/nix/store", "/nix/store/", "/nix/store/a/b", "/nix/store/.."):
            self.assertRaises(MissingPath, pack_store_paths, [path], len, compression=Compression())

    def test_special_files_are_an_error_at_any_depth(self) -> None:
        """A file that is neither regular, directory nor symlink is an error, at any depth."""
        os.mkfifo(Path(self.store, "a-fifo"))
        Path(self.store, "b-dir").mkdir()
        os.mkfifo(Path(self.store, "b-dir", "fifo"))
        self.assert_missing("a-fifo", "neither")
        self.assert_missing("b-dir", "neither", "b-dir/fifo")

    def change_while_packing(self, change: Callable[[Path], object]) -> MissingPath:
        """Pack a file of several pieces and change it between the first two."""
        path = Path(self.store, "a-file")
        path.write_bytes(random.Random(4).randbytes(4 * PIECE_BYTES))
        changes = iter([change])

        def interfere() -> bool:
            for pending in changes:
                pending(path)
            return False

        error: MissingPath = self.assertRaises(
            MissingPath, self.pack, "a-file", should_stop=interfere
        )
        return error

    def test_file_that_gets_shorter_while_it_is_read(self) -> None:
        """A file that gets shorter while it is read."""
        error = self.change_while_packing(lambda path: os.truncate(path, 3 * PIECE_BYTES))
        self.assertIn("changed", error.reason)

    def test_file_that_gets_longer_while_it_is_read_by_one_byte(self) -> None:
        """A file that gets longer while it is read, by one byte."""
        error = self.change_while_packing(lambda path: os.truncate(path, 4 * PIECE_BYTES + 1))
        self.assertIn("changed", error.reason)

    def test_file_that_is_removed_after_its_directory_was_listed(self) -> None:
        """A file that is removed after its directory was listed."""
        directory = Path(self.store, "a-dir")
        directory.mkdir()
        Path(directory, "1").write_bytes(random.Random(5).randbytes(2 * PIECE_BYTES))
        Path(directory, "2").write_bytes(b"")

        def remove() -> bool:
            Path(directory, "2").unlink(missing_ok=True)
            return False

        error = self.assertRaises(MissingPath, self.pack, "a-dir", should_stop=remove)
        self.assertEqual(error.path, str(Path(directory, "2")))

    def test_packing_ends_early_when_it_is_told_to(self) -> None:
        """Packing ends early when it is told to."""
        Path(self.store, "a-file").write_bytes(bytes(10 * PIECE_BYTES))
        answers = iter([False, False, True])
        self.assertRaises(ShuttingDown, self.pack, "a-file", should_stop=answers.__next__)

    def test_failure_of_the_sink_is_not_taken_for_one_of_the_store_path(self) -> None:
        """A failure of the sink is not taken for one of the store path."""
        Path(self.store, "a-file").write_bytes(random.Random(6).randbytes(2 * PIECE_BYTES))

        def fail(data: bytes) -> None:
            raise OSError("sink")

        error = self.assertRaises(
            OSError,
            pack_store_paths,
            ["/nix/store/a-file"],
            fail,
            compression=Compression(),
            store=self.store,
        )
        self.assertEqual(str(error), "sink")

    def test_failures_leave_no_file_open(self) -> None:
        """Failures leave no file open."""
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            self.change_while_packing(lambda path: os.truncate(path, PIECE_BYTES))
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)


class TreeTests(PackingTestCase):
    """Archives of entries that are given."""

    def pack_tree(self, *entries: TreeEntry) -> bytes:
        """The layer of entries."""
        written: list[bytes] = []
        pack_tree(entries, written.append, compression=Compression())
        return b"".join(written)

    def test_entries_are_as_given_parents_are_added_order_does_not_matter(self) -> None:
        """Entries are as given, parents are added, order does not matter."""
        entries = (
            TreeEntry(path=b"tmp", kind="directory", mode=0o1777),
            TreeEntry(path=b"etc/passwd", kind="file", mode=0o644, data=b"root:x:0:0\n"),
            TreeEntry(path=b"bin/deep/sh", kind="symlink", mode=0, target=b"/nix/store/b/bin/sh"),
            TreeEntry(path=b"root", kind="directory", mode=0o700),
            TreeEntry(path=b"root/.rc", kind="file", mode=0o600),
        )
        archive = self.pack_tree(*entries)
        self.assert_archive(
            archive,
            {
                b"bin": ("directory", 0o755, b""),
                b"bin/deep": ("directory", 0o755, b""),
                b"bin/deep/sh": ("symlink", 0o777, b"/nix/store/b/bin/sh"),
                b"etc": ("directory", 0o755, b""),
                b"etc/passwd": ("file", 0o644, b"root:x:0:0\n"),
                b"root": ("directory", 0o700, b""),
                b"root/.rc": ("file", 0o600, b""),
                b"tmp": ("directory", 0o1777, b""),
            },
        )
        self.assertEqual(self.pack_tree(*reversed(entries)), archive)

    def test_contents_follow_directory(self) -> None:
        """A directory is followed by its contents, also where another name sorts between."""
        archive = self.pack_tree(
            *(TreeEntry(path=path, kind="file", mode=0o644) for path in (b"a/x", b"a-b", b"a.c"))
        )
        self.assertEqual(list(read_with_tarfile(archive)), [b"a", b"a/x", b"a-b", b"a.c"])

    def test_time_is_the_stores_not_the_clocks(self) -> None:
        """The time is the store's, not the clock's."""
        with tarfile.open(
            fileobj=io.BytesIO(self.pack_tree(TreeEntry(path=b"a", kind="file", mode=0o644)))
        ) as archive:
            self.assertEqual([entry.mtime for entry in archive], [1])
