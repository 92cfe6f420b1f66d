"""
Makes the daemon out of its configuration: all components, in the order in which they start.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

from twisted.application.service import IService
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.logger import Logger

from nixery.builds.candidates import CandidateSearch
from nixery.builds.filtered_lookup import FilteredLookup
from nixery.builds.package_catalog import PackageCatalog
from nixery.config.config import Config
from nixery.inspection.estimator import Estimator
from nixery.runtime.clocks import SystemWallClock, WallClock
from nixery.runtime.reloader import Reloader
from nixery.runtime.startup import Component, OrderedService, exit_with_failure
from nixery.runtime.state_lock import StateLock
from nixery.runtime.workers import WorkerPool
from nixery.wiring.access import make_access
from nixery.wiring.builds import make_builds
from nixery.wiring.exit_status import exit_status
from nixery.wiring.http import make_http
from nixery.wiring.inspection import make_inspection
from nixery.wiring.introduction import describe_configuration
from nixery.wiring.limits import make_limits
from nixery.wiring.nix import make_nix, make_nix_context, make_package_indexes
from nixery.wiring.observability import make_observability, sample_daemon
from nixery.wiring.popularity import make_popularity
from nixery.wiring.readiness import make_readiness
from nixery.wiring.signing import make_signing
from nixery.wiring.sources import make_sources
from nixery.wiring.storage import STORAGE_THREADS, make_storage
from nixery.wiring.systemd import make_systemd
from nixery.wiring.tls import make_tls
from nixery.wiring.warm_up import make_warm_up
from nixery.wiring.web_ui import make_web_ui

__all__ = ["make_application"]


_log = Logger()


def make_application(
    config: Config,
    endpoints: Mapping[str, IStreamServerEndpoint],
    # Any: the global reactor has no type, and each component asks for the interface that it needs.
    reactor: Any,
    *,
    reread: Callable[[], Config] | None = None,
    wall_clock: WallClock | None = None,
) -> IService:
    """
    Make all components of the daemon, connected, in the order in which they start.

    Each subsystem is made by one function, of the configuration and of the subsystems that it
    depends on.  Nothing happens before the daemon is started: twistd forks, and changes its user,
    between making and starting.

    :param reactor: its time is monotonic, see :mod:`nixery.runtime.reactor_time`.
    :param reread: reads the configuration again, for the settings that a reload changes.
    :param wall_clock: the time of day; by default, this machine's.
    """

    def give_up(reason: BaseException) -> None:
        exit_with_failure(reactor, exit_status(reason))

    async def keep_files_private() -> None:
        # Keys, logs and caches are made for this user alone, whatever the umask was; what others
        # may read, as stored images, gets its mode where it is made.
        os.umask(0o077)

    async def introduce() -> None:
        for line in describe_configuration(config):
            _log.info("{line}", line=line)
        for warning in config.warnings:
            _log.warn("{warning}.", warning=warning.describe())

    environ = os.environ
    wall_clock = wall_clock or SystemWallClock()
    cpu = WorkerPool("packing", config.builds.cpu_workers, reactor)
    files = WorkerPool("storage", STORAGE_THREADS, reactor)
    lock = StateLock(config.storage.state_directory)

    observability = make_observability(config.observability, reactor)
    limits = make_limits(config.limits, reactor)
    tls = make_tls(config.tls, endpoints, files, reactor, wall_clock, metrics=observability.metrics)
    stored = make_storage(
        config,
        cpu,
        files,
        reactor,
        wall_clock,
        instrument=observability.instrument_storage,
        give_up=give_up,
    )
    signing = make_signing(config, cpu, files, stored=stored)
    access = make_access(
        config,
        files,
        reactor,
        wall_clock,
        stored=stored,
        referrers=signing.referrers,
        reread=reread,
    )
    nix_context = make_nix_context(
        config, files, reactor, environ, instrument=observability.instrument_spawner
    )
    nix = make_nix(nix_context)
    sources = make_sources(
        config.sources,
        reactor,
        nix_context,
        wall_clock=wall_clock,
        stale_ttl=config.builds.stale_while_revalidate,
        watch=True,
    )
    readiness = make_readiness(
        config.sources.source,
        reactor,
        stored=stored,
        nix=nix.nix,
        sources=sources.sources,
        metrics=observability.metrics,
    )
    popularity = make_popularity(config, files, reactor, environ)
    inspection = make_inspection(cpu, reactor, wall_clock, stored=stored)
    candidates = CandidateSearch(workers=files, seconds=reactor.seconds, rules=limits.rules)
    builds = make_builds(
        config,
        cpu,
        files,
        reactor,
        wall_clock,
        stored=stored,
        sources=sources.sources,
        nix=nix.nix,
        popularity=popularity.data,
        limits=limits,
        catalog=inspection.catalog,
        candidates=candidates,
        signer=signing.signer,
        reporter=observability.reporter,
    )
    indexes = make_package_indexes(
        nix_context, nix.nix, building=lambda: bool(builds.tracker.active_names())
    )
    packages = PackageCatalog(
        sources=sources.sources,
        indexes=indexes,
        workers=files,
        system=config.sources.system,
        rules=limits.rules,
    )
    web_ui = make_web_ui(
        config,
        cpu,
        files,
        reactor,
        builds=builds,
        catalog=inspection.catalog,
        comparer=inspection.comparer,
        sources=sources.sources,
        package_lookup=FilteredLookup(package_lookup=nix.nix, rules=limits.rules),
        candidates=candidates,
        packages=packages,
        rules=limits.rules,
        estimator=Estimator(
            sources=sources.sources,
            builder=builds.builder,
            dry_runner=nix.dry_runner,
            catalog=inspection.catalog,
            comparer=inspection.comparer,
            candidates=candidates,
            skips_missing_platforms=config.sources.platforms_missing == "skip",
            substitute_only=config.nix.substitute_only,
        ),
        visibility=access.visibility,
    )
    http = make_http(
        config,
        files,
        reactor,
        tls=tls,
        stored=stored,
        builds=builds,
        access=access,
        signing=signing,
        limits=limits,
        web_ui=web_ui,
        observability=observability,
        readiness=readiness,
    )
    systemd = make_systemd(
        config.builds, files, reactor, environ, builder=builds.builder, tracker=builds.tracker
    )
    reloader = Reloader(reactor, reactor.stop, {**access.reloads, **tls.reloads}, systemd.on_reload)
    if observability.metrics is not None:
        sample_daemon(
            observability.metrics,
            builds=builds,
            watch=sources.watch,
            manifests=http.manifests,
            site=http.site,
            pools={"packing": cpu, "storage": files},
        )

    return OrderedService(
        [
            systemd.watchdog,
            Component(name="umask", start=keep_files_private),
            Component(name="configuration", start=introduce),
            Component.of_service("pool for packing", cpu),
            Component.of_service("pool for storage", files),
            *observability.components,
            *limits.components,
            Component(
                name="state directory",
                start=lambda: files.run(lock.acquire),
                stop=lambda: files.run(lock.release),
            ),
            *access.components,
            *signing.components,
            *tls.components,
            Component.of_service("reloading", reloader),
            *sources.components,
            *stored.components,
            *nix.components,
            *inspection.components,
            *popularity.components,
            *web_ui.components,
            # When the builder has stopped, every request has been answered.
            http.connections,
            *builds.components,
            http.listener,
            make_warm_up(
                config.sources, cpu, nix=nix.nix, sources=sources.sources, readiness=readiness
            ),
            systemd.readiness,
        ],
        give_up=give_up,
    )
