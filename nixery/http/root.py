"""
Serve the application: authenticate the client of each request, and let Klein answer it.
"""

from __future__ import annotations

from contextvars import copy_context
from typing import Any

from klein.resource import KleinResource
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.web.server import NOT_DONE_YET, Request

from nixery.access.errors import HostNotAllowed
from nixery.http.auth import Authenticator
from nixery.http.client_address import client_keys
from nixery.http.error_handler import answer_failure
from nixery.http.error_responses import log_text
from nixery.http.hosts import HostRules
from nixery.http.responses import client_disconnected, request_id, set_headers
from nixery.http.router import Router
from nixery.http.server import first_segment
from nixery.http.ui.pages import Pages
from nixery.limits.build_quota import current_client
from nixery.observability.context import current_request

__all__ = ["ANY_HOST", "Root"]

ANY_HOST = frozenset({b"healthz", b"keys", b"metrics", b"readyz", b"token", b"v2"})
"""First path segments that are answered whatever host is requested: none of them is a page."""


class Root(KleinResource):
    """
    The resource that answers all requests.

    :param router: finds the handlers of requests.
    :param authenticator: authenticates clients; ``None``: nobody logs in.
    :param hosts: the names under which pages are served; ``None``: every name.
    :param pages: renders the page of a browser that has not logged in; ``None``: it gets a line of
        text.
    """

    def __init__(
        self,
        router: Router,
        authenticator: Authenticator | None = None,
        hosts: HostRules | None = None,
        pages: Pages | None = None,
    ) -> None:
        super().__init__(router)
        self.first_segments = router.first_segments
        self._authenticator = authenticator
        self._hosts = hosts
        self._pages = pages

    def render(self, request: Request) -> Any:  # type: ignore[override]  # Klein says an interface
        """Start to answer a request."""
        segment = first_segment(request)
        if self._hosts is not None and segment not in ANY_HOST and not self._hosts.allows(request):
            host = log_text(request.getHeader(b"Host") or b"")
            # Without a page, whose parts would be refused as well.
            self._refuse(Failure(HostNotAllowed(host=host)), request)
            return NOT_DONE_YET
        if segment == b"v2":
            # Docker before 1.10 and a few scripts recognize a registry by this header alone.
            set_headers(request, {b"Docker-Distribution-Api-Version": b"registry/2.0"})
        if self._authenticator is None:
            return self._serve(request)
        checking = Deferred.fromCoroutine(self._authenticator.authenticate(request))
        if not checking.called:
            # A disconnected client ends the wait only; the check goes on, for other requests.
            request.notifyFinish().addErrback(lambda _: checking.cancel())
        checking.addCallback(lambda _: self._serve(request))
        checking.addErrback(self._refuse, request, self._pages)
        return NOT_DONE_YET

    def _serve(self, request: Request) -> Any:
        # Each request has a context of its own: its id must not be in the lines of others.
        return copy_context().run(self._serve_in_context, request)

    def _serve_in_context(self, request: Request) -> Any:
        current_request.set(request_id(request))
        current_client.set(client_keys(request))
        return super().render(request)

    def _refuse(self, failure: Failure, request: Request, pages: Pages | None = None) -> None:
        """Answer a client that was not authenticated, or came to a wrong host."""
        if client_disconnected(request):
            return
        set_headers(request, {b"Cache-Control": b"no-store", b"X-Content-Type-Options": b"nosniff"})
        request.write(answer_failure(request, failure, pages))
        request.finish()
