"""
Which question of the registry API a URL asks.

URLs are read here, once, into frozen values; a handler never looks at a path
again.  Repository names hold slashes, and components called ``manifests``,
``blobs`` or ``tags`` are packages like all others
(``/v2/tags/list/manifests/latest`` is the image ``tags/list``), so that a path is
read from its right end, where the specification has put what decides.

Paths are read as they were sent, with percent signs: decoded first,
``a%2Fb`` would be two packages.

Grammar: the OCI distribution specification, version 1.1, section "Endpoints".
"""

from __future__ import annotations

from functools import lru_cache
from urllib.parse import unquote_to_bytes

from attrs import frozen

from nixery.image.errors import InvalidName
from nixery.image.names import (
    Digest,
    ImageName,
    Tag,
    parse_digest,
    parse_image_name,
    parse_reference,
)

__all__ = [
    "Blob",
    "Catalog",
    "ManifestByDigest",
    "ManifestByTag",
    "NoRoute",
    "Ping",
    "Referrers",
    "Route",
    "Tags",
    "parse_route",
]


@frozen
class Ping:
    """``/v2/``: is this a registry, and may I come in?"""


@frozen
class Catalog:
    """``/v2/_catalog``: all repositories there are."""


@frozen
class NoRoute:
    """Nothing that the API knows."""


@frozen
class ManifestByTag:
    """``/v2/<name>/manifests/<tag>``"""

    name: ImageName
    tag: Tag


@frozen
class ManifestByDigest:
    """``/v2/<name>/manifests/<digest>``"""

    name: ImageName
    digest: Digest


@frozen
class Blob:
    """``/v2/<name>/blobs/<digest>``"""

    name: ImageName
    digest: Digest


@frozen
class Tags:
    """``/v2/<name>/tags/list``"""

    name: ImageName


@frozen
class Referrers:
    """``/v2/<name>/referrers/<digest>``"""

    name: ImageName
    digest: Digest


Route = Ping | Catalog | NoRoute | ManifestByTag | ManifestByDigest | Blob | Tags | Referrers


def parse_route(path: bytes, system: str) -> Route:
    """
    Read a path.  The name is looked at before the reference is.

    :param path: of the request, without its query, still percent-encoded.
    :param system: the Nix system of images whose name chooses none.
    :raises InvalidName: the repository name is outside the grammar.
    :raises InvalidDigest: there is a malformed digest where one belongs.
    :raises InvalidReference: there is a malformed tag.
    """
    match _segments(path):
        case ["", "v2"] | ["", "v2", ""]:
            return Ping()
        case ["", "v2", "_catalog"]:
            return Catalog()
        case ["", "v2", first, *more, "tags", "list"]:
            return Tags(_name((first, *more), system))
        case ["", "v2", first, *more, "manifests", reference]:
            name = _name((first, *more), system)
            parsed = parse_reference(reference)
            if ":" in parsed:
                return ManifestByDigest(name, Digest(parsed))
            return ManifestByTag(name, Tag(parsed))
        case ["", "v2", first, *more, "blobs", digest]:
            return Blob(_name((first, *more), system), parse_digest(digest))
        case ["", "v2", first, *more, "referrers", digest]:
            return Referrers(_name((first, *more), system), parse_digest(digest))
        case _:
            return NoRoute()


def _segments(path: bytes) -> list[str]:
    """
    The decoded segments.  What is not UTF-8 comes out with backslashes, which no
    grammar has a place for.
    """
    if b"%" not in path:
        return path.decode("utf-8", "backslashreplace").split("/")
    return [
        unquote_to_bytes(segment).decode("utf-8", "backslashreplace")
        for segment in path.split(b"/")
    ]


# A pull asks under one name for a manifest and then for dozens of blobs, and reading
# the name would be half of the work of many an answer.  Names are short; those that
# are none are not kept.
@lru_cache(maxsize=4096)
def _name(components: tuple[str, ...], system: str) -> ImageName:
    for component in components:
        if "/" in component:
            raise InvalidName(
                name="/".join(components), reason=f"the component {component!r} holds a slash"
            )
    return parse_image_name("/".join(components), system)
