"""
Clients that load a server: many small requests, or few large downloads.

They cost as little as a client can, on one thread: what is measured is the server.
The two share the machine nevertheless, and every server of a comparison gets the
same client.
"""

from __future__ import annotations

import itertools
import multiprocessing
import select
import socket
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Self

from attrs import define, frozen

from tests.benchmarks.measure import percentile

__all__ = ["Load", "Unexpected", "download", "fetch", "hammer", "probing", "request_for"]

BUFFER = 1 << 20
_sources = (f"127.0.1.{host}" for host in itertools.cycle(range(1, 255)))
"""Each load comes from another address, since a daemon limits what one client may ask for."""

CLOSED = "the connection was closed within an answer"


class Unexpected(Exception):
    """A server answered otherwise than it should."""


@frozen(kw_only=True)
class Load:
    """
    The result of a load.

    :param latencies: of each request, in seconds.
    :param seconds: from the first request to the last answer.
    """

    latencies: tuple[float, ...]
    seconds: float

    @property
    def rate(self) -> float:
        """Requests per second."""
        return len(self.latencies) / self.seconds

    @property
    def median(self) -> float:
        return statistics.median(self.latencies)

    def percentile(self, share: float) -> float:
        return percentile(self.latencies, share)


def request_for(
    path: str, *, method: str = "GET", headers: Mapping[str, str] | None = None
) -> bytes:
    """The bytes of a request, with the headers that Docker sends."""
    lines = {
        "Host": "127.0.0.1",
        "User-Agent": "docker/28.0.0 go/go1.23.6 git-commit/af898ab kernel/6.1.0 os/linux",
        "Accept-Encoding": "identity",
        **(headers or {}),
    }
    head = [f"{method} {path} HTTP/1.1", *(f"{name}: {text}" for name, text in lines.items())]
    return ("\r\n".join(head) + "\r\n\r\n").encode("ascii")


def fetch(port: int, request: bytes) -> tuple[bytes, bytes]:
    """
    Head and body of the answer to one request.

    :raises Unexpected: it is no 200, or is cut short.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=600) as connection:
        connection.sendall(request)
        return _answered(connection, request)


def _answered(connection: socket.socket, request: bytes) -> tuple[bytes, bytes]:
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += _received(connection.recv(BUFFER))
    head, _, body = answer.partition(b"\r\n\r\n")
    pieces, missing = [body], _body_length(request, head) - len(body)
    while missing > 0:
        pieces.append(_received(connection.recv(BUFFER)))
        missing -= len(pieces[-1])
    return head + b"\r\n\r\n", b"".join(pieces)


def hammer(port: int, request: bytes, *, count: int, connections: int) -> Load:
    """
    Ask the same ``count`` times, each connection as soon as it has its answer.

    :raises Unexpected: an answer is not like the first one.
    """
    # All bodies have the length of this one, so that no head has to be parsed.  Heads
    # differ: an id in them may gain a digit.
    length = len(fetch(port, request)[1])
    latencies: list[float] = []
    with _Connections(port, connections, source=next(_sources)) as open_connections:
        begun = time.perf_counter()
        for each in open_connections.all[:count]:
            each.ask(request, length)
        remaining = count - min(count, connections)
        while len(latencies) < count:
            for each in open_connections.readable():
                data = _received(each.socket.recv(BUFFER))
                if not each.begun:
                    end = data.find(b"\r\n\r\n")
                    if not data.startswith(b"HTTP/1.1 200 ") or end < 0:
                        raise Unexpected(f"{data[:200]!r} is no head of a 200")
                    each.begun = True
                    each.missing += end + 4
                each.missing -= len(data)
                if each.missing < 0:
                    raise Unexpected(f"an answer is longer than {length} bytes")
                if each.missing == 0:
                    latencies.append(time.perf_counter() - each.asked)
                    if remaining:
                        remaining -= 1
                        each.ask(request, length)
        seconds = time.perf_counter() - begun
    return Load(latencies=tuple(latencies), seconds=seconds)


def download(port: int, path: str, size: int, *, connections: int) -> float:
    """
    Download something with several clients at once, and throw it away.

    :param size: of its bytes.
    :return: seconds until the last client had it.
    :raises Unexpected: an answer is no 200, or too short.
    """
    request = request_for(path)
    buffer = memoryview(bytearray(BUFFER))
    with _Connections(port, connections) as open_connections:
        begun = time.perf_counter()
        for each in open_connections.all:
            each.ask(request, 0)
        waiting = set(open_connections.all)
        while waiting:
            for each in open_connections.readable():
                count = each.socket.recv_into(buffer)
                if not count:
                    raise Unexpected(CLOSED)
                if each.missing == 0:
                    # Heads come in one piece, on a loopback and when nothing went before.
                    head, _, body = bytes(buffer[:count]).partition(b"\r\n\r\n")
                    if _body_length(request, head) != size:
                        raise Unexpected(f"{path} should have {size} bytes: {head!r}")
                    count = len(body)
                    each.missing = size
                each.missing -= count
                if each.missing == 0:
                    waiting.discard(each)
                    open_connections.forget(each)
        return time.perf_counter() - begun


@contextmanager
def probing(port: int, path: str) -> Iterator[list[float]]:
    """
    Ask for something again and again from another process, with a pause of some
    milliseconds, while the block runs.

    :return: how long each answer took, in seconds; filled when the block ends.
    """
    latencies: list[float] = []
    ours, theirs = multiprocessing.Pipe()
    child = multiprocessing.get_context("spawn").Process(target=_probe, args=(port, path, theirs))
    child.start()
    ours.recv()
    try:
        yield latencies
    finally:
        ours.send(None)
        latencies += ours.recv()
        child.join()


def _probe(port: int, path: str, control: Connection) -> None:
    request = request_for(path)
    latencies = []
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        control.send(None)
        while not control.poll(0.002):
            begun = time.perf_counter()
            connection.sendall(request)
            _answered(connection, request)
            latencies.append(time.perf_counter() - begun)
    control.send(latencies)


@define(eq=False)
class _Connection:
    """A connection, and how much of an answer it waits for."""

    socket: socket.socket
    missing: int = 0
    asked: float = 0.0
    begun: bool = False

    def ask(self, request: bytes, length: int) -> None:
        self.missing = length
        self.begun = False
        self.asked = time.perf_counter()
        # Small enough for the socket's buffer, which is empty.
        self.socket.sendall(request)


class _Connections:
    """Open connections, and which of them has something to read."""

    def __init__(self, port: int, count: int, *, source: str = "127.0.0.1") -> None:
        self._poll = select.epoll()
        self.all = [
            _Connection(socket.create_connection(("127.0.0.1", port), source_address=(source, 0)))
            for _ in range(count)
        ]
        self._by_descriptor = {each.socket.fileno(): each for each in self.all}
        for each in self.all:
            each.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._poll.register(each.socket.fileno(), select.EPOLLIN)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for each in self.all:
            each.socket.close()
        self._poll.close()

    def readable(self) -> list[_Connection]:
        ready = self._poll.poll(60)
        if not ready:
            raise Unexpected("nothing was answered for a minute")
        return [self._by_descriptor[descriptor] for descriptor, _ in ready]

    def forget(self, connection: _Connection) -> None:
        with suppress(FileNotFoundError):
            self._poll.unregister(connection.socket.fileno())


def _received(data: bytes) -> bytes:
    if not data:
        raise Unexpected(CLOSED)
    return data


def _body_length(request: bytes, head: bytes) -> int:
    status, *lines = head.split(b"\r\n")
    if status.split(b" ")[1:2] != [b"200"]:
        raise Unexpected(f"{request[:200]!r} was answered with {head!r}")
    if request.startswith(b"HEAD "):
        return 0
    for line in lines:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    raise Unexpected(f"{request[:200]!r} was answered without a length: {head!r}")
