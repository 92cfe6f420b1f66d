"""
Compare an honest client's delay alone with its delay beside attackers.

Both are measured within one run, and only their ratio is judged: a slow machine is slow for both.
A delay is the mean of several: a median would hide a queue that the first request has waited out.
What the honest client does should take some tenths of a second alone, of which little is processor
time: then the ratio tells whether it waits in line behind the attackers, and not how busy
the machine is.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import mean

from attrs import frozen

from tests.end_to_end.case import EndToEndCase
from tests.end_to_end.daemon import Daemon

__all__ = ["Attackers", "Comparison", "FairnessCase", "resident_memory"]

MAX_RATIO = 3.0
"""The most times that an honest client's delay may grow beside attackers."""

MIN_SECONDS = 0.1
"""A delay that is shorter counts as this long: less is noise."""


@frozen(kw_only=True)
class Comparison:
    """
    An honest client's delay, and the daemon's memory.

    :param alone: the mean of its delays in seconds without attackers.
    :param beside: the mean of its delays in seconds beside them.
    :param idle: the daemon's memory in bytes before the attack.
    :param peak: the most memory in bytes that it had during the attack.
    """

    alone: float
    beside: float
    idle: int
    peak: int

    @property
    def ratio(self) -> float:
        return max(self.beside, MIN_SECONDS) / max(self.alone, MIN_SECONDS)

    def describe(self) -> str:
        return (
            f"{self.ratio:.1f} times the delay ({self.beside:.2f} s, {self.alone:.2f} s alone),"
            f" {self.peak / 1e6:.0f} MB of memory ({(self.peak - self.idle) / 1e6:+.0f} MB)"
        )


class Attackers:
    """
    Clients that send requests and never read what comes back.

    :param port: the registry's, on the loopback interface.
    :param address: the address that they come from, one of 127.0.0.0/8.
    """

    def __init__(self, port: int, address: str = "127.0.0.66") -> None:
        self._port = port
        self._address = address
        self._sockets: list[socket.socket] = []

    def ask(self, path: str, *, method: str = "GET", headers: str = "") -> None:
        """
        Send a request on a connection of its own.

        :param headers: further header lines, each with its line end.
        """
        client = socket.create_connection(
            ("127.0.0.1", self._port), source_address=(self._address, 0), timeout=60
        )
        self._sockets.append(client)
        client.sendall(f"{method} {path} HTTP/1.1\r\nHost: registry\r\n{headers}\r\n".encode())

    def leave(self) -> None:
        """Close all connections."""
        while self._sockets:
            self._sockets.pop().close()


class FairnessCase(EndToEndCase):
    """A test of an honest client beside attackers."""

    def attackers(self, daemon: Daemon, address: str = "127.0.0.66") -> Attackers:
        """Make attackers, who leave at the end of the test at the latest."""
        made = Attackers(daemon.registry.port, address)
        self.addCleanup(made.leave)
        return made

    def compare(
        self,
        daemon: Daemon,
        honest: Callable[[], object],
        attack: Callable[[], contextlib.AbstractContextManager[object]],
        *,
        times: int = 3,
    ) -> Comparison:
        """
        Measure what an honest client does, alone and during an attack, and print the result.

        :param honest: waits for what the honest client asks for, and checks that it got it; is
            called once before it is measured.
        :param attack: a context that the attack lasts in.
        :param times: how often it is measured, alone as well as during the attack.
        """
        honest()
        alone = [_seconds(honest) for _ in range(times)]
        idle = resident_memory(daemon.pid)
        with peak_memory(daemon.pid) as peak, attack():
            beside = [_seconds(honest) for _ in range(times)]
        compared = Comparison(
            alone=mean(alone), beside=mean(beside), idle=idle, peak=max(peak[0], idle)
        )
        print(f"\n{self.id().rpartition('.')[2]}: {compared.describe()}")
        return compared

    def assert_fair(self, compared: Comparison, *, megabytes: float = 50) -> None:
        """
        Check that the honest client was served as if it were nearly alone.

        :param megabytes: the most by which the daemon's memory may have grown.
        """
        self.assertLessEqual(compared.ratio, MAX_RATIO, compared.describe())
        self.assertLessEqual(compared.peak - compared.idle, megabytes * 1e6, compared.describe())


def resident_memory(pid: int) -> int:
    """Return the memory in bytes that a process has now."""
    return _status(pid, "VmRSS")


@contextlib.contextmanager
def peak_memory(pid: int) -> Iterator[list[int]]:
    """Provide a list that holds, when the context ends, the peak of the memory within it."""
    # Resets the peak.
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    peak: list[int] = []
    yield peak
    peak.append(_status(pid, "VmHWM"))


def _status(pid: int, name: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{name}:"))) * 1024


def _seconds(work: Callable[[], object]) -> float:
    begun = time.monotonic()
    work()
    return time.monotonic() - begun
