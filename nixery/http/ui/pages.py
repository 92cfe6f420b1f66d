"""
Pages for people: templates become answers, with the headers that keep them safe.

Templates escape whatever is put into them, and the browser is told to run and to load
nothing that we have not served as a file: a name or a log line that holds markup stays
text even if an escape were forgotten.

Small pages are rendered at once.  Those whose size depends on what there is to show
(builds, layers, a closure) are rendered on a thread of the CPU pool: see
:meth:`Pages.answer_later`.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from http import HTTPStatus
from typing import Any, ParamSpec, TypeVar
from uuid import uuid4

from attrs import frozen
from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import Request

from nixery.errors import NixeryError, ShuttingDown
from nixery.http.coroutine_resource import CoroutineResource
from nixery.http.error_responses import error_response, internal_error_response, log_text
from nixery.http.headers import accepted_types
from nixery.http.responses import (
    PLAIN_TEXT,
    answer_with,
    client_disconnected,
    request_id,
    set_headers,
)
from nixery.http.ui.assets import SiteFiles
from nixery.http.ui.formatting import (
    duration,
    escape_invisible,
    full_time,
    iso_time,
    replace_term,
    short_time,
    size,
)
from nixery.runtime.workers import Workers
from nixery.version import VERSION

__all__ = ["PAGE_HEADERS", "Answerer", "Pages", "Section", "wants_html"]

P = ParamSpec("P")
T = TypeVar("T")

PAGE_HEADERS = {
    # Pages tell of what is now, and nothing of it is for other people's caches.
    b"Cache-Control": b"no-store",
    b"Content-Security-Policy": (
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
        b" connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    b"Referrer-Policy": b"no-referrer",
    b"X-Content-Type-Options": b"nosniff",
}
"""The headers of every page.  Nothing may stand inline: neither scripts nor styles."""

Answerer = Callable[[Request, Sequence[str]], Coroutine[Deferred[Any], Any, bytes | None]]
"""
Answers a request with a body, or with ``None`` when it has written that itself; its
second argument are the decoded segments of the path below the resource.
"""


@frozen
class Section:
    """A part of the site that the head of each page leads to."""

    title: str
    path: str


class Pages:
    """
    Renders the pages of one site.

    :param files: templates and assets.
    :param workers: the pool in which large pages are rendered.
    :param address: what stands before the name of an image in a pull command:
        ``registry.example:8080``.
    :param source: where packages come from, as a person would say it.
    :param sections: what the head of each page leads to.
    """

    _log = Logger()

    def __init__(
        self,
        files: SiteFiles,
        workers: Workers,
        *,
        address: str,
        source: str,
        sections: Sequence[Section] = (),
    ) -> None:
        self.files = files
        self.address = address
        self._workers = workers
        environment = Environment(
            loader=DictLoader(files.templates),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            # A template is found without a lock, whatever the number of them.
            cache_size=-1,
            auto_reload=False,
            # Whatever a page shows is seen as it is, and not only where somebody
            # thought of it.
            finalize=_finalized,
        )
        environment.globals = {
            "address": address,
            "asset": files.assets.url,
            "paths": {section.path for section in sections},
            "sections": tuple(sections),
            "source": source,
            "version": VERSION,
        }
        environment.filters |= {
            "clock": short_time,
            "duration": duration,
            "exchanged": replace_term,
            "moment": full_time,
            "shown": escape_invisible,
            "size": size,
            "when": iso_time,
        }
        # Compiled here, and not while somebody waits.
        self._templates = {
            name: environment.get_template(name) for name in environment.list_templates()
        }

    def render(self, template: str, /, **values: object) -> bytes:
        """
        A page, on whatever thread this is called.

        :param template: its name, ``index.html``.
        :param values: what it shows; text is escaped.
        """
        return self._templates[template].render(values).encode("utf-8", "replace")

    def answer(
        self, request: Request, template: str, status: int = 200, /, **values: object
    ) -> bytes:
        """Set status and headers for a small page; :return: the body."""
        return self.send(request, self.render(template, **values), status)

    async def answer_later(
        self, request: Request, template: str, status: int = 200, /, **values: object
    ) -> bytes | None:
        """
        As :meth:`answer`, for a page that may be large: rendered in the pool.

        :return: ``None`` if the client has left meanwhile.
        """
        body = await self._workers.run(self.render, template, **values)
        return None if client_disconnected(request) else self.send(request, body, status)

    async def later(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call what takes longer than the reactor has time for, in the pool."""
        return await self._workers.run(function, *args, **kwargs)

    def send(self, request: Request, body: bytes, status: int = 200) -> bytes:
        """Set status and headers for a page that has been rendered."""
        _set_status(request, status)
        set_headers(request, PAGE_HEADERS)
        add_vary(request)
        return answer_with(request, "text/html; charset=utf-8", body)

    def error(self, request: Request, status: int, message: str) -> bytes:
        """
        Say what is wrong: as a page to browsers, in a line to all others.

        :param message: a sentence for a person, without its full stop.
        """
        if wants_html(request):
            title = HTTPStatus(status).phrase
            return self.answer(
                request, "error.html", status, title=title, status=status, message=message
            )
        _set_status(request, status)
        set_headers(request, PAGE_HEADERS)
        add_vary(request)
        return answer_with(
            request, PLAIN_TEXT, f"{escape_invisible(message)}\n".encode("utf-8", "replace")
        )

    def resource(self, answer: Answerer) -> Resource:
        """
        A resource, with all that is below it, whose answers are made by a coroutine.

        Failures become error pages, HEAD is answered as GET without the body, and other
        methods are refused.
        """

        async def respond(request: Request) -> bytes | None:
            path = [part.decode("utf-8", "backslashreplace") for part in request.postpath or ()]
            if request.method not in (b"GET", b"HEAD"):
                set_headers(request, {b"Allow": b"GET, HEAD"})
                return self.error(request, 405, "this page can only be read")
            try:
                return await answer(request, path)
            except NixeryError as error:
                return None if client_disconnected(request) else self._fail(request, error)
            except CancelledError:
                if client_disconnected(request):
                    raise  # The front, which cancelled us, knows what to do.
                return self._fail(request, ShuttingDown())
            except Exception:  # noqa: BLE001  # whatever it is, somebody waits for an answer
                # The request's id, where it has one, leads to its line in the log as well.
                reference = request_id(request) or uuid4().hex[:12]
                self._log.failure(
                    "the page {path} failed (reference {reference})",
                    path=log_text(request.path),
                    reference=reference,
                )
                if client_disconnected(request):
                    return None
                return self.error(request, 500, internal_error_response(reference).message)

        return CoroutineResource(respond)

    def missing(self) -> Resource:
        """The resource that says that there is nothing."""
        return _Missing(self)

    def _fail(self, request: Request, error: NixeryError) -> bytes:
        problem = error_response(error)
        set_headers(request, problem.headers)
        return self.error(request, problem.status, problem.message)


class _Missing(Resource):
    def __init__(self, pages: Pages) -> None:
        super().__init__()
        self.isLeaf = True
        self._pages = pages

    def render(self, request: Request) -> bytes:
        body = self._pages.error(request, 404, "there is nothing here")
        # Twisted makes a note in the log of a body that it has to drop.
        return b"" if request.method == b"HEAD" else body


def wants_html(request: Request) -> bool:
    """
    Whether the answer is for a browser: what ``?format=`` says (``html`` or ``json``),
    or else whether ``Accept`` names HTML.  ``curl`` takes anything, and gets data.
    """
    asked: bytes = (request.args or {}).get(b"format", [b""])[-1]
    if asked in (b"html", b"json"):
        return asked == b"html"
    types = accepted_types(request.requestHeaders.getRawHeaders(b"Accept", []))
    return "text/html" in types


def add_vary(request: Request) -> None:
    """Tell caches that the answer depends on what the client accepts."""
    set_headers(request, {b"Vary": b"Accept"})


def _finalized(value: object) -> object:
    # Markup is what a template has made itself.
    return (
        escape_invisible(value)
        if isinstance(value, str) and not isinstance(value, Markup)
        else value
    )


def _set_status(request: Request, status: int) -> None:
    # Twisted knows no name for 422.
    request.setResponseCode(status, HTTPStatus(status).phrase.encode("ascii"))
