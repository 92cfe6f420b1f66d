"""
A child that waits for what it is told.

Each Nix command takes 20 ms before it does anything.  One that was started ahead of its
use has that behind it.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import evolve
from twisted.internet.defer import Deferred

from nixery.process.protocol import Stdin
from nixery.process.spawner import Command, Spawner
from nixery.runtime.deferreds import when_finished

__all__ = ["InteractiveProcess"]


class InteractiveProcess:
    """
    An implementation of :class:`nixery.process.protocol.StdioHandler`; what is said in it is up to
    who
    extends this.

    :param spawner: runs the child.
    :param command: the child.
    """

    def __init__(self, spawner: Spawner, command: Command) -> None:
        self._spawner = spawner
        self._command = evolve(command, dialogue=self)
        self._stdin: Stdin | None = None
        self._task: Deferred[object] | None = None
        self._over = False

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self._over

    def start(self, on_end: Callable[[], None]) -> None:
        """
        Start it.

        :param on_end: called when it has ended.
        """
        self._task = Deferred.fromCoroutine(self._spawner.run(self._command))
        self._task.addBoth(self._ended, on_end)

    def send(self, data: bytes) -> None:
        """Tell it something, unless it has ended."""
        if self._stdin is not None and not self._over:
            self._stdin.write(data)

    def end(self) -> None:
        """Let it end by itself, soon: there is nothing more to be told."""
        if self._stdin is not None and not self._over:
            self._stdin.closeStdin()

    def kill(self) -> None:
        """Stop it."""
        if self._task is not None:
            self._task.cancel()

    async def ended(self) -> None:
        """Wait until it has ended."""
        if self._task is not None:
            await when_finished(self._task)

    # -- what the child does ------------------------------------------------------

    def begun(self, stdin: Stdin) -> None:
        self._stdin = stdin

    def heard(self, data: bytes) -> None:
        """It has printed something."""
        raise NotImplementedError

    def left(self, outcome: object) -> None:
        """
        It has ended.

        :param outcome: as :meth:`nixery.process.spawner.Spawner.run` has, a
            :class:`nixery.process.spawner.ProcessResult` or a ``Failure``.
        """
        raise NotImplementedError

    def _ended(self, outcome: object, on_end: Callable[[], None]) -> None:
        self._over = True
        self.left(outcome)
        on_end()
