"""
From coroutines to answers: at once where that is possible, through Klein otherwise.

Most questions to a registry are about what is known already, and are answered without
waiting for anything.  The ways of Klein are those of answers that take their time: it
waits for them, and cancels them when the client leaves.  For the others these ways
would cost as much as the answer itself.
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
    Whatever is asked, answered by one coroutine.

    It keeps from Klein what that would read into a request: Klein decodes paths, and
    logs one that is no UTF-8 as a failure of ours; it chokes on a Host header that is
    no host name, and on a UNIX socket's address where there is none.

    :param answer: sets status and headers, and returns the body, or ``None`` when it
        has written that itself.  Is cancelled when the client leaves, and fails in no
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
        """Begin to answer."""
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
        """What Klein waits for."""
        return self._begun.pop(request)

    def _finish(self, body: bytes | None, request: Request) -> None:
        if body is not None:
            request.write(body)
        request.finish()
