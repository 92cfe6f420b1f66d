"""Settings of the pools of worker threads."""

from __future__ import annotations

from nixery.config import types
from nixery.config.setting import Setting

__all__ = ["WORKER_SETTINGS"]

WORKER_SETTINGS: tuple[Setting, ...] = (
    Setting(
        name="cpu_workers",
        kind=types.integer(1, 1024, unit="threads"),
        help="how many layers are packed at once",
        default_text="the number of processors",
    ),
)
