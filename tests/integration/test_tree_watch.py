"""
Tests for :mod:`nixery.sources.tree_watch` on real file systems: no change is ever missed.

:data:`tests.support.edits.EDITS` says how many random edits there are.
"""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, deferLater
from twisted.trial.unittest import SkipTest, SynchronousTestCase, TestCase

import nixery
from nixery.runtime.workers import WorkerPool
from nixery.sources import tree_scan
from nixery.sources.mounts import file_system
from nixery.sources.readable_paths import ReadablePath, readable_paths
from nixery.sources.source import PathSource
from nixery.sources.tree_watch import MISSING_RETRY_SECONDS, RETRY_SECONDS, TreeWatch
from nixery.testing.fakes import InlineWorkers
from tests.support.edits import EDITS, Editor

needs_root = "mounting needs root" if os.geteuid() else None


class StoppedReactor(Clock):
    """A clock with readers that are never called."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: set[object] = set()

    def addReader(self, reader: object) -> None:  # noqa: N802
        self.readers.add(reader)

    def removeReader(self, reader: object) -> None:  # noqa: N802
        self.readers.discard(reader)


def mount(test: SynchronousTestCase, *arguments: str | Path) -> None:
    """Mount something until the test has ended."""
    done = subprocess.run(
        ["mount", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    if "permission denied" in done.stderr:
        raise SkipTest(done.stderr)
    done.check_returncode()
    test.addCleanup(subprocess.run, ["umount", "-l", str(arguments[-1])], capture_output=True)


def watchable_directory(test: SynchronousTestCase) -> Path:
    """Make a directory that is there until the test has ended."""
    directory = Path(tempfile.mkdtemp(prefix="nixery-watch-")).resolve()
    test.addCleanup(shutil.rmtree, directory, ignore_errors=True)
    name, local = file_system(os.fsencode(directory))
    if not local:
        raise SkipTest(f"temporary files are on {name}, whose changes may go unseen")
    return directory


class WatchCase(SynchronousTestCase):
    """A directory that is watched."""

    def setUp(self) -> None:
        self.directory = watchable_directory(self)
        self.outside = self.directory / "outside"
        self.outside.mkdir()
        self.tree = self.directory / "parent" / "set"
        (self.tree / "pkgs" / "one").mkdir(parents=True)
        (self.tree / "default.nix").write_text("{ }")
        (self.tree / "pkgs" / "one" / "default.nix").write_text("one")
        self.clock = StoppedReactor()
        self.logged: list[str] = []
        self.patch(TreeWatch, "_log", self)
        self.watch = self.start(PathSource(path=self.tree))

    def start(self, source: PathSource, *overlays: Path) -> TreeWatch:
        watch = TreeWatch(readable_paths(source, overlays), InlineWorkers(), self.clock)
        watch.start()
        self.addCleanup(lambda: self.successResultOf(Deferred.fromCoroutine(watch.stop())))
        return watch

    def info(self, _format: str, **_values: object) -> None:
        pass

    def warn(self, _format: str, *, reason: str) -> None:
        self.logged.append(reason)

    def version(self) -> str:
        version = self.watch.version()
        assert version is not None, self.logged
        return version

    def assert_seen(self, edit: Callable[[], object]) -> None:
        """An edit is seen at once, and nothing after it."""
        before = self.version()
        edit()
        after = self.watch.version()
        self.assertNotEqual(before, after)
        self.assertEqual(after, self.watch.version())

    def assert_unknown(self, edit: Callable[[], object], reason: str) -> None:
        """After an edit the version is not known, for a reason that is logged."""
        edit()
        self.assertIsNone(self.watch.version())
        self.assertIn(reason, self.logged[-1])


class EditTests(WatchCase):
    """Edits that end just before the version is read."""

    def test_random_edits(self) -> None:
        """Each of thousands of edits is seen at once, and reading changes nothing."""
        seed = random.randrange(2**32)
        editor = Editor(self.tree, self.outside, seed)
        self.addCleanup(editor.close)
        # What is to be seen is the write, not what was done before it.
        editor.before_write = self.version
        for number in range(EDITS):
            before = self.version()
            name = editor.edit()
            after = self.version()
            self.assertNotEqual(before, after, f"edit {number} of seed {seed}: {name}")
            if number % 20 == 0:
                self.read()
                self.assertEqual(after, self.version(), f"after {number} of seed {seed}: {name}")

    def read(self) -> None:
        """Read all, as an evaluation does."""
        for path in self.tree.rglob("*"):
            if path.is_symlink():
                path.readlink()
            elif path.is_file():
                path.read_bytes()
            else:
                os.listdir(path)

    def test_symlinks_on_the_way(self) -> None:
        """A component of the configured path that is a link is replaced, or leads elsewhere."""
        other = self.directory / "other"
        shutil.copytree(self.tree.parent, other)
        link, way = self.directory / "link", self.directory / "way"
        way.symlink_to(self.tree.parent)
        link.symlink_to("way/set")
        self.watch = self.start(PathSource(path=link))

        def lead(name: Path, target: Path) -> None:
            spare = self.directory / "spare"
            spare.symlink_to(target)
            spare.replace(name)

        self.assert_seen(lambda: (self.tree / "default.nix").write_text("1"))
        self.assert_seen(lambda: lead(way, other))
        self.assert_seen(lambda: (other / "set" / "default.nix").write_text("2"))
        self.assert_seen(lambda: lead(link, self.tree))
        self.assert_seen(lambda: (self.tree / "default.nix").write_text("3"))
        before = self.version()
        (other / "set" / "default.nix").write_text("4")
        self.assertEqual(before, self.version())

    def test_what_lies_beside_the_way_is_no_change(self) -> None:
        """Files beside a component of the configured path are changed, and not read by anybody."""
        beside = self.tree.parent / "beside"
        before = self.version()
        beside.write_text("1")
        beside.chmod(0o600)
        self.outside.chmod(0o700)
        self.assertEqual(before, self.version())
        self.assert_seen(lambda: self.tree.parent.chmod(0o700))

    def test_files_and_overlays(self) -> None:
        """Beside a file all that is in its directory counts, beside an overlay nothing."""
        overlay = self.outside / "overlay.nix"
        overlay.write_text("final: previous: { }")
        self.watch = self.start(PathSource(path=self.tree / "default.nix"), overlay)
        self.assert_seen(lambda: (self.tree / "pkgs" / "one" / "default.nix").write_text("two"))
        self.assert_seen(lambda: overlay.write_text("final: previous: { a = 1; }"))
        before = self.version()
        (self.outside / "beside.nix").write_text("")
        self.assertEqual(before, self.version())
        spare = self.outside / "spare"
        spare.write_text("final: previous: { a = 2; }")
        self.assert_seen(lambda: spare.replace(overlay))
        self.assert_seen(lambda: overlay.write_text("final: previous: { a = 3; }"))

    def test_lost_events(self) -> None:
        """More changes than the kernel queues are one change, and the next is seen."""
        one, other = self.tree / "default.nix", self.tree / "pkgs" / "one" / "default.nix"
        size = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())

        def flood() -> None:
            for number in range(size // 2 + 1):
                one.chmod(0o600 + number % 2)
                other.chmod(0o600 + number % 2)

        self.assert_seen(flood)
        self.assert_seen(lambda: other.write_text("after"))

    def test_gone(self) -> None:
        """While there is nothing the version is not known; what comes in its place is watched."""
        gone = self.outside / "gone"
        before = self.version()
        self.tree.rename(gone)
        self.assertIsNone(self.watch.version())
        gone.rename(self.tree)
        self.clock.advance(MISSING_RETRY_SECONDS)
        self.assertNotIn(self.version(), (before, None))
        self.assert_seen(lambda: (self.tree / "default.nix").write_text("back"))
        self.assertEqual([], self.logged)


class UnknownTests(WatchCase):
    """Trees that cannot be watched are named once, and watched when that is possible again."""

    def test_links_that_lead_out(self) -> None:
        """A link to what is not watched; one within the trees, or into the store, is well."""
        (self.tree / "result").symlink_to("/nix/store/00000000000000000000000000000000-x/bin")
        (self.tree / "pkgs" / "up").symlink_to("../default.nix")
        (self.tree / "pkgs" / ".#lock").symlink_to("user@host.1:2")
        self.version()
        link = self.tree / "pkgs" / "out"
        for target in ("/etc/hostname", "../../x", "one/../../../x", "../.."):
            self.assert_unknown(partial(link.symlink_to, target), "leads out of the package set")
            self.assertIn(target, self.logged[-1])
            link.unlink()
            self.clock.advance(RETRY_SECONDS)
            self.version()

    def test_said_once(self) -> None:
        """The reason is logged when it is new."""
        fifo = self.tree / "fifo"
        self.assert_unknown(lambda: os.mkfifo(fifo), "fifo is a device or a pipe")
        for _ in range(3):
            self.clock.advance(RETRY_SECONDS)
            self.assertIsNone(self.watch.version())
        self.assertEqual(1, len(self.logged))

    def test_sockets_are_not_read(self) -> None:
        """A socket in the tree is no reason: nothing can be read from it."""
        with socket.socket(socket.AF_UNIX) as server:
            self.assert_seen(lambda: server.bind(str(self.tree / "socket")))

    def test_closed_directories(self) -> None:
        """A directory that may be entered and not listed is a reason, and a closed one is none."""
        listed = self.tree / "pkgs"
        script = (
            "import os, sys; from pathlib import Path;"
            "from nixery.sources.readable_paths import ReadablePath;"
            "from nixery.sources.tree_scan import Unwatchable, scan\n"
            "if not os.getuid(): os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
            "try: scan([ReadablePath(path=Path(sys.argv[1]))], lambda: False)\n"
            "except Unwatchable as error: print(error)"
        )
        for path in (self.directory, self.tree.parent, self.tree):
            path.chmod(0o755)
        self.addCleanup(listed.chmod, 0o755)
        for mode, is_reason in ((0o000, False), (0o111, True), (0o755, False)):
            listed.chmod(mode)
            self.assertEqual("Permission denied" in self.printed(script), is_reason)

    def printed(self, script: str, *command: str) -> str:
        """Return what a script prints that gets the path of the tree."""
        done = subprocess.run(
            [*command, sys.executable, "-c", script, str(self.tree)],
            capture_output=True,
            text=True,
            check=False,
            cwd=Path(nixery.__file__).parents[1],
        )
        if "unshare" in done.stderr:
            raise SkipTest(done.stderr)
        done.check_returncode()
        return done.stdout

    def test_too_many_files(self) -> None:
        """There is a bound, and more files are not watched."""
        self.patch(tree_scan, "MAX_WATCHES", 20)

        def fill() -> None:
            for number in range(20):
                (self.tree / f"{number}").write_text("")

        self.assert_unknown(fill, "more than 20 files")

    def test_bound_counts_files_and_not_their_names(self) -> None:
        """Files that are replaced again and again do not use the bound up."""
        self.patch(tree_scan, "MAX_WATCHES", 20)
        spare = self.tree / "spare"
        for number in range(50):
            spare.write_text(str(number))
            self.version()
            self.assert_seen(lambda: spare.replace(self.tree / "default.nix"))

    def test_other_file_systems(self) -> None:
        """A file system that is not known to tell of its changes."""
        self.watch = self.start(PathSource(path=Path("/proc/sys/fs/inotify")))
        self.assertIsNone(self.watch.version())
        self.assertIn("0x9fa0", self.logged[-1])

    def test_limit_of_the_kernel(self) -> None:
        """Too few watches are told with the setting that is to be raised."""
        script = (
            "import sys; from pathlib import Path;"
            "limit = Path('/proc/sys/user/max_inotify_watches')\n"
            "try: limit.write_text('4')\n"
            "except OSError as error: sys.exit(f'unshare: {error}')\n"
            "from nixery.sources.readable_paths import ReadablePath;"
            "from nixery.sources.tree_scan import TooManyWatches, scan\n"
            "try: scan([ReadablePath(path=Path(sys.argv[1]))], lambda: False)\n"
            "except TooManyWatches as error: print(error)"
        )
        printed = self.printed(script, "unshare", "--user", "--map-root-user")
        self.assertIn("fs.inotify.max_user_watches", printed)


class MountTests(WatchCase):
    """Tests of file systems that are mounted in a tree, or over it."""

    skip = needs_root

    def test_mounts(self) -> None:
        """A mount on, below or above the tree is a change, and so is its end."""
        file = self.tree / "pkgs" / "one" / "default.nix"
        copy = self.outside / "copy"
        shutil.copytree(self.tree.parent, copy)
        for place in (self.tree / "pkgs", self.tree, self.tree.parent):
            source = copy / place.relative_to(self.tree.parent)
            self.assert_seen(partial(mount, self, "--bind", source, place))
            self.assert_seen(partial(file.write_text, "in the mount"))
            self.assert_seen(partial(subprocess.run, ["umount", place], check=True))
            self.assert_seen(partial(file.write_text, "below it"))

    def test_file_systems_below(self) -> None:
        """A tmpfs in the tree is watched, and seen to go with all that is in it."""
        place = self.tree / "pkgs"
        self.assert_seen(lambda: mount(self, "-t", "tmpfs", "tmpfs", place))
        self.assert_seen(lambda: (place / "default.nix").write_text("new"))
        self.assert_seen(lambda: subprocess.run(["umount", place], check=True))

    def test_hidden_mounts(self) -> None:
        """A mount below another that hides it counts for nothing."""
        inner = self.tree / "pkgs" / "one"
        mount(self, "-t", "tmpfs", "tmpfs", inner)
        self.assert_seen(lambda: mount(self, "-t", "tmpfs", "tmpfs", self.tree / "pkgs"))
        self.assert_seen(lambda: (self.tree / "pkgs" / "default.nix").write_text("new"))

    def test_mounts_elsewhere(self) -> None:
        """Mounts that have nothing to do with the tree are no change."""
        before = self.version()
        mount(self, "-t", "tmpfs", "tmpfs", self.outside)
        self.assertEqual(before, self.version())

    def test_overlayfs(self) -> None:
        """Below an overlay, files can be changed unseen."""
        for name in ("upper", "work"):
            (self.outside / name).mkdir()
        options = f"lowerdir={self.tree},upperdir={self.outside}/upper,workdir={self.outside}/work"
        self.assert_unknown(
            lambda: mount(self, "-t", "overlay", "overlay", "-o", options, self.tree), "overlayfs"
        )


class ReactorTests(TestCase):
    """With real threads, and the real reactor."""

    def setUp(self) -> None:
        self.directory = watchable_directory(self)
        self.pool = WorkerPool("test", 2, reactor)  # type: ignore[arg-type]
        self.pool.startService()
        self.addCleanup(self.pool.stopService)
        for folder in range(100):
            (self.directory / str(folder)).mkdir()
            for number in range(10):
                (self.directory / str(folder) / str(number)).write_text("")
        paths = [ReadablePath(path=self.directory)]
        self.watch = TreeWatch(paths, self.pool, reactor)

    async def until(self, condition: Callable[[], object]) -> None:
        while not condition():
            await deferLater(reactor, 0.005, lambda: None)

    async def test_changes_while_watches_are_placed(self) -> None:
        """Changes while the watches are placed are not missed once they stand."""
        for number in range(20):
            self.watch.start()
            place = self.directory / f"new{number}"
            for _ in range(random.randrange(1, 20)):
                shutil.rmtree(place, ignore_errors=True)
                place.mkdir()
                (place / "file").write_text("first")
                await deferLater(reactor, 0, self.watch.version)
            await self.until(self.watch.version)
            version = self.watch.version()
            (place / "file").write_text("second")
            self.assertNotEqual(version, self.watch.version())
            await self.watch.stop()

    async def test_new_files_are_waited_for(self) -> None:
        """Watches of few new files are placed before the version is told."""
        self.watch.start()
        await self.until(self.watch.version)
        for number in range(20):
            before = self.watch.version()
            (self.directory / "spare").write_text(str(number))
            (self.directory / "spare").replace(self.directory / "0" / "0")
            after = await self.watch.settled_version()
            self.assertIsNotNone(after)
            self.assertNotEqual(before, after)
            (self.directory / "0" / "0").write_text("")
            self.assertNotEqual(after, await self.watch.settled_version())
        await self.watch.stop()

    async def test_nobody_asks(self) -> None:
        """New directories are watched without a request."""
        self.watch.start()
        await self.until(self.watch.version)
        (self.directory / "a" / "b").mkdir(parents=True)
        numbers = self.watch._placement.directories  # type: ignore[union-attr]
        await self.until(lambda: os.fsencode(self.directory / "a" / "b") in numbers.values())
        await self.watch.stop()

    async def test_stopped_while_placing(self) -> None:
        """Stopping ends a scan, and leaves nothing behind."""
        counts = []
        for _ in range(4):
            self.watch.start()
            await self.watch.stop()
            self.assertIsNone(self.watch.version())
            counts.append(len(os.listdir("/proc/self/fd")))
        self.assertEqual(counts[1:], [counts[0]] * 3)
