"""
Errors of authentication and authorization.
"""

from __future__ import annotations

from attrs import frozen

from nixery.errors import NixeryError, UnusableFile

__all__ = [
    "AccessDenied",
    "CrossSiteRequest",
    "HostNotAllowed",
    "LoginFailed",
    "LoginRequired",
    "LoginThrottled",
    "PasswordFileUnusable",
    "TokenInvalid",
    "TokenKeyUnusable",
]


class PasswordFileUnusable(UnusableFile):
    """The password file cannot be read or cannot be trusted; ``path`` may name a line of it."""

    problem = "cannot use the password file {path}"


class TokenKeyUnusable(UnusableFile):
    """The key that tokens are signed with cannot be used."""

    problem = "cannot sign tokens with the key at {path}"
    advice = "openssl genpkey -algorithm ed25519 makes one"


@frozen(kw_only=True)
class LoginRequired(NixeryError):
    """
    The client has to log in first.

    :param challenge: how to log in, in the form of the header ``WWW-Authenticate``.
    :param reason: why the credentials that were sent are invalid; empty if none were sent.
    """

    challenge: str
    reason: str = ""

    @property
    def message(self) -> str:
        return self.reason or "log in first: docker login"


@frozen(kw_only=True)
class LoginFailed(NixeryError):
    """The password is wrong, or there is no such user."""

    @property
    def message(self) -> str:
        return "wrong user name or password"


@frozen(kw_only=True)
class LoginThrottled(NixeryError):
    """
    The password is not checked now, because too many were wrong before.

    :param retry_after: seconds after which passwords are checked again.
    """

    retry_after: float

    @property
    def message(self) -> str:
        return (
            f"too many failed or waiting logins: try again in {max(1, round(self.retry_after))} s"
        )


@frozen(kw_only=True)
class TokenInvalid(NixeryError):
    """The token is invalid or has expired."""

    reason: str

    @property
    def message(self) -> str:
        return f"the token is not accepted: {self.reason}"


@frozen(kw_only=True)
class AccessDenied(NixeryError):
    """
    The user may not pull the image.

    :param user: the user who has logged in.
    :param packages: those of the image that the user may not pull, as they were requested.
    """

    user: str
    packages: tuple[str, ...]

    @property
    def message(self) -> str:
        return (
            f"{self.user} is not allowed to pull {', '.join(self.packages)}:"
            " ask the registry's operator"
        )


@frozen(kw_only=True)
class HostNotAllowed(NixeryError):
    """A page was requested under a name that is not one of the registry's."""

    host: str

    @property
    def message(self) -> str:
        return (
            f"this registry has no pages for the host {self.host}: its operator can name it in"
            " allowed_hosts, or in public_url"
        )


@frozen(kw_only=True)
class CrossSiteRequest(NixeryError):
    """A page of another site asked for an image, in the browser of one of its readers."""

    @property
    def message(self) -> str:
        return (
            "a page of another site cannot pull or build images: use the registry's own page, or"
            " pull with a container engine"
        )
