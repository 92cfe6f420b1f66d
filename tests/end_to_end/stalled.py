"""
TLS clients that request a blob and never read it.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

from nixery.http.registry.blob_readers import SLICE_SIZE
from tests.benchmarks.blobs import store_blob
from tests.end_to_end.daemon import Daemon
from tests.end_to_end.processes import free_port, private_directory, wait_until
from tests.end_to_end.wire import Registry
from tests.support.certificates import Authority

__all__ = ["BYTES_PER_DOWNLOAD", "StallingRegistry"]

BYTES_PER_DOWNLOAD = 150_000
"""The most memory of the daemon that a download over TLS may take whose client reads nothing."""

BLOB_SIZE = 32 << 20
"""More than the buffers of all sockets of a connection hold."""

CLIENTS_PER_ADDRESS = 400
"""Fewer than one client may have connections."""

WINDOW = 4096
"""The buffer of a client's socket, in bytes: what does not fit stays with the daemon."""


class StallingRegistry:
    """
    A registry with TLS beside its plain port, and a large blob.

    :param options: further options of the command line.
    """

    def __init__(self, *options: str) -> None:
        directory = private_directory("stalled")
        authority, self._port = Authority("127.0.0.1"), free_port()
        authority.issue(directory)
        empty = directory / "set"
        empty.mkdir()
        (empty / "default.nix").write_text("{ }\n")
        self.daemon = Daemon(
            empty,
            name="stalled",
            plain=True,
            options=[
                *("--listen", f"tcp:{self._port}:interface=127.0.0.1"),
                *("--tls-certificate", str(directory / "certificate.pem")),
                *("--tls-key", str(directory / "key.pem")),
                *options,
            ],
        ).start()
        digest, _ = store_blob(self.daemon.storage, BLOB_SIZE)
        self.path = f"/v2/some/image/blobs/{digest}"
        self._context = ssl.create_default_context(cadata=authority.pem.decode("ascii"))

    @property
    def registry(self) -> Registry:
        return self.daemon.registry

    def unsent(self) -> int:
        """The bytes that wait in the daemon's memory for its clients."""
        lines = self.registry.get("/metrics").body.decode().splitlines()
        [value] = [line.split()[1] for line in lines if line.startswith("nixery_http_unsent_bytes")]
        return int(float(value))

    @contextmanager
    def stalled(self, count: int) -> Iterator[None]:
        """
        Keep downloads whose clients have taken nothing for a moment, and take nothing more.

        They come from several addresses, each with fewer connections than one client may have.
        """
        clients: list[ssl.SSLSocket] = []
        try:
            for number in range(count):
                client = self._request(f"127.0.2.{1 + number // CLIENTS_PER_ADDRESS}")
                clients.append(client)
            # Each of them holds a slice, which is counted as long as it waits.
            wait_until(
                lambda: self.unsent() == count * SLICE_SIZE, f"{count} to stall", seconds=600
            )
            yield
        finally:
            for client in clients:
                client.close()
            wait_until(lambda: self.unsent() == 0, "them to end")

    def _request(self, source: str) -> ssl.SSLSocket:
        plain = socket.socket()
        plain.settimeout(300)
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, WINDOW)
        plain.bind((source, 0))
        plain.connect(("127.0.0.1", self._port))
        client = self._context.wrap_socket(plain, server_hostname="127.0.0.1")
        client.sendall(f"GET {self.path} HTTP/1.1\r\nHost: registry\r\n\r\n".encode())
        return client
