"""
Clients that mean harm, or might as well: while they are at it, others are served, and when
they have gone nothing of them is left.
"""

from __future__ import annotations

import contextlib
import os
import re
import resource
import selectors
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

from tests.end_to_end.case import EndToEndCase, Once, watched_set
from tests.end_to_end.daemon import Daemon
from tests.end_to_end.processes import wait_until

besieged_registry = Once(
    lambda: Daemon(
        watched_set().path,
        name="besieged",
        options=[
            "--idle-timeout=120",
            # As low as what the tests ask of it in good faith allows, and no higher.
            "--connections-per-client=1500",
            "--requests-per-client=1000",
        ],
        constants={
            "nixery.wiring.limits.REQUEST_READ_TIMEOUT_SECONDS": 3.0,
            "nixery.wiring.limits.STALL_LIMIT_SECONDS": 3.0,
            "nixery.wiring.limits.MAX_CONNECTIONS": 3000,
            "nixery.wiring.limits.BURST_SECONDS": 15,
        },
    ).start()
)
"""A registry with short timeouts and low limits."""

PING = b"GET /v2/ HTTP/1.1\r\nHost: reg\r\n\r\n"


class HostileTests(EndToEndCase):
    def setUp(self) -> None:
        super().setUp()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
        self.addCleanup(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        self.daemon = besieged_registry()
        self.http = self.daemon.registry
        self.assertTrue(self.http.answers())
        self.sockets: list[socket.socket] = []
        wait_until(lambda: self.http.connections() == 0, "earlier connections to end")
        self.files = self.open_files()
        self.addCleanup(self.check_rest)

    def open_files(self) -> int:
        """Count the files that the daemon has open."""
        return len(os.listdir(f"/proc/{self.daemon.pid}/fd"))

    def check_rest(self) -> None:
        """Everything is as it was before, and the daemon has found nothing to complain of."""
        for each in self.sockets:
            each.close()
        wait_until(lambda: self.http.connections() == 0, "all connections to end")
        # A pool may have grown a thread, and the storage may hold a directory.
        wait_until(lambda: self.open_files() <= self.files + 4, "all files to be closed")
        self.assertNotIn("Traceback", self.daemon.log())

    def connect(self, count: int = 1, *, window: int | None = None) -> list[socket.socket]:
        """Connections, with a small window where less is to be on its way."""
        made = []
        for _ in range(count):
            client = socket.socket()
            if window is not None:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
            client.settimeout(60)
            client.connect(("127.0.0.1", self.http.port))
            made.append(client)
        self.sockets += made
        return made

    def say(self, data: bytes) -> bytes:
        """Send bytes, and return the answer until the connection ends."""
        (client,) = self.connect()
        with contextlib.suppress(ConnectionError):
            client.sendall(data)
        return self.hear(client)

    def hear(self, client: socket.socket) -> bytes:
        """All that comes until the connection ends, or is broken off."""
        heard = []
        with contextlib.suppress(ConnectionError):
            while data := client.recv(65536):
                heard.append(data)
        return b"".join(heard)

    @contextlib.contextmanager
    def served(self) -> Iterator[None]:
        """Meanwhile another client asks again and again, and has an answer each time."""
        over = threading.Event()
        answered: list[bool] = []

        def ask() -> None:
            while not over.is_set():
                answered.append(self.http.answers())
                over.wait(0.01)

        asking = threading.Thread(target=ask)
        asking.start()
        try:
            yield
            before = len(answered)
            # At least once while all of it lasts.
            wait_until(lambda: len(answered) > before + 1, "an answer")
        finally:
            over.set()
            asking.join()
        self.assertTrue(all(answered), answered)

    def large_blob(self) -> str:
        """The path of a blob of megabytes."""
        layers = self.http.manifest("large").json()["layers"]
        largest = max(layers, key=lambda layer: int(layer["size"]))
        return f"/v2/large/blobs/{largest['digest']}"

    def test_two_hundred_requests_that_drop_in_byte_by_byte_are_all_ended(self) -> None:
        """Two hundred requests that drop in byte by byte are all ended."""
        with self.served():
            clients = self.connect(200)
            waiting = selectors.DefaultSelector()
            for client in clients:
                client.setblocking(False)
                waiting.register(client, selectors.EVENT_READ)
            ended = 0
            step = 0
            while ended < len(clients) and step < 600:
                for client in clients:
                    with contextlib.suppress(OSError):
                        client.send(PING[step % 20 :][:1])
                for key, _ in waiting.select(0.1):
                    self.assertIsInstance(key.fileobj, socket.socket)
                    waiting.unregister(key.fileobj)
                    ended += 1
                step += 1
            self.assertEqual(200, ended)

    def test_thousand_connections_that_send_nothing_keep_no_other_client_out(self) -> None:
        """A thousand connections that send nothing keep no other client out."""
        with self.served():
            self.connect(1000)
            wait_until(lambda: self.http.connections() >= 1000, "the connections")

    def test_too_many_connections(self) -> None:
        """Of one address there are so many; the next is told so, and another has its own."""
        with contextlib.suppress(OSError):
            self.connect(1500)
        wait_until(lambda: self.http.connections() >= 1500, "the connections")
        (client,) = self.connect()
        self.assertIn(b" 429 ", self.hear(client).split(b"\r\n")[0])
        other = socket.create_connection(
            ("127.0.0.1", self.http.port), source_address=("127.0.0.2", 0), timeout=60
        )
        self.sockets.append(other)
        other.sendall(PING)
        self.assertIn(b" 200 ", other.recv(65536))

    def test_byte_by_byte(self) -> None:
        """A client that reads a large blob at a byte a second is soon disconnected."""
        path = self.large_blob().encode()
        with self.served():
            clients = self.connect(20, window=4096)
            for client in clients:
                client.sendall(b"GET %s HTTP/1.1\r\nHost: reg\r\n\r\n" % path)
            wait_until(lambda: self.open_files() > self.files + 20, "the blob to be opened")

            def given_up() -> bool:
                for client in clients:
                    # Few enough that the window stays closed.
                    with contextlib.suppress(OSError):
                        client.recv(1)
                return self.daemon.log().count(f"{path.decode()} 200") >= 20

            wait_until(given_up, "the clients to be given up")
        self.assertIn(b'reason="slow_download"', self.http.get("/metrics").body)

    def test_clients_that_reset_their_connections_leave_nothing(self) -> None:
        """Clients that reset their connections in the middle of a blob leave nothing."""
        path = self.large_blob().encode()
        with self.served():
            for client in self.connect(50):
                client.sendall(b"GET %s HTTP/1.1\r\nHost: reg\r\n\r\n" % path)
                client.recv(100)
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                client.close()

    def test_ten_thousand_pipelined_requests_are_answered_in_order(self) -> None:
        """Ten thousand requests on one connection are answered, in order and in turns."""
        count = 10_000
        pipe = b"".join(
            b"GET /v2/%s HTTP/1.1\r\nHost: reg\r\n\r\n" % (b"" if number % 2 else b"_catalog")
            for number in range(count - 1)
        ) + PING.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        (client,) = self.connect()
        with self.served():
            sender = threading.Thread(target=client.sendall, args=(pipe,))
            sender.start()
            heard = self.hear(client)
            sender.join()
        statuses = re.findall(rb"HTTP/1\.1 (\d+)", heard)
        self.assertEqual(count, len(statuses))
        self.assertEqual([b"404", b"200"] * (count // 2), statuses)

    def test_bombs_and_ambiguous_heads_are_refused_at_once(self) -> None:
        """Bombs, and what two servers might read in two ways, are refused at once."""
        get = b"GET /v2/ HTTP/1.1\r\nHost: reg\r\n"
        post = b"POST /v2/ HTTP/1.1\r\nHost: reg\r\n"
        hidden = b"\r\n0\r\n\r\nGET /hidden HTTP/1.1\r\nHost: reg\r\n\r\n"
        with self.served():
            for data, status in (
                (get + b"X: y\r\n" * 100_000 + b"\r\n", 400),
                (get + b"X: " + b"y" * 10_000_000, 431),
                (b"GET /" + b"x" * 10_000_000, 414),
                (get + b" folded\r\n" * 100_000 + b"\r\n", 400),
                (post + b"Content-Length: 6\r\nTransfer-Encoding: chunked\r\n" + hidden, 400),
                (post + b"Transfer-Encoding: chunked\r\nContent-Length: 6\r\n" + hidden, 400),
                (post + b"Content-Length: 5\r\nContent-Length: 0\r\n" + hidden, 400),
                (post + b"Transfer-Encoding: xchunked\r\n" + hidden, 400),
                (post + b"Content-Length: -1\r\n" + hidden, 400),
                (post + b"Transfer-Encoding : chunked\r\n" + hidden, 400),
                (post + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
                (post + b"Transfer-Encoding: chunked\r\n\r\n" + b"1" * 5000, 400),
                (post + b"Content-Length: 99999999999999999999\r\n\r\n", 413),
                (b"GET /v2/ HTTP/1.1\nHost: reg\n\nGET /hidden HTTP/1.1\r\n\r\n", 400),
                (b"\x00" * 100 + b"\r\n\r\n", 400),
                (b"GET\r\n\r\n", 400),
                (b"GET /v2/ HTTP/9.9\r\n\r\n", 400),
                (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
            ):
                heard = self.say(data)
                # Who goes on sending may find the connection broken off before the words.
                if heard or len(data) < 10_000:
                    self.assertTrue(
                        heard.startswith(b"HTTP/1.1 %d " % status), (data[:200], heard[:200])
                    )
                    self.assertEqual(1, len(re.findall(rb"HTTP/1\.1 \d", heard)), data[:200])
        self.assertNotIn("/hidden", self.daemon.log())

    def test_body_without_an_end_is_cut_off_and_kept_nowhere(self) -> None:
        """A body without an end is cut off, and kept nowhere."""
        chunk = b"10000\r\n" + b"x" * 65536 + b"\r\n"
        sent = 0
        (client,) = self.connect()
        with self.served(), contextlib.suppress(ConnectionError):
            client.sendall(b"PUT /v2/x HTTP/1.1\r\nHost: reg\r\nTransfer-Encoding: chunked\r\n\r\n")
            while sent < 4000:
                client.sendall(chunk)
                sent += 1
        self.assertLess(sent, 4000)
        spilled = [path for path in Path("/tmp").glob("tmp*") if path.stat().st_size > 10_000_000]
        self.assertEqual([], [path for path in spilled if path.is_file()])

    def test_client_that_asks_too_often_is_told_when_to_retry(self) -> None:
        """A client that asks too often is told when to retry, and others notice nothing."""
        (client,) = (
            socket.create_connection(
                ("127.0.0.1", self.http.port), source_address=("127.0.0.3", 0), timeout=60
            ),
        )
        self.sockets.append(client)
        refused = b""
        with self.served():
            for _ in range(400):
                client.sendall(PING * 100)
                refused = client.recv(1 << 20)
                if b" 429 " in refused:
                    break
        self.assertIn(b" 429 ", refused)
        self.assertIn(b"Retry-After: ", refused)
        self.assertIn(b"TOOMANYREQUESTS", refused)
