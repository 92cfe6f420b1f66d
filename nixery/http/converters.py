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

from collections.abc import Callable

from werkzeug.routing import BaseConverter, Map

from nixery.image.names import (
    Digest,
    ImageName,
    Tag,
    parse_digest,
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

ParseName = Callable[[str], ImageName]
"""Parses the name of an image, or finds one that was parsed before."""


class NameConverter(BaseConverter):
    """
    Converts a repository name to an :class:`~nixery.image.names.ImageName`.

    :param parse_name: parses it.
    """

    regex = "(?s:.*)"
    part_isolating = False

    def __init__(self, url_map: Map, parse_name: ParseName) -> None:
        super().__init__(url_map)
        self._parse_name = parse_name

    def to_python(self, value: str) -> ImageName:
        """:raises InvalidName: the name is outside the grammar."""
        return self._parse_name(value)


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

    :param parse_name: parses the name.
    """

    regex = "[^:]*:[^/]*"
    part_isolating = False

    def __init__(self, url_map: Map, parse_name: ParseName) -> None:
        super().__init__(url_map)
        self._parse_name = parse_name

    def to_python(self, value: str) -> tuple[ImageName, Tag]:
        """
        :raises InvalidName: the name is outside the grammar.
        :raises InvalidReference: the tag is outside the grammar.
        """
        name, _, tag = value.partition(":")
        return self._parse_name(name), parse_tag(tag)


class RestConverter(BaseConverter):
    """Takes the rest of a path as it is, with its slashes; the rest is not empty."""

    regex = "(?s:.+)"
    part_isolating = False
    # Heavier than the others: what they match, they match first.
    weight = 200
