"""
A daemon on a machine whose clock is set while it runs: by NTP, because it was wrong at boot,
or by hand.

Only the daemon's reading of the clock jumps.  The times of files are the kernel's, and stay.
"""

from __future__ import annotations

import mmap
import socket
import sys
import time
from email.utils import parsedate_to_datetime
from pathlib import Path

from tests.end_to_end.case import EndToEndCase, watched_set
from tests.end_to_end.daemon import Daemon
from tests.end_to_end.images import digest_of
from tests.end_to_end.processes import private_directory, wait_until

HOUR = 3600.0
MONTH = 30 * 24 * HOUR


class JumpingClock:
    """The wall clock of a daemon, which a test can set."""

    def __init__(self) -> None:
        file = private_directory("clock") / "ahead"
        file.write_bytes(bytes(8))
        with file.open("r+b") as opened:
            self._ahead = memoryview(mmap.mmap(opened.fileno(), 8)).cast("d")
        script = Path(__file__).with_name("jumping.py")
        self.interpreter = (sys.executable, str(script), str(file))

    def step(self, seconds: float) -> None:
        """Set it forward, or back."""
        self._ahead[0] += seconds

    def now(self) -> float:
        """The time of day that it shows."""
        return time.time() + self._ahead[0]


class ServiceManager:
    """The end of the notification socket that systemd has."""

    def __init__(self) -> None:
        self.address = str(private_directory("notify") / "socket")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        self.close = self._socket.close

    def forget(self) -> None:
        """Drop all notices that have come so far."""
        self._socket.setblocking(False)
        try:
            while True:
                self._socket.recv(4096)
        except BlockingIOError:
            pass

    def wait_for_pings(self, count: int) -> None:
        """
        Wait for pings of the watchdog.

        :raises TimeoutError: for a minute, nothing came.
        """
        self._socket.settimeout(60)
        while count:
            count -= b"WATCHDOG=1" in self._socket.recv(4096).split(b"\n")


class ClockTests(EndToEndCase):
    """A daemon each."""

    def start(self, **environ: str) -> None:
        self.clock = JumpingClock()
        self.daemon = Daemon(
            watched_set().path,
            name="jumping",
            environ=environ,
            constants={"nixery.wiring.limits.REQUEST_READ_TIMEOUT_SECONDS": 5.0},
            interpreter=self.clock.interpreter,
        ).start()
        self.addCleanup(self.daemon.kill)
        self.http = self.daemon.registry

    def step(self, seconds: float) -> None:
        """Set the daemon's clock when it has read all that it was sent, and let it see that."""
        self.pass_by()
        self.clock.step(seconds)
        date = self.pass_by()
        self.assertLess(abs(parsedate_to_datetime(date).timestamp() - self.clock.now()), HOUR)

    def pass_by(self) -> str:
        """
        Have the daemon look at its sockets and its timers: it does between two requests.

        :return: the date of its last answer.
        """
        self.http.get("/v2/")
        return self.http.get("/v2/").headers["date"]

    def connect(self) -> socket.socket:
        """A connection with a small window: the daemon cannot be rid of much at once."""
        client = socket.socket()
        self.addCleanup(client.close)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(60)
        client.connect(("127.0.0.1", self.http.port))
        return client

    def wait_until_held(self, client: socket.socket) -> None:
        """Wait until the daemon can send nothing more to a client that reads nothing."""
        queued = 0

        def held() -> bool:
            nonlocal queued
            before, queued = queued, self.queued(client.getsockname()[1])
            return 0 < queued == before and self.http.answers()

        wait_until(held, "the daemon to wait for the client")

    def queued(self, port: int) -> int:
        """Bytes that have left the daemon, and have not arrived at a client's port."""
        for row in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            _, local, remote, _, queues, *_ = row.split()
            if local.endswith(f":{self.http.port:04X}") and remote.endswith(f":{port:04X}"):
                return int(queues.split(":")[0], 16)
        raise AssertionError("the connection has ended")

    def test_images_are_made_and_served_to_a_client_that_was_known_before(self) -> None:
        """Images are made and served to a client that was known before."""
        self.start()
        for step, images in (
            (0, ["plain"]),
            (MONTH, ["plain", "known"]),
            (-MONTH, ["plain", "known", "plain/known"]),
            (-MONTH, ["plain", "first"]),
        ):
            self.step(step)
            for image in images:
                answer = self.http.manifest(image)
                self.assertEqual((200, image), (answer.status, image), answer.body)
            ready = self.http.get("/readyz")
            self.assertEqual((200, b"ok\n"), (ready.status, ready.body))
        self.daemon.stop()

    def test_client_that_is_slow_gets_the_whole_of_what_it_downloads(self) -> None:
        """A client that is slow gets the whole of what it downloads."""
        self.start()
        layers = self.http.manifest("large").json()["layers"]
        layer = max(layers, key=lambda each: int(each["size"]))
        for step in (2 * HOUR, -2 * HOUR):
            client = self.connect()
            client.sendall(
                f"GET /v2/large/blobs/{layer['digest']} HTTP/1.1\r\n"
                "Host: reg\r\nConnection: close\r\n\r\n".encode()
            )
            self.wait_until_held(client)
            self.step(step)
            with client.makefile("rb") as answer:
                self.assertIn(b" 200 ", answer.readline())
                while answer.readline().strip():
                    pass
                # Reads until the connection ends; its loss is an error.
                self.assertEqual(layer["digest"], digest_of(answer.read()))
        self.daemon.stop()

    def test_client_that_has_stopped_in_middle_of_request_is_still_sent_away(self) -> None:
        """A client that has stopped in the middle of a request is still sent away."""
        self.start()
        for step in (-MONTH, 2 * MONTH, -MONTH):
            client = self.connect()
            client.sendall(b"GET /v2/ HTTP/1.1\r\n")
            self.step(step)
            while client.recv(4096):
                pass

    def test_service_manager_goes_on_receiving_watchdog_pings(self) -> None:
        """The service manager goes on receiving watchdog pings."""
        manager = ServiceManager()
        self.addCleanup(manager.close)
        self.start(NOTIFY_SOCKET=manager.address, WATCHDOG_USEC="3000000")
        manager.wait_for_pings(1)
        for step in (-MONTH, 2 * MONTH, -MONTH):
            self.step(step)
            manager.forget()
            # One may have been under way.
            manager.wait_for_pings(3)
