"""
Makes the layering that the configuration describes, for the daemon and for the commands that do the
daemon's work without it.
"""

from __future__ import annotations

from nixery.config.declarations.layers import LayerConfig
from nixery.layers.grouping import LayerSettings, Strategy

__all__ = ["layer_settings"]


def layer_settings(config: LayerConfig) -> LayerSettings:
    """Return the configured layering."""
    return LayerSettings(budget=config.layer_budget, strategy=Strategy(config.layer_strategy))
