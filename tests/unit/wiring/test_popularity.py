"""Tests for :mod:`nixery.wiring.popularity`."""

from __future__ import annotations

from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from nixery.config.load import load_config
from nixery.layers.plan import Popularity
from nixery.layers.popularity_file import encode_popularity
from nixery.testing.fakes import InlineWorkers
from nixery.wiring.popularity import make_popularity


class PopularityTests(SynchronousTestCase):
    """Tests for :func:`make_popularity`."""

    def test_data_can_be_a_file_of_the_machine(self) -> None:
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
            data = make_popularity(config, InlineWorkers(), Clock(), {}).data
            self.successResultOf(Deferred.fromCoroutine(data.start()))
            self.assertEqual(popularity, data.current)
            (directory / "some data").unlink(missing_ok=True)
