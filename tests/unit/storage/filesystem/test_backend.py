"""
Tests of storage in a directory: what a crash, a full disk, a second process and
a cancelled waiter do to it.  Tests that every backend has to pass are in
``tests.unit.storage.test_contract``.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import json
import os
import shutil
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from stat import S_IFDIR, S_IFLNK, S_IFMT, S_IFREG, S_IMODE
from typing import Any, ParamSpec, TypeVar, cast

from hypothesis import example, given
from hypothesis import strategies as st
from twisted.internet import reactor as global_reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.logger import LogEvent, capturedLogs
from twisted.trial.unittest import SynchronousTestCase, TestCase

from nixery.errors import ShuttingDown, StorageError
from nixery.runtime.workers import WorkerPool
from nixery.storage.errors import BlobUnknown, StorageFull
from nixery.storage.filesystem import atomic_files
from nixery.storage.filesystem.atomic_files import MAX_LINK_BYTES
from nixery.storage.filesystem.backend import FilesystemStorage
from nixery.storage.interface import BlobInfo, BlobWriter, OpenFile, PendingBlob
from nixery.storage.rules import MAX_SMALL_BYTES
from nixery.testing.fakes import InlineWorkers
from tests.support.garbage import set_garbage_apart
from tests.support.system_calls import Call, before_system_calls, states_before_changes
from tests.support.trees import below
from tests.unit.storage.test_contract import (
    LAYER,
    MANIFEST,
    digest_of,
    finish,
)

P = ParamSpec("P")
T = TypeVar("T")

reactor = cast(IReactorFromThreads, global_reactor)

DATA = b"the bytes of a layer"
DIGEST = digest_of(DATA)

NAMING = ("os.link", "os.rename", "os.symlink")
"""The calls by which files and links get names."""

LONG = b"x" * (MAX_LINK_BYTES + 1)
"""A record that is a file, where shorter ones are links."""


def descriptors() -> set[str]:
    """The open descriptors of this process, with what they are open on."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # the one that lists
            found.add(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
    return found


def descriptor_within(directory: Path) -> int:
    """The only open descriptor of a file in ``directory``."""
    (found,) = (each.split()[0] for each in descriptors() if f" {directory}/" in each)
    return int(found)


def tree(root: Path) -> set[str]:
    """The files and links below ``root``."""
    return {str(path.relative_to(root)) for path in below(root) if kind(path) != S_IFDIR}


def kind(path: Path) -> int:
    """Return the type of the file at a path; a link dangles, and is not followed."""
    return S_IFMT(path.lstat().st_mode)


def as_files(root: Path) -> None:
    """Make a storage one of an old version, whose descriptions and records were files."""
    for path in below(root):
        if path.is_symlink():
            text = os.readlink(os.fsencode(path))
            path.unlink()
            path.write_bytes(text)


class DirectoryCase(SynchronousTestCase):
    """A directory of its own for each test, and no descriptor left open."""

    def finish(self, coroutine: Coroutine[Deferred[Any], Any, T]) -> T:
        return finish(coroutine)

    def setUp(self) -> None:
        self.root = Path(self.mktemp()).absolute()
        set_garbage_apart(self)
        before = descriptors()
        self.addCleanup(lambda: self.assertEqual(before, descriptors()))

    def open_storage(self) -> FilesystemStorage:
        """A storage on the directory, as of a daemon that has just started."""
        storage = FilesystemStorage(self.root, InlineWorkers())
        self.finish(storage.start())
        return storage

    def write(self, storage: FilesystemStorage, data: bytes = DATA) -> BlobWriter:
        writer = self.finish(storage.create())
        writer.write(data)
        return writer

    def store(self, storage: FilesystemStorage, media_type: str = LAYER) -> BlobInfo:
        return self.finish(self.write(storage).commit(DIGEST, len(DATA), media_type))

    def blob(self, suffix: str = "") -> Path:
        name = DIGEST.removeprefix("sha256:")
        return self.root / "blobs" / "sha256" / name[:2] / (name + suffix)

    def damage_description(self, garbage: bytes) -> None:
        self.blob(".json").unlink()
        self.blob(".json").write_bytes(garbage)

    def link_description(self, text: str) -> None:
        self.blob(".json").unlink()
        self.blob(".json").symlink_to(text)

    def drafts(self) -> list[str]:
        return os.listdir(self.root / "tmp")

    def assert_absent(self, storage: FilesystemStorage) -> None:
        for read in (storage.stat(DIGEST), storage.read(DIGEST), storage.open(DIGEST)):
            with self.assertRaises(BlobUnknown):
                self.finish(read)

    def assert_stored(self, storage: FilesystemStorage, media_type: str = LAYER) -> None:
        info = BlobInfo(digest=DIGEST, size=len(DATA), media_type=media_type)
        self.assertEqual(info, self.finish(storage.stat(DIGEST)))
        self.assertEqual(DATA, self.finish(storage.read(DIGEST)))


class LayoutTests(DirectoryCase):
    """Tests of the paths and the modes of files."""

    def test_blobs_and_records_lie_under_their_names(self) -> None:
        """Blobs lie under their digests, records under their keys, and nothing else stays."""
        storage = self.open_storage()
        self.store(storage)
        self.finish(storage.set_record("layer", "a/../b", b"{}"))
        self.finish(storage.set_record("layer", "é" * 100, b"{}"))
        found = tree(self.root)
        self.assertIn(str(self.blob().relative_to(self.root)), found)
        self.assertIn("records/layer/a%2F..%2Fb.json", found)
        self.assertEqual(4, len(found))
        self.assertEqual(DATA, self.blob().read_bytes())
        self.assertEqual(
            {"size": len(DATA), "mediaType": LAYER}, json.loads(os.readlink(self.blob(".json")))
        )
        self.assertEqual("{}", os.readlink(self.root / "records" / "layer" / "a%2F..%2Fb.json"))

    def test_owner_and_group_may_read_others_may_not_whatever_the_umask(self) -> None:
        """Owner and group may read, others may not, whatever the umask."""
        for number, umask in enumerate((0o000, 0o022, 0o077)):
            self.root = self.root.with_name(f"umask-{number}")
            before = os.umask(umask)
            try:
                storage = self.open_storage()
                self.store(storage)
                self.finish(storage.add_record("layer", "key", b"{}"))
                self.finish(storage.add_record("layer", "long", LONG))
            finally:
                os.umask(before)
            found = set()
            for path in (self.root, *below(self.root)):
                found.add(kind(path))
                # A link has no mode of its own: who may read its directory may read it.
                expected = {S_IFDIR: 0o750, S_IFREG: 0o640, S_IFLNK: 0o777}[kind(path)]
                self.assertEqual(expected, S_IMODE(path.lstat().st_mode), path)
            self.assertEqual({S_IFDIR, S_IFREG, S_IFLNK}, found)

    def test_directory_that_is_there_already_keeps_its_mode(self) -> None:
        """A directory that is there already keeps its mode."""
        self.root.mkdir()
        self.root.chmod(0o700)
        self.open_storage()
        self.assertEqual(0o700, S_IMODE(self.root.stat().st_mode))

    def test_files_that_were_put_among_the_records_are_no_records(self) -> None:
        """Files that were put among the records are no records."""
        storage = self.open_storage()
        self.finish(storage.set_record("layer", "key", b"{}"))
        directory = self.root / "records" / "layer"
        for name in ("README", ".key.json.swp", "a b.json", "%FF.json", "%6bey.json", "0.long"):
            (directory / name).write_bytes(b"?")
        os.mkdir(os.fsencode(directory) + b"/\xff.json")
        self.assertEqual(["key"], list(self.finish(storage.list_records("layer"))))

    def test_directory_that_cannot_be_made_is_an_error_of_the_start_and_is_named(self) -> None:
        """A directory that cannot be made is an error of the start, and is named."""
        self.root.write_bytes(b"a file")
        with self.assertRaises(StorageError) as caught:
            self.open_storage()
        self.assertIn(str(self.root), caught.exception.message)

    def test_other_file_system(self) -> None:
        """So is one whose parts lie on different file systems: nothing could be renamed."""
        if os.stat("/dev/shm").st_dev == os.stat(".").st_dev:
            self.skipTest("needs two file systems")
        self.root.mkdir()
        (self.root / "tmp").symlink_to("/dev/shm")
        with self.assertRaises(StorageError) as caught:
            self.open_storage()
        self.assertIn("different file systems", caught.exception.message)


class RestartTests(DirectoryCase):
    """Tests of the state that a daemon finds after a restart."""

    def test_restart_loses_nothing(self) -> None:
        """A restart loses nothing."""
        storage = self.open_storage()
        self.store(storage)
        self.finish(storage.add_record("layer", "key", b"{}"))
        storage = self.open_storage()
        self.assert_stored(storage)
        self.assertEqual(b"{}", self.finish(storage.get_record("layer", "key")))

    def test_two_at_once(self) -> None:
        """Two storages on one directory see what the other has stored."""
        one, other = self.open_storage(), self.open_storage()
        self.store(one, "application/one")
        self.assert_stored(other, "application/one")
        self.assertEqual("application/one", self.store(other, "application/other").media_type)
        self.finish(one.add_record("layer", "key", b"one"))
        self.assertEqual(b"one", self.finish(other.add_record("layer", "key", b"other")))

    def test_sweeps_dead_drafts(self) -> None:
        """Temporary files of a dead process are removed at the next start."""
        self.open_storage()
        (self.root / "tmp" / "0123").write_bytes(b"half a layer")
        (self.root / "tmp" / "4567").symlink_to("a description")
        with logged() as events:
            self.open_storage()
        self.assertEqual([], self.drafts())
        self.assertEqual([2], [event["swept"] for event in events if "swept" in event])

    def test_spares_living_drafts(self) -> None:
        """Temporary files of a living process are kept, and can be committed."""
        storage = self.open_storage()
        writer = self.write(storage)
        other = self.open_storage()
        self.assertEqual(1, len(self.drafts()))
        self.finish(writer.commit(DIGEST, len(DATA), LAYER))
        self.assert_stored(other)
        self.assertEqual([], self.drafts())

    def test_small_drafts_are_swept(self) -> None:
        """A small file or a link that is swept just before it is published is made again."""
        storage = self.open_storage()
        published: set[str] = set()
        tmp, swept = str(self.root / "tmp"), 0

        def sweep_before(target: str) -> None:
            nonlocal swept
            if target not in published:
                published.add(target)
                swept += atomic_files.sweep(tmp)

        def interfere(call: Call) -> None:
            if call.name in NAMING and not call.path.startswith(f"{tmp}/"):
                sweep_before(call.path)

        with before_system_calls(interfere):
            self.store(storage)
            self.finish(storage.put(b"small", MANIFEST))
            self.finish(storage.add_record("layer", "key", b"1"))
            self.finish(storage.set_record("image", "key", b"2"))
            self.finish(storage.add_record("layer", "long", LONG))
            self.finish(storage.set_record("image", "long", LONG))
        self.assert_stored(storage)
        self.assertEqual(b"small", self.finish(storage.read(digest_of(b"small"))))
        self.assertEqual(b"1", self.finish(storage.get_record("layer", "key")))
        self.assertEqual(b"2", self.finish(storage.get_record("image", "key")))
        self.assertEqual(LONG, self.finish(storage.get_record("layer", "long")))
        self.assertEqual(LONG, self.finish(storage.get_record("image", "long")))
        self.assertEqual(8, len(published))
        # The small blob, the two long records, and the link that replaces a record.
        self.assertEqual(4, swept)
        self.assertEqual([], self.drafts())

    def test_directories_are_gone(self) -> None:
        """Directories that were removed are made again by the next write to them."""
        storage = self.open_storage()
        self.finish(storage.set_record("layer", "key", b"1"))
        for directory in (self.blob().parent, self.root / "records" / "layer"):
            shutil.rmtree(directory)
        self.store(storage)
        self.assert_stored(storage)
        self.finish(storage.set_record("layer", "key", b"2"))
        self.assertEqual(b"2", self.finish(storage.get_record("layer", "key")))

    def damaged(self, damage: Callable[[], object]) -> None:
        """After ``damage``, the blob is absent, and can be made again."""
        storage = self.open_storage()
        self.store(storage, "application/first")
        damage()
        storage = self.open_storage()
        self.assert_absent(storage)
        self.assertEqual(DIGEST, self.store(storage, MANIFEST).digest)
        self.assertEqual(DATA, self.finish(storage.read(DIGEST)))
        self.assertEqual([], self.drafts())

    def test_bytes_without_a_description_are_no_blob(self) -> None:
        """Bytes without a description are no blob."""
        self.damaged(lambda: self.blob(".json").unlink())

    def test_description_without_bytes_is_no_blob(self) -> None:
        """A description without bytes is no blob."""
        self.damaged(lambda: self.blob().unlink())

    def test_bytes_that_have_become_fewer_are_no_blob_and_the_log_says_so(self) -> None:
        """Bytes that have become fewer are no blob, and the log says so."""
        with logged() as events:
            self.damaged(lambda: os.truncate(self.blob(), 3))
        self.assertTrue([event for event in events if event.get("expected") == len(DATA)])

    def test_file_that_has_grown_is_no_blob(self) -> None:
        """Nor are bytes that have become more."""
        self.damaged(lambda: os.truncate(self.blob(), 300))

    def test_description_that_says_nothing_sensible_describes_no_blob(self) -> None:
        """A description that says nothing sensible describes no blob."""
        garbled = (b"", b"\0" * 40, b"{", b"[]", b"{}", b'{"size": "1", "mediaType": 1}')
        for number, garbage in enumerate(garbled):
            self.root = self.root.with_name(f"garbled-{number}")
            self.damaged(partial(self.damage_description, garbage))

    def test_link_that_says_nothing_sensible_describes_no_blob(self) -> None:
        """Nor does one that is a link."""
        for number, garbage in enumerate(("{", "[]", "../../tmp", '{"size": "1"}')):
            self.root = self.root.with_name(f"garbled-{number}")
            self.damaged(partial(self.link_description, garbage))
            self.assertTrue(self.blob(".json").is_symlink())
            self.assertNotEqual(garbage, os.readlink(self.blob(".json")))

    def test_store_with_files_for_descriptions_and_records_is_kept(self) -> None:
        """A store whose descriptions and records are files, as they were, keeps them."""
        storage = self.open_storage()
        self.store(storage)
        keys = ["key", "k" * 300]
        for key in keys:
            self.finish(storage.set_record("layer", key, b"1"))
        as_files(self.root)
        before = {path: (self.root / path).read_bytes() for path in tree(self.root)}
        self.assertEqual(4, len(before))
        storage = self.open_storage()
        self.assert_stored(storage)
        self.assertEqual(LAYER, self.store(storage, MANIFEST).media_type)
        self.assertEqual(LAYER, self.finish(storage.put(DATA, MANIFEST)).media_type)
        self.assertEqual(sorted(keys), list(self.finish(storage.list_records("layer"))))
        for key in keys:
            self.assertEqual(b"1", self.finish(storage.get_record("layer", key)))
            self.assertEqual(b"1", self.finish(storage.add_record("layer", key, b"2")))
        after = {path: (self.root / path).read_bytes() for path in tree(self.root)}
        self.assertEqual(before, after)
        for key in keys:
            self.finish(storage.set_record("layer", key, b"3"))
            self.assertEqual(b"3", self.finish(storage.get_record("layer", key)))
            self.finish(storage.delete_record("layer", key))
        self.assertEqual([], list(self.finish(storage.list_records("layer"))))

    def test_keys_of_links_and_files(self) -> None:
        """Keys are listed whatever their records are kept in."""
        storage = self.open_storage()
        records = {"a": b"1", "b": LONG, "c" * 300: b"2", "d" * 300: LONG, "e": b"", "f": b"\0"}
        for key, value in records.items():
            self.finish(storage.set_record("layer", key, value))
        directory = self.root / "records" / "layer"
        links = [path for path in directory.iterdir() if path.is_symlink()]
        self.assertEqual((2, 6), (len(links), len(tree(directory))))
        self.assertEqual(list(records), list(self.finish(storage.list_records("layer"))))
        found = self.finish(storage.get_records("layer", list(records)))
        self.assertEqual(records, dict(found))

    def test_link_while_read(self) -> None:
        """A record whose file is replaced by a link during the read is read from the link."""
        storage = self.open_storage()
        overtaking: list[bytes] = []

        def overtake(call: Call) -> None:
            if call.name == "open" and call.path.endswith("/key.json"):
                self.finish(storage.set_record("image", "key", overtaking.pop()))

        (self.root / "blobs" / "passwords").write_bytes(b"secret")
        for value in (b"2", b"../../blobs/passwords", b"../../tmp", b"y" * 300):
            self.finish(storage.set_record("image", "key", LONG))
            overtaking.append(value)
            with before_system_calls(overtake):
                self.assertEqual(value, self.finish(storage.get_record("image", "key")))
            self.assertEqual([], overtaking)

    def test_blob_of_a_wrong_size_in_both_files_is_replaced(self) -> None:
        """A blob whose two files agree on a wrong size is replaced when it is stored again."""
        storage = self.open_storage()
        self.store(storage)
        os.truncate(self.blob(), 3)
        self.link_description('{"size": 3, "mediaType": "a/b"}')
        self.store(storage, MANIFEST)
        self.assert_stored(storage, MANIFEST)

    def test_bytes_with_another_hash_are_withdrawn_when_read(self) -> None:
        """Bytes of the right size that hash to something else are withdrawn when read."""
        storage = self.open_storage()
        self.store(storage)
        self.blob().write_bytes(DATA.upper())
        with self.assertRaises(BlobUnknown):
            self.finish(storage.read(DIGEST))
        self.assert_absent(storage)
        self.store(storage)
        self.assert_stored(storage)

    def test_replaced_while_read(self) -> None:
        """An open blob can be read to its end, even if it is removed or replaced."""
        storage = self.open_storage()
        self.store(storage)
        source = self.finish(storage.open(DIGEST))
        assert isinstance(source, OpenFile)
        self.blob().unlink()
        self.store(storage)
        with os.fdopen(source.descriptor, "rb") as file:
            self.assertEqual(DATA, file.read())

    def test_foreign_long_record(self) -> None:
        """A long record's file that holds another key is no record, and is replaced."""
        storage = self.open_storage()
        key = "k" * 300
        for repair in (storage.add_record, storage.set_record):
            self.finish(storage.set_record("layer", key, b"1"))
            (path,) = (self.root / "records" / "layer").iterdir()
            path.unlink()
            path.write_bytes(b"other\n2")
            self.assertIsNone(self.finish(storage.get_record("layer", key)))
            self.assertEqual([], list(self.finish(storage.list_records("layer"))))
            self.finish(repair("layer", key, b"3"))
            self.assertEqual(b"3", self.finish(storage.get_record("layer", key)))

    def test_file_too_large_for_memory_is_refused(self) -> None:
        """Files too large for memory are refused where small ones are expected."""
        storage = self.open_storage()
        self.store(storage)
        self.damage_description(b"")
        os.truncate(self.blob(".json"), MAX_SMALL_BYTES + 1)
        with self.assertRaises(StorageError):
            self.finish(storage.stat(DIGEST))


values = st.one_of(
    st.binary(max_size=3000),
    st.integers(0, 3000).map(lambda size: b"x" * size),
    st.integers(MAX_LINK_BYTES - 2, MAX_LINK_BYTES + 2).map(lambda size: b"\x7f" * size),
    st.text(st.characters(max_codepoint=127), max_size=20).map(str.encode),
    st.binary(max_size=20).map(lambda data: data + b"\0"),
)
"""Records on both sides of every bound between links and files."""


class RepresentationTests(DirectoryCase):
    """A record is a link if it is a short text, else a file; callers see no difference."""

    def setUp(self) -> None:
        super().setUp()
        # Nobody cuts the power here, and a disk takes its time.
        self.patch(os, "fsync", lambda _: None)
        self.storage = self.open_storage()

    def check(self, key: str, value: bytes, noted: bytes) -> None:
        """The record of a key is ``value``, and what is on the disk is ``noted``."""
        self.assertEqual(value, self.finish(self.storage.get_record("layer", key)))
        self.assertEqual([key], list(self.finish(self.storage.list_records("layer"))))
        (path,) = (self.root / "records" / "layer").iterdir()
        linked = 0 < len(noted) <= MAX_LINK_BYTES and noted.isascii() and b"\0" not in noted
        self.assertEqual(S_IFLNK if linked else S_IFREG, kind(path))
        found = os.readlink(os.fsencode(path)) if linked else path.read_bytes()
        self.assertEqual(noted, found)
        self.assertEqual([], self.drafts())

    @given(st.sampled_from(["key", "k" * 300]), values, values)
    @example("key", b"", b"1")
    @example("key", b"x" * MAX_LINK_BYTES, b"x" * (MAX_LINK_BYTES + 1))
    @example("key", b"x" * (MAX_LINK_BYTES + 1), b"x" * MAX_LINK_BYTES)
    @example("k" * 300, b"x" * (MAX_LINK_BYTES - 301), b"x" * (MAX_LINK_BYTES - 300))
    @example("key", b"a\0b", b"../../tmp")
    def test_any_bytes_are_read_again_whichever_they_replace(
        self, key: str, first: bytes, second: bytes
    ) -> None:
        """Any bytes stored are read again, whichever bytes they replace."""
        head = key.encode() + b"\n" if len(key) > 200 else b""
        self.finish(self.storage.delete_record("layer", key))
        self.assertIsNone(self.finish(self.storage.get_record("layer", key)))
        self.assertEqual(first, self.finish(self.storage.add_record("layer", key, first)))
        self.check(key, first, head + first)
        self.assertEqual(first, self.finish(self.storage.add_record("layer", key, second)))
        self.check(key, first, head + first)
        for value in (second, first):
            self.finish(self.storage.set_record("layer", key, value))
            self.check(key, value, head + value)
        self.finish(self.storage.delete_record("layer", key))


class CrashTests(DirectoryCase):
    """Tests of what a process leaves that dies before one of its changes of files."""

    def setUp(self) -> None:
        super().setUp()
        # The process dies, and not the machine.
        self.patch(os, "fsync", lambda _: None)

    def crash_everywhere(
        self,
        work: Callable[[FilesystemStorage], object],
        check: Callable[[bool], None],
        prepare: Callable[[FilesystemStorage], object] = lambda _: None,
    ) -> int:
        """
        Check what each death of a process at its work leaves.

        :param check: called for each, and after the work, with whether that came to its end.
        :param prepare: called before the work.
        :return: how often it can die.
        """
        root = self.root
        storage = self.open_storage()
        prepare(storage)
        with states_before_changes(root) as states:
            work(storage)
        for self.root in states:
            check(False)
        self.root = root
        check(True)
        return len(states)

    def check_blob(self, seen: set[str]) -> Callable[[bool], None]:
        """Sees that the blob is whole or absent, notes which, and makes it again."""

        def check(done: bool) -> None:
            storage = self.open_storage()
            self.assertEqual([], self.drafts())
            try:
                self.assert_stored(storage)
                seen.add("stored")
            except BlobUnknown:
                self.assertFalse(done)
                self.assert_absent(storage)
                seen.add("absent")
            self.store(storage)
            self.assert_stored(storage)

        return check

    def test_blob_is_there_whole_or_not_at_all(self) -> None:
        """A blob is there whole or not at all; the next start sweeps, and it can be made again."""
        seen: set[str] = set()
        died = self.crash_everywhere(self.store, self.check_blob(seen))
        self.assertGreater(died, 5)
        self.assertEqual({"stored", "absent"}, seen)

    def test_description_that_says_nothing_is_replaced_as_a_whole(self) -> None:
        """A description that says nothing is replaced as a whole."""
        garbled = {
            "file": lambda: self.damage_description(b"{"),
            "link": lambda: self.link_description("{"),
        }
        top = self.root
        for name, damage in garbled.items():
            seen: set[str] = set()

            def prepare(storage: FilesystemStorage) -> None:
                self.store(storage)
                damage()  # noqa: B023  # called before the loop goes on

            self.root = top / name / "crash"
            died = self.crash_everywhere(self.store, self.check_blob(seen), prepare)
            self.assertGreater(died, 7)
            self.assertEqual({"stored", "absent"}, seen)

    def test_no_record_of_a_commit_exists_without_its_blob(self) -> None:
        """Of blobs that are committed with records, none has a record and is not there."""
        layers = {"one": DATA, "two": b"the bytes of another one"}
        seen = set()

        def work(storage: FilesystemStorage) -> None:
            commits = [
                PendingBlob(
                    writer=self.write(storage, data),
                    digest=digest_of(data),
                    size=len(data),
                    media_type=LAYER,
                    record=("layer", key, key.encode()),
                )
                for key, data in layers.items()
            ]
            self.assertEqual([b"one", b"two"], self.finish(storage.commit_many(commits)))

        def check(done: bool) -> None:
            storage = self.open_storage()
            self.assertEqual([], self.drafts())
            state = []
            for key, data in layers.items():
                stored = not self.finish(storage.missing([digest_of(data)]))
                recorded = self.finish(storage.get_record("layer", key)) == key.encode()
                self.assertTrue(stored or not recorded)
                self.assertTrue(recorded or not done)
                state += [stored, recorded]
            seen.add("".join("01"[each] for each in state))
            work(storage)
            self.assert_stored(storage)

        self.crash_everywhere(work, check)
        self.assertEqual({"0000", "1000", "1100", "1110", "1111"}, seen)

    def test_created_record_is_there_whole_or_not_at_all(self) -> None:
        """So is a record that is created, be it a link or a file."""
        top = self.root
        for name, value, least in (("link", b"value", 5), ("file", LONG, 6)):
            self.root = top / name / "crash"
            died = self.crash_everywhere(
                lambda storage: self.finish(storage.add_record("layer", "key", value)),  # noqa: B023  # called before the loop goes on
                partial(self.check_added, value),
            )
            self.assertGreater(died, least)

    def check_added(self, value: bytes, done: bool) -> None:
        storage = self.open_storage()
        self.assertEqual([], self.drafts())
        found = self.finish(storage.get_record("layer", "key"))
        self.assertIn(found, [value] if done else [value, None])
        adopted = self.finish(storage.add_record("layer", "key", b"other"))
        self.assertEqual(b"other" if found is None else found, adopted)

    def test_record_that_is_being_replaced_is_the_old_one_or_the_new_one(self) -> None:
        """A record that is being replaced is the old one or the new one."""
        top = self.root
        new = b"y" * len(LONG)
        for name, values, least in (
            ("links", (b"old", b"new"), 9),
            ("files", (LONG, new), 10),
            ("link-by-file", (b"old", LONG), 10),
            ("file-by-link", (LONG, b"new"), 10),
        ):
            self.root = top / name / "crash"
            died = self.crash_everywhere(
                partial(self.replace_record, values), partial(self.check_replaced, values)
            )
            self.assertGreater(died, least)

    def replace_record(self, values: tuple[bytes, bytes], storage: FilesystemStorage) -> None:
        for value in values:
            self.finish(storage.set_record("image", "key", value))

    def check_replaced(self, values: tuple[bytes, bytes], done: bool) -> None:
        found = self.finish(self.open_storage().get_record("image", "key"))
        self.assertIn(found, values[1:] if done else [None, *values])
        self.assertEqual([], self.drafts())


class FailureTests(DirectoryCase):
    """Tests of failing calls of the operating system."""

    def replace_descriptor(self, path: str) -> None:
        """Open the only temporary file on ``path`` instead, unknown to its writer."""
        other = os.open(path, os.O_RDWR)
        os.dup2(other, descriptor_within(self.root / "tmp"))
        os.close(other)

    def test_full_disk_is_its_own_error_and_what_was_written_goes_with_the_abort(self) -> None:
        """A full disk is its own error, and what was written goes with the abort."""
        storage = self.open_storage()
        writer = self.write(storage)
        self.replace_descriptor("/dev/full")
        with self.assertRaises(StorageFull) as caught:
            writer.write(b"more")
        self.assertIn("No space left", caught.exception.message)
        self.finish(writer.abort())
        self.assertEqual([], self.drafts())
        self.assert_absent(storage)

    def test_data_that_cannot_be_synchronised_to_disk_does_not_become_visible(self) -> None:
        """Data that cannot be synchronised to the disk does not become visible."""
        storage = self.open_storage()
        writer = self.write(storage)
        # A character device cannot be synchronised.
        self.replace_descriptor("/dev/null")
        with self.assertRaises(StorageError):
            self.finish(writer.commit(DIGEST, len(DATA), LAYER))
        self.assertEqual([], self.drafts())
        self.assert_absent(storage)

    @contextmanager
    def failing(self, name: str, error: OSError) -> Iterator[None]:
        """Let a call fail, in the directory if the interpreter announces it, else everywhere."""

        def fail(call: Call) -> None:
            if call.name in (name, f"os.{name}") and call.path.startswith(f"{self.root}/"):
                raise error

        def fail_at_once(*_: object) -> None:
            raise error

        if name in ("fstat", "fsync", "readlink", "write"):
            patch = self.patch(os, name, fail_at_once)
            try:
                yield
            finally:
                patch.restore()
        else:
            with before_system_calls(fail):
                yield

    def test_start_on_a_full_disk(self) -> None:
        """Without room for a link what is there can be served, without links nothing can."""
        self.store(self.open_storage())
        for number in (errno.ENOSPC, errno.EDQUOT):
            with self.failing("symlink", OSError(number, os.strerror(number))):
                self.assert_stored(self.open_storage())
        with (
            self.failing("symlink", OSError(errno.EPERM, "not permitted")),
            self.assertRaises(StorageError),
        ):
            self.open_storage()
        self.assertEqual([], self.drafts())

    def test_every_failure_is_typed(self) -> None:
        """Any failing system call raises a StorageError, and leaves no temporary file."""
        storage = self.open_storage()
        common = ("create", "write", "fsync")
        works: dict[Callable[[], object], tuple[str, ...]] = {
            lambda: self.store(storage): ("fstat",),
            lambda: self.finish(storage.put(DATA, LAYER)): (*common, "rename", "symlink"),
            lambda: self.finish(storage.set_record("image", "key", LONG)): (*common, "rename"),
            lambda: self.finish(storage.add_record("layer", "key", LONG)): (*common, "link"),
            lambda: self.finish(storage.set_record("image", "key", b"1")): ("symlink", "rename"),
            lambda: self.finish(storage.add_record("layer", "key", b"1")): ("readlink", "symlink"),
        }
        errors = {
            errno.ENOSPC: StorageFull,
            errno.EDQUOT: StorageFull,
            errno.EIO: StorageError,
            errno.EACCES: StorageError,
        }
        for work, names in works.items():
            for name in names:
                for number, expected in errors.items():
                    error = OSError(number, os.strerror(number), "/the/path")
                    with self.failing(name, error), self.assertRaises(StorageError) as caught:
                        work()
                    self.assertIs(expected, type(caught.exception))
                    self.assertIn(os.strerror(number), caught.exception.reason)
                    self.assertIn("/the/path", caught.exception.reason)
                    self.assertEqual([], self.drafts())
                    self.assert_absent(storage)
                    self.assertIsNone(self.finish(storage.get_record("layer", "key")))
                    self.assertIsNone(self.finish(storage.get_record("image", "key")))

    def test_directory_not_synchronised(self) -> None:
        """Nor does a record count as stored whose directory cannot be brought to the disk."""
        storage = self.open_storage()
        for value in (b"1", LONG):
            for number, store in enumerate((storage.add_record, storage.set_record)):
                for name in ("open", "fsync") if value == b"1" else ("fsync",):
                    key = f"{number}-{name}-{len(value)}"
                    error = OSError(errno.EIO, os.strerror(errno.EIO), "/the/path")
                    with self.failing(name, error), self.assertRaises(StorageError) as caught:
                        self.finish(store("layer", key, value))
                    self.assertIn("/the/path", caught.exception.reason)
                    self.assertEqual([], self.drafts())
                    self.assertIn(self.finish(storage.get_record("layer", key)), (None, value))

    def test_missing_directory_of_records_is_a_storage_error(self) -> None:
        """A missing directory of records is a StorageError, and leaves no temporary file."""
        storage = self.open_storage()
        shutil.rmtree(self.root / "records")
        for value in (b"1", LONG):
            for store in (storage.add_record, storage.set_record):
                with self.assertRaises(StorageError):
                    self.finish(store("layer", "key", value))
                self.assertEqual([], self.drafts())
        (self.root / "records").write_bytes(b"a file")
        with self.assertRaises(StorageError) as caught:
            self.finish(storage.get_record("layer", "key"))
        self.assertIn(f"({self.root}/records/layer/key.json)", caught.exception.reason)

    def test_on_the_disk_first(self) -> None:
        """
        Data is synchronised to the disk before it is published, and its name afterwards.

        A link is no more than its name.
        """
        storage = self.open_storage()
        tmp = str(self.root / "tmp")
        fsync = os.fsync
        synchronised: list[str] = []
        # A name may be tried twice: before its directory is made, and after.
        published: dict[str, str] = {}

        def synchronise(descriptor: int) -> None:
            fsync(descriptor)
            synchronised.append(os.readlink(f"/proc/self/fd/{descriptor}"))

        def watch(call: Call) -> None:
            directory = os.path.dirname(call.path)
            if call.name in NAMING and directory != tmp:
                if call.source and not os.path.islink(call.source):
                    self.assertIn(call.source, synchronised)
                published[call.path] = directory
                while directory in synchronised:
                    synchronised.remove(directory)

        self.patch(os, "fsync", synchronise)
        with before_system_calls(watch):
            self.store(storage)
            self.finish(storage.add_record("layer", "key", b"1"))
            self.finish(storage.set_record("image", "key", b"1"))
            self.assertEqual(4, len(published))
            self.finish(storage.add_record("layer", "long", LONG))
            self.finish(storage.set_record("image", "long", LONG))
        self.assertEqual(6, len(published))
        for directory in published.values():
            self.assertIn(directory, synchronised)

    def test_write_that_the_system_takes_in_parts_is_completed(self) -> None:
        """A write that the system takes in parts is completed."""
        storage = self.open_storage()

        write = os.write
        self.patch(os, "write", lambda descriptor, data: write(descriptor, data[:3]))
        self.store(storage)
        self.finish(storage.add_record("layer", "key", LONG))
        self.assert_stored(storage)
        self.assertEqual(LONG, self.finish(storage.get_record("layer", "key")))


class StoppedWorkers:
    """Workers that take nothing any more."""

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        raise ShuttingDown


class WriterTests(DirectoryCase):
    """The end of a writer."""

    def test_aborted_writer_removes_its_file_at_once(self) -> None:
        """An aborted writer removes its file at once."""
        storage = self.open_storage()
        writer = self.write(storage)
        self.assertEqual(1, len(self.drafts()))
        self.finish(writer.abort())
        self.assertEqual([], self.drafts())

    def test_dropped_writer_removes(self) -> None:
        """So does one that is dropped without an end."""
        storage = self.open_storage()
        writer = self.write(storage)
        self.assertEqual(1, len(self.drafts()))
        del writer
        gc.collect()
        self.assertEqual([], self.drafts())

    def test_abort_while_stopping(self) -> None:
        """An abort that finds the pool stopped still removes the file."""
        self.open_storage()
        writer = self.write(FilesystemStorage(self.root, StoppedWorkers()))
        self.assertEqual(1, len(self.drafts()))
        self.finish(writer.abort())
        self.assertEqual([], self.drafts())
        with self.assertRaises(StorageError):
            writer.write(b"more")


class LateWorkers:
    """Workers whose results come in just after their waiters have been cancelled."""

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        function(*args, **kwargs)
        raise CancelledError


class LateTests(DirectoryCase):
    """A waiter that leaves when its result is on the way already."""

    def test_cancelled_open_closes_its_descriptor(self) -> None:
        """A cancelled open closes its file descriptor."""
        self.store(self.open_storage())
        before = descriptors()
        storage = FilesystemStorage(self.root, LateWorkers())
        with self.assertRaises(CancelledError):
            self.finish(storage.open(DIGEST))
        self.assertEqual(before, descriptors())


class ThreadTests(TestCase):
    """Storage on a real pool, and waiters that leave."""

    timeout = 60

    def setUp(self) -> None:
        self.root = Path(self.mktemp()).absolute()
        finish(FilesystemStorage(self.root, InlineWorkers()).start())
        self.pool = WorkerPool("storage", 2, reactor)
        self.pool.startService()
        self.addCleanup(lambda: self.pool.running and self.pool.stopService())
        self.storage = FilesystemStorage(self.root, self.pool)

    def assert_nothing_left(self) -> None:
        self.assertEqual([], os.listdir(self.root / "tmp"))
        self.assertNotIn(f"{self.root}/", "".join(descriptors()))

    def hold(self, name: str) -> tuple[Deferred[None], threading.Event]:
        """
        Hold the first thread that is about to make a call in the directory.

        :return: fires when it is held; lets it go.
        """
        held: Deferred[None] = Deferred()
        release = threading.Event()
        calls = count()

        def hold(call: Call) -> None:
            if call.name == name and call.path.startswith(f"{self.root}/") and not next(calls):
                reactor.callFromThread(held.callback, None)
                release.wait(20)

        context = before_system_calls(hold)
        context.__enter__()
        self.addCleanup(context.__exit__, None, None, None)
        return held, release

    async def test_blobs_and_records_go_through_the_threads_of_the_pool(self) -> None:
        """Blobs and records go through the threads of the pool."""
        writer = await self.storage.create()
        await self.pool.run(writer.write, DATA)
        await writer.commit(DIGEST, len(DATA), LAYER)
        self.assertEqual(DATA, await self.storage.read(DIGEST))
        self.assertEqual(b"1", await self.storage.add_record("layer", "key", b"1"))
        self.assert_nothing_left()

    async def test_leave_while_opening(self) -> None:
        """A blob that was opened for a waiter who has gone is closed."""
        await self.storage.put(DATA, LAYER)
        held, release = self.hold("open")
        opening = Deferred.fromCoroutine(self.storage.open(DIGEST))
        await held
        opening.cancel()
        self.failureResultOf(opening, CancelledError)
        release.set()
        await self.pool.stopService()
        self.assert_nothing_left()

    async def test_abort_while_creating(self) -> None:
        """A writer that is aborted while its file is being made takes it along."""
        held, release = self.hold("create")
        writer = await self.storage.create()
        writing = Deferred.fromCoroutine(self.pool.run(writer.write, DATA))
        await held
        await writer.abort()
        release.set()
        with self.assertRaises(StorageError):
            await writing
        self.assert_nothing_left()

    async def test_blob_and_its_record_go_through_a_thread_together(self) -> None:
        """A blob and its record go through a thread together; the first record stays."""
        for value in (b"1", b"2"):
            writer = await self.storage.create()
            await self.pool.run(writer.write, DATA)
            commit = PendingBlob(
                writer=writer,
                digest=DIGEST,
                size=len(DATA),
                media_type=LAYER,
                record=("layer", "key", value),
            )
            self.assertEqual([b"1"], await self.storage.commit_many([commit]))
        self.assertEqual(DATA, await self.storage.read(DIGEST))
        self.assert_nothing_left()

    async def test_leave_while_committing(self) -> None:
        """A commit whose waiter has gone comes to its end; an abort then does nothing."""
        writer = await self.storage.create()
        await self.pool.run(writer.write, DATA)
        held, release = self.hold("os.rename")
        committing = Deferred.fromCoroutine(writer.commit(DIGEST, len(DATA), LAYER))
        await held
        committing.cancel()
        self.failureResultOf(committing, CancelledError)
        release.set()
        await writer.abort()
        self.assertEqual(DATA, await self.storage.read(DIGEST))
        self.assert_nothing_left()

    async def test_abort_while_writing(self) -> None:
        """After an abort, a packing thread's next write fails, so that packing ends."""
        writer = await self.storage.create()
        aborted = threading.Event()

        def pack() -> None:
            writer.write(DATA)
            aborted.wait(20)
            writer.write(DATA)

        packing = Deferred.fromCoroutine(self.pool.run(pack))
        await writer.abort()
        aborted.set()
        with self.assertRaises(StorageError):
            await packing
        self.assert_nothing_left()


@contextmanager
def logged() -> Iterator[list[LogEvent]]:
    """The events logged meanwhile."""
    with capturedLogs() as events:
        yield events  # type: ignore[misc]  # a list, whatever its annotation says
