"""
Limits the request rate and the number of connections of clients.

Every request is checked here, which must cost microseconds only: has its client sent too
many, by its address and by its user?  Connections are counted too, per client and in all.

At the limit of connections, a few more are accepted for a moment: a monitor must get its
answer that the daemon is alive, or the daemon would be killed for being busy, and all other
clients are told to retry later.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from attrs import define, field, frozen

from nixery.errors import NixeryError
from nixery.limits.addresses import UNIX_SOCKET, TrustedProxies, client_key_of
from nixery.limits.errors import RequestsExceeded, TooManyConnections
from nixery.limits.token_buckets import TokenBuckets

__all__ = ["AdmissionControl", "AdmissionLimits"]

RESERVED_CONNECTIONS = 64
"""Connections that are accepted beyond the limit, for a moment."""

UNLIMITED_PATHS = frozenset({b"/healthz", b"/readyz"})
"""Paths that monitors request; they are exempt from the limits."""


REQUEST_READ_TIMEOUT_SECONDS = 30.0
"""
Seconds for a request to arrive: it has no body to speak of, and 16 KiB come through any line in
this time.
"""


@frozen(kw_only=True)
class AdmissionLimits:
    """
    The limits for clients; 0 stands for any number.

    :param requests_per_second: requests of a client per second, in the long run.
    :param burst: requests of a client at once.
    :param max_connections: connections of all clients.
    :param connections_per_client: connections of one client.
    :param request_read_timeout: seconds from the first byte of a request to its last.
    :param idle_timeout: seconds that a connection may wait for its next request.
    :param proxies: the proxies whose ``X-Forwarded-For`` is trusted.
    """

    requests_per_second: int = 0
    burst: int = 1
    max_connections: int = 0
    connections_per_client: int = 0
    request_read_timeout: float = REQUEST_READ_TIMEOUT_SECONDS
    idle_timeout: float = 60.0
    proxies: TrustedProxies = field(factory=TrustedProxies)


@define(kw_only=True, eq=False)
class AdmissionControl:
    """
    Accepts or refuses requests and connections.

    :param seconds: the monotonic time, as the reactor's ``seconds``.
    """

    limits: AdmissionLimits = field(factory=AdmissionLimits)
    seconds: Callable[[], float]

    refusals: dict[str, int] = field(factory=dict, init=False)
    """Number of refusals, by a word for the reason."""

    _request_buckets: TokenBuckets | None = field(init=False)
    _client_connections: dict[str, int] = field(factory=dict, init=False)
    _connection_count: int = field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        limits = self.limits
        self._request_buckets = None
        if limits.requests_per_second:
            self._request_buckets = TokenBuckets(
                rate=limits.requests_per_second, burst=max(1, limits.burst), seconds=self.seconds
            )

    def count_refusal(self, reason: str) -> None:
        """Count a refusal."""
        self.refusals[reason] = self.refusals.get(reason, 0) + 1

    # -- requests -------------------------------------------------------------------

    def client_address(self, peer: str | None, forwarded: Sequence[bytes] | None) -> str:
        """
        Return the address of the client that sends a request.

        :param peer: the peer of the connection; ``None``: it has no address.
        :param forwarded: the values of ``X-Forwarded-For``, if there are any.
        """
        address = peer or UNIX_SOCKET
        if forwarded and self.limits.proxies:
            return self.limits.proxies.client_address(address, forwarded)
        return address

    def check_request(
        self, path: bytes, client_keys: Sequence[str], *, over_limit: bool
    ) -> NixeryError | None:
        """
        Tell whether a request is allowed.

        :param client_keys: the keys that its client is counted under.
        :param over_limit: whether it came on a connection beyond the limit.
        :return: the error to answer with; ``None``: it is allowed.
        """
        if path in UNLIMITED_PATHS:
            return None
        if over_limit:
            self.count_refusal("connections")
            return TooManyConnections(limit=self.limits.max_connections)
        if self._request_buckets is None:
            return None
        charged: list[str] = []
        for key in client_keys:
            wait = self._request_buckets.take(key)
            if wait:
                for each in charged:
                    self._request_buckets.put_back(each)
                self.count_refusal("requests")
                return RequestsExceeded(
                    rate=self.limits.requests_per_second, burst=self.limits.burst, retry_after=wait
                )
            charged.append(key)
        return None

    # -- connections ------------------------------------------------------------------

    def connection_opened(self) -> bool | None:
        """
        Count a new connection; call :meth:`connection_closed` when it ends.

        :return: whether it is within the limit; ``None``: it is not to be accepted at all,
            not even for a moment.
        """
        self._connection_count += 1
        excess = self._connection_count - self.limits.max_connections
        if not self.limits.max_connections or excess <= 0:
            return True
        return False if excess <= RESERVED_CONNECTIONS else None

    def connection_closed(self) -> None:
        """Count the end of a connection."""
        self._connection_count -= 1

    def assign_client(self, peer: str | None) -> str | None:
        """
        Count a connection for its client, until :meth:`release_client`.

        :return: the key that it is counted under; ``None``: the client is at its limit.
        """
        if not self.limits.connections_per_client or self.limits.proxies.trusts(
            peer or UNIX_SOCKET
        ):
            return ""
        client_key = client_key_of(peer or UNIX_SOCKET)
        count = self._client_connections.get(client_key, 0)
        if count >= self.limits.connections_per_client:
            return None
        self._client_connections[client_key] = count + 1
        return client_key

    def release_client(self, client_key: str | None) -> None:
        """Stop counting a connection for a client: it ended, or has another client now."""
        if client_key:
            self._client_connections[client_key] -= 1
            if not self._client_connections[client_key]:
                del self._client_connections[client_key]
