"""
Declares the metrics: their names, and what they count.

Names and units follow the conventions of Prometheus (https://prometheus.io/docs/practices/naming/):
base units, seconds and bytes, as suffixes, ``_total`` for values that only grow. A label never
takes a value that a client can choose: there are as many series as the code has cases. No label
holds the name of an image or an address, so that metrics do not reveal which client pulls which
image.

Everything is in a registry of its own; nothing is global.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from attrs import frozen
from prometheus_client import CollectorRegistry, Counter, Histogram, Info
from prometheus_client.gc_collector import GCCollector
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from nixery.version import VERSION

__all__ = ["Metrics", "Sample", "SampledMetric"]

Sample = tuple[Sequence[str], float]
"""The values of a metric's labels, and its value."""

REQUEST_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5, 10.0, 30.0, 120.0, 600.0)
"""In seconds: a cached answer takes fractions of a millisecond, a held request half a minute."""

STORAGE_BUCKETS = (0.0005, 0.001, 0.0025, 0.01, 0.025, 0.1, 0.25, 1.0, 2.5, 10.0, 60.0)
"""In seconds: from a cached file to retried requests to a bucket."""

WORK_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 120.0, 600.0, 3600.0, 14400.0)
"""In seconds: the durations of Nix commands and builds."""


class Metrics:
    """Holds all metrics. Those that are computed on demand are added by :meth:`add_sampled`."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry(auto_describe=False)
        Info("nixery_build", "What runs.", registry=registry).info({"version": VERSION})
        self.requests = Counter(
            "nixery_http_requests_total",
            "Requests that have ended. Status 499: the client left before.",
            ["route", "method", "status"],
            registry=registry,
        )
        self.request_seconds = Histogram(
            "nixery_http_request_duration_seconds",
            "How long requests took, until the last byte was written.",
            ["route"],
            buckets=REQUEST_BUCKETS,
            registry=registry,
        )
        self.response_bytes = Counter(
            "nixery_http_response_bytes_total",
            "Bytes of bodies sent; those of blobs under the blobs' route.",
            ["route"],
            registry=registry,
        )
        self.builds = Counter(
            "nixery_builds_total",
            "Builds that have ended. known: the image was there after all;"
            " shared: another build made it.",
            ["outcome"],
            registry=registry,
        )
        self.build_failures = Counter(
            "nixery_build_failures_total",
            "Builds that failed, by the kind of failure.",
            ["error"],
            registry=registry,
        )
        self.build_seconds = Histogram(
            "nixery_build_duration_seconds",
            "How long builds took, the time in the queue included.",
            ["outcome"],
            buckets=WORK_BUCKETS,
            registry=registry,
        )
        self.stage_seconds = Histogram(
            "nixery_build_stage_duration_seconds",
            "How long the stages of builds took.",
            ["phase"],
            buckets=WORK_BUCKETS,
            registry=registry,
        )
        self.layers = Counter(
            "nixery_layers_total",
            "Layers that builds needed: stored already, or packed.",
            ["source"],
            registry=registry,
        )
        self.unpacked_bytes = Counter(
            "nixery_packed_uncompressed_bytes_total",
            "Size of the layers that were packed, before compression.",
            registry=registry,
        )
        self.packed_bytes = Counter(
            "nixery_packed_compressed_bytes_total",
            "Size of the layers that were packed, as they are stored.",
            registry=registry,
        )
        self.storage_seconds = Histogram(
            "nixery_storage_operation_duration_seconds",
            "How long operations of the storage took.",
            ["operation"],
            buckets=STORAGE_BUCKETS,
            registry=registry,
        )
        self.storage_errors = Counter(
            "nixery_storage_errors_total",
            "Operations of the storage that failed.",
            ["operation"],
            registry=registry,
        )
        self.command_seconds = Histogram(
            "nixery_command_duration_seconds",
            "How long the commands of Nix and git took.",
            ["command"],
            buckets=WORK_BUCKETS,
            registry=registry,
        )
        self.commands = Counter(
            "nixery_commands_total",
            "Commands of Nix and git that have ended.",
            ["command", "outcome"],
            registry=registry,
        )
        self._sampled: list[SampledMetric] = []
        self._samples: dict[str, Metric] = {}
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)

    def add_sampled(self, metric: SampledMetric) -> None:
        """Add a metric that is computed on demand."""
        self._sampled.append(metric)
        self._samples[metric.name] = metric.make()
        self.registry.register(_Collector(metric.name, self._samples))

    def take_samples(self) -> None:
        """
        Read the sampled metrics, on the reactor thread, before the registry is gathered on another.
        """
        for metric in self._sampled:
            self._samples[metric.name] = metric.make()


@frozen(kw_only=True)
class SampledMetric:
    """
    A metric that is not stored, but read on demand.

    :param name: its name in the output.
    :param help: its description.
    :param labels: the names of its labels.
    :param read: returns its values, one for each combination of labels. Called on the reactor
        thread; takes microseconds.
    """

    name: str
    help: str
    labels: tuple[str, ...]
    read: Callable[[], Iterable[Sample]]

    def make(self) -> Metric:
        """Make the metric with its current values."""
        family = CounterMetricFamily if self.name.endswith("_total") else GaugeMetricFamily
        metric = family(self.name, self.help, labels=self.labels)
        for labels, value in self.read():
            metric.add_metric(labels, value)
        return metric


class _Collector(Collector):
    """Yields the metrics that were read last; on any thread."""

    def __init__(self, name: str, samples: Mapping[str, Metric]) -> None:
        self._name = name
        self._samples = samples

    def collect(self) -> Iterable[Metric]:
        return (self._samples[self._name],)
