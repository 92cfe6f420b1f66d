"""
Hashes of canonical JSON, which cache keys and stored documents are made of.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TypeAlias

__all__ = ["Json", "_plain", "canonical_json", "sha256_hex"]


Json: TypeAlias = "bool | int | str | Sequence[Json] | Mapping[str, Json] | None"
"""
What canonical JSON can express.  Floating point numbers are missing: one number
has several spellings there, and NaN has none.
"""


def sha256_hex(value: Json) -> str:
    """SHA-256 of a value's canonical JSON, as 64 lower-case hexadecimal digits."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def canonical_json(value: Json) -> bytes:
    """
    The one spelling of ``value`` as JSON: keys sorted by their code points, no
    white space, UTF-8, nothing escaped that need not be.

    :raises TypeError: there is something in it that has no such spelling.
    :raises UnicodeEncodeError: a string is not text (a lone surrogate).
    """
    text = json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode("utf-8")


def _plain(value: Json) -> Json:
    """The same with the types that json.dumps knows, or a TypeError."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Mapping):
        for key in value:
            # json.dumps would make one key of 1 and "1".
            if not isinstance(key, str):
                raise TypeError(f"{key!r} is no key of canonical JSON")
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    raise TypeError(f"{type(value).__name__} has no canonical JSON: {value!r}")
