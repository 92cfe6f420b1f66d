"""
Render the pages of the web UI from templates, with the security headers.

Templates escape all values, and the Content-Security-Policy allows the browser to run and
load only files that this site serves: markup in a name or a log line is not executed even
if an escape were missing.

Small pages are rendered on the reactor thread.  Pages whose size depends on their content
(builds, layers, a closure) are rendered on a thread of the CPU pool: see
:meth:`Pages.answer_later`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import ParamSpec, TypeVar

from attrs import frozen
from jinja2 import DictLoader, Environment, StrictUndefined
from markupsafe import Markup
from twisted.web.server import Request

from nixery.http.headers import accepted_types
from nixery.http.responses import (
    answer_with,
    client_disconnected,
    send_text_error,
    set_headers,
    set_status,
)
from nixery.http.ui.assets import SiteFiles
from nixery.http.ui.client_commands import ClientCommands, CommandImage, client_commands
from nixery.http.ui.formatting import (
    duration,
    escape_invisible,
    full_time,
    iso_time,
    replace_term,
    short_time,
    stopwatch,
    time_element,
)
from nixery.http.ui.image_link import ImageLink
from nixery.runtime.clocks import SystemWallClock
from nixery.runtime.sizes import format_size
from nixery.runtime.workers import Workers
from nixery.version import VERSION

__all__ = ["PAGE_HEADERS", "Pages", "Section", "wants_html"]

P = ParamSpec("P")
T = TypeVar("T")

PAGE_HEADERS = {
    # Pages show the present state, and must not be stored in shared caches.
    b"Cache-Control": b"no-store",
    b"Content-Security-Policy": (
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
        b" connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    b"Referrer-Policy": b"no-referrer",
    b"X-Content-Type-Options": b"nosniff",
}
"""The headers of every page.  They forbid inline scripts and styles."""


@frozen
class Section:
    """A section of the site that the header of each page links to."""

    title: str
    path: str


class Pages:
    """
    Renders the pages of one site.

    :param files: templates and assets.
    :param workers: the pool in which large pages are rendered.
    :param address: the registry's address, as it precedes the name of an image in a pull
        command: ``registry.example:8080``.
    :param source: the source of packages, in words.
    :param address_configured: false if the address is a guess: scripts then put the host in its
        place that the browser has used.
    :param secure: false if the registry speaks no TLS: commands then tell clients so.
    :param sections: the links in the header of each page.
    :param signed: whether images are signed, which the page of an image tells how to verify.
    """

    def __init__(
        self,
        files: SiteFiles,
        workers: Workers,
        *,
        address: str,
        source: str,
        address_configured: bool = True,
        secure: bool = True,
        sections: Sequence[Section] = (),
        signed: bool = False,
    ) -> None:
        self.files = files
        self.address = address
        self._secure = secure
        self._workers = workers
        environment = Environment(
            loader=DictLoader(files.templates),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            # An unlimited cache: a template is found without a lock.
            cache_size=-1,
            auto_reload=False,
            # Invisible characters are escaped in all values, without a filter in each
            # place.
            finalize=_finalized,
        )
        environment.globals = {
            "address": address,
            "address_configured": address_configured,
            "asset": files.assets.url,
            "commands_for": self.commands_for,
            "paths": {section.path for section in sections},
            "sections": tuple(sections),
            "signed": signed,
            "source": source,
            "version": VERSION,
        }
        environment.filters |= {
            "ago": lambda time: time_element(time, SystemWallClock().now()),
            "is_future": lambda time: time > SystemWallClock().now(),
            "clock": short_time,
            "duration": duration,
            "stopwatch": stopwatch,
            "exchanged": replace_term,
            "moment": full_time,
            "shown": escape_invisible,
            "size": format_size,
            "when": iso_time,
        }
        # Compiled at start, and not during a request.
        self._templates = {
            name: environment.get_template(name) for name in environment.list_templates()
        }

    def commands_for(
        self,
        repository: str,
        *,
        tag: str | None = None,
        digest: str | None = None,
        systems: Sequence[str] = (),
        program: str = "",
    ) -> tuple[ClientCommands, ...]:
        """Return the commands for an image, by client: see :class:`CommandImage`."""
        return client_commands(
            CommandImage(
                host=self.address,
                secure=self._secure,
                repository=repository,
                tag=tag,
                digest=digest,
                systems=systems,
                program=program,
            )
        )

    def render(self, template: str, /, **values: object) -> bytes:
        """
        Render a page on the calling thread.

        :param template: its name, ``index.html``.
        :param values: the template's variables; text is escaped.
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
        Answer as :meth:`answer` does, with a page that may be large: rendered in the pool.

        :return: ``None`` if the client has disconnected meanwhile.
        """
        body = await self._workers.run(self.render, template, **values)
        return None if client_disconnected(request) else self.send(request, body, status)

    async def later(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function in the pool, since it would block the reactor for too long."""
        return await self._workers.run(function, *args, **kwargs)

    def send(self, request: Request, body: bytes, status: int = 200) -> bytes:
        """Set status and headers for a page that has been rendered."""
        set_status(request, status)
        set_headers(request, PAGE_HEADERS)
        add_vary(request)
        return answer_with(request, "text/html; charset=utf-8", body)

    def error(
        self, request: Request, status: int, message: str, image: ImageLink | None = None
    ) -> bytes:
        """
        Report an error: as a page to browsers, in a line of text to all others.

        :param message: a sentence for a person, without its full stop.
        :param image: the image that a browser may have asked for.
        """
        if wants_html(request):
            title = HTTPStatus(status).phrase
            return self.answer(
                request,
                "error.html",
                status,
                title=title,
                status=status,
                message=message,
                image=image,
            )
        set_headers(request, PAGE_HEADERS)
        add_vary(request)
        return send_text_error(request, status, message)


def wants_html(request: Request) -> bool:
    """
    Tell whether to answer with HTML: decided by ``?format=`` (``html`` or ``json``), or
    else by whether ``Accept`` names HTML.  ``curl`` accepts any type, and gets data.
    """
    asked: bytes = (request.args or {}).get(b"format", [b""])[-1]
    if asked in (b"html", b"json"):
        return asked == b"html"
    types = accepted_types(request.requestHeaders.getRawHeaders(b"Accept", []))
    return "text/html" in types


def add_vary(request: Request) -> None:
    """Set ``Vary``: the response depends on the header ``Accept``."""
    set_headers(request, {b"Vary": b"Accept"})


def _finalized(value: object) -> object:
    # Markup was made by a template, and is not escaped again.
    return (
        escape_invisible(value)
        if isinstance(value, str) and not isinstance(value, Markup)
        else value
    )
