"""Settings that no longer exist; they are accepted, ignored and warned of for one release."""

from __future__ import annotations

__all__ = ["REMOVED_SETTINGS"]

REMOVED_SETTINGS: tuple[str, ...] = ()
