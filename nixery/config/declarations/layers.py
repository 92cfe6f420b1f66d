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
        name="layer_affinity",
        kind=types.integer(1, 100, unit="percent"),
        help="how many of those who have a package have another one, if they share a layer",
        default=70,
        requires=("layer_strategy", "affinity"),
    ),
    Setting(
        name="layer_unit_size",
        kind=types.integer(0, unit="bytes"),
        help="store paths of this size, unpacked, follow no other into its layer",
        default=4 * 2**20,
        requires=("layer_strategy", "affinity"),
    ),
    Setting(
        name="layer_minimum_size",
        kind=types.integer(0, unit="bytes"),
        help="what is smaller, unpacked, gets no layer of its own",
        default=128 * 2**10,
        requires=("layer_strategy", "affinity"),
    ),
    Setting(
        name="layer_classes",
        kind=types.integer(1, 125, unit="layers"),
        help="how many layers what is small is spread over, by popularity",
        default=5,
        requires=("layer_strategy", "affinity"),
    ),
    Setting(
        name="layer_common_share",
        kind=types.integer(1, 100, unit="percent"),
        help="how much of the layer budget goes to what every image contains",
        default=10,
        requires=("layer_strategy", "affinity"),
    ),
    Setting(
        name="layer_popularity_threshold",
        kind=types.integer(1, unit="references"),
        help="what so many store paths refer to is kept in a layer of its own",
        default=100,
        requires=("layer_strategy", "dominators"),
    ),
    Setting(
        name="layer_size_threshold",
        kind=types.integer(0, unit="bytes"),
        help="what is this large with all that it needs, unpacked, too",
        default=100_000_000,
        requires=("layer_strategy", "dominators"),
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
