"""
A child process that is sent input while it runs.

Each Nix command takes 20 ms to start.  A process that is started before it is needed saves
that time.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from attrs import evolve
from twisted.internet.defer import Deferred

from nixery.process.protocol import Stdin
from nixery.process.spawner import Command, Spawner
from nixery.runtime.deferreds import when_finished

__all__ = ["InteractiveProcess"]


class InteractiveProcess:
    """
    An implementation of :class:`nixery.process.protocol.StdioHandler` that runs one child.

    Subclasses define what is written to the child and what is done with its output.

    :param spawner: runs the child.
    :param command: the child.
    """

    def __init__(self, spawner: Spawner, command: Command) -> None:
        self._spawner = spawner
        self._command = evolve(command, stdio_handler=self)
        self._stdin: Stdin | None = None
        self._task: Deferred[object] | None = None
        self._has_exited = False

    @property
    def has_exited(self) -> bool:
        """True if the child has ended."""
        return self._has_exited

    @property
    def memory(self) -> int:
        """The bytes of memory that the child uses now; 0 if that is unknown."""
        if self._stdin is None or self._stdin.pid is None:
            return 0
        try:
            # proc(5): the second number is that of resident pages.
            pages = int(Path(f"/proc/{self._stdin.pid}/statm").read_bytes().split()[1])
        except (OSError, IndexError):
            # It has just ended.
            return 0
        return pages * os.sysconf("SC_PAGE_SIZE")

    def start(self, on_exit: Callable[[], None]) -> None:
        """
        Start the child.

        :param on_exit: called when it has ended.
        """
        self._task = Deferred.fromCoroutine(self._spawner.run(self._command))
        self._task.addBoth(self._process_exited, on_exit)

    def send(self, data: bytes) -> None:
        """Write to the child's standard input, unless it has ended."""
        if self._stdin is not None and not self._has_exited:
            self._stdin.write(data)

    def close_stdin(self) -> None:
        """Close the child's standard input, so that it ends by itself soon."""
        if self._stdin is not None and not self._has_exited:
            self._stdin.closeStdin()

    def kill(self) -> None:
        """Stop the child."""
        if self._task is not None:
            self._task.cancel()

    async def wait_until_exited(self) -> None:
        """Wait until the child has ended."""
        if self._task is not None:
            await when_finished(self._task)

    # -- events of the child ------------------------------------------------------

    def started(self, stdin: Stdin) -> None:
        self._stdin = stdin

    def data_received(self, data: bytes) -> None:
        """Handle the next bytes of the child's standard output."""
        raise NotImplementedError

    def exited(self, outcome: object) -> None:
        """
        Handle the end of the child.

        :param outcome: the result of :meth:`nixery.process.spawner.Spawner.run`, a
            :class:`nixery.process.spawner.ProcessResult` or a ``Failure``.
        """
        raise NotImplementedError

    def _process_exited(self, outcome: object, on_exit: Callable[[], None]) -> None:
        self._has_exited = True
        self.exited(outcome)
        on_exit()
