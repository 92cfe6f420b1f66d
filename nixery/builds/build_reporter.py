"""
Log one line for each build that ends, and count it in the metrics.
"""

from __future__ import annotations

from collections.abc import Mapping

from twisted.logger import Logger

from nixery.builds.views import BuildState, BuildView
from nixery.nix.progress import Phase
from nixery.observability.context import BuildStats, current_build_stats, current_request
from nixery.observability.metrics import Metrics

__all__ = ["BuildReporter"]

_BUILD_PHASES = frozenset({Phase.DOWNLOADING, Phase.BUILDING, Phase.PACKING, Phase.STORING})

OUTCOMES = ("built", "known", "shared", "failed", "cancelled")
"""
The outcomes of a build, in order: the image was made; it existed already under the key that
its evaluation gave; another build, under another name or tag, made it; the build failed; it
was cancelled.
"""


class BuildReporter:
    """
    Reports builds that have ended.

    :param metrics: the metrics that count them; ``None``: they are not counted.
    """

    _log = Logger()

    def __init__(self, metrics: Metrics | None = None) -> None:
        self._metrics = metrics
        if metrics is not None:
            for outcome in OUTCOMES:
                metrics.builds.labels(outcome)
            for source in ("stored", "packed"):
                metrics.layers.labels(source)

    def report(self, build: BuildView) -> None:
        """Report a build that has ended.  Call it in the context of the build's coroutine."""
        stats = current_build_stats.get(None) or BuildStats()
        outcome = _outcome(build)
        stages = _seconds_by_phase(build)
        if self._metrics is not None:
            _count_build(self._metrics, build, stats, outcome, stages)
        request = current_request.get()
        shown = ", ".join(f"{phase} {seconds:.2f} s" for phase, seconds in stages.items())
        self._log.info(
            "{image}:{tag} {outcome} in {seconds:.2f} s ({shown}); {packed} layers packed,"
            " {known} known; build {build_id}, request {request_id}",
            image=build.image,
            tag=build.tag,
            system=build.system,
            revision=stats.revision,
            outcome=outcome,
            error=stats.failure or None,
            digest=build.digest,
            seconds=round(build.elapsed, 3),
            stages=stages,
            shown=shown or "no stage",
            packed=stats.layers_packed,
            known=stats.layers_reused,
            unpacked_bytes=stats.unpacked_bytes,
            packed_bytes=stats.packed_bytes,
            follows=build.follows,
            build_id=build.id,
            request_id=request or "-",
        )


def _outcome(build: BuildView) -> str:
    if build.state is not BuildState.SUCCEEDED:
        return str(build.state.value)
    if not _BUILD_PHASES.isdisjoint(stage.phase for stage in build.stages):
        return "built"
    return "known" if build.follows is None else "shared"


def _seconds_by_phase(build: BuildView) -> dict[str, float]:
    """Return the seconds by phase, summed where a phase came several times."""
    stages: dict[str, float] = {}
    for stage in build.stages:
        if stage.ended_at is not None:
            name = stage.phase.value
            stages[name] = round(stages.get(name, 0.0) + stage.ended_at - stage.started_at, 3)
    return stages


def _count_build(
    metrics: Metrics,
    build: BuildView,
    stats: BuildStats,
    outcome: str,
    stages: Mapping[str, float],
) -> None:
    metrics.builds.labels(outcome).inc()
    metrics.build_seconds.labels(outcome).observe(build.elapsed)
    if outcome == "failed":
        # The label is the name of an exception class, Nixery's or Python's.
        metrics.build_failures.labels(stats.failure or "unknown").inc()
    for phase, seconds in stages.items():
        metrics.stage_seconds.labels(phase).observe(seconds)
    metrics.layers.labels("stored").inc(stats.layers_reused)
    metrics.layers.labels("packed").inc(stats.layers_packed)
    metrics.unpacked_bytes.inc(stats.unpacked_bytes)
    metrics.packed_bytes.inc(stats.packed_bytes)
