"""
Names the records of what was served: their kinds in storage, and their keys.
"""

from __future__ import annotations

from nixery.image.canonical_json import sha256_hex
from nixery.image.name_cache import NameCache, memory_size
from nixery.image.names import MULTI, Digest, ImageName, Tag

__all__ = [
    "MEMBERS",
    "NAMES",
    "SERVED",
    "member_record_key",
    "name_key",
    "tag_record_key",
    "tag_record_prefix",
]

SERVED = "served"
"""
The kind of the records of served images: for a name and a tag, the key of the
image that was current last.
"""

MEMBERS = "member"
"""
The kind of the records of the manifests that were served for a name, under any tag: they are
kept when a tag moves on, because clients pull by digest.
"""

NAMES = "name"
"""The kind of the records of names: for the key of a name, a spelling of it."""


def tag_record_key(name: ImageName, tag: Tag) -> str:
    """Return the key of the record of the image that was served last for a name and a tag."""
    return f"{tag_record_prefix(name)}{tag}"


def tag_record_prefix(name: ImageName) -> str:
    """Return the common prefix of the record keys of all tags of a name."""
    return f"{name_key(name)}/"


def member_record_key(name: ImageName, digest: Digest) -> str:
    """Return the key of the record that a manifest was served for a name."""
    return f"{tag_record_prefix(name)}{digest}"


_name_keys: NameCache[ImageName, str] = NameCache()


def name_key(name: ImageName) -> str:
    """Return a key that is equal for all spellings of the same request."""
    key = _name_keys.get(name)
    if key is None:
        key = sha256_hex(
            {
                "kind": "name",
                "requirements": [
                    [item.name, item.exact, item.optional] for item in name.package_requests
                ],
                # Clients pull what an index was by its digest, whatever its platforms are now.
                "system": MULTI if name.platforms else name.system,
            }
        )
        _name_keys.add(name, key, memory_size(name))
    return key
