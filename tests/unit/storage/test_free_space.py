"""Tests of the guard that stops builds before the disk is full."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from nixery.runtime.sizes import FreeSpaceLimit, format_size, parse_size
from nixery.storage.errors import DiskSpaceLow
from nixery.storage.free_space import FreeSpaceMonitor
from nixery.testing.fakes import InlineWorkers
from tests.support.builds import BuilderCase

GIB = 2**30


class GuardTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.free = 10 * GIB
        self.looks = 0
        self.rooms = 0
        self.room = 0
        self.guard = self.make(FreeSpaceLimit(amount=GIB))

    def make(self, margin: FreeSpaceLimit, *, collects: bool = True) -> FreeSpaceMonitor:
        async def collect_garbage() -> None:
            self.rooms += 1
            self.free += self.room

        return FreeSpaceMonitor(
            path=Path("/storage"),
            margin=margin,
            workers=InlineWorkers(),
            clock=self.clock,
            collect_garbage=collect_garbage if collects else None,
            read_space=self.read_space,
        )

    def read_space(self, path: str) -> tuple[int, int]:
        self.looks += 1
        self.assertEqual("/storage", path)
        return 100 * GIB, self.free

    def refused(self) -> bool:
        done = Deferred.fromCoroutine(self.guard.check())
        errors: list[object] = []
        done.addErrback(lambda failure: errors.append(failure.trap(DiskSpaceLow)))
        return bool(errors)

    def test_with_room_there_is_nothing_to_say(self) -> None:
        """With room there is nothing to say, and a look is believed for two seconds."""
        for _ in range(10):
            self.assertFalse(self.refused())
        self.assertEqual(1, self.looks)
        self.clock.advance(2)
        self.assertFalse(self.refused())
        self.assertEqual(2, self.looks)
        self.assertEqual((), tuple(self.guard.faults()))

    def test_without_it_builds_are_refused_reason_names_way_out_until_it_is_back(self) -> None:
        """Without it, builds are refused, the reason names the way out, until it is back."""
        self.guard = self.make(FreeSpaceLimit(amount=GIB), collects=False)
        self.free = GIB - 1
        self.assertTrue(self.refused())
        (fault,) = self.guard.faults()
        self.assertIn("min_free_space", fault)
        self.assertIn("1.07 GB are free", fault)
        self.free = GIB
        self.clock.advance(2)
        self.assertFalse(self.refused())
        self.assertEqual((), tuple(self.guard.faults()))

    def test_storage_is_collected_first_once_a_minute_at_most(self) -> None:
        """It has the storage collected first, once a minute at most."""
        self.free, self.room = 0, GIB
        self.assertFalse(self.refused())
        self.assertEqual(1, self.rooms)
        self.free, self.room = 0, 0
        for _ in range(3):
            self.clock.advance(10)
            self.assertTrue(self.refused())
        self.assertEqual(1, self.rooms)
        self.clock.advance(60)
        self.assertTrue(self.refused())
        self.assertEqual(2, self.rooms)

    def test_margin_may_be_a_share_of_the_disk(self) -> None:
        """The margin may be a share of the disk."""
        self.guard = self.make(FreeSpaceLimit(amount=5, percent=True), collects=False)
        self.free = 5 * GIB
        self.assertFalse(self.refused())
        self.clock.advance(2)
        self.free -= 1
        self.assertTrue(self.refused())

    def test_looks_by_itself(self) -> None:
        """Readiness reports a full disk even if there are no builds."""
        self.successResultOf(Deferred.fromCoroutine(self.guard.start()))
        self.free = 0
        self.clock.advance(30)
        self.assertEqual(1, len(self.guard.faults()))
        self.successResultOf(Deferred.fromCoroutine(self.guard.stop()))
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_file_system_whose_free_space_is_unknown_refuses_no_build(self) -> None:
        """A file system whose free space is unknown refuses no build."""

        def fail(_path: str) -> tuple[int, int]:
            raise OSError(5, "input/output error")

        self.guard.read_space = fail
        self.assertFalse(self.refused())


class BuildTests(BuilderCase):
    """Builds ask the guard."""

    def test_nothing_is_built_without_room(self) -> None:
        """Nothing is built without room; what is stored is served; room lets builds go on."""
        stored = self.successResultOf(self.request("hello"))
        low = [True]

        async def room() -> None:
            if low:
                raise DiskSpaceLow(operation="make", reason="full", path="/s", free=0, needed=1)

        self.builder.pipeline.check_free_space = room
        self.assertEqual(stored, self.successResultOf(self.request("hello")))
        self.failureResultOf(self.request("git"), DiskSpaceLow)
        low.clear()
        # It is not remembered as a failure of the image.
        self.successResultOf(self.request("git"))


class SizeTests(SynchronousTestCase):
    """Amounts as people write them."""

    @settings(max_examples=100)
    @given(st.integers(0, 999 * 10**12))
    def test_formatted_size_can_be_parsed(self, size: int) -> None:
        """A formatted size can be parsed, and is right within the digits that are shown."""
        self.assertLessEqual(abs(size - parse_size(format_size(size))), max(1, size / 199))

    def test_three_digits_whatever_the_unit(self) -> None:
        """Sizes have three digits, whatever the unit, and units are powers of 1000."""
        for count, text in (
            (0, "0 B"),
            (999, "999 B"),
            (999_500, "1.00 MB"),
            (12_345, "12.3 kB"),
            (123_456_789, "123 MB"),
            (9_996, "10.0 kB"),
            (2**40, "1.10 TB"),
        ):
            self.assertEqual(text, format_size(count))
