"""
Who is let in: connections and requests.

Every request passes here, so that what is asked costs microseconds: whether its client
has sent too many, by its address and by its user.  A client's connections are counted too,
and all connections.

When there are as many connections as there may be, a few more are taken for a moment: a
monitor has to be told that the daemon is alive, or it would be ended for being busy, and
the others are told to come again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from attrs import define, field, frozen

from nixery.errors import NixeryError
from nixery.limits.addresses import LOCAL, TrustedProxies, origin_of
from nixery.limits.errors import RequestsExceeded, TooManyConnections
from nixery.limits.token_buckets import Buckets

__all__ = ["AdmissionControl", "AdmissionLimits"]

RESERVED = 64
"""How many connections are taken beyond the limit, for a moment."""

UNLIMITED = frozenset({b"/healthz", b"/readyz"})
"""What monitors ask, who must not be told that they ask too often."""


@frozen(kw_only=True)
class AdmissionLimits:
    """
    What clients may take; 0 stands for any number.

    :param rate: requests of a client in a second, in the long run.
    :param burst: requests of a client at once.
    :param connections: of all clients.
    :param client_connections: of one.
    :param head_timeout: seconds from the first byte of a request to its last.
    :param idle_timeout: seconds that a connection may wait for its next request.
    :param proxies: who is believed to speak for others.
    """

    rate: int = 0
    burst: int = 1
    connections: int = 0
    client_connections: int = 0
    head_timeout: float = 30.0
    idle_timeout: float = 60.0
    proxies: TrustedProxies = field(factory=TrustedProxies)


@define(kw_only=True, eq=False)
class AdmissionControl:
    """
    Lets in.

    :param seconds: the monotonic time, as the reactor's ``seconds``.
    """

    limits: AdmissionLimits = field(factory=AdmissionLimits)
    seconds: Callable[[], float]

    refusals: dict[str, int] = field(factory=dict, init=False)
    """How often something was refused, by a word for the reason."""

    _requests: Buckets | None = field(init=False)
    _connections: dict[str, int] = field(factory=dict, init=False)
    _count: int = field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        limits = self.limits
        self._requests = None
        if limits.rate:
            self._requests = Buckets(
                rate=limits.rate, burst=max(1, limits.burst), seconds=self.seconds
            )

    def refused(self, reason: str) -> None:
        """Something was refused."""
        self.refusals[reason] = self.refusals.get(reason, 0) + 1

    # -- requests -------------------------------------------------------------------

    def client(self, peer: str | None, forwarded: Sequence[bytes] | None) -> str:
        """
        The address of whoever sends a request.

        :param peer: of the connection; ``None``: it has no address.
        :param forwarded: the values of ``X-Forwarded-For``, if there are any.
        """
        address = peer or LOCAL
        if forwarded and self.limits.proxies:
            return self.limits.proxies.client(address, forwarded)
        return address

    def admit(self, path: bytes, client: Sequence[str], *, crowded: bool) -> NixeryError | None:
        """
        Whether a request may pass.

        :param client: all that stands for whoever sends it.
        :param crowded: whether it came on a connection beyond the limit.
        :return: why not; ``None``: it may.
        """
        if path in UNLIMITED:
            return None
        if crowded:
            self.refused("connections")
            return TooManyConnections(limit=self.limits.connections)
        if self._requests is None:
            return None
        taken: list[str] = []
        for key in client:
            wait = self._requests.take(key)
            if wait:
                for each in taken:
                    self._requests.give_back(each)
                self.refused("requests")
                return RequestsExceeded(
                    rate=self.limits.rate, burst=self.limits.burst, retry_after=wait
                )
            taken.append(key)
        return None

    # -- connections ------------------------------------------------------------------

    def enter(self) -> bool | None:
        """
        A connection begins; it has to :meth:`leave`.

        :return: whether there is room for it; ``None``: not even for a moment.
        """
        self._count += 1
        over = self._count - self.limits.connections
        if not self.limits.connections or over <= 0:
            return True
        return False if over <= RESERVED else None

    def leave(self) -> None:
        """A connection has ended."""
        self._count -= 1

    def assign_client(self, peer: str | None) -> str | None:
        """
        Count a connection for its client, who has to :meth:`release_client`.

        :return: what it is counted as; ``None``: the client has as many as it may have.
        """
        if not self.limits.client_connections or self.limits.proxies.trusts(peer or LOCAL):
            return ""
        origin = origin_of(peer or LOCAL)
        count = self._connections.get(origin, 0)
        if count >= self.limits.client_connections:
            return None
        self._connections[origin] = count + 1
        return origin

    def release_client(self, origin: str | None) -> None:
        """A connection has ended, or is counted for another client from now on."""
        if origin:
            self._connections[origin] -= 1
            if not self._connections[origin]:
                del self._connections[origin]
