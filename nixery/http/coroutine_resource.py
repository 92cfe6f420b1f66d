"""
Answer requests with coroutines: synchronously where possible, through Klein otherwise.

Most requests to a registry are answered from memory, without waiting for anything.  Klein
serves the responses that take time: it waits for the coroutine, and cancels it when the
client disconnects.  For a synchronous response, Klein would cost as much as the response
itself.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from klein import Klein
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Request

__all__ = ["CoroutineResource"]


class CoroutineResource(Resource):
    """
    A leaf resource that answers every request with one coroutine.

    It replaces path and Host header before Klein reads them: Klein decodes paths, and logs
    one that is not UTF-8 as a failure of ours; it fails on a Host header that is not a host
    name, and on the address of a UNIX socket if there is no such header.

    :param answer: sets status and headers, and returns the body, or ``None`` when it
        has written that itself.  Is cancelled when the client disconnects, and fails in no
        other case.
    """

    _app = Klein()
    _log = Logger()

    def __init__(
        self, answer: Callable[[Request], Coroutine[Deferred[Any], Any, bytes | None]]
    ) -> None:
        super().__init__()
        self.isLeaf = True
        self._answer = answer
        self._begun: dict[Request, Deferred[bytes | None]] = {}
        self._klein = self._app.resource()

    def render(self, request: Request) -> object:
        """Start the coroutine; finish the request at once if it does not wait."""
        answer = Deferred.fromCoroutine(self._answer(request))
        if answer.called:
            answer.addCallback(self._finish, request)
            answer.addErrback(lambda failure: self._log.failure("not answered", failure))
            return NOT_DONE_YET
        self._begun[request] = answer
        request.requestHeaders.setRawHeaders(b"Host", [b"localhost"])
        request.postpath = [b""]
        return self._klein.render(request)

    @_app.route("/")
    def _wait(self, request: Request) -> Deferred[bytes | None]:
        """Return the Deferred that Klein waits for."""
        return self._begun.pop(request)

    def _finish(self, body: bytes | None, request: Request) -> None:
        if body is not None:
            request.write(body)
        request.finish()
