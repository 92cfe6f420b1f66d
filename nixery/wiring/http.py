"""Makes the HTTP server: what answers requests, and the ports that it listens on."""

from __future__ import annotations

import socket
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Any

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress
from twisted.logger import Logger
from twisted.web.resource import Resource
from twisted.web.server import Request

from nixery.config.config import Config
from nixery.errors import ShuttingDown
from nixery.http.auth import Authenticator, RegistryGuard, client_of
from nixery.http.health import HealthPage
from nixery.http.hosts import HostRules, host_name
from nixery.http.keys import PublicKeyPage
from nixery.http.metrics import MetricsPage
from nixery.http.registry.api import Registry, RegistryLimits
from nixery.http.registry.manifests import Manifests
from nixery.http.registry.pull_wait import PullWaiter
from nixery.http.root import Root
from nixery.http.routes import Handlers, make_router
from nixery.http.server import LoggedRequest, RegistrySite, make_site
from nixery.http.token_endpoint import TokenEndpoint
from nixery.observability.request_metrics import RequestMeter
from nixery.runtime.listener import Listener
from nixery.runtime.public_address import (
    PublicAddress,
    describe_address,
    find_public_address,
    is_loopback,
)
from nixery.runtime.startup import Component
from nixery.runtime.workers import Workers
from nixery.wiring.access import AccessSubsystem
from nixery.wiring.builds import BuildSubsystem
from nixery.wiring.limits import LimitSubsystem
from nixery.wiring.observability import ObservabilitySubsystem
from nixery.wiring.readiness import DaemonReadiness
from nixery.wiring.signing import SigningSubsystem
from nixery.wiring.storage import StorageSubsystem
from nixery.wiring.tls import TLSSubsystem
from nixery.wiring.web_ui import WebUISubsystem

__all__ = ["HTTPSubsystem", "make_http", "warn_of_open_ports"]

_log = Logger()


@frozen(kw_only=True)
class HTTPSubsystem:
    """
    The HTTP server.

    :param site: the connections, and the requests on them.
    :param manifests: the manifests that were served lately.
    :param connections: must stop when every request for an image has been answered.
    :param listener: must start when requests can be answered.
    """

    site: RegistrySite
    manifests: Manifests
    connections: Component
    listener: Component


def make_http(
    config: Config,
    files: Workers,
    reactor: Any,  # the global reactor, which has no type
    *,
    tls: TLSSubsystem,
    stored: StorageSubsystem,
    builds: BuildSubsystem,
    access: AccessSubsystem,
    signing: SigningSubsystem,
    limits: LimitSubsystem,
    web_ui: WebUISubsystem,
    observability: ObservabilitySubsystem,
    readiness: DaemonReadiness,
) -> HTTPSubsystem:
    """
    Make the server.

    The pages, the login challenge and messages show the address at which clients reach the
    registry.  It is known only when the daemon listens, for a socket that was passed by systemd,
    or has a free port, tells it then.  So the handlers are made then, of a
    :class:`~nixery.runtime.public_address.PublicAddress`, before a first request is read.

    :param files: the pool for file systems.
    """
    metrics, exposition = observability.metrics, observability.exposition
    controller = access.controller
    authenticator = None if controller is None else Authenticator(controller)
    token = None
    if controller is not None and config.access.auth == "token":
        token = TokenEndpoint(controller)
    manifests = Manifests(stored.storage, reactor.seconds)
    public = config.http.public_host
    hosts = HostRules(allowed=(*config.http.allowed_hosts, host_name(public)), public=public)

    def make_registry(address: PublicAddress) -> Registry:
        guard = None
        if controller is not None:
            guard = RegistryGuard(controller, realm=f"{address.url}/token", service=address.host)
        linked = web_ui.shows_builds and address.known
        return Registry(
            builds.images,
            stored.storage,
            files,
            reactor,
            pull_waiter=PullWaiter(
                clock=reactor,
                deadline=config.http.pull_wait_timeout,
                announce=builds.tracker.pin,
                failed=builds.tracker.find_failed,
                waiting=builds.tracker.clients.waiting,
                expect_retry=builds.tracker.clients.expect_retry,
                link=lambda build_id: f"{address.url}/builds/{build_id}" if linked else None,
            ),
            guard=guard,
            limits=RegistryLimits(rules=limits.rules, sending=limits.sending, hosts=hosts),
            manifests=manifests,
            referrers=signing.referrers,
        )

    def tells_faults(request: Request) -> bool:
        return controller is None or client_of(request).user is not None

    def make_root(address: PublicAddress) -> Root:
        keys = None if signing.signer is None else signing.signer.keys
        handlers = Handlers(
            registry=make_registry(address),
            token=token,
            health=HealthPage(_no_faults),
            readiness=HealthPage(readiness.faults, tells_faults),
            public_key=None if keys is None else PublicKeyPage(keys.signing.verification.pem),
            metrics=None if exposition is None else MetricsPage(exposition.expose),
            ui=web_ui.make(address, hosts),
        )
        pages = None if handlers.ui is None else handlers.ui.pages
        router = make_router(handlers, config.sources.system, config.sources.platforms)
        return Root(router, authenticator, hosts, pages)

    def first_segments() -> Collection[bytes]:
        return site.resource.first_segments if isinstance(site.resource, Root) else ()

    ended = _ignore_end if metrics is None else RequestMeter(metrics, first_segments).record
    site = make_site(
        Resource(), reactor, ended=ended, admission=limits.admission, unsent=limits.unsent
    )
    listener = Listener(tls.endpoints, site)

    async def learn_own_names() -> None:
        # Its domain may have to be asked for, which takes long where nothing answers.
        with suppress(ShuttingDown):
            hosts.add_own(await files.run(socket.getfqdn))

    async def start() -> None:
        hosts.add_own(socket.gethostname())
        Deferred.fromCoroutine(learn_own_names()).addErrback(
            lambda why: _log.failure("Cannot look up the full name of this machine", why)
        )
        addresses = await listener.start()
        # Nothing is answered before this function returns to the reactor.
        address = find_public_address(config.http.public_url, tls.scheme, addresses)
        site.resource = make_root(address)
        if controller is None:
            warn_of_open_ports(addresses)
        if not address.configured and not all(map(is_loopback, addresses)):
            _log.warn(
                "Pages name {host}, which other machines may not reach: set public_url.",
                host=address.host,
            )
        if address.known:
            _log.info("Pull with: docker pull {host}/hello", host=address.host)

    return HTTPSubsystem(
        site=site,
        manifests=manifests,
        connections=Component(name="connections", stop=site.finish),
        listener=Component(name="listener", start=start, stop=listener.stop),
    )


def warn_of_open_ports(addresses: Sequence[IAddress]) -> None:
    """Warn of addresses that other machines reach, for a registry without authentication."""
    for address in addresses:
        if not is_loopback(address):
            _log.warn(
                "Anyone who reaches {address} can pull and build any image: set auth and"
                " htpasswd_file to require passwords, or listen only on 127.0.0.1.",
                address=describe_address(address),
            )


async def _no_faults() -> Sequence[str]:
    return ()


def _ignore_end(_request: LoggedRequest, _seconds: float) -> None:
    pass
