"""Many images, one after the other: nothing is left of those that are done."""

from __future__ import annotations

import gc
from collections import Counter
from types import CoroutineType

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from nixery.layers.compression import LayerStream
from nixery.testing.fakes import FakeNix, FakePackage
from tests.support.builds import BuilderCase
from tests.support.garbage import set_garbage_apart

IMAGES = 40

TRANSIENT = (CoroutineType, Deferred, Failure, LayerStream)
"""The types of a running job's objects, and of those that keep all others alive."""


class SoakTests(BuilderCase):
    """Tests that objects that live as long as the daemon do not grow with use."""

    def setUp(self) -> None:
        super().setUp()
        set_garbage_apart(self)
        self.nix = FakeNix(
            store=self.directory / "store",
            packages=[
                FakePackage(attribute=f"tiny{number}", files={"bin/tiny": b"%d" % number})
                for number in range(2 * IMAGES)
            ],
        )
        self.restart()

    def held(self) -> Counter[str]:
        """Count the live objects of each transient type."""
        self.requests.clear()
        gc.collect()
        held: Counter[str] = Counter()
        for each in gc.get_objects():
            # Not by isinstance(), which asks proxies for their class.
            if issubclass(type(each), TRANSIENT):
                held[type(each).__name__] += 1
        return held

    def test_images_leave_nothing_behind(self) -> None:
        """Twice as many images leave as many coroutines, Deferreds and timers behind."""
        held = []
        for half in range(2):
            for number in range(half * IMAGES, (half + 1) * IMAGES):
                self.build(f"tiny{number}")
            held.append((self.held(), len(self.clock.getDelayedCalls()), set(self.nix.roots)))
        self.assertEqual(held[0], held[1])
        self.assertEqual(held[1][2], set())

    def test_failures_leave_nothing_behind(self) -> None:
        """So do images that are not available."""
        held = []
        for _ in range(2):
            for number in range(IMAGES):
                self.failureResultOf(self.request(f"none{number}"))
            held.append((self.held(), len(self.clock.getDelayedCalls())))
        self.assertEqual(held[0], held[1])

    def test_counts_what_is_kept(self) -> None:
        """Something that is kept for each image would be seen here."""
        kept: list[Deferred[None]] = []
        before = self.held()
        kept += [Deferred() for _ in range(3)]
        self.assertEqual(self.held()["Deferred"] - before["Deferred"], len(kept))
