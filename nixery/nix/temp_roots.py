"""
Protect valid store paths from garbage collection, and query their closure.

When nothing has to be built, one process can replace three commands: ``nix-store --serve``
roots the outputs for as long as it runs, checks that all of them are valid, and returns
their closure.  The outputs are protected while the process runs: no file is left behind,
whichever of the two processes dies.

A server may be started before it is needed, while packages are evaluated.  It gets no
requests until then: Nix caches the validity of paths it was asked about, and would not
notice that a collection has removed them since.

A failure here is no error of an image: the other commands then do the same work, a
little later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar
from uuid import uuid4

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from nixery.errors import NixeryError, UnexpectedOutput
from nixery.image.closure import PathRecord, build_graph
from nixery.nix import arguments, serve_protocol
from nixery.nix.context import NixContext
from nixery.nix.interface import Realisation, RootedClosure
from nixery.nix.serve_protocol import Parse
from nixery.process.interactive import InteractiveProcess
from nixery.process.protocol import Stdin
from nixery.process.spawner import Command, Spawner
from nixery.runtime.deferreds import TimedOut, gather, with_timeout

__all__ = ["TempRootHolder"]

T = TypeVar("T")

ANSWER_TIMEOUT_SECONDS = 60.0
"""Timeout in seconds of one :meth:`TempRootHolder.root_if_valid`: a collection may delay it."""

IDLE_SERVER_SECONDS = 5.0
"""
Seconds after which a server that was started in advance is stopped if it was not used.  Most
evaluations end in a known image; this limits how often a server is started in vain.
"""


class TempRootHolder:
    """
    Protects sets of store paths, each with its own process.

    :param context: the processes run in it.
    """

    _log = Logger()

    def __init__(self, context: NixContext) -> None:
        self._context = context
        self._idle_server: _Server | None = None
        self._expiry: IDelayedCall | None = None
        self._servers: dict[str, _Server] = {}
        self._running: set[_Server] = set()

    def prewarm(self) -> None:
        """Start a server for the next call of :meth:`root_if_valid`, if none is ready."""
        if self._idle_server is None:
            self._idle_server = self._start()
            self._expiry = self._context.clock.callLater(IDLE_SERVER_SECONDS, self._end_idle_server)

    async def root_if_valid(self, outputs: Sequence[str]) -> RootedClosure | None:
        """
        Protect store paths and return their closure, if all of them are valid.

        :param outputs: at least one.
        :return: ``None`` if one is not valid, or the query failed.
        """
        server = self._take()
        try:
            records = await with_timeout(
                ANSWER_TIMEOUT_SECONDS,
                self._context.clock,
                _root_and_query_closure(server, outputs),
            )
            if records is None:
                server.close_stdin()
                return None
            closure = await self._context.workers.run(build_graph, records)
        except (NixeryError, TimedOut) as error:
            self._log.info(
                "another command reads the store: {error}", error=str(error) or "no answer"
            )
            server.kill()
            return None
        except BaseException:
            server.kill()
            await server.wait_until_exited()
            raise
        root = uuid4().hex
        self._servers[root] = server
        return RootedClosure(
            realisation=Realisation(root=root, outputs=tuple(sorted(outputs))), graph=closure
        )

    def root_expired(self, realisation: Realisation) -> bool:
        """True if outputs that were protected here are not protected any more."""
        server = self._servers.get(realisation.root)
        return server is not None and server.has_exited

    def release(self, realisation: Realisation) -> bool:
        """
        End the protection of outputs.

        :return: whether they were protected here.
        """
        server = self._servers.pop(realisation.root, None)
        if server is None:
            return False
        server.close_stdin()
        return True

    async def stop(self) -> None:
        """Stop all servers, and wait until they have ended."""
        self._end_idle_server()
        running = tuple(self._running)
        for server in running:
            server.kill()
        await gather(server.wait_until_exited() for server in running)

    def _take(self) -> _Server:
        server = self._idle_server
        self._clear_idle_server()
        return server if server is not None and not server.has_exited else self._start()

    def _end_idle_server(self) -> None:
        if self._idle_server is not None:
            self._idle_server.close_stdin()
            self._clear_idle_server()

    def _clear_idle_server(self) -> None:
        self._idle_server = None
        if self._expiry is not None and self._expiry.active():
            self._expiry.cancel()

    def _start(self) -> _Server:
        server = _Server(self._context.spawner, self._context.environment)
        self._running.add(server)
        server.start(lambda: self._running.discard(server))
        return server


async def _root_and_query_closure(
    server: _Server, outputs: Sequence[str]
) -> list[PathRecord] | None:
    """
    Protect outputs and query their closure.

    :return: the metadata of the closure; ``None`` if an output is not valid.
    """
    server.send(serve_protocol.add_temp_roots(outputs))
    await server.read(serve_protocol.read_server_hello())
    valid = await server.read(serve_protocol.read_paths())
    if set(valid) != set(outputs):
        return None
    server.send(serve_protocol.query_closure(outputs))
    closure = await server.read(serve_protocol.read_paths())
    server.send(serve_protocol.query_path_infos(closure))
    records = await server.read(serve_protocol.read_path_infos())
    if len(records) != len(closure):
        raise UnexpectedOutput(
            what="a closure", excerpt=f"{len(records)} of {len(closure)} paths are described"
        )
    return records


class _Server(InteractiveProcess):
    """Runs one ``nix-store --serve``."""

    def __init__(self, spawner: Spawner, environment: Mapping[str, str]) -> None:
        super().__init__(spawner, Command(argv=arguments.serve(), environment=environment))
        self._buffer = bytearray()
        self._response: _PendingResponse[Any] | None = None
        self._fault: NixeryError = _server_ended()

    async def read(self, parse: Parse[T]) -> T:
        """
        Read the next response.

        :raises UnexpectedOutput: the response is malformed.
        :raises NixeryError: the server has ended before the end of the response.
        """
        response: _PendingResponse[T] = _PendingResponse(parse)
        response.read(self._buffer)
        if self.has_exited:
            response.fail(self._fault)
        self._response = response
        try:
            return await response.result
        finally:
            self._response = None

    def started(self, stdin: Stdin) -> None:
        super().started(stdin)
        self.send(serve_protocol.client_hello())

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if self._response is not None:
            self._response.read(self._buffer)

    def exited(self, outcome: object) -> None:
        # A cancelled server was stopped on purpose: later reads fail with the default error.
        if isinstance(outcome, Failure) and isinstance(outcome.value, NixeryError):
            self._fault = outcome.value
        if self._response is not None:
            self._response.fail(self._fault)


class _PendingResponse(Generic[T]):
    """
    A response that arrives in pieces.

    :param parse: parses it.
    """

    def __init__(self, parse: Parse[T]) -> None:
        self._parse = parse
        self._bytes_needed = next(parse)
        self.result: Deferred[T] = Deferred()

    def read(self, buffer: bytearray) -> None:
        """Remove the bytes of the response from the start of ``buffer``."""
        position = 0
        try:
            while len(buffer) - position >= self._bytes_needed:
                chunk = bytes(buffer[position : position + self._bytes_needed])
                position += self._bytes_needed
                self._bytes_needed = self._parse.send(chunk)
        except StopIteration as ended:
            # This comes before the callback, which may send the next request at once.
            del buffer[:position]
            self._fire(ended.value)
        except NixeryError as error:
            self.fail(error)
        else:
            del buffer[:position]

    def fail(self, error: BaseException) -> None:
        """Fail the pending read."""
        self._fire(Failure(error))

    def _fire(self, outcome: T | Failure) -> None:
        if not self.result.called:
            self.result.callback(outcome)


def _server_ended() -> UnexpectedOutput:
    return UnexpectedOutput(what="the end of nix-store --serve", excerpt="it has ended")
