"""Settings of the caches: what is remembered of images, and for how long."""

from __future__ import annotations

from nixery.config import types
from nixery.config.setting import Setting

__all__ = ["CACHE_SETTINGS"]

CACHE_SETTINGS: tuple[Setting, ...] = (
    Setting(
        name="failure_cache_ttl",
        kind=types.SECONDS,
        help="how long a failed build is remembered before it is tried again",
        default=60.0,
        aliases=("failure_ttl",),
    ),
    Setting(
        name="evaluation_ttl",
        kind=types.DURATION,
        help="how long the evaluation of a package set is believed that may change at any time",
        default=0.0,
    ),
    Setting(
        name="stale_while_revalidate",
        kind=types.DURATION,
        help="how long an old image is served while that of a new revision is being built",
        default=0.0,
        aliases=("serve_stale",),
    ),
)
