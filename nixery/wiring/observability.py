"""Makes the metrics and reports that the configuration asks for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from attrs import frozen

from nixery.builds.build_reporter import BuildReporter
from nixery.config.declarations.observability import ObservabilityConfig
from nixery.http.registry.manifests import Manifests
from nixery.http.server import RegistrySite
from nixery.observability.context import LookupCounts
from nixery.observability.exposition import Exposition
from nixery.observability.instrumented import MeasuredSpawner, measured_storage
from nixery.observability.metrics import Metrics, Sample, SampledMetric
from nixery.process.spawner import Spawner
from nixery.runtime.startup import Component
from nixery.runtime.workers import WorkerPool
from nixery.sources.tree_watch import TreeWatch
from nixery.storage.interface import Storage
from nixery.wiring.builds import BuildSubsystem

__all__ = ["ObservabilitySubsystem", "make_observability", "sample_daemon"]


@frozen(kw_only=True)
class ObservabilitySubsystem:
    """
    The metrics of the daemon, and the reports of its builds.

    :param metrics: the metrics; ``None`` if they are switched off.
    :param exposition: formats them, likewise.
    :param reporter: reports builds that have ended.
    :param instrument_storage: wraps a storage to measure its operations.
    :param instrument_spawner: wraps a spawner to measure its commands.
    :param components: must start before metrics are served.
    """

    metrics: Metrics | None
    exposition: Exposition | None
    reporter: BuildReporter
    instrument_storage: Callable[[Storage], Storage]
    instrument_spawner: Callable[[Spawner], Spawner]
    components: tuple[Component, ...]


def make_observability(config: ObservabilityConfig, reactor: Any) -> ObservabilitySubsystem:
    """
    Make the metrics that the configuration asks for.

    :param reactor: the global reactor, which has no type.
    """
    pool = WorkerPool("metrics", 1, reactor)
    components = (Component.of_service("pool for metrics", pool),)
    if not config.metrics:
        return ObservabilitySubsystem(
            metrics=None,
            exposition=None,
            reporter=BuildReporter(),
            instrument_storage=lambda storage: storage,
            instrument_spawner=lambda spawner: spawner,
            components=components,
        )
    metrics = Metrics()
    return ObservabilitySubsystem(
        metrics=metrics,
        exposition=Exposition(metrics=metrics, worker=pool),
        reporter=BuildReporter(metrics),
        instrument_storage=lambda storage: measured_storage(storage, metrics, reactor.seconds),
        instrument_spawner=lambda spawner: MeasuredSpawner(spawner, metrics, reactor.seconds),
        components=components,
    )


def sample_daemon(
    metrics: Metrics,
    *,
    builds: BuildSubsystem,
    watch: TreeWatch | None,
    manifests: Manifests,
    site: RegistrySite,
    pools: Mapping[str, WorkerPool],
) -> None:
    """
    Add the metrics that the objects of the daemon provide about themselves.

    :param watch: watches the package set's files, if they may change.
    :param pools: the pools whose load is shown, by name.
    """
    queues, images = builds.builder.queues, builds.images
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
                *_lookups("manifest", manifests.counts),
                *_lookups("evaluation", images.evaluation_lookups),
            ],
        ),
        _sampled(
            "nixery_source_watched",
            "Whether changes of package sets and overlays at paths are observed, so that nothing"
            " is evaluated again without one; absent if there are none.",
            (),
            lambda: [] if watch is None else [((), float(watch.stands))],
        ),
        _sampled(
            "nixery_refused_total",
            "What was refused because it was too much, by the reason.",
            ("reason",),
            lambda: [((reason,), count) for reason, count in site.admission.refusals.items()],
        ),
        _sampled(
            "nixery_http_unsent_bytes",
            "Bytes in memory that clients have yet to take.",
            (),
            lambda: [((), site.unsent.total)],
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
            lambda: [((name,), pool.load) for name, pool in pools.items()],
        ),
        _sampled(
            "nixery_worker_threads",
            "The most threads of a pool.",
            ("pool",),
            lambda: [((name,), pool.size) for name, pool in pools.items()],
        ),
    ):
        metrics.add_sampled(metric)


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
