"""Makes the metrics, readiness checks and reports that the configuration asks for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.web.resource import Resource
from twisted.web.server import Request

from nixery.builds.build_log import BuildReporter
from nixery.builds.builder import Builder
from nixery.config.config import Config
from nixery.http.health import health_page
from nixery.http.metrics import metrics_page
from nixery.http.registry.api import Registry
from nixery.http.server import LoggedRequest, RegistrySite
from nixery.nix.commands import NixCommands
from nixery.observability.context import LookupCounts
from nixery.observability.exposition import Exposition
from nixery.observability.instrumented import MeasuredSpawner, measured_storage
from nixery.observability.metrics import Metrics, Sample, SampledMetric
from nixery.observability.readiness import Check, Readiness
from nixery.observability.request_metrics import RequestMeter
from nixery.process.spawner import Spawner
from nixery.pulls.images import ImageService
from nixery.runtime.startup import Component
from nixery.runtime.workers import WorkerPool
from nixery.sources.interface import Sources
from nixery.sources.source import PathSource
from nixery.sources.tag_policy import LATEST
from nixery.storage.interface import Storage

__all__ = ["OperationParts"]

CHECK_TTL_SECONDS = 5.0
"""Seconds for which the result of a check of this machine is used."""

SOURCE_CHECK_TTL_SECONDS = 60.0
"""
Seconds for which the result of a check is used that asks other hosts for the revision of a branch
or a channel.
"""


@define(kw_only=True, eq=False)
class OperationParts:
    """
    The metrics, checks and reports of one daemon.

    :param pools: the pools whose load is shown, by name.
    """

    config: Config
    reactor: Any  # the global reactor, which has no type
    pools: Mapping[str, WorkerPool]
    reporter: BuildReporter = field(init=False)
    _measures: Metrics | None = field(init=False)
    _meter: RequestMeter | None = field(init=False)
    _pool: WorkerPool = field(init=False)
    _pages: Collection[bytes] = field(default=(), init=False)

    def __attrs_post_init__(self) -> None:
        self._measures = Metrics() if self.config.metrics else None
        self._meter = None
        if self._measures is not None:
            self._meter = RequestMeter(self._measures, lambda: self._pages)
        self.reporter = BuildReporter(self._measures)
        self._pool = WorkerPool("metrics", 1, self.reactor)

    def parts(self) -> tuple[Component, ...]:
        """Return the components that must start before anything is shown."""
        return (Component.of_service("pool for metrics", self._pool),)

    @property
    def measures(self) -> Metrics | None:
        """The metrics; ``None`` if they are switched off."""
        return self._measures

    # -- measured while it happens --------------------------------------------------

    def storage(self, storage: Storage) -> Storage:
        """Return a storage whose operations are measured."""
        if self._measures is None:
            return storage
        return measured_storage(storage, self._measures, self.reactor.seconds)

    def spawner(self, spawner: Spawner) -> Spawner:
        """Return a spawner whose commands are measured."""
        if self._measures is None:
            return spawner
        return MeasuredSpawner(spawner, self._measures, self.reactor.seconds)

    def ended(self, request: LoggedRequest, seconds: float) -> None:
        """Count a request that has ended."""
        if self._meter is not None:
            self._meter.record(request, seconds)

    # -- sampled on demand ------------------------------------------------------------

    def watch(
        self, builder: Builder, images: ImageService, registry: Registry, site: RegistrySite
    ) -> None:
        """Add the metrics that these objects provide about themselves."""
        if self._measures is None:
            return
        queues = builder.queues
        for metric in (
            _sampled(
                "nixery_queue_waiting",
                "Images that wait for their turn.",
                ("queue",),
                lambda: [((name,), queue.waiting) for name, queue in queues.items()],
            ),
            _sampled(
                "nixery_queue_running",
                "Images whose turn it is.",
                ("queue",),
                lambda: [((name,), queue.running) for name, queue in queues.items()],
            ),
            _sampled(
                "nixery_cache_requests_total",
                "What was looked up, and where it was found; image: by its key;"
                " manifest: by digest; evaluation: of a source that may change.",
                ("cache", "result"),
                lambda: [
                    *_lookups("image", images.image_cache.counts),
                    *_lookups("manifest", registry.manifest_lookups),
                    *_lookups("evaluation", images.evaluation_lookups),
                ],
            ),
            _sampled(
                "nixery_refused_total",
                "What was refused because it was too much, by the reason.",
                ("reason",),
                lambda: [((reason,), count) for reason, count in site.admission.refusals.items()],
            ),
            _sampled(
                "nixery_http_connections",
                "Connections that are open.",
                (),
                lambda: [((), len(site.channels))],
            ),
            _sampled(
                "nixery_http_requests_in_progress",
                "Requests that are being answered.",
                (),
                lambda: [((), site.in_progress)],
            ),
            _sampled(
                "nixery_worker_calls",
                "Calls that run on a pool of threads, or wait for one.",
                ("pool",),
                lambda: [((name,), pool.load) for name, pool in self.pools.items()],
            ),
            _sampled(
                "nixery_worker_threads",
                "The most threads of a pool.",
                ("pool",),
                lambda: [((name,), pool.size) for name, pool in self.pools.items()],
            ),
        ):
            self._measures.add_sampled(metric)

    # -- served pages ------------------------------------------------------------------

    def children(
        self,
        nix: NixCommands,
        sources: Sources,
        check_storage: Callable[[], Awaitable[object]],
        unready: Callable[[], Sequence[str]],
        pages: Collection[str],
        tells: Callable[[Request], bool] = lambda _: True,
    ) -> Mapping[str, Resource]:
        """
        Return the pages, by the first segment of their paths.

        :param check_storage: fails if the storage cannot be used.
        :param unready: returns the reasons why the storage cannot be used yet.
        :param pages: the other pages that there are.
        :param tells: tells whether the client may know why the daemon is not ready.
        """
        moving = not isinstance(self.config.source, PathSource)
        readiness = Readiness(
            checks=(
                Check(name="storage", check=check_storage, ttl=CHECK_TTL_SECONDS),
                Check(name="Nix", check=nix.probe, ttl=CHECK_TTL_SECONDS),
                Check(
                    name="package source",
                    check=lambda: sources.resolve(LATEST),
                    ttl=SOURCE_CHECK_TTL_SECONDS if moving else CHECK_TTL_SECONDS,
                ),
            ),
            clock=self.reactor,
        )

        async def alive() -> Sequence[str]:
            return ()

        async def ready() -> Sequence[str]:
            return [*unready(), *await readiness.faults()]

        children = {"healthz": health_page(alive), "readyz": health_page(ready, tells)}
        if self._measures is not None:
            self._measures.add_sampled(
                _sampled(
                    "nixery_check_success",
                    "Whether what the daemon stands on could be used when it was tried last.",
                    ("check",),
                    lambda: [((name,), float(well)) for name, well in readiness.last_results()],
                )
            )
            exposition = Exposition(metrics=self._measures, worker=self._pool)
            children["metrics"] = metrics_page(exposition.expose)
        self._pages = frozenset(name.encode("ascii") for name in {*pages, *children})
        # The first client need not wait for it.
        Deferred.fromCoroutine(readiness.faults()).addErrback(lambda _: None)
        return children


def _sampled(
    name: str, text: str, labels: tuple[str, ...], read: Callable[[], Sequence[Sample]]
) -> SampledMetric:
    return SampledMetric(name=name, help=text, labels=labels, read=read)


def _lookups(cache: str, counts: LookupCounts) -> Sequence[Sample]:
    return [
        ((cache, "memory"), counts.memory),
        ((cache, "storage"), counts.storage),
        ((cache, "missing"), counts.misses),
    ]
