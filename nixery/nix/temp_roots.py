"""
Store paths that are valid already: kept from garbage collection, and described.

When nothing has to be built, three commands are two too many.  One ``nix-store --serve``
roots the outputs for as long as it runs, says whether all of them are valid, and tells
their closure.  That it runs is what protects them: no file is left behind, whichever of
the two processes dies.

A server may be started ahead of its use, while packages are evaluated.  It has not been
asked anything then: Nix remembers what it was asked, and would not notice that a
collection took it since.

Whatever fails here says nothing about an image.  What cannot be had this way is
had by the other commands, a little later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Generic, TypeVar
from uuid import uuid4

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from nixery.errors import NixeryError, UnexpectedOutput
from nixery.image.closure import PathRecord, graph_of
from nixery.nix import arguments, serve_protocol
from nixery.nix.interface import Realisation, RootedClosure
from nixery.nix.serve_protocol import Parse
from nixery.process.interactive import InteractiveProcess
from nixery.process.protocol import Stdin
from nixery.process.spawner import Command, Spawner
from nixery.runtime.deferreds import TimedOut, gather, with_timeout
from nixery.runtime.workers import Workers

__all__ = ["TempRootHolder"]

T = TypeVar("T")

PATIENCE = 60.0
"""Seconds that an answer may take: a collection may be in the way."""

SPARE = 5.0
"""
Seconds that a server which was started ahead waits for its use.  Most evaluations end in
an image that is known; this bounds how often one is started for nothing.
"""


class TempRootHolder:
    """
    Holds store paths, each set of them by a process of its own.

    :param spawner: runs the processes.
    :param clock: what patience is measured with.
    :param workers: where long answers are understood.
    :param environment: of Nix commands.
    """

    _log = Logger()

    def __init__(
        self,
        *,
        spawner: Spawner,
        clock: IReactorTime,
        workers: Workers,
        environment: Mapping[str, str],
    ) -> None:
        self._spawner = spawner
        self._clock = clock
        self._workers = workers
        self._environment = environment
        self._spare: _Server | None = None
        self._expiry: IDelayedCall | None = None
        self._held: dict[str, _Server] = {}
        self._running: set[_Server] = set()

    def prepare(self) -> None:
        """Start a server, if none is ready, because there may soon be a use for it."""
        if self._spare is None:
            self._spare = self._start()
            self._expiry = self._clock.callLater(SPARE, self._drop_spare)

    async def hold(self, outputs: Sequence[str]) -> RootedClosure | None:
        """
        Protect store paths and describe what they need, if all of them are valid.

        :param outputs: at least one.
        :return: ``None`` where one is not valid, or that cannot be found out.
        """
        server = self._take()
        try:
            graph = await with_timeout(PATIENCE, self._clock, _ask(server, outputs))
            if graph is None:
                server.end()
                return None
            described = await self._workers.run(graph_of, graph)
        except (NixeryError, TimedOut) as error:
            self._log.info(
                "the store is asked in another way: {error}", error=str(error) or "no answer"
            )
            server.kill()
            return None
        except BaseException:
            server.kill()
            await server.ended()
            raise
        root = uuid4().hex
        self._held[root] = server
        return RootedClosure(
            realisation=Realisation(root=root, outputs=tuple(sorted(outputs))), graph=described
        )

    def lost(self, realisation: Realisation) -> bool:
        """Whether what was held here is not protected any more."""
        server = self._held.get(realisation.root)
        return server is not None and server.over

    def release(self, realisation: Realisation) -> bool:
        """:return: whether it was held here, and is not any more."""
        server = self._held.pop(realisation.root, None)
        if server is None:
            return False
        server.end()
        return True

    async def stop(self) -> None:
        """Let everything go, and wait until it has gone."""
        self._drop_spare()
        running = tuple(self._running)
        for server in running:
            server.kill()
        await gather(server.ended() for server in running)

    def _take(self) -> _Server:
        spare = self._spare
        self._forget_spare()
        return spare if spare is not None and not spare.over else self._start()

    def _drop_spare(self) -> None:
        if self._spare is not None:
            self._spare.end()
            self._forget_spare()

    def _forget_spare(self) -> None:
        self._spare = None
        if self._expiry is not None and self._expiry.active():
            self._expiry.cancel()

    def _start(self) -> _Server:
        server = _Server(self._spawner, self._environment)
        self._running.add(server)
        server.start(lambda: self._running.discard(server))
        return server


async def _ask(server: _Server, outputs: Sequence[str]) -> list[PathRecord] | None:
    """:return: what is known of a closure; ``None`` where an output is not valid."""
    server.send(serve_protocol.hold(outputs))
    await server.read(serve_protocol.welcome())
    valid = await server.read(serve_protocol.paths())
    if set(valid) != set(outputs):
        return None
    server.send(serve_protocol.needs(outputs))
    closure = await server.read(serve_protocol.paths())
    server.send(serve_protocol.infos(closure))
    records = await server.read(serve_protocol.path_infos())
    if len(records) != len(closure):
        raise UnexpectedOutput(
            what="a closure", excerpt=f"{len(records)} of {len(closure)} paths are described"
        )
    return records


class _Server(InteractiveProcess):
    """One ``nix-store --serve``."""

    def __init__(self, spawner: Spawner, environment: Mapping[str, str]) -> None:
        super().__init__(spawner, Command(argv=arguments.serve(), environment=environment))
        self._buffer = bytearray()
        self._answer: _Answer[Any] | None = None
        self._fault: NixeryError = _gone()

    async def read(self, parse: Parse[T]) -> T:
        """
        Read the next answer.

        :raises UnexpectedOutput: it is none.
        :raises NixeryError: the server has ended before it had answered.
        """
        answer: _Answer[T] = _Answer(parse)
        answer.read(self._buffer)
        if self.over:
            answer.fail(self._fault)
        self._answer = answer
        try:
            return await answer.result
        finally:
            self._answer = None

    def begun(self, stdin: Stdin) -> None:
        super().begun(stdin)
        self.send(serve_protocol.greeting())

    def heard(self, data: bytes) -> None:
        self._buffer += data
        if self._answer is not None:
            self._answer.read(self._buffer)

    def left(self, outcome: object) -> None:
        # Cancelled, it has ended because nobody wants it: who asks it then is told as much.
        if isinstance(outcome, Failure) and isinstance(outcome.value, NixeryError):
            self._fault = outcome.value
        if self._answer is not None:
            self._answer.fail(self._fault)


class _Answer(Generic[T]):
    """
    An answer that comes in pieces.

    :param parse: reads it.
    """

    def __init__(self, parse: Parse[T]) -> None:
        self._parse = parse
        self._wanted = next(parse)
        self.result: Deferred[T] = Deferred()

    def read(self, buffer: bytearray) -> None:
        """Take what belongs to the answer from the start of ``buffer``."""
        position = 0
        try:
            while len(buffer) - position >= self._wanted:
                piece = bytes(buffer[position : position + self._wanted])
                position += self._wanted
                self._wanted = self._parse.send(piece)
        except StopIteration as ended:
            # First of all: who waits may ask the next question at once.
            del buffer[:position]
            self._fire(ended.value)
        except NixeryError as error:
            self.fail(error)
        else:
            del buffer[:position]

    def fail(self, error: BaseException) -> None:
        """There will be no answer."""
        self._fire(Failure(error))

    def _fire(self, outcome: T | Failure) -> None:
        if not self.result.called:
            self.result.callback(outcome)


def _gone() -> UnexpectedOutput:
    return UnexpectedOutput(what="the end of nix-store --serve", excerpt="it has ended")
