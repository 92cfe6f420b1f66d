"""Settings of pages, metrics and the log."""

from __future__ import annotations

from nixery.config import types
from nixery.config.setting import Setting

__all__ = ["OBSERVABILITY_SETTINGS"]

OBSERVABILITY_SETTINGS: tuple[Setting, ...] = (
    Setting(
        name="web_ui",
        kind=types.BOOLEAN,
        help="whether there are pages for people: what this is, builds, images, documentation",
        default=True,
        default_text="true",
        aliases=("site",),
    ),
    Setting(
        name="show_builds",
        kind=types.BOOLEAN,
        help="whether /builds shows everyone what is being built, with names and logs",
        default=True,
        default_text="true",
    ),
    Setting(
        name="show_images",
        kind=types.BOOLEAN,
        help="whether /images shows everyone which images were pulled, and what is in them",
        default=True,
        default_text="true",
    ),
    Setting(
        name="metrics",
        kind=types.BOOLEAN,
        help="whether /metrics tells Prometheus what is going on, without names and addresses",
        default=True,
        default_text="true",
    ),
    Setting(
        name="log_format",
        kind=types.choice("text", "json"),
        help="how the log is written: text for people, or json, an object a line",
        default="text",
    ),
)
