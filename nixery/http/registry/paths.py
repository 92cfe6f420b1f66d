"""
Parse the URLs of the registry API into routes.

URLs are parsed here, once, into frozen values; handlers never parse a path.  Repository
names contain slashes, and components called ``manifests``, ``blobs`` or ``tags`` are
packages like all others (``/v2/tags/list/manifests/latest`` is the image ``tags/list``),
so that a path is matched from its right end, where the specification puts the segments
that distinguish routes.

Paths are split before they are percent-decoded: decoded first, ``a%2Fb`` would be two
packages.

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
    """``/v2/``: checks that this is a registry, and that the client is authorized."""


@frozen
class Catalog:
    """``/v2/_catalog``: lists all repositories."""


@frozen
class NoRoute:
    """A path that is no route of the API."""


@frozen
class ManifestByTag:
    """``/v2/<name>/manifests/<tag>``: a manifest by tag."""

    name: ImageName
    tag: Tag


@frozen
class ManifestByDigest:
    """``/v2/<name>/manifests/<digest>``: a manifest by digest."""

    name: ImageName
    digest: Digest


@frozen
class Blob:
    """``/v2/<name>/blobs/<digest>``: a blob."""

    name: ImageName
    digest: Digest


@frozen
class Tags:
    """``/v2/<name>/tags/list``: the tags of an image."""

    name: ImageName


@frozen
class Referrers:
    """``/v2/<name>/referrers/<digest>``: manifests that refer to another one."""

    name: ImageName
    digest: Digest


Route = Ping | Catalog | NoRoute | ManifestByTag | ManifestByDigest | Blob | Tags | Referrers


def parse_route(path: bytes, system: str) -> Route:
    """
    Parse a path.  The name is validated before the reference.

    :param path: of the request, without its query, still percent-encoded.
    :param system: the Nix system of images whose name chooses none.
    :raises InvalidName: the repository name is outside the grammar.
    :raises InvalidDigest: there is a malformed digest where one is required.
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
    Split a path into decoded segments.  Bytes that are not UTF-8 become backslash escapes,
    which no grammar allows.
    """
    if b"%" not in path:
        return path.decode("utf-8", "backslashreplace").split("/")
    return [
        unquote_to_bytes(segment).decode("utf-8", "backslashreplace")
        for segment in path.split(b"/")
    ]


# A pull requests a manifest and then dozens of blobs under one name, and parsing the
# name would be half of the work of many responses.  Names are short; invalid ones raise
# an exception and are not cached.
@lru_cache(maxsize=4096)
def _name(components: tuple[str, ...], system: str) -> ImageName:
    for component in components:
        if "/" in component:
            raise InvalidName(
                name="/".join(components), reason=f"the component {component!r} holds a slash"
            )
    return parse_image_name("/".join(components), system)
