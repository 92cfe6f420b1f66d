"""Runs commands beside each other, and shows the output of each in one piece."""

from __future__ import annotations

import codecs
import contextlib
import os
import selectors
import signal
import subprocess
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass

__all__ = ["Finished", "Lane", "run_lanes"]


@dataclass(frozen=True, kw_only=True)
class Finished:
    """
    A command that has ended.

    :param output: its standard output.
    :param status: its exit status.
    """

    output: str
    status: int


Lane = Generator[tuple[str, subprocess.Popen[bytes]], Finished, None]
"""Starts commands one after the other: yields a heading and each, and is sent how it ended."""


@dataclass(eq=False)
class _Running:
    """A command of a lane, and its output so far."""

    lane: Lane
    heading: str
    process: subprocess.Popen[bytes]

    def __post_init__(self) -> None:
        self.output = [self.heading]
        self._shown = 0
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    @property
    def descriptor(self) -> int:
        """The reading side of its standard output."""
        assert self.process.stdout is not None
        return self.process.stdout.fileno()

    def read(self) -> bool:
        """Read what there is, at most a pipe's fill; return whether there may be more."""
        data = os.read(self.descriptor, 65536)
        self.output.append(self._decode(data, final=not data))
        return bool(data)

    def show(self, show: Callable[[str], object]) -> None:
        """Show what has not been shown yet."""
        texts, self._shown = self.output[self._shown :], len(self.output)
        for text in texts:
            show(text)


class _Lanes:
    """
    Lanes and their commands.

    :param show: prints a piece of output.
    """

    def __init__(
        self,
        lanes: Sequence[Lane],
        selector: selectors.BaseSelector,
        show: Callable[[str], object],
    ) -> None:
        self._lanes = lanes
        self._selector = selector
        self._show = show
        self._running: dict[Lane, _Running] = {}
        self._ended: list[_Running] = []
        """Those that have not been shown wholly."""

    def run(self) -> None:
        """Run all commands."""
        for lane in self._lanes:
            with contextlib.suppress(StopIteration):
                self._begin(lane, *next(lane))
        while self._running:
            self._show_ended()
            front = next(self._running[lane] for lane in self._lanes if lane in self._running)
            front.show(self._show)
            while front in self._running.values():
                for key, _ in self._selector.select():
                    if not key.data.read():
                        self._finish(key.data)
                front.show(self._show)

    def stop(self) -> None:
        """Interrupt what runs, wait for it, show what has not been shown, and close the lanes."""
        for command in self._running.values():
            command.process.send_signal(signal.SIGINT)
        for command in self._running.values():
            while command.read():
                pass
            command.process.wait()
        self._ended += self._running.values()
        self._show_ended()
        for lane in self._lanes:
            lane.close()

    def _begin(self, lane: Lane, heading: str, process: subprocess.Popen[bytes]) -> None:
        command = self._running[lane] = _Running(lane, heading, process)
        self._selector.register(command.descriptor, selectors.EVENT_READ, command)

    def _finish(self, command: _Running) -> None:
        """Begin the next command of a lane."""
        self._selector.unregister(command.descriptor)
        with command.process:
            status = command.process.wait()
        del self._running[command.lane]
        self._ended.append(command)
        with contextlib.suppress(StopIteration):
            finished = Finished(output="".join(command.output), status=status)
            self._begin(command.lane, *command.lane.send(finished))

    def _show_ended(self) -> None:
        for command in self._ended:
            command.show(self._show)
        self._ended.clear()


def run_lanes(lanes: Iterable[Lane], show: Callable[[str], object]) -> None:
    """
    Run all commands, one of each lane at a time.

    The output of one command is shown as it comes: that of the first lane that still has
    one.  The output of others is shown once they and the shown one have ended.  If this is
    interrupted by an exception, all commands get SIGINT and are waited for.

    :param show: prints a piece of output.
    """
    with selectors.DefaultSelector() as selector:
        running = _Lanes(list(lanes), selector, show)
        try:
            running.run()
        finally:
            running.stop()
