"""
Encode values as canonical JSON, for cache keys and stored documents, and hash them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TypeAlias

__all__ = ["Json", "canonical_json", "sha256_hex"]


Json: TypeAlias = "bool | int | str | Sequence[Json] | Mapping[str, Json] | None"
"""
The values that canonical JSON can express.  Floating point numbers are excluded: one number
has several spellings in JSON, and NaN has none.
"""


def sha256_hex(value: Json) -> str:
    """Return the SHA-256 of a value's canonical JSON, as 64 lower-case hexadecimal digits."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def canonical_json(value: Json) -> bytes:
    """
    Return the only spelling of ``value`` as JSON: keys sorted by their code points, no
    white space, UTF-8, no unnecessary escapes.

    :raises TypeError: it contains a value that canonical JSON cannot express.
    :raises UnicodeEncodeError: a string is not text (a lone surrogate).
    """
    text = json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode("utf-8")


def _plain(value: Json) -> Json:
    """Convert a value to the types that json.dumps knows, or raise a TypeError."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Mapping):
        for key in value:
            # json.dumps would write the keys 1 and "1" alike.
            if not isinstance(key, str):
                raise TypeError(f"{key!r} is no key of canonical JSON")
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    raise TypeError(f"{type(value).__name__} has no canonical JSON: {value!r}")
