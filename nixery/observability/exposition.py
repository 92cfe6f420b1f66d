"""
Formats metrics as text, on a thread of its own.

Gathering reads files of ``/proc`` and formats some hundred lines: that takes milliseconds and would
block the reactor. It has a thread of its own because metrics are needed most when the other pools
are busy or stuck.

``prometheus_client.twisted.MetricsResource`` is not used. It shares the reactor's own pool of
threads with the resolution of host names, so that it waits when DNS does; it collects on a thread,
but samples may only be read on the reactor thread; it answers HEAD with 405, and an Accept header
whose version is no number with 500 and a traceback.
"""

from __future__ import annotations

from typing import cast

from attrs import define, field
from prometheus_client.exposition import choose_encoder

from nixery.observability.metrics import Metrics
from nixery.runtime.single_flight import SingleFlight
from nixery.runtime.workers import Workers

__all__ = ["Exposition"]


@define(kw_only=True, eq=False)
class Exposition:
    """
    Formats the metrics.

    :param metrics: the metrics.
    :param worker: the pool that formats them.
    """

    metrics: Metrics
    worker: Workers
    _encodings: SingleFlight[str, bytes] = field(factory=SingleFlight, init=False)

    async def expose(self, accept: str) -> tuple[str, bytes]:
        """
        Format the current metrics.

        :param accept: an ``Accept`` header, which chooses between the format of
            Prometheus and OpenMetrics.
        :return: the media type and the text.
        :raises ShuttingDown: the daemon is stopping.
        """
        try:
            encode, media_type = choose_encoder(accept)
        except (TypeError, ValueError):
            # The version is no number: the library compares it all the same.
            encode, media_type = choose_encoder("")

        async def make() -> bytes:
            self.metrics.take_samples()
            return cast(bytes, await self.worker.run(encode, self.metrics.registry))

        # Concurrent requests share one text.
        return media_type, await self._encodings.run(media_type, make)
