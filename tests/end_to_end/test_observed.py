"""
A package set at a path, changed again and again: each change is served by the very next pull.

:data:`tests.support.edits.EDITS` says how often.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import random
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

from twisted.trial.unittest import SkipTest

from nixery.sources.mounts import file_system
from tests.end_to_end.case import EndToEndCase
from tests.end_to_end.daemon import Daemon
from tests.end_to_end.processes import private_directory, wait_until
from tests.support.edits import EDITS, Editor, exchange


def describe(directory: Path) -> dict[str, Any]:
    """Return what ``observed.nix`` reads."""
    return {
        path.name: "link"
        if path.is_symlink()
        else describe(path)
        if path.is_dir()
        else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in directory.iterdir()
    }


class Counter:
    """
    A number in a file of a directory, which is counted up in various ways.

    :param spare: a directory of the same file system.
    """

    def __init__(self, directory: Path, spare: Path) -> None:
        self.directory = directory
        self.value = 0
        self._spare = spare / "count"
        for each in (directory, self._spare):
            each.mkdir()
        self._ways = itertools.cycle((self._replace, self._swap, self._overwrite))

    def add(self) -> None:
        """Count up by one; afterwards, and no sooner, :attr:`value` tells it."""
        next(self._ways)(f"{self.value + 1:09}")
        self.value += 1

    def _replace(self, text: str) -> None:
        (self._spare / "new").write_text(text)
        (self._spare / "new").replace(self.directory / "number")

    def _overwrite(self, text: str) -> None:
        # In one system call, for whoever reads meanwhile.
        with (self.directory / "number").open("r+b", buffering=0) as file:
            file.write(text.encode())

    def _swap(self, text: str) -> None:
        (self._spare / "number").write_text(text)
        exchange(self.directory, self._spare)


class ObservedTests(EndToEndCase):
    """A daemon that serves ``observed.nix``."""

    def setUp(self) -> None:
        super().setUp()
        directory = private_directory("observed")
        name, local = file_system(os.fsencode(directory))
        if not local:
            raise SkipTest(f"temporary files are on {name}, whose changes may go unseen")
        self.set, self.outside = directory / "set", directory / "outside"
        for each in (self.set / "files", self.outside):
            each.mkdir(parents=True)
        shutil.copy(Path(__file__).with_name("observed.nix"), self.set / "default.nix")
        self.daemon = Daemon(self.set, name="observing").start()
        self.addCleanup(self.daemon.stop)
        self.addCleanup(shutil.rmtree, directory, ignore_errors=True)

    def served(self, package: str = "observed") -> str:
        """Return the version of a package in a pull."""
        registry = self.daemon.registry
        manifest = registry.manifest(package)
        self.assertEqual(manifest.status, 200, manifest.body)
        config = json.loads(registry.blob(package, manifest.json()["config"]["digest"]))
        return str(config["config"]["Labels"]["org.opencontainers.image.version"])

    def current(self) -> str:
        text = json.dumps(describe(self.set / "files"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def metric(self, line: str) -> float:
        lines = self.daemon.registry.get("/metrics").body.decode().splitlines()
        [value] = [each.split()[-1] for each in lines if each.startswith(line + " ")]
        return float(value)

    def test_no_pull_is_stale(self) -> None:
        """A pull right after a change has it; without one, Nix does not run."""
        seed = random.randrange(2**32)
        editor = Editor(self.set / "files", self.outside, seed)
        self.addCleanup(editor.close)
        for number in range(EDITS // 25):
            edit = editor.edit()
            self.assertEqual(self.served(), self.current(), f"{number} of seed {seed}: {edit}")
        wait_until(lambda: self.metric("nixery_source_watched") == 1, "the watch to stand")
        self.served()
        found = 'nixery_cache_requests_total{cache="evaluation",result="%s"}'
        before = [self.metric(found % result) for result in ("memory", "missing")]
        self.served()
        self.daemon.registry.head("/v2/observed/manifests/latest")
        after = [self.metric(found % result) for result in ("memory", "missing")]
        self.assertEqual(after, [before[0] + 2, before[1]])

    def test_pulls_while_it_changes(self) -> None:
        """However many pull while the package set changes, none gets what was before its pull."""
        counter = Counter(self.set / "count", self.outside)
        counter.add()
        ended = Event()

        def pull() -> None:
            for _ in range(max(1, EDITS // 100)):
                at_least = counter.value
                self.assertGreaterEqual(int(self.served("counted")), at_least)

        def change() -> None:
            # Evaluations that are overtaken by each change would never end otherwise.
            while not ended.wait(random.random() / 10):
                counter.add()

        with ThreadPoolExecutor() as threads:
            changing = threads.submit(change)
            try:
                for pulling in [threads.submit(pull) for _ in range(4)]:
                    pulling.result()
            finally:
                ended.set()
            changing.result()
