"""Tests for :mod:`nixery.http.ui.sse`, over real sockets."""

from __future__ import annotations

import json
import re
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.interfaces import IReactorTCP
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase, TestCase

from nixery.builds.tracker import BuildTracker
from nixery.http.routes import UIHandlers
from nixery.http.server import make_site
from nixery.http.ui.build_pages import BuildPages
from nixery.http.ui.sse import Event, ServerSent
from nixery.image.names import Digest, Tag, parse_image_name
from nixery.nix.progress import Phase
from nixery.runtime.clocks import SystemWallClock
from tests.support.http import make_root
from tests.support.pages import make_pages

DIGEST = Digest("sha256:" + "0" * 64)


class Listener(Protocol):
    """A client that reads a stream."""

    def __init__(self, path: str, last: str | None = None) -> None:
        self._path = path
        self._last = last
        self._data = ""
        self._seen = 0
        self._waiting: list[tuple[int, Deferred[None]]] = []
        self.gone: Deferred[None] = Deferred()

    def connectionMade(self) -> None:
        headers = "" if self._last is None else f"Last-Event-ID: {self._last}\r\n"
        headers += "Host: x\r\nConnection: close\r\nAccept: text/event-stream\r\n"
        request = f"GET {self._path} HTTP/1.1\r\n{headers}\r\n"
        assert self.transport is not None
        self.transport.write(request.encode("ascii"))

    def dataReceived(self, data: bytes) -> None:
        self._data += data.decode("ascii")
        count = len(self.events())
        for wanted, waiting in tuple(self._waiting):
            if count >= wanted:
                self._waiting.remove((wanted, waiting))
                waiting.callback(None)

    def connectionLost(self, reason: Failure = Failure(ConnectionError())) -> None:  # noqa: B008  # never changed
        self.gone.callback(None)

    def events(self) -> list[tuple[str, str, Any]]:
        """Identifier, type and data of each event so far."""
        found = re.findall(r"id: (.*)\nevent: (.*)\ndata: (.*)\n\n", self._data)
        return [(last, kind, json.loads(data)) for last, kind, data in found]

    async def wait_for(self, count: int) -> None:
        """Wait until so many events have come."""
        if len(self.events()) < count:
            waiting: Deferred[None] = Deferred()
            self._waiting.append((count, waiting))
            await waiting

    def leave(self) -> None:
        assert self.transport is not None
        self.transport.abortConnection()  # type: ignore[attr-defined]  # that of TCP has it


class LoopbackTests(TestCase):
    """A stream as a client on a socket sees it."""

    timeout = 60

    def setUp(self) -> None:
        self.book = BuildTracker(clock=reactor, wall_clock=SystemWallClock())
        self.closed: Deferred[None] = Deferred()
        root = make_root(
            ui=UIHandlers(pages=make_pages(), builds=BuildPages(self.book, reactor, make_pages()))
        )
        site = make_site(root, reactor, ended=lambda _request, _seconds: self.closed.callback(None))
        tcp = IReactorTCP(reactor)
        port = tcp.listenTCP(0, site, interface="127.0.0.1")  # type: ignore[arg-type]  # the reactor is a module to mypy
        self.addCleanup(port.stopListening)
        self.port = port.getHost().port  # type: ignore[attr-defined]  # IAddress has none
        self.build = self.book.begin(parse_image_name("git", "x86_64-linux"), Tag("latest"))
        self.build.phase(Phase.BUILDING)
        self.path = f"/builds/{self.build.id}/events"

    async def connect(self, last: str | None = None) -> Listener:
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.port)
        client = Listener(self.path, last)
        await connectProtocol(endpoint, client)
        return client

    async def test_to_the_end(self) -> None:
        """Each event comes when it happens, and the stream ends with the build."""
        client = await self.connect()
        await client.wait_for(1)
        for number in range(3):
            self.build.log(f"line {number}")
            await client.wait_for(2 + number)
        self.build.succeed(DIGEST)
        await client.gone
        kinds = [kind for _, kind, _ in client.events()]
        self.assertEqual(kinds, ["build", "log", "log", "log", "build"])
        self.assertEqual(client.events()[-1][2]["state"], "succeeded")
        await self.closed

    async def test_leaving_and_coming_back(self) -> None:
        """A client that leaves leaves nothing behind, and goes on where it was."""
        client = await self.connect()
        self.build.log("one")
        await client.wait_for(2)
        [*_, (last, _, _)] = client.events()
        client.leave()
        await self.closed
        self.assertEqual(self.build.notifier._listeners, {})
        self.closed = Deferred()
        self.build.log("two")
        client = await self.connect(last)
        await client.wait_for(1)
        missed = client.events()[0][2]
        self.assertEqual((missed["first"], missed["lines"]), (1, ["two"]))
        client.leave()
        await self.closed
        await client.gone

    async def test_a_client_that_does_not_read(self) -> None:
        """A flood waits for a client that reads nothing, and not in memory."""
        client = await self.connect()
        await client.wait_for(1)
        assert client.transport is not None
        client.transport.pauseProducing()  # type: ignore[attr-defined]  # that of TCP has it
        line = "x" * 200
        for _ in range(200):
            for _ in range(500):
                self.build.log(line)
            turn: Deferred[None] = Deferred()
            reactor.callLater(0, turn.callback, None)
            await turn
        client.transport.resumeProducing()  # type: ignore[attr-defined]  # that of TCP has it
        self.build.succeed(DIGEST)
        await client.gone
        *logs, (_, _, last) = client.events()
        self.assertEqual(last["state"], "succeeded")
        firsts = [data["first"] for _, kind, data in logs if kind == "log"]
        self.assertEqual(firsts, sorted(firsts))
        self.assertEqual(logs[-1][2]["first"] + len(logs[-1][2]["lines"]), 100_000)
        await self.closed


class EventTests(SynchronousTestCase):
    """Tests of the encoding of an event."""

    def test_event_is_three_lines_of_ascii_and_an_empty_one_whatever_is_in_it(self) -> None:
        """An event is three lines of ASCII and an empty one, whatever is in it."""
        event = Event(id="1-2", type="log", data={"lines": ["a\nb\r\n\u2028", "\x1b[0m"]})
        text = ServerSent().encode(event)
        self.assertEqual(text.count(b"\n"), 4)
        self.assertNotIn(b"\r", text)
        self.assertTrue(text.startswith(b"id: 1-2\nevent: log\ndata: {"))
        self.assertTrue(text.endswith(b"}\n\n"))
        self.assertTrue(text.decode("ascii").replace("\n", "").isprintable())
