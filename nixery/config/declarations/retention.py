"""Settings of retention: how much the filesystem storage keeps, and for how long."""

from __future__ import annotations

from nixery.config import types
from nixery.config.setting import Setting
from nixery.runtime.sizes import FreeSpaceLimit

__all__ = ["RETENTION_SETTINGS"]

RETENTION_SETTINGS: tuple[Setting, ...] = (
    Setting(
        name="max_storage_size",
        kind=types.SIZE,
        help="how much stored images may take, as 200 GiB; those not pulled for longest go first",
        default_text="any amount",
        requires=("storage_backend", "filesystem"),
        aliases=("max_bytes",),
    ),
    Setting(
        name="max_image_age",
        kind=types.SECONDS,
        help="how long after its last pull an image is kept",
        default_text="for ever",
        requires=("storage_backend", "filesystem"),
        aliases=("max_age",),
    ),
    Setting(
        name="retention_grace",
        kind=types.DURATION,
        help="how long after its last use nothing is removed, whatever the limits say",
        default=86400.0,
        requires=("storage_backend", "filesystem"),
    ),
    Setting(
        name="min_free_space",
        kind=types.SPACE,
        help="nothing is built while less is free on the disk of the storage: 1 GiB, or 5%; 0: off",
        default=FreeSpaceLimit(amount=2**30),
        default_text="1 GiB",
        requires=("storage_backend", "filesystem"),
        aliases=("min_free",),
    ),
)
