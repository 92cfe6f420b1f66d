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
        "how much stored images may take, as 200 GiB; those not pulled for longest go first",
        default_text="any amount",
        requires=("storage_backend", "filesystem"),
        aliases=("max_bytes",),
    )
    max_image_age: float | None = setting(
        types.SECONDS,
        "how long after its last pull an image is kept",
        default_text="for ever",
        requires=("storage_backend", "filesystem"),
        aliases=("max_age",),
    )
    min_free_space: FreeSpaceLimit = setting(
        types.SPACE,
        "nothing is built while less is free on the disk of the storage: 1 GiB, or 5%; 0: off",
        default=FreeSpaceLimit(amount=2**30),
        default_text="1 GiB",
        requires=("storage_backend", "filesystem"),
        aliases=("min_free",),
    )
