"""
Redirect other paths of an image to its page: ``/images/shell/git``, and ``/shell/git`` as it stands
in ``docker pull``.
"""

from __future__ import annotations

from urllib.parse import quote

from twisted.web.server import Request
from werkzeug.exceptions import NotFound

from nixery.http.responses import PLAIN_TEXT, answer_with, set_headers
from nixery.http.server import first_segment
from nixery.http.ui.image_link import SITE_SEGMENTS, find_image_link
from nixery.http.ui.image_views import place
from nixery.http.ui.pages import PAGE_HEADERS, add_vary, wants_html
from nixery.http.ui.query import argument
from nixery.image.names import parse_image_name

__all__ = ["redirect_to_image", "redirect_to_latest"]


def redirect_to_latest(request: Request, repository: str) -> bytes:
    """
    Redirect an image without a tag to the tag ``latest``, as clients of registries do.

    :raises InvalidName: the name is outside the grammar.
    """
    name = parse_image_name(repository.rstrip("/"), "")
    return _redirect(request, f"{name.repository}:latest")


def redirect_to_image(request: Request) -> bytes:
    """
    Redirect a browser from the name of an image to its page.

    :raises NotFound: the path is no name of an image, or belongs to the site, or the client is no
        browser.
    """
    image = find_image_link(request.path)
    if image is None or first_segment(request) in SITE_SEGMENTS or not wants_html(request):
        raise NotFound
    add_vary(request)
    return _redirect(request, f"{image.repository}:{image.tag}")


def _redirect(request: Request, label: str) -> bytes:
    location = place(label)
    # The image that the visitor has already.
    having = argument(request, b"with")
    if having:
        location += f"?with={quote(having, safe='/:@')}"
    request.setResponseCode(302)
    set_headers(request, {**PAGE_HEADERS, b"Location": location.encode("ascii")})
    return answer_with(request, PLAIN_TEXT, f"{location}\n".encode())
