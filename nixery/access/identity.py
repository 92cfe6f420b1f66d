"""Describes the sender of a request: address, user and what the credentials have proved."""

from __future__ import annotations

from attrs import frozen

__all__ = ["ANONYMOUS", "ANY_USER", "Identity", "IssuedToken", "Client"]

ANONYMOUS = "anonymous"
"""The name in the rules for clients that have not logged in; no user can have it."""


ANY_USER = "*"
"""The name in the rules for all users without an entry; no user can have it."""


@frozen(kw_only=True)
class Identity:
    """
    The identity that credentials have proved.

    :param user: their user; ``None``: a token for a client that has not logged in.
    :param scopes: the repositories that a token is for; ``None``: all that the user may
        pull.
    """

    user: str | None
    scopes: frozenset[str] | None = None


@frozen(kw_only=True)
class Client:
    """
    The sender of a request.

    :param address: the client's address.
    :param user: the user who has logged in; ``None`` without a login.
    :param identity: what the credentials have proved; ``None``: there were none, or they
        are invalid.
    :param auth_error: why they are invalid, for people; empty if there were none.
    """

    address: str
    identity: Identity | None = None
    auth_error: str = ""

    @property
    def user(self) -> str | None:
        return None if self.identity is None else self.identity.user


@frozen(kw_only=True)
class IssuedToken:
    """
    A token that was issued to a client.

    :param lifetime: its lifetime.
    :param issued_at: when it was issued, in seconds since 1970.
    :param refresh_token: the refresh token, if the client has asked for one.
    """

    token: str
    lifetime: int
    issued_at: int
    refresh_token: str | None = None
