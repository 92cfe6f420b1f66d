"""Parse the names of images that users paste into a form or a query."""

from __future__ import annotations

import re
from collections.abc import Sequence

from attrs import frozen

from nixery.image.names import Digest, ImageName, Tag, parse_digest, parse_image_name, parse_tag

__all__ = ["ImageReferences"]

_SCHEME = re.compile(r"^(docker|https?)://")
"""The beginning of a reference as skopeo has it, and of a URL."""


@frozen(kw_only=True)
class ImageReferences:
    """
    Parses names with a tag or a digest.

    :param address: the registry's address, which a pasted name may begin with.
    :param system: the Nix system of images whose names choose none.
    :param platforms: the systems of the index that such a name means; empty: it means an image.
    """

    address: str
    system: str
    platforms: Sequence[str] = ()

    def parse_name(self, repository: str) -> ImageName:
        """:raises InvalidName: the name is outside the grammar."""
        return parse_image_name(repository, self.system, self.platforms)

    def parse(self, text: str) -> tuple[ImageName, Tag | Digest]:
        """
        Parse the name of an image as people paste it: with the registry and a scheme, with both tag
        and digest.

        :raises InvalidName: the name is outside the grammar.
        :raises InvalidReference: the tag is outside the grammar.
        :raises InvalidDigest: the digest is none.
        """
        text = _SCHEME.sub("", text.strip()).removeprefix(f"{self.address}/")
        text, _, digest = text.partition("@")
        repository, _, tag = text.partition(":")
        name = self.parse_name(repository)
        return name, parse_digest(digest) if digest else parse_tag(tag or "latest")
