"""
Find the image that a path without a route means: ``/shell/git`` as in ``docker pull``.

Nothing is looked up here: the page that is linked decides what its reader may see.
"""

from __future__ import annotations

from urllib.parse import unquote

from attrs import frozen

from nixery.image.errors import InvalidName, InvalidReference
from nixery.image.names import meta_packages_first, parse_image_name, parse_tag

__all__ = ["SITE_SEGMENTS", "ImageLink", "find_image_link"]

SITE_SEGMENTS = frozenset(
    {
        *(b"api", b"builds", b"docs", b"favicon.ico", b"healthz", b"images", b"keys", b"metrics"),
        *(b"openapi.json", b"readyz", b"robots.txt", b"search", b"static", b"token", b"v2"),
    }
)
"""
First path segments of the site itself, also of parts that are switched off: an image whose name
begins with one is only found under ``/images/``.
"""


@frozen(kw_only=True)
class ImageLink:
    """
    An image to link to.

    :param repository: its name.
    :param tag: its tag, ``latest`` where the path has none.
    :param meta_first: the name with its meta-packages at the start, where they have a meaning.
    """

    repository: str
    tag: str
    meta_first: str


def find_image_link(path: bytes) -> ImageLink | None:
    """
    Return the image whose name a path is; ``None`` if it is no name of an image.

    :param path: the path of a request, with escapes.
    """
    name, _, tag = unquote(path.decode("ascii", "replace")).strip("/").partition(":")
    try:
        # The system of the image has no part in its link.
        repository = parse_image_name(name, "").repository
        parsed = parse_tag(tag or "latest")
    except (InvalidName, InvalidReference):
        return None
    return ImageLink(
        repository=repository, tag=str(parsed), meta_first=meta_packages_first(repository)
    )
