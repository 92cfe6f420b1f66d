"""
Errors of authentication and authorization.
"""

from __future__ import annotations

from attrs import frozen

from nixery.errors import NixeryError

__all__ = [
    "AccessDenied",
    "LoginFailed",
    "LoginRequired",
    "LoginThrottled",
    "PasswordFileUnusable",
    "TokenInvalid",
    "TokenKeyUnusable",
]


@frozen(kw_only=True)
class PasswordFileUnusable(NixeryError):
    """The file of passwords cannot be read, or not be trusted; ``line`` counts from 1."""

    path: str
    reason: str
    line: int | None = None

    @property
    def message(self) -> str:
        place = self.path if self.line is None else f"{self.path}, line {self.line}"
        return f"the passwords are not usable ({place}): {self.reason}"


@frozen(kw_only=True)
class TokenKeyUnusable(NixeryError):
    """The key that tokens are signed with cannot be used."""

    path: str
    reason: str

    @property
    def message(self) -> str:
        return (
            f"tokens cannot be signed with the key at {self.path}: {self.reason};"
            " openssl genpkey -algorithm ed25519 makes one"
        )


@frozen(kw_only=True)
class LoginRequired(NixeryError):
    """
    Nothing is for whoever has not logged in.

    :param challenge: how to log in, as the header ``WWW-Authenticate`` has it.
    :param reason: why what was sent to that end is worth nothing; empty: nothing was.
    """

    challenge: str
    reason: str = ""

    @property
    def message(self) -> str:
        return self.reason or "this registry is for those who have logged in: docker login"


@frozen(kw_only=True)
class LoginFailed(NixeryError):
    """A password that is not the user's, or a user that there is not."""

    @property
    def message(self) -> str:
        return "there is no such user, or the password is another one"


@frozen(kw_only=True)
class LoginThrottled(NixeryError):
    """
    Nothing is checked now, because too much was wrong before.

    :param retry_after: seconds after which it will be.
    """

    retry_after: float

    @property
    def message(self) -> str:
        return (
            "too many log-ins have failed or wait: try again in"
            f" {max(1, round(self.retry_after))} s, with the right password"
        )


@frozen(kw_only=True)
class TokenInvalid(NixeryError):
    """A token that proves nothing, or nothing any more."""

    reason: str

    @property
    def message(self) -> str:
        return f"the token is not accepted: {self.reason}"


@frozen(kw_only=True)
class AccessDenied(NixeryError):
    """
    An image that is not for the user who asks for it.

    :param user: who has logged in.
    :param packages: those of the image that are not for them, as they were asked for.
    """

    user: str
    packages: tuple[str, ...]

    @property
    def message(self) -> str:
        return (
            f"{self.user} may not pull {', '.join(self.packages)} from here:"
            " the registry's operator decides who may have what"
        )
