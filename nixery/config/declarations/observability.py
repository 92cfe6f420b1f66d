"""Settings of metrics and the log."""

from __future__ import annotations

from typing import Literal

from attrs import frozen

from nixery.config import types
from nixery.config.setting import setting

__all__ = ["ObservabilityConfig"]


@frozen(kw_only=True)
class ObservabilityConfig:
    """Settings of metrics and the log."""

    metrics: bool = setting(
        types.BOOLEAN,
        "whether /metrics tells Prometheus what is going on, without names and addresses",
        default=True,
    )
    log_format: Literal["text", "json"] = setting(
        types.choice("text", "json"),
        "how the log is written: text for people, or json, an object a line",
        default="text",
    )
