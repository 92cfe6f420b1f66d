"""Makes the popularity data that the configuration asks for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import frozen

from nixery.config.config import Config
from nixery.popularity.data import PopularityData
from nixery.runtime.http_download import make_fetcher
from nixery.runtime.startup import Component
from nixery.runtime.workers import Workers

__all__ = ["PopularitySubsystem", "make_popularity"]


@frozen(kw_only=True)
class PopularitySubsystem:
    """The popularity data."""

    data: PopularityData
    components: tuple[Component, ...]


def make_popularity(
    config: Config,
    workers: Workers,
    # Any: the global reactor has no type.
    reactor: Any,
    environ: Mapping[str, str],
) -> PopularitySubsystem:
    """
    Make the popularity data of one process.

    :param workers: used for the file system, and to read fetched data.
    :param environ: the environment of this process, which may name proxies.
    """
    data = PopularityData(
        url=config.layers.popularity_url,
        directory=config.storage.state_directory / "popularity",
        fetch=make_fetcher(reactor, workers, environ).fetch,
        workers=workers,
        clock=reactor,
    )
    return PopularitySubsystem(
        data=data,
        components=(Component(name="popularity data", start=data.start, stop=data.stop),),
    )
