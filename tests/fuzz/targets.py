"""Targets for fuzzing: functions that take any bytes, by name, with their seeds."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

from attrs import frozen

from tests.fuzz.fuzz_app import PASSWORD, USER, World, basic
from tests.fuzz.parser_targets import TEXTS

__all__ = ["REQUESTS", "TARGETS", "Target", "world"]

_DIGEST = b"sha256:" + b"0" * 64

_PATHS = (
    b"/v2/",
    b"/v2/hello/manifests/latest",
    b"/v2/shell/hello/manifests/" + _DIGEST,
    b"/v2/hello/blobs/" + _DIGEST,
    b"/v2/hello/tags/list?n=1&last=a",
    b"/v2/hello/referrers/" + _DIGEST + b"?artifactType=a",
    b"/v2/hello/manifests/sha256-" + b"0" * 64 + b".sig",
    b"/keys/nixery.pub",
    b"/v2/_catalog",
    b"/?packages=hello+git",
    b"/api/packages?names=hello+libsigc%2B%2B",
    b"/api/estimate/shell/hello?tag=latest&with=hello",
    b"/builds?format=json",
    b"/builds/x",
    b"/builds/events?format=text",
    b"/images?q=a&page=2",
    b"/images/hello:latest?why=glibc&format=html",
    b"/images/hello:latest/paths?layer=1&sort=size",
    b"/images/hello:latest/graph.svg",
    b"/images/shell/hello:latest?format=html",
    b"/hello/shell:latest?format=html",
    b"/robots.txt",
    b"/docs/",
    b"/static/0/site.css",
    b"/token?scope=repository:hello:pull&offline_token=true",
    b"/openapi.json",
    b"/healthz",
    b"/metrics",
)

_HEADERS = (
    b"Accept: application/vnd.oci.image.manifest.v1+json, text/html;q=0\r\n",
    b"Range: bytes=0-1,-5\r\nIf-Range: x\r\n",
    b'If-None-Match: *, W/"a"\r\nLast-Event-ID: 00000000-1.2\r\n',
    b"Authorization: " + basic(USER, PASSWORD) + b"\r\n",
    b"Authorization: Bearer a.b.c\r\nUser-Agent: docker/20\x1b[31m\r\n",
)

_FORM = b"grant_type=password&username=ann&password=secret&scope=repository:hello:pull"

REQUESTS: tuple[bytes, ...] = (
    *(
        b"GET " + path + b" HTTP/1.1\r\nHost: a\r\n" + _HEADERS[index % len(_HEADERS)] + b"\r\n"
        for index, path in enumerate(_PATHS)
    ),
    b"POST /images/hello:latest/build HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n",
    b"POST /token HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s" % (len(_FORM), _FORM),
    b"PUT /v2/a/blobs/uploads/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
    b"HEAD /v2/hello/manifests/latest HTTP/1.0\r\n\r\n",
    b"GET /%c0%ae%c0%ae/%00%0d%0aX:%20y HTTP/1.1\r\nHost: \xff\r\nUser-Agent: a\nb\r\n\r\n",
    (
        b"OPTIONS * HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 5\r\n"
        b"Connection: close\r\n\r\nhello"
    ),
)
"""Requests that there are, one for each kind."""


@frozen(kw_only=True)
class Target:
    """
    One of them.

    :param run: takes any bytes; raises what is a fault of ours.
    :param seeds: to begin from.
    """

    run: Callable[[bytes], object]
    seeds: tuple[bytes, ...]


@cache
def world(*, gated: bool) -> World:
    """The one of this process."""
    # The interpreter's own end takes it away.
    directory = tempfile.TemporaryDirectory(prefix="nixery-fuzz-")
    _KEPT.append(directory)
    return World(Path(directory.name), gated=gated)


_KEPT: list[tempfile.TemporaryDirectory[str]] = []

TARGETS: Mapping[str, Target] = {
    "requests": Target(run=lambda data: world(gated=False).check(data), seeds=REQUESTS),
    "requests-with-users": Target(run=lambda data: world(gated=True).check(data), seeds=REQUESTS),
    **{name: Target(run=text.read, seeds=text.seeds) for name, text in TEXTS.items()},
}
"""All of them, by their names."""
