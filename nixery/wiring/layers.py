"""
Makes the layering that the configuration describes, for the daemon and for the commands that do the
daemon's work without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nixery.config.config import Config
from nixery.layers.grouping import LayerSettings, Strategy
from nixery.popularity.data import PopularityData
from nixery.runtime.workers import Workers

__all__ = ["layer_settings", "make_popularity"]


def layer_settings(config: Config) -> LayerSettings:
    """Return the configured layering."""
    return LayerSettings(
        budget=config.layer_budget,
        strategy=Strategy(config.layer_strategy),
        affinity=config.layer_affinity,
        unit_size=config.layer_unit_size,
        minimum_size=config.layer_minimum_size,
        classes=config.layer_classes,
        common_share=config.layer_common_share,
        popularity_threshold=config.layer_popularity_threshold,
        size_threshold=config.layer_size_threshold,
    )


def make_popularity(
    config: Config,
    workers: Workers,
    # Any: the global reactor has no type.
    reactor: Any,
    environ: Mapping[str, str],
) -> PopularityData:
    """
    Make the popularity data of one process.

    :param workers: used for the file system, and to read fetched data.
    :param environ: the environment of this process, which may name proxies.
    """

    async def fetch(url: str, limit: int) -> bytes:
        # Imported where it is needed: most starts of the daemon fetch nothing.
        from nixery.popularity.http_download import Fetcher, make_client  # noqa: PLC0415

        client, pool = make_client(reactor, 1, environ)
        try:
            fetcher = Fetcher(client=client, workers=workers, clock=reactor)
            return await fetcher.fetch(url, limit)
        finally:
            await pool.closeCachedConnections()

    return PopularityData(
        url=config.popularity_url,
        directory=config.state_directory / "popularity",
        fetch=fetch,
        workers=workers,
        clock=reactor,
        refresh=config.popularity_refresh,
    )
