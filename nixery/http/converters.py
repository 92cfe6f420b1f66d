"""
Convert the variable parts of paths to values: names, references, digests, images.

Repository names contain slashes, and components called ``manifests``, ``blobs`` or ``tags``
are packages like all others (``/v2/tags/list/manifests/latest`` is the image ``tags/list``).
A name therefore takes as much of a path as it can, so that a path is matched from its right
end, where the specification puts the segments that distinguish routes.

Any text matches, and the conversion raises the typed error that says what is wrong with it:
werkzeug would take a text that does not match for another route.

Grammar: the OCI distribution specification, version 1.1, section "Endpoints".
"""

from __future__ import annotations

from functools import lru_cache

from werkzeug.routing import BaseConverter, Map

from nixery.image.names import (
    Digest,
    ImageName,
    Tag,
    parse_digest,
    parse_image_name,
    parse_reference,
    parse_tag,
)

__all__ = [
    "DigestConverter",
    "ImageConverter",
    "NameConverter",
    "ReferenceConverter",
    "RestConverter",
]

# A pull requests a manifest and then dozens of blobs under one name, and parsing the
# name would be half of the work of many responses.  Names are short; invalid ones raise
# an exception and are not cached.
_parse_name = lru_cache(maxsize=4096)(parse_image_name)


class NameConverter(BaseConverter):
    """
    Converts a repository name to an :class:`~nixery.image.names.ImageName`.

    :param system: the Nix system of images whose name chooses none.
    """

    regex = "(?s:.*)"
    part_isolating = False

    def __init__(self, url_map: Map, system: str) -> None:
        super().__init__(url_map)
        self._system = system

    def to_python(self, value: str) -> ImageName:
        """:raises InvalidName: the name is outside the grammar."""
        return _parse_name(value, self._system)


class ReferenceConverter(BaseConverter):
    """Converts the reference of a manifest to a tag or a digest."""

    regex = "[^/]*"

    def to_python(self, value: str) -> Tag | Digest:
        """
        :raises InvalidDigest: it has a colon, and is no digest.
        :raises InvalidReference: it is outside the grammar of tags.
        """
        return parse_reference(value)


class DigestConverter(BaseConverter):
    """Converts a digest."""

    regex = "[^/]*"

    def to_python(self, value: str) -> Digest:
        """:raises InvalidDigest: it is no SHA-256 digest in its canonical form."""
        return parse_digest(value)


class ImageConverter(BaseConverter):
    """
    Converts a name with a tag, ``shell/git:latest``.

    :param system: the Nix system of images whose name chooses none.
    """

    regex = "[^:]*:[^/]*"
    part_isolating = False

    def __init__(self, url_map: Map, system: str) -> None:
        super().__init__(url_map)
        self._system = system

    def to_python(self, value: str) -> tuple[ImageName, Tag]:
        """
        :raises InvalidName: the name is outside the grammar.
        :raises InvalidReference: the tag is outside the grammar.
        """
        name, _, tag = value.partition(":")
        return _parse_name(name, self._system), parse_tag(tag)


class RestConverter(BaseConverter):
    """Takes the rest of a path as it is, with its slashes; the rest is not empty."""

    regex = "(?s:.+)"
    part_isolating = False
    # Heavier than the others: what they match, they match first.
    weight = 200
