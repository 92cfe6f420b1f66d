"""Settings of layers: grouping, compression and popularity data."""

from __future__ import annotations

from nixery.config import types
from nixery.config.setting import Setting
from nixery.layers.compression_levels import DEFAULT_KIND, LEVELS

__all__ = ["LAYER_SETTINGS"]

LAYER_SETTINGS: tuple[Setting, ...] = (
    Setting(
        name="layer_budget",
        kind=types.integer(1, 125, unit="layers"),
        help="how many layers of packages an image may have",
        default=94,
    ),
    Setting(
        name="layer_strategy",
        kind=types.choice("affinity", "dominators"),
        help="how packages are put into layers; dominators is the first Nixery's way",
        default="affinity",
    ),
    Setting(
        name="compression",
        kind=types.choice(*LEVELS),
        help="how layers are compressed: gzip, zstd (Docker reads it from 23 on) or none",
        default=DEFAULT_KIND,
    ),
    Setting(
        name="compression_level",
        kind=types.integer(0, max(levels[-1] for levels in LEVELS.values())),
        help="how hard they are compressed: 0 to 3 with gzip, 1 to 19 with zstd",
        default_text="1",
    ),
    Setting(
        name="popularity_url",
        kind=types.DATA_URL,
        help="where popularity data are fetched, once, to be kept in the state directory",
        variable="NIX_POPULARITY_URL",
    ),
    Setting(
        name="popularity_refresh",
        kind=types.BOOLEAN,
        help="whether to fetch them at this start although a copy is kept: layers change",
        default=False,
        default_text="false",
    ),
)
