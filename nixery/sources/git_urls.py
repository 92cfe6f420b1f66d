"""
Validate and normalise URLs of git repositories.

git takes URLs, paths, and ``host:path`` as ssh does; Nix takes URLs only, and gets
``host:path`` wrong.  A URL may also hold a password, which must not appear in a list of
processes, a message, a cache key or a file.  All of these use :func:`public_url`, and git
gets the rest from its environment (:mod:`nixery.sources.git_arguments`).
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from attrs import field, frozen

__all__ = [
    "SCHEMES",
    "Credentials",
    "credentials",
    "has_unusable_password",
    "is_local",
    "is_ref_name",
    "is_supported",
    "public_url",
    "url_rewrites",
]

SCHEMES = ("https", "ssh", "file", "http", "git")
"""Supported schemes.  Others would run programs: git runs the remote helper named after one."""

# Text before a colon, without a slash, is a host.
_SCP = re.compile(r"(?P<host>[^/:]+):(?P<path>(?!//|:).+)", re.DOTALL)

# A host must not begin with a dash: ssh would take it for an option.
_HOST = re.compile(r"(?:\w[\w.-]*|\[[0-9A-Fa-f:.]+\])", re.ASCII)
_USER = re.compile(r"\w[\w.-]*", re.ASCII)

# Names that git's check-ref-format refuses, and characters that ls-remote takes for wildcards.
_INVALID_IN_REF_NAMES = re.compile(
    r"[\x00-\x20\x7f~^:?*\[\]\\]|\.\.|@\{|//|^/|/$|\.$|^\.|/\.|\.lock(?:/|$)|^-|^@$"
)


def public_url(url: str) -> str:
    """
    Normalise a URL, and remove its password, and for HTTP also its user name.

    :param url: one that :func:`is_supported` accepts; a path is absolute.
    """
    if url.startswith("/"):
        return Path("/", url.lstrip("/")).as_uri()
    scp = _SCP.fullmatch(url)
    if scp:
        return f"ssh://{scp['host']}/{quote(scp['path'].lstrip('/'), safe=_UNQUOTED)}"
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    if parts.scheme in ("http", "https"):
        # User name and password may both be secret: tokens are given as user names too.
        user = at = ""
    user = user.partition(":")[0]
    # The rest stays unchanged: escaped characters stay escaped.
    path = quote(parts.path, safe=_UNQUOTED + "%")
    if parts.scheme == "file":
        path = "/" + path.lstrip("/")
    return urlunsplit((parts.scheme, f"{user}{at}{host}", path, "", ""))


def url_rewrites(url: str) -> dict[str, str]:
    """
    Return git configuration that maps the public form of ``host:path`` back to it.

    It is empty for all other URLs: git reaches them by their public form.
    """
    return {f"url.{url}.insteadOf": public_url(url)} if _SCP.fullmatch(url) else {}


@frozen(kw_only=True)
class Credentials:
    """
    The user and the password of a URL, decoded.

    :param origin: scheme, host and port, which they are for.
    :param password: ``None`` if the URL has a user name alone.
    """

    origin: str
    user: str = field(repr=False)
    password: str | None = field(repr=False)


def credentials(url: str) -> Credentials | None:
    """Return the credentials in a URL for HTTP, if there are any."""
    parts = urlsplit(url)
    given, at, host = parts.netloc.rpartition("@")
    if parts.scheme not in ("http", "https") or not at:
        return None
    user, colon, password = given.partition(":")
    return Credentials(
        origin=f"{parts.scheme}://{host}",
        user=unquote(user),
        password=unquote(password) if colon else None,
    )


def has_unusable_password(url: str) -> bool:
    """True if a URL seems to hold a password, for a protocol that takes none from a URL."""
    if url.startswith("/"):
        return False
    scp = _SCP.fullmatch(url)
    if scp:
        # user:password@host, with a colon or a slash after it
        return "@" in scp["path"].partition("/")[0]
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    user, _, _ = parts.netloc.rpartition("@")
    return parts.scheme not in ("http", "https") and ":" in user


def is_local(url: str) -> bool:
    """True if a repository is on this machine, by a path or a URL with ``file:``."""
    return url.startswith(("/", "file:"))


def is_supported(url: str) -> bool:
    """True if it is the URL of a repository, an absolute path or ``host:path``."""
    # git takes a leading dash for an option; two colons would run a remote helper.
    if url.startswith("-") or "::" in url.partition("/")[0] or not url.isprintable():
        return False
    if url.startswith("/"):
        return bool(url.strip("/"))
    if has_unusable_password(url):
        return False
    scp = _SCP.fullmatch(url)
    if scp:
        user, at, host = scp["host"].rpartition("@")
        return bool(_HOST.fullmatch(host) and (not at or _USER.fullmatch(user)))
    try:
        parts = urlsplit(url)
        if parts.query or parts.fragment or parts.scheme not in SCHEMES:
            return False
        if parts.scheme == "file":
            return not parts.netloc and bool(parts.path.strip("/"))
        host = parts.netloc.rpartition("@")[2].removesuffix(f":{parts.port}")
        return bool(_HOST.fullmatch(host)) and parts.port != 0
    except ValueError:
        return False


def is_ref_name(name: str) -> bool:
    """True if a branch or a tag can have this name."""
    return bool(name) and len(name) <= 250 and not _INVALID_IN_REF_NAMES.search(name)


_UNQUOTED = "/!$&'()*+,;=~"
