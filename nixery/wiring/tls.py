"""Makes TLS as the configuration asks for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Any

from attrs import frozen
from twisted.internet.interfaces import IStreamServerEndpoint

from nixery.config.declarations.tls import TLSConfig
from nixery.observability.metrics import Metrics, SampledMetric
from nixery.runtime.clocks import WallClock
from nixery.runtime.endpoint_strings import speaks_tls
from nixery.runtime.startup import Component
from nixery.runtime.tls.certificate_watcher import CertificateWatcher
from nixery.runtime.tls.endpoint import TLSEndpoint
from nixery.runtime.workers import Workers

__all__ = ["TLSSubsystem", "make_tls"]


@frozen(kw_only=True)
class TLSSubsystem:
    """
    The endpoints, those that are to use TLS wrapped in it.

    :param scheme: the URL scheme of the daemon's own addresses.
    :param endpoints: by their strings.
    :param reloads: the callbacks for a reload, by the name of what they reload.
    :param components: must start before the daemon listens.
    """

    scheme: str
    endpoints: Mapping[str, IStreamServerEndpoint]
    reloads: Mapping[str, Callable[[], Awaitable[object]]] = MappingProxyType({})
    components: tuple[Component, ...] = ()


def make_tls(
    config: TLSConfig,
    endpoints: Mapping[str, IStreamServerEndpoint],
    files: Workers,
    reactor: Any,  # the global reactor, which has no type
    wall_clock: WallClock,
    *,
    metrics: Metrics | None,
) -> TLSSubsystem:
    """
    Wrap the endpoints in TLS; without a certificate, none of them.

    :param endpoints: by their strings.
    :param files: the pool for file systems.
    :param wall_clock: tells whether certificates have expired.
    :param metrics: show when the certificate expires.
    """
    if config.tls_certificate is None:
        return TLSSubsystem(scheme="http", endpoints=endpoints)
    assert config.tls_key is not None  # the configuration ensures it
    watcher = CertificateWatcher(
        config.tls_certificate, config.tls_key, workers=files, clock=reactor, wall_clock=wall_clock
    )
    if metrics is not None:
        metrics.add_sampled(
            SampledMetric(
                name="nixery_tls_certificate_expiry_timestamp_seconds",
                help="When the certificate ends that is shown to clients.",
                labels=(),
                read=lambda: [] if watcher.expires is None else [((), watcher.expires)],
            )
        )
    return TLSSubsystem(
        scheme="https",
        endpoints={
            text: TLSEndpoint(endpoint, watcher.contexts, reactor) if speaks_tls(text) else endpoint
            for text, endpoint in endpoints.items()
        },
        reloads={"TLS certificate and key": watcher.reload},
        components=(Component(name="TLS certificate", start=watcher.start, stop=watcher.stop),),
    )
