"""
Metrics as text, made where nobody waits for it.

Gathering reads files of ``/proc`` and formats some hundred lines: milliseconds, which
the reactor does not have.  It gets a thread of its own: metrics are wanted most when
the other pools are busy or stuck.

``prometheus_client.twisted.MetricsResource`` is not used.  It shares the reactor's own
pool of threads with the resolution of host names, so that it waits where DNS does; it
collects on a thread, while samples are the reactor thread's; HEAD is 405, and an Accept
header whose version is no number is an error 500 with a traceback.
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
    Shows metrics.

    :param measures: what there is to show.
    :param worker: where it is formatted.
    """

    measures: Metrics
    worker: Workers
    _making: SingleFlight[str, bytes] = field(factory=SingleFlight, init=False)

    async def expose(self, accept: str) -> tuple[str, bytes]:
        """
        The metrics as they are now.

        :param accept: an ``Accept`` header, which chooses between the format of
            Prometheus and OpenMetrics.
        :return: the media type and the text.
        :raises ShuttingDown: the daemon stops.
        """
        try:
            encode, media_type = choose_encoder(accept)
        except (TypeError, ValueError):
            # A version that is none: the library compares it all the same.
            encode, media_type = choose_encoder("")

        async def make() -> bytes:
            self.measures.take_samples()
            return cast(bytes, await self.worker.run(encode, self.measures.registry))

        # Several that ask at once share one text.
        return media_type, await self._making.run(media_type, make)
