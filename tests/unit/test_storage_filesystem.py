"""
Tests of storage in a directory: what a crash, a full disk, a second process and
a waiter that leaves do to it.  What every backend does is in
``test_storage_contract``.
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
from pathlib import Path
from stat import S_IMODE
from types import ModuleType
from typing import Any, ParamSpec, TypeVar, cast

from twisted.internet import reactor as global_reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorFromThreads
from twisted.logger import LogEvent, capturedLogs
from twisted.trial.unittest import SynchronousTestCase, TestCase

from nixery.errors import BlobUnknown, ShuttingDown, StorageError, StorageFull
from nixery.interfaces import BlobInfo, BlobWriter, OpenFile
from nixery.storage import MAX_SMALL, blobs, drafts, files, filesystem, records
from nixery.storage.filesystem import FilesystemStorage
from nixery.workers import WorkerPool
from tests.unit.garbage import set_garbage_apart
from tests.unit.test_storage_contract import (
    LAYER,
    MANIFEST,
    InlineWorkers,
    digest_of,
    finish,
)

P = ParamSpec("P")
T = TypeVar("T")

reactor = cast(IReactorFromThreads, global_reactor)

DATA = b"the bytes of a layer"
DIGEST = digest_of(DATA)


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
    """The files below ``root``."""
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


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
    """Where things are, and who may read them."""

    def test_layout(self) -> None:
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
            {"size": len(DATA), "mediaType": LAYER}, json.loads(self.blob(".json").read_bytes())
        )

    def test_modes(self) -> None:
        """Owner and group may read, others may not, whatever the umask."""
        for number, umask in enumerate((0o000, 0o022, 0o077)):
            self.root = self.root.with_name(f"umask-{number}")
            before = os.umask(umask)
            try:
                storage = self.open_storage()
                self.store(storage)
                self.finish(storage.add_record("layer", "key", b"{}"))
            finally:
                os.umask(before)
            for path in (self.root, *self.root.rglob("*")):
                expected = 0o750 if path.is_dir() else 0o640
                self.assertEqual(expected, S_IMODE(path.stat().st_mode), path)

    def test_existing_directory(self) -> None:
        """A directory that is there already keeps its mode."""
        self.root.mkdir()
        self.root.chmod(0o700)
        self.open_storage()
        self.assertEqual(0o700, S_IMODE(self.root.stat().st_mode))

    def test_foreign_files(self) -> None:
        """Files that were put among the records are no records."""
        storage = self.open_storage()
        self.finish(storage.set_record("layer", "key", b"{}"))
        directory = self.root / "records" / "layer"
        for name in ("README", ".key.json.swp", "a b.json", "%FF.json", "%6bey.json", "0.long"):
            (directory / name).write_bytes(b"?")
        os.mkdir(os.fsencode(directory) + b"/\xff.json")
        self.assertEqual(["key"], list(self.finish(storage.list_records("layer"))))

    def test_unusable(self) -> None:
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
    """What a daemon finds that starts again."""

    def test_keeps(self) -> None:
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
        """What a dead process was writing is removed at the next start."""
        self.open_storage()
        (self.root / "tmp" / "0123").write_bytes(b"half a layer")
        with logged() as events:
            self.open_storage()
        self.assertEqual([], self.drafts())
        self.assertEqual([1], [event["swept"] for event in events if "swept" in event])

    def test_spares_living_drafts(self) -> None:
        """What a living process is writing is spared, and can be committed."""
        storage = self.open_storage()
        writer = self.write(storage)
        other = self.open_storage()
        self.assertEqual(1, len(self.drafts()))
        self.finish(writer.commit(DIGEST, len(DATA), LAYER))
        self.assert_stored(other)
        self.assertEqual([], self.drafts())

    def test_small_drafts_are_swept(self) -> None:
        """A small file that is swept just before it is published is written again."""
        storage = self.open_storage()
        published: set[str] = set()

        def sweep_before(target: str) -> None:
            if target not in published:
                published.add(target)
                drafts.sweep(str(self.root / "tmp"))

        class SweptOs(ModuleType):
            def __getattr__(self, wanted: str) -> Any:
                return getattr(os, wanted)

            def link(self, source: str, target: str) -> None:
                sweep_before(target)
                os.link(source, target)

            def rename(self, source: str, target: str) -> None:
                sweep_before(target)
                os.rename(source, target)

        self.patch(drafts, "os", SweptOs("os"))
        self.store(storage)
        self.finish(storage.put(b"small", MANIFEST))
        self.finish(storage.add_record("layer", "key", b"1"))
        self.finish(storage.set_record("image", "key", b"2"))
        self.assert_stored(storage)
        self.assertEqual(b"small", self.finish(storage.read(digest_of(b"small"))))
        self.assertEqual(b"1", self.finish(storage.get_record("layer", "key")))
        self.assertEqual(b"2", self.finish(storage.get_record("image", "key")))
        self.assertEqual(6, len(published))
        self.assertEqual([], self.drafts())

    def test_directories_are_gone(self) -> None:
        """Directories that somebody has removed are made again by what goes there."""
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

    def test_no_description(self) -> None:
        """Bytes without a description are no blob."""
        self.damaged(lambda: self.blob(".json").unlink())

    def test_no_bytes(self) -> None:
        """A description without bytes is no blob."""
        self.damaged(lambda: self.blob().unlink())

    def test_truncated(self) -> None:
        """Bytes that have become fewer are no blob, and the log says so."""
        with logged() as events:
            self.damaged(lambda: os.truncate(self.blob(), 3))
        self.assertTrue([event for event in events if event.get("expected") == len(DATA)])

    def test_grown(self) -> None:
        """Nor are bytes that have become more."""
        self.damaged(lambda: os.truncate(self.blob(), 300))

    def test_garbled_description(self) -> None:
        """A description that says nothing sensible describes no blob."""
        for garbage in (b"", b"\0" * 40, b"{", b"[]", b"{}", b'{"size": "1", "mediaType": 1}'):
            self.root = self.root.with_name(f"garbled-{len(garbage)}")
            self.damaged(partial(self.damage_description, garbage))

    def damage_description(self, garbage: bytes) -> None:
        self.blob(".json").write_bytes(garbage)

    def test_described_otherwise(self) -> None:
        """A blob whose two files agree on a wrong size is replaced when it is stored again."""
        storage = self.open_storage()
        self.store(storage)
        os.truncate(self.blob(), 3)
        self.blob(".json").write_bytes(b'{"size": 3, "mediaType": "a/b"}')
        self.store(storage, MANIFEST)
        self.assert_stored(storage, MANIFEST)

    def test_other_bytes(self) -> None:
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
        """Who has opened a blob reads it to its end, even if it is removed or replaced."""
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
            path.write_bytes(b"other\n2")
            self.assertIsNone(self.finish(storage.get_record("layer", key)))
            self.assertEqual([], list(self.finish(storage.list_records("layer"))))
            self.finish(repair("layer", key, b"3"))
            self.assertEqual(b"3", self.finish(storage.get_record("layer", key)))

    def test_huge_files(self) -> None:
        """Files too large for memory are refused where small ones are expected."""
        storage = self.open_storage()
        self.store(storage)
        os.truncate(self.blob(".json"), MAX_SMALL + 1)
        with self.assertRaises(StorageError):
            self.finish(storage.stat(DIGEST))


class Died(BaseException):
    """Where a process would have died."""


class MortalOs(ModuleType):
    """
    ``os`` of a process that dies just before a chosen one of its changes to the
    file system.  Afterwards it changes nothing: a dead process tidies nothing up.

    :param changes: how many changes are made before.
    """

    CHANGES = ("chmod", "fchmod", "fsync", "link", "makedirs", "mkdir", "rename", "unlink", "write")

    def __init__(self, changes: int) -> None:
        super().__init__("os")
        self.left = changes
        self.opened: list[int] = []

    def __getattr__(self, name: str) -> Any:
        function = getattr(os, name)
        if name == "open":
            return self._open
        if name not in self.CHANGES:
            return function

        def mortal(*args: Any, **kwargs: Any) -> Any:
            if name == "unlink" and self.left < 0:
                return None  # a finaliser, where an exception would go to stderr
            self._spend()
            return function(*args, **kwargs)

        return mortal

    def _spend(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Died

    def _open(self, path: str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_CREAT:
            self._spend()
        descriptor = os.open(path, flags, mode)
        self.opened.append(descriptor)
        return descriptor

    def bury(self, directory: Path) -> None:
        """Close what the dead process had open in ``directory``: its locks end."""
        for each in descriptors():
            number, _, path = each.partition(" ")
            if int(number) in self.opened and path.startswith(f"{directory}/"):
                os.close(int(number))


class CrashTests(DirectoryCase):
    """A process dies before each of its changes to the file system in turn."""

    def setUp(self) -> None:
        super().setUp()
        # The process dies, and not the machine.
        self.patch(os, "fsync", lambda _: None)

    def crash_everywhere(
        self, work: Callable[[FilesystemStorage], object], check: Callable[[bool], None]
    ) -> int:
        """
        Run ``work`` again and again, each time dying one change later.

        :param check: called after each, with whether the work came to its end.
        :return: how often it died.
        """
        for changes in range(1000):
            self.root = self.root.with_name(f"crash-{changes}")
            storage = self.open_storage()
            mortal = MortalOs(changes)
            modules = (files, drafts, blobs, records, filesystem)
            patches = [self.patch(module, "os", mortal) for module in modules]
            try:
                work(storage)
                done = True
            except Died:
                done = False
            finally:
                for patch in patches:
                    patch.restore()
            mortal.bury(self.root)
            del storage
            gc.collect()
            check(done)
            if done:
                return changes
        raise AssertionError("the work never ends")

    def test_blob(self) -> None:
        """A blob is there whole or not at all; the next start sweeps, and it can be made again."""
        seen = set()

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

        died = self.crash_everywhere(self.store, check)
        self.assertGreater(died, 8)
        self.assertEqual({"stored", "absent"}, seen)

    def test_recorded_blob(self) -> None:
        """A record that is created with its blob is never there without it."""
        seen = set()

        def work(storage: FilesystemStorage) -> None:
            record = ("layer", "key", b"value")
            self.finish(self.write(storage).commit_as(DIGEST, len(DATA), LAYER, record))

        def check(done: bool) -> None:
            storage = self.open_storage()
            self.assertEqual([], self.drafts())
            stored = not self.finish(storage.missing([DIGEST]))
            recorded = self.finish(storage.get_record("layer", "key")) == b"value"
            self.assertTrue(stored or not recorded)
            self.assertTrue(recorded or not done)
            seen.add((stored, recorded))
            work(storage)
            self.assert_stored(storage)

        self.crash_everywhere(work, check)
        self.assertEqual({(False, False), (True, False), (True, True)}, seen)

    def test_added_record(self) -> None:
        """So is a record that is created."""

        def check(done: bool) -> None:
            storage = self.open_storage()
            self.assertEqual([], self.drafts())
            found = self.finish(storage.get_record("layer", "key"))
            self.assertIn(found, [b"value"] if done else [b"value", None])
            adopted = self.finish(storage.add_record("layer", "key", b"other"))
            self.assertEqual(b"other" if found is None else found, adopted)

        died = self.crash_everywhere(
            lambda storage: self.finish(storage.add_record("layer", "key", b"value")), check
        )
        self.assertGreater(died, 6)

    def test_replaced_record(self) -> None:
        """A record that is being replaced is the old one or the new one."""

        def work(storage: FilesystemStorage) -> None:
            self.finish(storage.set_record("image", "key", b"old"))
            self.finish(storage.set_record("image", "key", b"new"))

        def check(done: bool) -> None:
            found = self.finish(self.open_storage().get_record("image", "key"))
            self.assertIn(found, [b"new"] if done else [None, b"old", b"new"])

        died = self.crash_everywhere(work, check)
        self.assertGreater(died, 10)


class FailureTests(DirectoryCase):
    """What the operating system refuses."""

    def replace_descriptor(self, path: str) -> None:
        """The only draft is, behind its writer's back, open on ``path`` instead."""
        other = os.open(path, os.O_RDWR)
        os.dup2(other, descriptor_within(self.root / "tmp"))
        os.close(other)

    def test_disk_full(self) -> None:
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

    def test_not_synchronised(self) -> None:
        """What cannot be brought to the disk does not become visible."""
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
        """Let the function ``name`` of ``os`` fail wherever the storage uses it."""

        class FailingOs(ModuleType):
            def __getattr__(self, wanted: str) -> Any:
                if wanted != name:
                    return getattr(os, wanted)

                def fail(*args: object, **kwargs: object) -> None:
                    raise error

                return fail

        modules = (files, drafts, blobs, records)
        patches = [self.patch(module, "os", FailingOs("os")) for module in modules]
        try:
            yield
        finally:
            for patch in patches:
                patch.restore()

    def test_every_failure_is_typed(self) -> None:
        """Whatever fails, and however, is an error of the storage, and leaves no draft."""
        storage = self.open_storage()
        common = ("open", "write", "fsync")
        works: dict[Callable[[], object], tuple[str, ...]] = {
            lambda: self.store(storage): ("fstat",),
            lambda: self.finish(storage.put(DATA, LAYER)): (*common, "rename", "link"),
            lambda: self.finish(storage.set_record("image", "key", b"1")): (*common, "rename"),
            lambda: self.finish(storage.add_record("layer", "key", b"1")): (*common, "link"),
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

    def test_on_the_disk_first(self) -> None:
        """Whatever is published was brought to the disk before, and its name afterwards."""
        storage = self.open_storage()
        synchronised: list[str] = []
        published: list[str] = []
        case = self

        class WatchedOs(ModuleType):
            def __getattr__(self, wanted: str) -> Any:
                return getattr(os, wanted)

            def fsync(self, descriptor: int) -> None:
                os.fsync(descriptor)
                synchronised.append(os.readlink(f"/proc/self/fd/{descriptor}"))

            def link(self, source: str, target: str) -> None:
                case.assertIn(source, synchronised)
                os.link(source, target)
                self.publish(target)

            def rename(self, source: str, target: str) -> None:
                case.assertIn(source, synchronised)
                os.rename(source, target)
                self.publish(target)

            def publish(self, target: str) -> None:
                directory = os.path.dirname(target)
                published.append(directory)
                while directory in synchronised:
                    synchronised.remove(directory)

        for module in (files, drafts, blobs, records):
            self.patch(module, "os", WatchedOs("os"))
        self.store(storage)
        self.finish(storage.add_record("layer", "key", b"1"))
        self.finish(storage.set_record("image", "key", b"1"))
        self.assertEqual(4, len(published))
        for directory in published:
            self.assertIn(directory, synchronised)

    def test_partial_writes(self) -> None:
        """A write that the system takes in parts is completed."""
        storage = self.open_storage()

        class ReluctantOs(ModuleType):
            def __getattr__(self, wanted: str) -> Any:
                if wanted == "write":
                    return lambda descriptor, data: os.write(descriptor, data[:3])
                return getattr(os, wanted)

        self.patch(drafts, "os", ReluctantOs("os"))
        self.store(storage)
        self.assert_stored(storage)


class WriterTests(DirectoryCase):
    """The end of a writer."""

    def test_abort_removes(self) -> None:
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
        storage = self.open_storage()
        writer = self.write(storage)

        class Stopped:
            async def run(self, *args: object, **kwargs: object) -> None:
                raise ShuttingDown

        self.patch(writer, "_workers", Stopped())
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

    def test_nothing_leaks(self) -> None:
        """What was opened is closed."""
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
        Hold the next call of a method of the blobs when its work is done.

        :return: fires when it is held; lets it go.
        """
        held: Deferred[None] = Deferred()
        release = threading.Event()
        original = getattr(self.storage._blobs, name)

        def slow(*args: Any) -> Any:
            result = original(*args)
            reactor.callFromThread(held.callback, None)
            release.wait(20)
            return result

        self.patch(self.storage._blobs, name, slow)
        return held, release

    async def test_round_trip(self) -> None:
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

    async def test_recorded(self) -> None:
        """A blob and its record go through a thread together; the first record stays."""
        for value in (b"1", b"2"):
            writer = await self.storage.create()
            await self.pool.run(writer.write, DATA)
            record = ("layer", "key", value)
            self.assertEqual(b"1", await writer.commit_as(DIGEST, len(DATA), LAYER, record))
        self.assertEqual(DATA, await self.storage.read(DIGEST))
        self.assert_nothing_left()

    async def test_leave_while_committing(self) -> None:
        """A commit whose waiter has gone comes to its end; an abort then does nothing."""
        writer = await self.storage.create()
        await self.pool.run(writer.write, DATA)
        held, release = self.hold("commit")
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
