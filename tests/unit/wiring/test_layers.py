"""Tests for :mod:`nixery.wiring.layers`."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from nixery.config.load import load_config
from nixery.layers.grouping import LayerSettings, Strategy
from nixery.wiring.layers import layer_settings


class LayerSettingsTests(SynchronousTestCase):
    """Tests for :func:`layer_settings`."""

    def test_default_settings_are_those_that_the_layering_was_measured_with(self) -> None:
        """The default settings are those that the layering was measured with."""
        self.assertEqual(LayerSettings(), layer_settings(load_config({}, {}).layers))

    def test_every_setting_arrives_where_it_belongs(self) -> None:
        """Every setting arrives where it belongs."""
        config = load_config({"layer_budget": "40", "layer_strategy": "dominators"}, {})
        self.assertEqual(
            LayerSettings(budget=40, strategy=Strategy.DOMINATORS), layer_settings(config.layers)
        )
