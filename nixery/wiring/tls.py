"""
Makes TLS as the configuration asks for it: reads the certificate at the start, looks at it again on
a reload and every half minute, and warns before it expires.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IStreamServerEndpoint
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from nixery.config.config import Config
from nixery.errors import NixeryError
from nixery.observability.metrics import Metrics, SampledMetric
from nixery.runtime.clocks import SystemWallClock, WallClock, WallTime
from nixery.runtime.errors import CertificateUnusable
from nixery.runtime.reloader import Reloader
from nixery.runtime.startup import Component
from nixery.runtime.tls.certificates import Identity, fingerprint, load_identity
from nixery.runtime.tls.endpoint import Contexts, TLSEndpoint
from nixery.runtime.tls.endpoint_strings import speaks_tls
from nixery.runtime.workers import Workers

__all__ = ["TLSParts"]

POLL_INTERVAL_SECONDS = 30.0
"""Seconds between two looks at the files, for renewals that send no signal."""

EXPIRY_WARNING_SECONDS = 14 * 86400.0
"""Seconds before the certificate expires from which on warnings are logged."""

REMINDER_INTERVAL_SECONDS = 86400.0
"""Seconds between two such warnings."""


@define(kw_only=True, eq=False)
class TLSParts:
    """
    The TLS of one daemon; does nothing if there is no certificate.

    :param files: the pool for file systems.
    :param wall_clock: tells whether certificates have expired.
    """

    config: Config
    files: Workers
    reactor: Any  # the global reactor, which has no type
    wall_clock: WallClock = field(factory=SystemWallClock)
    identity: Identity | None = field(default=None, init=False)
    _contexts: Contexts = field(factory=Contexts, init=False)
    _seen: tuple[object, ...] = field(default=(), init=False)
    _reminded: float | None = field(default=None, init=False)
    _looking: LoopingCall | None = field(default=None, init=False)
    _look: Deferred[None] | None = field(default=None, init=False)
    _log = Logger()

    @property
    def scheme(self) -> str:
        """The URL scheme of the daemon's own addresses."""
        return "http" if self.config.tls_certificate is None else "https"

    def wrap_endpoints(
        self, endpoints: Mapping[str, IStreamServerEndpoint]
    ) -> Mapping[str, IStreamServerEndpoint]:
        """Return the endpoints, those wrapped in TLS that are to use it."""
        if self.config.tls_certificate is None:
            return endpoints
        return {
            text: TLSEndpoint(endpoint, self._contexts, self.reactor)
            if speaks_tls(text)
            else endpoint
            for text, endpoint in endpoints.items()
        }

    def parts(self) -> tuple[Component, ...]:
        """Return the components that must start before the daemon listens."""
        if self.config.tls_certificate is None:
            return ()
        return (Component(name="TLS certificate", start=self._start, stop=self._stop),)

    def watch(self, reloader: Reloader, measures: Metrics | None) -> None:
        """Register the files that a reload reads again, and show when the certificate expires."""
        if self.config.tls_certificate is None:
            return
        reloader.register("TLS certificate and key", self._load)
        if measures is not None:
            measures.add_sampled(
                SampledMetric(
                    name="nixery_tls_certificate_expiry_timestamp_seconds",
                    help="When the certificate ends that is shown to clients.",
                    labels=(),
                    read=lambda: [] if self.identity is None else [((), self.identity.expires)],
                )
            )

    async def _start(self) -> None:
        """:raises CertificateUnusable: it cannot be used for any client."""
        await self._load()
        self._looking = LoopingCall(self._look_again)
        self._looking.clock = self.reactor
        self._looking.start(POLL_INTERVAL_SECONDS, now=False)

    async def _stop(self) -> None:
        if self._looking is not None and self._looking.running:
            self._looking.stop()
        if self._look is not None:
            self._look.cancel()

    async def _load(self) -> None:
        """:raises CertificateUnusable: the certificate of before stays in force."""
        certificate, key = self.config.tls_certificate, self.config.tls_key
        assert certificate is not None
        assert key is not None  # the configuration ensures it
        # Taken before the files are read: if they change meanwhile, they are read again.
        self._seen = await self.files.run(fingerprint, certificate, key)
        identity = await self.files.run(load_identity, certificate, key, self.wall_clock.now())
        self.identity = identity
        self._contexts.current = identity.context
        self._reminded = None
        self._log.info(
            "The TLS certificate is for {names}, until {end}.",
            names=", ".join(identity.names) or "nobody by name",
            end=_date(identity.expires),
        )
        self._remind()

    def _look_again(self) -> Deferred[None]:
        self._look = Deferred.fromCoroutine(self._load_if_changed())
        return self._look

    async def _load_if_changed(self) -> None:
        certificate, key = self.config.tls_certificate, self.config.tls_key
        assert certificate is not None
        assert key is not None
        try:
            if await self.files.run(fingerprint, certificate, key) != self._seen:
                await self._load()
        except CertificateUnusable as error:
            self._log.error(
                "The TLS certificate and key stay as they were: {reason}", reason=error.message
            )
        except (NixeryError, CancelledError):
            return  # The daemon is stopping.
        except Exception:  # noqa: BLE001  # the next look must come all the same
            self._log.failure("The TLS certificate cannot be looked at.")
        self._remind()

    def _remind(self) -> None:
        assert self.identity is not None
        left = self.identity.expires - self.wall_clock.now()
        now: float = self.reactor.seconds()
        if left > EXPIRY_WARNING_SECONDS or (
            self._reminded is not None and now - self._reminded < REMINDER_INTERVAL_SECONDS
        ):
            return
        self._reminded = now
        self._log.warn(
            "The TLS certificate {ends} {end}: put a new one into {path}, and the daemon takes it"
            " within a minute.",
            ends="ends soon, at" if left > 0 else "has ended, at",
            end=_date(self.identity.expires),
            path=str(self.config.tls_certificate),
        )


def _date(time: WallTime) -> str:
    return f"{datetime.fromtimestamp(time, UTC):%Y-%m-%d %H:%M} UTC"
