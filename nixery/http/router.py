"""
Match paths to routes: a Klein application that is prepared for many small requests.

Klein binds its URL map to the host name of each request, and matches every path anew.  Here
routes do not depend on the host, so that the map is bound once, and matches are remembered:
clients repeat their requests, and a match takes longer than finding a manifest in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any, cast

from klein import Klein, KleinRenderable
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

__all__ = ["Router"]

MAX_CACHED_MATCHES = 4096
"""The number of matches that are remembered; a path has some hundred bytes."""

MAX_CACHED_PATH_CHARACTERS = 512
"""Longer paths than any of the registry API are not remembered."""

Match = tuple[Rule, Mapping[str, Any]]


class Router(Klein):
    """
    A Klein application with converters for names, references, digests and images.

    :param system: the Nix system of images whose name chooses none.
    """

    def __init__(self, system: str) -> None:
        super().__init__()
        self._url_map = _CachingMap(system)

    def execute_endpoint(
        self, endpoint: str, request: Any, *args: Any, **kwargs: Any
    ) -> KleinRenderable:
        """Call the handler of a request, as Klein asks for it."""
        body = super().execute_endpoint(endpoint, request, *args, **kwargs)
        if isinstance(body, Deferred):
            body.addErrback(_drop_if_disconnected, request)
        return body

    @property
    def first_segments(self) -> frozenset[bytes]:
        """The first segments of all routes' paths."""
        return frozenset(rule.rule.encode().split(b"/")[1] for rule in self.url_map.iter_rules())


def _drop_if_disconnected(failure: Failure, request: Request) -> Failure | None:
    """Drop a typed error that no client will read: the component that failed has logged it."""
    dropped = client_disconnected(request) and failure.check(NixeryError, FailedPull)
    return None if dropped else failure


class _CachingMap(Map):
    """A URL map that is bound once, and remembers matches."""

    def __init__(self, system: str) -> None:
        converters: Mapping[str, Callable[..., BaseConverter]] = {
            "digest": DigestConverter,
            "image": partial(ImageConverter, system=system),
            "name": partial(NameConverter, system=system),
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
        self.find_cached = lru_cache(MAX_CACHED_MATCHES)(self.find)

    def find(self, path: str, method: str) -> Match:
        """
        Match a path.

        :raises HTTPException: there is no route for the path or the method.
        """
        # Methods are case-sensitive (RFC 9110, section 9.1), but not those of werkzeug.
        return self._bound.match(path, method if method.isupper() else "-", return_rule=True)

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

    def match(self, *_: object, **__: object) -> Any:
        """Return the rule and the values in the path, as Klein asks for them."""
        short = len(self._path) <= MAX_CACHED_PATH_CHARACTERS
        find = self._url_map.find_cached if short else self._url_map.find
        return find(self._path, self._method)
