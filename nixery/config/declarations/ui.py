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
    show_images: bool = setting(
        types.BOOLEAN,
        "show everyone on /images which images were pulled, and what is in them",
        default=True,
    )
