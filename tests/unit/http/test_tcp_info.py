"""Tests for :mod:`nixery.http.tcp_info`: what a client's host has received."""

from __future__ import annotations

import os
import socket
import struct
import time

from twisted.trial.unittest import SynchronousTestCase

from nixery.http.tcp_info import Acknowledgements


class AcknowledgementTests(SynchronousTestCase):
    """A pair of TCP sockets."""

    def setUp(self) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(listener.close)
        self.client = socket.socket()
        self.addCleanup(self.client.close)
        self.client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16384)
        self.client.connect(listener.getsockname())
        self.server, _ = listener.accept()
        self.addCleanup(self.server.close)
        self.server.setblocking(False)

    def watch(self) -> Acknowledgements:
        made = Acknowledgements(socket.socket(fileno=os.dup(self.server.fileno())))
        self.addCleanup(made.close)
        return made

    def fill(self) -> int:
        """Write until the socket takes no more."""
        written = 0
        try:
            while True:
                written += self.server.send(bytes(65536))
        except BlockingIOError:
            return written

    def test_all_that_was_taken(self) -> None:
        """Bytes that the client has taken count, from the moment on when counting began."""
        self.server.send(b"before")
        watched = self.watch()
        self.assertEqual(0, watched.count())
        self.server.send(b"x" * 1000)
        self.assertEqual(1006, self.received(1006))
        self.wait_for(watched, 1000)

    def received(self, size: int) -> int:
        got = 0
        while got < size:
            got += len(self.client.recv(size - got))
        return got

    def wait_for(self, watched: Acknowledgements, count: int) -> None:
        """Wait for an acknowledgement, which the kernel may delay by a moment."""
        deadline = time.monotonic() + 60
        while watched.count() != count and time.monotonic() < deadline:
            time.sleep(0.01)
        self.assertEqual(count, watched.count())

    def test_what_was_in_the_buffer_when_the_client_left_does_not(self) -> None:
        """Bytes that the socket still held when the client reset the connection do not count."""
        watched = self.watch()
        written = self.fill()
        taken = self.received(10_000)
        self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.client.close()
        self.server.close()
        self.assertLessEqual(taken, watched.count())
        self.assertLess(watched.count(), written // 2)

    def test_sockets_without_a_count(self) -> None:
        """The kernel does not tell of a UNIX socket."""
        ours, theirs = socket.socketpair()
        self.addCleanup(ours.close)
        self.addCleanup(theirs.close)
        self.assertRaises(OSError, Acknowledgements, ours)
