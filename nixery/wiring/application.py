"""
Makes the daemon out of its configuration: all components, in the order in which they start.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any

from twisted.application.service import IService
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.logger import Logger
from twisted.web.resource import Resource

from nixery.builds.builder import Builder
from nixery.builds.image_cache import ImageCache
from nixery.builds.pipeline import ImagePipeline
from nixery.builds.settings import BuildLimits, ImageSettings
from nixery.builds.tracker import BuildTracker
from nixery.config.config import Config
from nixery.http.registry.api import Registry
from nixery.http.registry.pull_wait import PullWaiter
from nixery.http.root import make_root
from nixery.http.server import make_site
from nixery.inspection.catalog import ImageCatalog
from nixery.layers.grouping import Popularity
from nixery.pulls.images import ImageService
from nixery.runtime.clocks import SystemWallClock, WallClock
from nixery.runtime.listener import Listener, registry_host
from nixery.runtime.reloader import Reloader
from nixery.runtime.startup import Component, OrderedService, exit_with_failure
from nixery.runtime.state_lock import StateLock
from nixery.runtime.workers import WorkerPool
from nixery.sources.git_urls import has_secret
from nixery.sources.source import GitSource, PathSource
from nixery.sources.tag_policy import LATEST
from nixery.version import VERSION
from nixery.wiring.access import AccessParts
from nixery.wiring.exit_status import exit_status
from nixery.wiring.layers import layer_settings, make_popularity
from nixery.wiring.limits import LimitParts
from nixery.wiring.nix import make_nix
from nixery.wiring.observability import OperationParts
from nixery.wiring.sources import make_sources
from nixery.wiring.storage import make_storage
from nixery.wiring.systemd import SystemdParts
from nixery.wiring.tls import TLSParts
from nixery.wiring.web_ui import WebUIParts

__all__ = ["make_application"]

_log = Logger()


def make_application(  # noqa: PLR0915  # one statement a part
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

    :param reactor: its time is monotonic, see :mod:`nixery.runtime.reactor_time`.
    :param reread: reads the configuration again, for the settings that a reload changes.
    :param wall_clock: the time of day; by default, this machine's.
    """

    def give_up(reason: BaseException) -> None:
        exit_with_failure(reactor, exit_status(reason))

    wall_clock = wall_clock or SystemWallClock()
    cpu = WorkerPool("packing", config.cpu_workers, reactor)
    files = WorkerPool("storage", config.storage_workers, reactor)
    operations = OperationParts(
        config=config, reactor=reactor, pools={"packing": cpu, "storage": files}
    )
    stored = make_storage(
        config,
        files,
        reactor,
        give_up=give_up,
        collected=lambda: cache.invalidate_checks(),  # noqa: PLW0108  # it is made below
        measured=operations.storage,
        wall_clock=wall_clock,
    )
    storage = stored.storage
    lock = StateLock(config.state_directory)
    limits = LimitParts(config=config, reactor=reactor)
    nix = make_nix(config, files, reactor, os.environ, measured=operations.spawner)
    sources = make_sources(
        config,
        files,
        reactor,
        os.environ,
        measured=operations.spawner,
        wall_clock=wall_clock,
    )
    popularity = make_popularity(config, files, reactor, os.environ)
    book = BuildTracker(clock=reactor, wall_clock=wall_clock, on_ended=operations.reporter.report)
    cache = ImageCache(
        storage=storage,
        seconds=reactor.seconds,
        ttl=config.manifest_ttl,
        max_bytes=config.manifest_memory * 2**20,
        recheck_interval=config.blob_recheck,
    )
    catalog = ImageCatalog(
        storage=storage, image_cache=cache, cpu=cpu, clock=reactor, wall_clock=wall_clock
    )
    build_limits = BuildLimits(
        max_builds=config.max_builds,
        max_evaluations=config.max_evaluations,
        max_queued=config.max_queued_builds,
        deadline=config.build_deadline,
        shutdown_timeout=config.shutdown_timeout,
        max_closure_size=config.max_closure_size,
    )
    pipeline = ImagePipeline(
        sources=sources,
        nix=nix,
        storage=storage,
        image_cache=cache,
        cpu=cpu,
        # While some layers are packed, others are being written to the disk.
        max_batches=3 * config.cpu_workers,
        compression=config.compression,
        clock=reactor,
        limits=build_limits,
        check_free_space=stored.room,
        on_built=catalog.record_build,
    )
    builder = Builder(
        pipeline=pipeline,
        image_cache=cache,
        settings=ImageSettings(
            layers=layer_settings(config),
            popularity=Popularity(),
            compression=config.compression,
        ),
        popularity=popularity.settled,
        clock=reactor,
        failure_cache_ttl=config.failure_cache_ttl,
        limits=build_limits,
        package_rules=limits.rules,
        build_quota=limits.build_quota,
    )
    images = ImageService(
        sources=sources,
        builder=builder,
        image_cache=cache,
        storage=storage,
        tracker=book,
        seconds=reactor.seconds,
        evaluation_ttl=config.evaluation_ttl,
        stale_while_revalidate=config.stale_while_revalidate,
        on_tag_recorded=catalog.record_served,
    )
    # The URL of the pages: known when the daemon listens, and empty if there are none.
    pages: list[str] = []
    pull_waiter = PullWaiter(
        clock=reactor,
        deadline=config.pull_wait_timeout,
        announce=book.pin,
        failed=book.find_failed,
        link=lambda build_id: f"{pages[0]}/builds/{build_id}" if pages else None,
    )
    reloader = Reloader(reactor, reactor.stop)
    access = AccessParts(
        config=config,
        files=files,
        reactor=reactor,
        storage=storage,
        images=cache,
        reread=reread,
        wall_clock=wall_clock,
    )
    access.watch(reloader)
    registry = Registry(
        images,
        storage,
        files,
        config.system,
        reactor,
        pull_waiter=pull_waiter,
        guard=access.guard,
        limits=limits.registry,
    )
    web_ui = WebUIParts(
        config=config,
        cpu=cpu,
        files=files,
        reactor=reactor,
        book=book,
        catalog=catalog,
        sources=sources,
        package_lookup=limits.package_lookup(nix),
        visibility=access.visibility,
    )
    site = make_site(Resource(), reactor, ended=operations.ended, admission=limits.admission)
    operations.watch(builder, images, registry, site)
    tls = TLSParts(config=config, files=files, reactor=reactor, wall_clock=wall_clock)
    tls.watch(reloader, operations.measures)
    systemd = SystemdParts(
        config=config, files=files, reactor=reactor, environ=os.environ, book=book, builder=builder
    )
    reloader.on_reload = systemd.reloading
    listener = Listener(tls.wrap_endpoints(endpoints), site)

    async def check_source() -> None:
        _log.info("Nixery {version} starts.", version=VERSION)
        await sources.start()
        if isinstance(config.source, GitSource) and has_secret(config.source.url):
            _log.warn(
                "The URL of the git repository holds a password, which others on this machine"
                " may see while git runs: a credential helper or an SSH key keeps it secret."
            )
        _log.info(
            "Packages come from {source}, for {system}.",
            source=config.source.describe(),
            system=config.system,
        )

    async def start_nix() -> None:
        version = await nix.check()
        # Remove the garbage collection roots that an earlier run left.
        await nix.sweep()
        _log.info("Nix {version} builds them.", version=version)
        nix.enable_prewarming()

    async def start_listening() -> None:
        # The pages show the registry's address, and the address of a socket that was passed by
        # systemd, or has a free port, is known only when it is open. Nothing is answered before
        # this function returns to the reactor.
        host = registry_host(config.public_url, await listener.start())
        children, missing = web_ui.children(host)
        children = {**children, **access.children()}
        checks = operations.children(
            nix, sources, stored.check, stored.unready, [*children], access.tells
        )
        root = make_root(registry.resource(), children={**children, **checks}, missing=missing)
        site.resource = access.with_authentication(root, host)
        if web_ui.shows_builds and host is not None:
            pages.append(config.public_url or f"{tls.scheme}://{host}")
        if host is not None:
            _log.info("Pull with: docker pull {host}/hello", host=host)
        # Slow preparations are done now, while no client waits for them: to load the modules that
        # divide images into layers and that decode the first request's host name, and to start Nix.
        modules = ("networkx", "encodings.idna")
        for readying in (*(cpu.run(import_module, name) for name in modules), expect_evaluation()):
            Deferred.fromCoroutine(readying).addErrback(lambda _: None)

    async def expect_evaluation() -> None:
        # The revision of other sources is unknown without a request to another host.
        if isinstance(config.source, PathSource):
            package_set = await sources.fetch(await sources.resolve(LATEST))
            nix.prewarm_evaluation(package_set, config.system)

    return OrderedService(
        [
            systemd.watchdog(),
            Component.of_service("pool for packing", cpu),
            Component.of_service("pool for storage", files),
            *operations.parts(),
            Component(name="room for connections", start=limits.make_room),
            Component(
                name="state directory",
                start=lambda: files.run(lock.acquire),
                stop=lambda: files.run(lock.release),
            ),
            *access.parts(),
            *tls.parts(),
            Component.of_service("reloading", reloader),
            Component(name="package set", start=check_source, stop=sources.stop),
            *stored.parts,
            Component(name="Nix side", start=start_nix, stop=nix.stop),
            *web_ui.parts(),
            Component(name="popularity data", start=popularity.start, stop=popularity.stop),
            # When the builder has stopped, every request has been answered.
            Component(name="connections", stop=site.finish),
            Component(name="builder", stop=images.stop),
            Component(name="listener", start=start_listening, stop=listener.stop),
            systemd.readiness(),
        ],
        give_up=give_up,
    )
