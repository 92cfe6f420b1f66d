"""Makes the builder of images, and the service that pulls ask for them."""

from __future__ import annotations

from typing import Any

from attrs import frozen

from nixery.artifacts.provenance import UNNAMED_BUILDER
from nixery.builds.build_reporter import BuildReporter
from nixery.builds.builder import Builder
from nixery.builds.candidates import CandidateSearch
from nixery.builds.document_maker import DocumentMaker
from nixery.builds.output_file import OutputFiles
from nixery.builds.pipeline import ImagePipeline
from nixery.builds.settings import BuildLimits, ImageSettings
from nixery.builds.tracker import BuildTracker
from nixery.config.config import Config
from nixery.inspection.catalog import ImageCatalog
from nixery.layers.plan import Popularity
from nixery.nix.interface import Nix
from nixery.popularity.data import PopularityData
from nixery.pulls.images import ImageService
from nixery.pulls.signatures import ImageSigner
from nixery.pulls.tag_recorder import TagRecorder
from nixery.runtime.clocks import WallClock
from nixery.runtime.startup import Component
from nixery.runtime.workers import Workers
from nixery.sources.interface import Sources
from nixery.wiring.layers import layer_settings
from nixery.wiring.limits import LimitSubsystem
from nixery.wiring.storage import StorageSubsystem

__all__ = ["BuildSubsystem", "make_builds"]

QUEUED_PER_BUILD = 16
"""
The images that may wait for each one that is made at once.  A queue in proportion to the machine
bounds the time in it; beyond that, clients are told when to come back.
"""

FAILURE_CACHE_TTL_SECONDS = 60.0
"""
Seconds for which a failure is the answer to the same pull: engines repeat one within seconds, and
an operator who has fixed a package does not want to wait longer.
"""


@frozen(kw_only=True)
class BuildSubsystem:
    """
    The builds of the daemon.

    :param images: returns images for names and tags.
    :param builder: makes those that are not known.
    :param tracker: tracks the builds.
    :param components: when they have stopped, every request for an image has been answered.
    """

    images: ImageService
    builder: Builder
    tracker: BuildTracker
    components: tuple[Component, ...]


def make_builds(
    config: Config,
    cpu: Workers,
    files: Workers,
    reactor: Any,  # the global reactor, which has no type
    wall_clock: WallClock,
    *,
    stored: StorageSubsystem,
    sources: Sources,
    nix: Nix,
    popularity: PopularityData,
    limits: LimitSubsystem,
    catalog: ImageCatalog,
    candidates: CandidateSearch,
    signer: ImageSigner | None,
    reporter: BuildReporter,
) -> BuildSubsystem:
    """
    Make the builder, as it is configured.

    :param cpu: the pool in which layers are grouped and packed.
    :param files: the pool for file systems.
    :param wall_clock: tells the time at which a build began.
    :param catalog: records how images were made, and that they were served.
    :param candidates: finds other names for those that do not exist.
    :param signer: signs what is served.
    """
    pipeline = ImagePipeline(
        sources=sources,
        nix=nix,
        storage=stored.storage,
        image_cache=stored.images,
        cpu=cpu,
        # While some layers are packed, others are being written to the disk.
        max_batches=3 * config.builds.cpu_workers,
        compression=config.layers.compression,
        clock=reactor,
        limits=BuildLimits(
            max_builds=config.builds.max_builds,
            max_evaluations=config.builds.max_builds,
            max_queued=QUEUED_PER_BUILD * config.builds.max_builds,
            deadline=config.builds.build_deadline,
            shutdown_timeout=config.builds.shutdown_timeout,
            max_closure_size=config.limits.max_closure_size,
        ),
        check_free_space=stored.check_free_space,
        documents=DocumentMaker(
            sources=sources,
            nix=nix,
            cpu=cpu,
            builder=config.builds.builder_id or config.http.public_url or UNNAMED_BUILDER,
            wall_clock=wall_clock if config.builds.provenance_time else None,
        ),
        on_built=catalog.record_build,
    )
    builder = Builder(
        pipeline=pipeline,
        settings=ImageSettings(
            layers=layer_settings(config.layers),
            popularity=Popularity(),
            compression=config.layers.compression,
        ),
        popularity=popularity.settled,
        failure_cache_ttl=FAILURE_CACHE_TTL_SECONDS,
        package_rules=limits.rules,
        build_quota=limits.build_quota,
    )
    tracker = BuildTracker(
        clock=reactor,
        wall_clock=wall_clock,
        on_ended=reporter.report,
        files=_output_files(config, files),
    )
    images = ImageService(
        sources=sources,
        builder=builder,
        image_cache=stored.images,
        storage=stored.storage,
        tracker=tracker,
        seconds=reactor.seconds,
        candidates=candidates,
        recorder=TagRecorder(
            storage=stored.storage, signer=signer, on_recorded=catalog.record_served
        ),
        evaluation_ttl=config.builds.evaluation_ttl,
        stale_while_revalidate=config.builds.stale_while_revalidate,
        skips_missing_platforms=config.sources.platforms_missing == "skip",
    )
    return BuildSubsystem(
        images=images,
        builder=builder,
        tracker=tracker,
        components=(Component(name="builder", stop=images.stop),),
    )


def _output_files(config: Config, files: Workers) -> OutputFiles | None:
    shown = config.ui.web_ui and config.ui.show_builds
    if not shown or not config.ui.max_build_log_size:
        return None
    return OutputFiles(
        directory=config.storage.cache_directory / "build-logs",
        workers=files,
        max_bytes=config.ui.max_build_log_size,
    )
