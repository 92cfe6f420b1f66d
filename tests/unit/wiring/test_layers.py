"""Tests for :mod:`nixery.wiring.layers`."""

from __future__ import annotations

from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from nixery.config.config import load_config
from nixery.layers.grouping import LayerSettings, Popularity, Strategy
from nixery.layers.popularity_file import encode_popularity
from nixery.testing.fakes import InlineWorkers
from nixery.wiring.layers import layer_settings, make_popularity


class LayerSettingsTests(SynchronousTestCase):
    """Tests for :func:`layer_settings`."""

    def test_defaults(self) -> None:
        """The default settings are those that the layering was measured with."""
        self.assertEqual(LayerSettings(), layer_settings(load_config({}, {})))

    def test_all(self) -> None:
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


class PopularityTests(SynchronousTestCase):
    """Tests for :func:`make_popularity`."""

    def test_file(self) -> None:
        """Data can be a file of the machine; a copy of it is kept in the state directory."""
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        popularity = Popularity(transitive={"glibc": 2}, setsize=2)
        (directory / "some data").write_bytes(encode_popularity(popularity))
        config = load_config(
            {
                "popularity_url": f"file://{directory}/some%20data",
                "state_directory": str(directory / "state"),
            },
            {},
        )
        for _ in range(2):
            data = make_popularity(config, InlineWorkers(), Clock(), {})
            self.successResultOf(Deferred.fromCoroutine(data.start()))
            self.assertEqual(popularity, data.current)
            (directory / "some data").unlink(missing_ok=True)
