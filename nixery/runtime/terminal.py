"""
Turns what programs print for terminals into plain text.

Error messages end up in logs and in front of users, who may be attacked by escape
sequences: everything that a child prints passes through here before it is kept.
"""

from __future__ import annotations

import re

__all__ = ["plain_text"]

# CSI sequences (colours), OSC sequences (titles, links), and other escapes.
_ESCAPES = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|\x1b[ -/]*[0-~]?"
)
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def plain_text(text: bytes | str) -> str:
    """Return ``text`` without escapes and control characters; line ends and tabs stay."""
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    return _CONTROLS.sub("", _ESCAPES.sub("", text.replace("\r\n", "\n")))
