"""
What the daemon shows to people and to monitors, beside the registry API.

One small page that says what this is and how to pull something, a check of health
and one of readiness.  The page names the address that the configuration gives: the
Host header of a request is trusted for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape

from twisted.web.resource import Resource
from twisted.web.server import Request

from nixery.web.responses import answer_with, set_headers

__all__ = ["make_root"]

_INDEX = """\
<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>Nixery</title>
<h1>Nixery</h1>
<p>A container registry that builds the images it is asked for.
The name of an image is the list of packages it contains, from {source}:</p>
<pre>docker pull {address}/shell/git/htop</pre>
<p><code>shell</code> stands for bash and the usual small tools.
<code>arm64</code>, at the beginning of a name, asks for an image for 64-bit ARM.</p>
</html>
"""


def make_root(
    registry: Resource,
    *,
    address: str,
    source: str,
    builds: Resource | None = None,
    faults: Callable[[], Sequence[str]] = tuple,
    unready: Callable[[], Sequence[str]] = tuple,
) -> Resource:
    """
    The root of the resource tree.

    :param registry: what answers under ``/v2``.
    :param address: what stands before the name of an image in a pull command,
        ``registry.example:8080``.
    :param source: where packages come from, as a person would say it.
    :param builds: what answers under ``/builds``, unless that is switched off.
    :param faults: what is wrong at the moment, a sentence each; nothing: the
        daemon is healthy.
    :param unready: why it cannot do its work yet although it is healthy: what it
        stands on has not been reached so far.
    """
    root = _Plain()
    index = _INDEX.format(address=escape(address), source=escape(source)).encode("utf-8")
    root.putChild(b"", _Page("text/html; charset=utf-8", lambda: (200, index)))
    root.putChild(b"healthz", _Page("text/plain; charset=utf-8", lambda: _health(faults())))
    root.putChild(
        b"readyz",
        _Page("text/plain; charset=utf-8", lambda: _health([*faults(), *unready()])),
    )
    root.putChild(b"v2", registry)
    if builds is not None:
        root.putChild(b"builds", builds)
    return root


def _health(faults: Sequence[str]) -> tuple[int, bytes]:
    if faults:
        return 503, "".join(f"{fault}\n" for fault in faults).encode("utf-8")
    return 200, b"ok\n"


class _Plain(Resource):
    """A resource that has no children but those it was given."""

    def getChild(self, _path: bytes, _request: Request) -> Resource:  # noqa: N802
        return _Page("text/plain; charset=utf-8", lambda: (404, b"not found\n"), leaf=True)


class _Page(_Plain):
    """
    A small document.

    :param media_type: its type.
    :param make: its status and its bytes, as they are now.
    """

    def __init__(
        self, media_type: str, make: Callable[[], tuple[int, bytes]], *, leaf: bool = False
    ) -> None:
        super().__init__()
        self.isLeaf = leaf
        self._media_type = media_type
        self._make = make

    def render(self, request: Request) -> bytes:
        status, body = self._make()
        if request.method not in (b"GET", b"HEAD"):
            status, body = 405, b"this page can only be read\n"
            set_headers(request, {b"Allow": b"GET, HEAD"})
        request.setResponseCode(status)
        set_headers(
            request,
            {
                b"Cache-Control": b"no-cache",
                b"Content-Security-Policy": b"default-src 'none'",
                b"X-Content-Type-Options": b"nosniff",
            },
        )
        answer_with(request, self._media_type, body)
        # Twisted makes a note in the log of a body that it has to drop.
        return b"" if request.method == b"HEAD" else body
