"""Settings of layers: grouping, compression and popularity data."""

from __future__ import annotations

from typing import Literal

from attrs import frozen

from nixery.config import types, url_types
from nixery.config.setting import setting
from nixery.layers.compression_levels import Compression

__all__ = ["LayerConfig"]


@frozen(kw_only=True)
class LayerConfig:
    """Settings of layers: grouping, compression and popularity data."""

    layer_budget: int = setting(
        types.integer(1, 125, unit="layers"),
        "layers of packages that an image may have",
        default=94,
    )
    layer_strategy: Literal["affinity", "dominators"] = setting(
        types.choice("affinity", "dominators"),
        "how to group packages into layers; dominators is the first Nixery's way",
        default="affinity",
    )
    compression: Compression = setting(
        types.COMPRESSION,
        "the form of layers: gzip, zstd (Docker reads it from 23 on), zstd-chunked (for partial"
        " pulls) or none; zstd-9: with a level",
        default=Compression(),
        default_text="gzip-1",
    )
    popularity_url: str | None = setting(
        url_types.DATA_URL,
        "URL to fetch popularity data from, once; they are kept in the state directory",
        variable="NIX_POPULARITY_URL",
        secret=True,
    )
