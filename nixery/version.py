"""The version of this release: read here by ``setup.py`` and by the daemon alike."""

from __future__ import annotations

__all__ = ["VERSION"]

VERSION = "0.1.0"
