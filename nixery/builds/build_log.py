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

_MAKING = frozenset({Phase.DOWNLOADING, Phase.BUILDING, Phase.PACKING, Phase.STORING})

OUTCOMES = ("built", "known", "shared", "failed", "cancelled")
"""
The outcomes of a build, in order: the image was made; it existed already under the key that
its evaluation gave; another build, under another name or tag, made it; the build failed; it
was cancelled.
"""


class BuildReporter:
    """
    Reports builds that have ended.

    :param measures: the metrics that count them; ``None``: they are not counted.
    """

    _log = Logger()

    def __init__(self, measures: Metrics | None = None) -> None:
        self._measures = measures
        if measures is not None:
            for outcome in OUTCOMES:
                measures.builds.labels(outcome)
            for source in ("stored", "packed"):
                measures.layers.labels(source)

    def ended(self, build: BuildView) -> None:
        """Report a build that has ended.  Call it in the context of the build's coroutine."""
        tally = current_build_stats.get(None) or BuildStats()
        outcome = _outcome(build)
        stages = _stages(build)
        if self._measures is not None:
            _count(self._measures, build, tally, outcome, stages)
        request = current_request.get()
        shown = ", ".join(f"{phase} {seconds:.2f} s" for phase, seconds in stages.items())
        self._log.info(
            "{image}:{tag} {outcome} in {seconds:.2f} s ({shown}); {packed} layers packed,"
            " {known} known; build {build_id}, request {request_id}",
            image=build.image,
            tag=build.tag,
            system=build.system,
            revision=tally.revision,
            outcome=outcome,
            error=tally.failure or None,
            digest=build.digest,
            seconds=round(build.elapsed, 3),
            stages=stages,
            shown=shown or "no stage",
            packed=tally.layers_packed,
            known=tally.layers_reused,
            unpacked_bytes=tally.unpacked_bytes,
            packed_bytes=tally.packed_bytes,
            follows=build.follows,
            build_id=build.id,
            request_id=request or "-",
        )


def _outcome(build: BuildView) -> str:
    if build.state is not BuildState.SUCCEEDED:
        return str(build.state.value)
    if not _MAKING.isdisjoint(stage.phase for stage in build.stages):
        return "built"
    return "known" if build.follows is None else "shared"


def _stages(build: BuildView) -> dict[str, float]:
    """Return the seconds by phase, summed where a phase came several times."""
    stages: dict[str, float] = {}
    for stage in build.stages:
        if stage.ended is not None:
            name = stage.phase.value
            stages[name] = round(stages.get(name, 0.0) + stage.ended - stage.begun, 3)
    return stages


def _count(
    measures: Metrics,
    build: BuildView,
    tally: BuildStats,
    outcome: str,
    stages: Mapping[str, float],
) -> None:
    measures.builds.labels(outcome).inc()
    measures.build_seconds.labels(outcome).observe(build.elapsed)
    if outcome == "failed":
        # The label is the name of an exception class, Nixery's or Python's.
        measures.build_failures.labels(tally.failure or "unknown").inc()
    for phase, seconds in stages.items():
        measures.stage_seconds.labels(phase).observe(seconds)
    measures.layers.labels("stored").inc(tally.layers_reused)
    measures.layers.labels("packed").inc(tally.layers_packed)
    measures.unpacked_bytes.inc(tally.unpacked_bytes)
    measures.packed_bytes.inc(tally.packed_bytes)
