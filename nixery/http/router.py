"""
Match paths to routes: a Klein application that is prepared for many small requests.

Klein binds its URL map to the host name of each request, and matches every path anew.  Here
routes do not depend on the host, so that the map is bound once, and matches are remembered:
clients repeat their requests, and a match takes longer than finding a manifest in memory.  Only
what was answered with success is remembered: a client that is not admitted leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from http import HTTPStatus
from typing import Any, cast

from klein import Klein, KleinRenderable
from klein.interfaces import IKleinRequest
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure
from twisted.web.server import Request
from werkzeug.routing import BaseConverter, Map, MapAdapter, Rule

from nixery.errors import NixeryError
from nixery.http.converters import (
    DigestConverter,
    ImageConverter,
    NameConverter,
    ReferenceConverter,
    RestConverter,
)
from nixery.http.registry.errors import FailedPull
from nixery.http.responses import client_disconnected
from nixery.image.name_cache import NameCache, memory_size
from nixery.image.names import ImageName, parse_image_name

__all__ = ["Router"]

MAX_CACHED_BYTES = 8 * 2**20
"""Memory of the matches that are remembered, in bytes; a path and its match have about 2 KiB."""

MAX_CACHED_PATH_CHARACTERS = 512
"""Longer paths than any of the registry API are not remembered."""

Match = tuple[Rule, Mapping[str, Any]]


class Router(Klein):
    """
    A Klein application with converters for names, references, digests and images.

    :param system: the Nix system of images whose name chooses none.
    :param platforms: the systems of the index that such a name means; empty: it means an image.
    """

    def __init__(self, system: str, platforms: Sequence[str] = ()) -> None:
        super().__init__()
        self._url_map = self._caching_map = _CachingMap(system, platforms)

    def execute_endpoint(
        self, endpoint: str, request: Any, *args: Any, **kwargs: Any
    ) -> KleinRenderable:
        """Call the handler of a request, as Klein asks for it."""
        body = super().execute_endpoint(endpoint, request, *args, **kwargs)
        if isinstance(body, Deferred):
            body.addCallbacks(
                _remember, _drop_if_disconnected, callbackArgs=(request,), errbackArgs=(request,)
            )
        return body

    @property
    def remembered(self) -> tuple[int, int]:
        """The numbers of paths and of names that are remembered."""
        return len(self._caching_map.matches), len(self._caching_map.names)

    @property
    def first_segments(self) -> frozenset[bytes]:
        """The first segments of all routes' paths, as far as they are fixed."""
        segments = (rule.rule.encode().split(b"/")[1] for rule in self.url_map.iter_rules())
        return frozenset(segment for segment in segments if not segment.startswith(b"<"))


def _remember(body: Any, request: Request) -> Any:
    """Remember the match of a request that was answered with success."""
    mapper = IKleinRequest(request).mapper
    if request.code < HTTPStatus.BAD_REQUEST and isinstance(mapper, _Adapter):
        mapper.remember()
    return body


def _drop_if_disconnected(failure: Failure, request: Request) -> Failure | None:
    """Drop a typed error that no client will read: the component that failed has logged it."""
    dropped = client_disconnected(request) and failure.check(NixeryError, FailedPull)
    return None if dropped else failure


class _CachingMap(Map):
    """A URL map that is bound once, and remembers matches."""

    def __init__(self, system: str, platforms: Sequence[str]) -> None:
        self._system = system
        self._platforms = platforms
        # A pull requests a manifest and then dozens of blobs under one name, and parsing the
        # name would be half of the work of many responses.
        self.names: NameCache[str, ImageName] = NameCache()
        self.matches: NameCache[tuple[str, str], Match] = NameCache(MAX_CACHED_BYTES)
        converters: Mapping[str, Callable[..., BaseConverter]] = {
            "digest": DigestConverter,
            "image": partial(ImageConverter, parse_name=self._parse_name),
            "name": partial(NameConverter, parse_name=self._parse_name),
            "reference": ReferenceConverter,
            "rest": RestConverter,
        }
        super().__init__(
            converters=cast(Mapping[str, type[BaseConverter]], converters),
            # No path is redirected to another one: clients of registries do not expect it.
            merge_slashes=False,
            redirect_defaults=False,
        )
        self._bound = super().bind("localhost")

    def find(self, path: str, method: str) -> Match:
        """
        Match a path.

        :raises HTTPException: there is no route for the path or the method.
        """
        known = self.matches.get((path, method))
        if known is not None:
            return known
        # Methods are case-sensitive (RFC 9110, section 9.1), but not those of werkzeug.
        return self._bound.match(path, method if method.isupper() else "-", return_rule=True)

    def remember(self, path: str, method: str, match: Match) -> None:
        """Remember a match, and the names in it."""
        if len(path) > MAX_CACHED_PATH_CHARACTERS or self.matches.get((path, method)) is not None:
            return
        size = 500 + 2 * len(path)
        for value in match[1].values():
            for name in value if isinstance(value, tuple) else (value,):
                if isinstance(name, ImageName):
                    self.names.add(name.repository, name, memory_size(name))
                    size += memory_size(name)
        self.matches.add((path, method), match, size)

    def _parse_name(self, text: str) -> ImageName:
        return self.names.get(text) or parse_image_name(text, self._system, self._platforms)

    def bind(self, *_: object, **options: Any) -> MapAdapter:
        """Return an adapter for one request, as Klein asks for it."""
        return _Adapter(self, options["path_info"], options["default_method"])


class _Adapter(MapAdapter):
    """Matches one request."""

    def __init__(self, url_map: _CachingMap, path: str, method: str) -> None:
        # The attributes of the base class are for making URLs, which nothing does here.
        self._url_map = url_map
        self._path = path
        self._method = method
        self._match: Match | None = None

    def match(self, *_: object, **__: object) -> Any:
        """Return the rule and the values in the path, as Klein asks for them."""
        self._match = self._url_map.find(self._path, self._method)
        return self._match

    def remember(self) -> None:
        """Remember what was matched, for the next request of the same path."""
        if self._match is not None:
            self._url_map.remember(self._path, self._method, self._match)
