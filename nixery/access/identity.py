"""Who sends a request, as far as that is known."""

from __future__ import annotations

from attrs import frozen

__all__ = ["ANONYMOUS", "ANY_USER", "Identity", "IssuedToken", "Client"]

ANONYMOUS = "anonymous"
"""What the rules call whoever has not logged in; no user can have this name."""


ANY_USER = "*"
"""What the rules call all users that they do not name; nor can a user have this one."""


@frozen(kw_only=True)
class Identity:
    """
    What credentials have proved.

    :param user: whose they are; ``None``: a token for whoever has not logged in.
    :param scopes: the repositories that a token is for; ``None``: all that the user may
        have.
    """

    user: str | None
    scopes: frozenset[str] | None = None


@frozen(kw_only=True)
class Client:
    """
    Who sends a request.

    :param address: the client's.
    :param user: who has logged in; ``None``: nobody.
    :param identity: what the credentials have proved; ``None``: there were none, or they
        are worth nothing.
    :param fault: why they are worth nothing, for a person; empty where there were none.
    """

    address: str
    identity: Identity | None = None
    fault: str = ""

    @property
    def user(self) -> str | None:
        return None if self.identity is None else self.identity.user


@frozen(kw_only=True)
class IssuedToken:
    """
    A token for a client.

    :param seconds: how long it is good for.
    :param time: when it was made, in seconds since 1970.
    :param refresh: what is good for further tokens, where the client has asked for it.
    """

    token: str
    seconds: int
    time: int
    refresh: str | None = None
