"""Settings of retention: how much the filesystem storage keeps, and for how long."""

from __future__ import annotations

from attrs import frozen

from nixery.config import types
from nixery.config.setting import setting
from nixery.runtime.sizes import FreeSpaceLimit

__all__ = ["RetentionConfig"]


@frozen(kw_only=True)
class RetentionConfig:
    """Settings of retention: how much the filesystem storage keeps, and for how long."""

    max_storage_size: int | None = setting(
        types.SIZE,
        "size of stored images, as 200 GiB; those not pulled for longest are deleted first",
        default_text="any amount",
        requires=("storage_backend", "filesystem"),
        aliases=("max_bytes",),
    )
    max_image_age: float | None = setting(
        types.SECONDS,
        "how long to keep an image after its last pull",
        default_text="for ever",
        requires=("storage_backend", "filesystem"),
        aliases=("max_age",),
    )
    min_free_space: FreeSpaceLimit = setting(
        types.SPACE,
        "build nothing while less is free on the disk of the storage: 1 GiB, or 5%; 0: off",
        default=FreeSpaceLimit(amount=2**30),
        default_text="1 GiB",
        requires=("storage_backend", "filesystem"),
        aliases=("min_free",),
    )
