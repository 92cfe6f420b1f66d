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
        "serve metrics for Prometheus on /metrics, without names and addresses",
        default=True,
    )
    log_format: Literal["text", "json"] = setting(
        types.choice("text", "json"),
        "format of the log: text for people, or json, an object per line",
        default="text",
    )
