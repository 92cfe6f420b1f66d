"""Tests of the roots of what evaluations fetch."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from nixery.nix.arguments import NixSettings
from nixery.nix.context import NixContext
from nixery.nix.fetched_roots import RENEWAL_SECONDS, FetchedRoots
from nixery.process.errors import CommandOutput, ProcessFailed
from nixery.process.spawner import Command, ProcessResult
from nixery.testing.fakes import InlineWorkers


@define(eq=False)
class FakeSpawner:
    """Makes the links of roots."""

    commands: list[Command] = field(factory=list)
    failure: Exception | None = None
    gate: Deferred[None] | None = None
    cancelled: bool = False

    async def run(self, command: Command) -> ProcessResult:
        self.commands.append(command)
        try:
            if self.gate is not None:
                await self.gate
        except CancelledError:
            self.cancelled = True
            raise
        if self.failure is not None:
            raise self.failure
        link = command.argv[command.argv.index("--add-root") + 1]
        with contextlib.suppress(FileNotFoundError):
            os.unlink(link)
        os.symlink(command.argv[-1], link)
        return ProcessResult(stdout=b"", stderr="")


class FetchedRootsTests(SynchronousTestCase):
    """Tests of :class:`nixery.nix.fetched_roots.FetchedRoots`."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.path = self.directory / "00000000000000000000000000000000-source"
        self.path.mkdir(parents=True)
        self.clock = Clock()
        self.spawner = FakeSpawner()
        self.link = self.directory / "state" / "src" / self.path.name
        self.roots = self.make()

    def make(self) -> FetchedRoots:
        spawner: Any = self.spawner
        return FetchedRoots(
            NixContext(
                spawner=spawner,
                clock=self.clock,
                workers=InlineWorkers(),
                settings=NixSettings(
                    state_directory=self.directory / "state", home=self.directory / "home"
                ),
                environ={},
            )
        )

    def test_root_is_made_once_and_renewed(self) -> None:
        """A root is made once, and its time of last use is set again after a while."""
        self.roots.keep(str(self.path))
        self.assertEqual(os.readlink(self.link), str(self.path))
        os.utime(self.link, (1, 1), follow_symlinks=False)
        self.roots.keep(str(self.path))
        self.assertEqual(self.link.lstat().st_mtime, 1)
        self.clock.advance(RENEWAL_SECONDS + 1)
        self.roots.keep(str(self.path))
        self.assertGreater(self.link.lstat().st_mtime, 1)
        self.assertEqual(len(self.spawner.commands), 1)

    def test_root_of_what_is_gone_is_made_again(self) -> None:
        """A root that another process has left is made again if its path is not there."""
        self.roots.keep(str(self.path))
        self.path.rmdir()
        self.make().keep(str(self.path))
        self.assertEqual(len(self.spawner.commands), 2)

    def test_failure_is_forgotten(self) -> None:
        """A root that cannot be made is tried again for the next evaluation."""
        self.spawner.failure = ProcessFailed(output=CommandOutput(argv=("nix-store",), status=1))
        self.roots.keep(str(self.path))
        self.assertFalse(self.link.is_symlink())
        self.spawner.failure = None
        self.roots.keep(str(self.path))
        self.assertTrue(self.link.is_symlink())

    def test_stop(self) -> None:
        """The end of the daemon ends what runs."""
        self.spawner.gate = Deferred()
        self.roots.keep(str(self.path))
        self.successResultOf(Deferred.fromCoroutine(self.roots.stop()))
        self.assertTrue(self.spawner.cancelled)
