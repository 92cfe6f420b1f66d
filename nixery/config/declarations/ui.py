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
        "whether there are pages for people: what this is, builds, images, documentation",
        default=True,
        aliases=("site",),
    )
    show_builds: bool = setting(
        types.BOOLEAN,
        "whether /builds shows everyone what is being built, with names and logs",
        default=True,
    )
    show_images: bool = setting(
        types.BOOLEAN,
        "whether /images shows everyone which images were pulled, and what is in them",
        default=True,
    )
