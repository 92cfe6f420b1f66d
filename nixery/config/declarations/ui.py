"""Settings of the pages for people."""

from __future__ import annotations

from attrs import frozen

from nixery.config import types
from nixery.config.setting import setting

__all__ = ["UIConfig"]


@frozen(kw_only=True)
class UIConfig:
    """Settings of the pages for people."""

    web_ui: bool = setting(
        types.BOOLEAN,
        "serve pages for people: builds, images, documentation",
        default=True,
        aliases=("site",),
    )
    show_builds: bool = setting(
        types.BOOLEAN,
        "show everyone on /builds what is being built, with names and logs",
        default=True,
    )
    max_build_log_size: int = setting(
        types.SIZE,
        "disk space in the cache directory for the logs of the builds on /builds; 0 keeps only the"
        " last 1,000 lines of each",
        default=256 * 2**20,
        default_text="256 MiB",
    )
    show_images: bool = setting(
        types.BOOLEAN,
        "show everyone on /images which images were pulled, and what is in them",
        default=True,
    )
