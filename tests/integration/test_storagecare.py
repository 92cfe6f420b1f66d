"""Several processes that publish, remove and look at once, on one directory."""

from __future__ import annotations

import multiprocessing
from multiprocessing.synchronize import Event
from pathlib import Path
from random import Random

from nixery.image.manifests import digest_of
from nixery.storage.errors import CollectionRunning
from nixery.storage.filesystem.garbage_collector import collect, run_blocking
from nixery.storage.filesystem.gc_policy import Policy
from nixery.storage.filesystem.publish_lock import publishing
from nixery.storage.filesystem.scan import Inventory, read_files, read_names
from tests.support.stores import StoreCase
from tests.unit.storage.test_contract import finish

IMAGES = 60
PATIENCE = 120.0


class ProcessesTests(StoreCase):
    """Tests of concurrent processes, with no grace period and hardly any space."""

    def test_publishers_and_collectors(self) -> None:
        """At any time, every manifest that is stored is whole."""
        context = multiprocessing.get_context("fork")
        done = context.Event()
        collectors = [
            context.Process(target=collect_until, args=(self.root, done)) for _ in range(2)
        ]
        publishers = [
            context.Process(target=self.publish, args=(seed,), daemon=True) for seed in range(2)
        ]
        for process in (*collectors, *publishers):
            process.start()
        looks = 0
        try:
            while any(process.is_alive() for process in publishers):
                with publishing(str(self.root)):
                    looks += self.look()
        finally:
            done.set()
            for process in (*publishers, *collectors):
                process.join(PATIENCE)
        self.assertEqual([0] * 4, [process.exitcode for process in (*publishers, *collectors)])
        self.assertGreater(looks, 0)
        self.settle()
        self.collect(max_bytes=0, grace=0.0)
        self.assertEqual(set(), self.stored())

    def look(self) -> int:
        """
        While nothing can be removed: whatever is named is there.

        :return: how many manifests there were.
        """
        named, there = Inventory(root=str(self.root)), Inventory(root=str(self.root))
        for _ in (*read_names(named), *read_files(there), *read_names(there)):
            pass
        for digest, needs in named.manifests.items():
            for each in {digest, *(needs or ())}:
                self.assertTrue(there.is_complete(each), each)
        for manifests in named.images.values():
            self.assertLessEqual(set(manifests or ()), named.manifests.keys())
        return len(named.manifests)

    def publish(self, seed: int) -> None:
        """Publish images that share layers; each is whole when it is there."""
        random = Random(seed)
        for number in range(IMAGES):
            layers = [b"layer %d" % part for part in random.sample(range(8), 3)]
            self.image(f"image-{seed}-{number % 5}", *layers)
            finish(self.storage.missing([digest_of(layer) for layer in layers]))


def collect_until(root: Path, done: Event) -> None:
    """Collect again and again."""
    while not done.is_set():
        try:
            run_blocking(collect(str(root), Policy(max_bytes=2000, grace=0.0)))
        except CollectionRunning:
            done.wait(0.01)
