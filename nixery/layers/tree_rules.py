"""
The names that have a meaning in the root of an image.
"""

from __future__ import annotations

from attrs import frozen

__all__ = ["TreeRules"]


@frozen(kw_only=True)
class TreeRules:
    """
    The names that have a meaning in the root of an image.

    :param ignored: names that are left out where they are directly below the top of a tree.
    :param mounted: names at the top of the image that the running container has, and no tree.
    :param directories: paths at which the image needs directories.
    :param files: paths at which the image needs files.
    """

    ignored: frozenset[bytes]
    mounted: frozenset[bytes]
    directories: frozenset[bytes]
    files: frozenset[bytes]
