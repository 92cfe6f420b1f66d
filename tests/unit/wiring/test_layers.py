"""Tests for :mod:`nixery.wiring.layers`."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from nixery.config.config import load_config
from nixery.layers.grouping import LayerSettings, Strategy
from nixery.wiring.layers import layer_settings


class LayerSettingsTests(SynchronousTestCase):
    """Tests for :func:`layer_settings`."""

    def test_default_settings_are_those_that_the_layering_was_measured_with(self) -> None:
        """The default settings are those that the layering was measured with."""
        self.assertEqual(LayerSettings(), layer_settings(load_config({}, {})))

    def test_every_setting_arrives_where_it_belongs(self) -> None:
        """Every setting arrives where it belongs."""
        affinity = load_config(
            {
                "layer_budget": "40",
                "layer_affinity": "50",
                "layer_unit_size": "1",
                "layer_minimum_size": "2",
                "layer_classes": "3",
                "layer_common_share": "4",
            },
            {},
        )
        self.assertEqual(
            LayerSettings(
                budget=40, affinity=50, unit_size=1, minimum_size=2, classes=3, common_share=4
            ),
            layer_settings(affinity),
        )
        dominators = load_config(
            {
                "layer_strategy": "dominators",
                "layer_popularity_threshold": "5",
                "layer_size_threshold": "6",
            },
            {},
        )
        self.assertEqual(
            LayerSettings(strategy=Strategy.DOMINATORS, popularity_threshold=5, size_threshold=6),
            layer_settings(dominators),
        )
