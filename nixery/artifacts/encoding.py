"""
Encode documents as JSON, and give each an identifier that is made of its contents.

They are spelled as :func:`nixery.image.canonical_json.canonical_json` spells them.  That function
checks each value first, in Python, and a document of a thousand store paths has a hundred thousand
values: here the items of the longest lists are encoded by their own modules.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from uuid import UUID, uuid5

__all__ = ["encode_document", "encode_identified", "encode_value"]

_NAMESPACE = UUID("0d0ee4ba-4b0f-5e0e-a31f-8a5b7d9ac1b6")
"""The namespace of the UUIDs of documents."""

_NO_UUID = str(UUID(int=0))

encode_value = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), ensure_ascii=False, check_circular=False
).encode
"""Encode a value of dicts, lists, strings and integers."""


def encode_document(
    value: Mapping[str, object], lists: Mapping[str, Iterable[str]] | None = None
) -> bytes:
    """
    Encode a document.

    :param lists: further items of the document that are lists, with their items encoded.
    """
    encoded = {key: encode_value(item) for key, item in value.items()}
    for key, items in (lists or {}).items():
        encoded[key] = f"[{','.join(items)}]"
    members = (f"{encode_value(key)}:{encoded[key]}" for key in sorted(encoded))
    return f"{{{','.join(members)}}}".encode()


def encode_identified(
    value: Mapping[str, object], lists: Mapping[str, Iterable[str]], key: str, prefix: str
) -> bytes:
    """
    Encode a document that has a UUID, which depends on all other contents.

    :param lists: as for :func:`encode_document`.
    :param key: the key at the top of the document, for the UUID.
    :param prefix: the text before the UUID in the value.
    """
    data = encode_document({**value, key: prefix + _NO_UUID}, lists)
    identifier = uuid5(_NAMESPACE, hashlib.sha256(data).hexdigest())
    # The quotation marks inside of strings are escaped: only a key and its value look like this.
    return data.replace(
        f'"{key}":"{prefix}{_NO_UUID}"'.encode(), f'"{key}":"{prefix}{identifier}"'.encode(), 1
    )
