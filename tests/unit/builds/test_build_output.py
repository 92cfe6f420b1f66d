"""Tests of what builds print: :mod:`nixery.builds.build_output` and ``output_file``."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from nixery.builds import build_output, output_file
from nixery.builds.build_output import BuildOutput
from nixery.builds.output_file import OutputFile, OutputFiles
from nixery.builds.views import DerivationState, LogPart
from nixery.testing.fakes import InlineWorkers
from tests.support.http import SteppedWorkers

GIT, HTOP = "/nix/store/aaa-git-2.47.0.drv", "/nix/store/bbb-htop-3.3.0.drv"


class OutputCase(SynchronousTestCase):
    """A directory for the lines that do not fit into memory, of which there are 20."""

    def setUp(self) -> None:
        self.patch(build_output, "MAX_LOG_LINES", 20)
        self.patch(build_output, "LINES_AT_ONCE", 7)
        self.clock = Clock()
        self.directory = Path(self.mktemp()).absolute()
        self.files = self.make_files()

    def make_files(self, max_bytes: int = 100_000) -> OutputFiles:
        return OutputFiles(directory=self.directory, workers=InlineWorkers(), max_bytes=max_bytes)

    def make(self, files: OutputFiles | None = None) -> BuildOutput:
        output = BuildOutput(seconds=self.clock.seconds, file=(files or self.files).make())
        self.addCleanup(output.discard)
        return output

    def read(self, output: BuildOutput, after: int = 0, limit: int = 10_000) -> LogPart:
        return self.successResultOf(Deferred.fromCoroutine(output.read(after, limit)))


class BuildOutputTests(OutputCase):
    """Lines, their times and their derivations."""

    @given(st.lists(st.text(max_size=30), max_size=120), st.integers(0, 130), st.integers(1, 130))
    @settings(max_examples=100)
    def test_all_lines_are_kept_under_their_numbers(
        self, texts: list[str], after: int, limit: int
    ) -> None:
        """All lines are kept, in memory or on disk, with what came with them."""
        output = self.make()
        expected = []
        for number, text in enumerate(texts):
            path = ("", GIT, HTOP)[number % 3]
            if number == 0:
                output.begin(GIT)
                output.begin(HTOP)
            self.clock.advance(0.25)
            output.add(text, path)
            readable = text.replace("\n", " ").encode("utf-8", "replace").decode()
            expected.append((readable, round(self.clock.seconds(), 3), number % 3))
        part = self.read(output, after, limit)
        kept = [
            (text.replace("\n", " ").encode("utf-8", "replace").decode(), round(seconds, 3), origin)
            for text, seconds, origin in zip(
                part.lines, part.seconds, part.derivations, strict=True
            )
        ]
        self.assertEqual(part.first, after)
        # Times in the file are milliseconds.
        self.assertEqual([each[0::2] for each in kept], [e[0::2] for e in expected[after:][:limit]])
        for one, other in zip(kept, expected[after:], strict=False):
            self.assertLess(abs(one[1] - other[1]), 0.002)
        self.assertLessEqual(len(output.tail(0, 1000).lines), 20)
        self.assertEqual(output.line_count, len(texts))
        output.discard()

    def test_derivations(self) -> None:
        """A derivation knows its lines and how its build has ended."""
        output = self.make()
        output.begin(GIT)
        self.clock.advance(1)
        output.begin(HTOP)
        for path in (GIT, HTOP, HTOP, "", GIT, "/nix/store/unknown.drv"):
            output.add("line", path)
        self.clock.advance(2)
        output.end(GIT, DerivationState.BUILT)
        output.end(GIT, DerivationState.FAILED)
        git, htop = output.derivations()
        self.assertEqual((git.name, git.number, git.lines), ("git-2.47.0", 1, 2))
        self.assertEqual((git.begun, git.ended, git.first, git.last), (0, 3, 0, 4))
        self.assertEqual(git.state, DerivationState.BUILT)
        self.assertEqual((htop.begun, htop.ended, htop.first, htop.last), (1, None, 1, 2))
        self.assertEqual(output.main_derivations(), (htop,))
        self.assertEqual(output.derivations([0, 2]), (htop,))
        self.assertEqual(self.read(output).derivations, (1, 2, 2, 0, 1, 0))

    def test_end_of_the_build(self) -> None:
        """Everything that still runs at the end was stopped, except the derivation that failed."""
        output = self.make()
        for path in (GIT, HTOP):
            output.begin(path)
        output.finish(HTOP)
        self.assertEqual(
            [each.state for each in output.derivations()],
            [DerivationState.STOPPED, DerivationState.FAILED],
        )
        self.assertEqual([each.number for each in output.main_derivations()], [2])

    def test_derivation_that_is_built_again(self) -> None:
        """A derivation that is begun again keeps its number."""
        output = self.make()
        output.begin(GIT)
        output.end(GIT, DerivationState.FAILED)
        output.begin(GIT)
        [git] = output.derivations()
        self.assertEqual((git.number, git.state, git.ended), (1, DerivationState.BUILDING, None))

    def test_derivations_are_bounded(self) -> None:
        """Lines of a derivation too many belong to none."""
        self.patch(build_output, "MAX_DERIVATIONS", 1)
        output = self.make()
        for path in (GIT, HTOP):
            output.begin(path)
            output.add("line", path)
        self.assertEqual(self.read(output).derivations, (1, 0))

    def test_lines_that_leave_memory(self) -> None:
        """The lines of an ended build leave memory, and can be read still."""
        output = self.make()
        for number in range(30):
            output.add(str(number), "")
        output.discard_memory()
        self.assertEqual((output.memory_size, output.line_count), (0, 30))
        self.assertEqual(self.read(output).lines, tuple(map(str, range(30))))

    def test_without_a_file(self) -> None:
        """Without a file, the newest lines are kept."""
        output = BuildOutput(seconds=self.clock.seconds)
        for number in range(30):
            output.add(str(number), "")
        part = self.read(output)
        self.assertEqual((part.first, len(part.lines), part.after), (10, 20, 30))


class OutputFileTests(OutputCase):
    """Files, their bounds and their failures."""

    def fill(self, output: BuildOutput, lines: int, text: str = "x" * 100) -> None:
        for number in range(lines):
            output.add(f"{number} {text}", "")

    def test_nothing_is_left_on_the_disk(self) -> None:
        """A file has no name, so that nothing is left of it, and its descriptor is closed."""
        before = len(os.listdir("/proc/self/fd"))
        output = self.make()
        self.fill(output, 100)
        self.assertEqual(list(self.directory.iterdir()), [])
        self.assertEqual(len(os.listdir("/proc/self/fd")), before + 1)
        output.discard()
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)
        self.assertEqual(self.read(output).lines, ())

    def test_small_log_makes_no_file(self) -> None:
        """A log that fits into memory makes no file."""
        self.fill(self.make(), 20)
        self.assertFalse(self.directory.exists())

    def test_one_log_has_half_of_the_space(self) -> None:
        """A log that is larger than it may be keeps its begin and its end."""
        files = self.make_files(max_bytes=10_000)
        output = self.make(files)
        self.fill(output, 200)
        begin = self.read(output)
        self.assertEqual(begin.first, 0)
        self.assertTrue(40 <= len(begin.lines) <= 48, len(begin.lines))
        end = self.read(output, begin.after)
        self.assertGreater(end.first, begin.after)
        self.assertEqual(end.after, 200)
        self.assertLessEqual(output.size, 5000 + 20 * 110)

    def test_oldest_log_makes_room(self) -> None:
        """The file that was written to longest ago is discarded when all are too large."""
        files = self.make_files(max_bytes=12_000)
        first, second, third = (self.make(files) for _ in range(3))
        self.fill(first, 60)
        self.fill(second, 60)
        self.assertEqual(self.read(first).first, 0)
        self.fill(first, 5)
        self.fill(third, 60)
        self.assertGreater(self.read(second).first, 0)
        self.assertEqual(self.read(third).first, 0)

    def test_files_are_few(self) -> None:
        """There are not more files than descriptors are reserved for them."""
        self.patch(output_file, "MAX_FILES", 3)
        before = len(os.listdir("/proc/self/fd"))
        outputs = [self.make() for _ in range(6)]
        for output in outputs:
            self.fill(output, 60)
        self.assertEqual(len(os.listdir("/proc/self/fd")), before + 3)
        self.assertEqual([self.read(each).first == 0 for each in outputs], [False] * 3 + [True] * 3)

    def test_full_disk(self) -> None:
        """A disk that is full is reported once, and harms no build."""
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with mock.patch.object(os, "pwrite", side_effect=full), capturedLogs() as logs:
            for output in (self.make(), self.make()):
                self.fill(output, 100)
                self.assertEqual(self.read(output).after, 100)
                self.assertLessEqual(len(self.read(output).lines), 20)
        [warning] = [each for each in logs if each["log_level"] is LogLevel.warn]
        self.assertIn("No space left on device", formatEvent(warning))

    def test_disk_that_is_slow(self) -> None:
        """Lines that wait to be written are read from memory; too many are dropped."""
        self.patch(output_file, "MAX_UNWRITTEN_BYTES", 5000)
        workers = SteppedWorkers()
        output = BuildOutput(
            seconds=self.clock.seconds,
            file=OutputFile(
                files=OutputFiles(directory=self.directory, workers=workers, max_bytes=100_000)
            ),
        )
        self.fill(output, 200)
        begin = self.read(output)
        self.assertTrue(40 <= len(begin.lines) <= 48, len(begin.lines))
        workers.finish()
        reading = Deferred.fromCoroutine(output.read(0, 1000))
        workers.finish()
        self.assertEqual(self.successResultOf(reading).lines, begin.lines)
        output.discard()
