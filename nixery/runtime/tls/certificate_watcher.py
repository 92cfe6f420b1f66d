"""
Keeps the TLS certificate current: reads it at the start, looks at it again on a reload and every
half minute, and warns before it expires.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from nixery.errors import NixeryError
from nixery.runtime.clocks import WallClock, WallTime
from nixery.runtime.errors import CertificateUnusable
from nixery.runtime.tls.certificates import fingerprint, load_identity
from nixery.runtime.tls.endpoint import Contexts
from nixery.runtime.workers import Workers

__all__ = ["POLL_INTERVAL_SECONDS", "CertificateWatcher"]

POLL_INTERVAL_SECONDS = 30.0
"""Seconds between two looks at the files, for renewals that send no signal."""

EXPIRY_WARNING_SECONDS = 14 * 86400.0
"""Seconds before the certificate expires from which on warnings are logged."""

REMINDER_INTERVAL_SECONDS = 86400.0
"""Seconds between two such warnings."""


class CertificateWatcher:
    """
    Reads a certificate and its key, and reads them again when they change.

    :param certificate: the file of the certificate and its chain.
    :param key: the file of its private key.
    :param workers: the pool for file systems.
    :param clock: for the time between two looks at the files.
    :param wall_clock: tells whether certificates have expired.
    """

    _log = Logger()

    def __init__(
        self,
        certificate: Path,
        key: Path,
        *,
        workers: Workers,
        clock: IReactorTime,
        wall_clock: WallClock,
    ) -> None:
        self._certificate = certificate
        self._key = key
        self._workers = workers
        self._clock = clock
        self._wall_clock = wall_clock
        self.contexts = Contexts()
        """The TLS context of the current certificate, for endpoints."""
        self.expires: WallTime | None = None
        """The time at which the current certificate expires; ``None``: it was not read yet."""
        self._fingerprint: tuple[object, ...] = ()
        self._reminded: float | None = None
        self._polling = LoopingCall(self._poll)
        self._polling.clock = clock
        self._polled: Deferred[None] | None = None

    async def start(self) -> None:
        """
        Read the certificate, and begin to look for changes.

        :raises CertificateUnusable: it cannot be used for any client.
        """
        await self.reload()
        self._polling.start(POLL_INTERVAL_SECONDS, now=False)

    async def stop(self) -> None:
        """Look for no more changes."""
        if self._polling.running:
            self._polling.stop()
        if self._polled is not None:
            self._polled.cancel()

    async def reload(self) -> None:
        """
        Read the certificate.

        :raises CertificateUnusable: the certificate of before stays in force.
        """
        # Taken before the files are read: if they change meanwhile, they are read again.
        self._fingerprint = await self._workers.run(fingerprint, self._certificate, self._key)
        identity = await self._workers.run(
            load_identity, self._certificate, self._key, self._wall_clock.now()
        )
        self.contexts.current = identity.context
        self.expires = identity.expires
        self._reminded = None
        self._log.info(
            "The TLS certificate is valid for {names}, until {end}.",
            names=", ".join(identity.names) or "no host name",
            end=_date(identity.expires),
        )
        self._warn_of_expiry(identity.expires)

    def _poll(self) -> Deferred[None]:
        self._polled = Deferred.fromCoroutine(self._reload_if_changed())
        return self._polled

    async def _reload_if_changed(self) -> None:
        try:
            now = await self._workers.run(fingerprint, self._certificate, self._key)
            if now != self._fingerprint:
                await self.reload()
        except CertificateUnusable as error:
            self._log.error(
                "Cannot reload the TLS certificate and key; the old ones stay in use: {reason}",
                reason=error.message,
            )
        except (NixeryError, CancelledError):
            return  # The daemon is stopping.
        except Exception:  # noqa: BLE001  # the next look must come all the same
            self._log.failure("Cannot check the TLS certificate for changes.")
        if self.expires is not None:
            self._warn_of_expiry(self.expires)

    def _warn_of_expiry(self, expires: WallTime) -> None:
        left = expires - self._wall_clock.now()
        now = self._clock.seconds()
        if left > EXPIRY_WARNING_SECONDS or (
            self._reminded is not None and now - self._reminded < REMINDER_INTERVAL_SECONDS
        ):
            return
        self._reminded = now
        self._log.warn(
            "The TLS certificate {ends} {end}: put a new one into {path}; the registry reads it"
            " within a minute.",
            ends="expires soon, on" if left > 0 else "expired on",
            end=_date(expires),
            path=str(self._certificate),
        )


def _date(time: WallTime) -> str:
    return f"{datetime.fromtimestamp(time, UTC):%Y-%m-%d %H:%M} UTC"
