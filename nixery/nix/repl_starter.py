"""
Start ``nix repl`` processes, one of them before it is needed.

A process takes about as long to start as to evaluate a few packages.  The spare one has read its
settings and opened the store, and has read nothing of a package set.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from attrs import evolve
from twisted.internet.interfaces import IDelayedCall

from nixery.nix import resolve_arguments
from nixery.nix.context import NixContext
from nixery.nix.evaluation_log import fetched_path
from nixery.nix.repl import Repl
from nixery.nix.resolve_arguments import Lookup
from nixery.runtime.deferreds import gather
from nixery.runtime.terminal import plain_text

__all__ = ["MAX_SPARE_AGE_SECONDS", "START_DELAY_SECONDS", "ReplStarter"]

START_DELAY_SECONDS = 1.0
"""
Seconds between an answer and the start of a process for later ones: until then, the processors
are needed for the image that is being made, and for other requests.
"""

MAX_SPARE_AGE_SECONDS = 300.0
"""
Seconds after which an unused process is replaced: Nix reads its settings and the current
time when it starts.
"""


class ReplStarter:
    """
    Starts processes, and keeps a spare one for the package set that was used last.

    :param context: the processes run in it.
    :param on_fetched: called with each store path that was fetched under guard.
    """

    def __init__(self, context: NixContext, on_fetched: Callable[[str], object]) -> None:
        self._context = context
        self._on_fetched = on_fetched
        self._argv: tuple[str, ...] = ()
        self._spare: Repl | None = None
        self._next_start: IDelayedCall | None = None
        self._running: set[Repl] = set()

    def take(self, lookup: Lookup) -> Repl:
        """Return a process that was asked nothing: the spare one, or a new one."""
        argv = resolve_arguments.repl(lookup)
        process = self._spare
        if process is None or not self._is_ready(argv):
            return self._start(argv)
        self._spare = None
        self._cancel_next_start()
        return process

    def keep_spare(self, lookup: Lookup, delay: float = START_DELAY_SECONDS) -> None:
        """
        Keep a process ready for a package set, in place of any other.

        :param delay: seconds from now.
        """
        argv = resolve_arguments.repl(lookup)
        if self._is_ready(argv):
            return
        self._end_spare()
        self._argv = argv
        self._start_spare_in(delay)

    async def stop(self) -> None:
        """Stop all processes, and wait until they have ended."""
        self._cancel_next_start()
        self._spare = None
        running = tuple(self._running)
        for process in running:
            process.kill()
        await gather(process.wait_until_exited() for process in running)

    def _is_ready(self, argv: tuple[str, ...]) -> bool:
        return self._spare is not None and not self._spare.has_exited and self._argv == argv

    def _start_spare_in(self, delay: float) -> None:
        self._cancel_next_start()
        self._next_start = self._context.clock.callLater(delay, self._start_spare)

    def _start_spare(self) -> None:
        self._end_spare()
        self._spare = self._start(self._argv)
        self._start_spare_in(MAX_SPARE_AGE_SECONDS)

    def _end_spare(self) -> None:
        process, self._spare = self._spare, None
        if process is not None:
            process.close_stdin()

    def _cancel_next_start(self) -> None:
        if self._next_start is not None and self._next_start.active():
            self._next_start.cancel()
        self._next_start = None

    def _start(self, argv: tuple[str, ...]) -> Repl:
        home = self._context.settings.home
        command = evolve(
            self._context.evaluation(argv),
            # The limit is of all output together; a repl limits that of each answer.
            stdout_limit=sys.maxsize,
            # It makes a file for the history of what is typed.
            on_stderr_line=self._note_fetch,
            environment={**self._context.environment, "XDG_DATA_HOME": str(home / ".local/share")},
        )
        process = Repl(self._context.spawner, command)
        self._running.add(process)
        process.start(lambda: self._running.discard(process))
        return process

    def _note_fetch(self, line: bytes) -> None:
        path = fetched_path(plain_text(line))
        if path is not None:
            self._on_fetched(path)
