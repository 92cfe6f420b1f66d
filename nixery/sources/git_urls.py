"""
The forms that the URL of a git repository may have, and the one that is used.

git takes URLs, paths, and ``host:path`` as ssh does; Nix takes URLs only, and gets
``host:path`` wrong.  A URL may also hold a password, which neither a list of
processes nor a message, a cache key or a file is to show.  So all of these go by
:func:`public_url`, and git learns the rest from its environment
(:func:`rewriting`).
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import quote, urlsplit, urlunsplit

__all__ = ["SCHEMES", "has_secret", "is_ref_name", "is_supported", "public_url", "rewriting"]

SCHEMES = ("https", "ssh", "file", "http", "git")
"""Others would run programs: a remote helper is called like its scheme."""

# What stands before a colon, without a slash, is a host.
_SCP = re.compile(r"(?P<host>[^/:]+):(?P<path>(?!//|:).+)", re.DOTALL)

# Not a dash first: ssh takes such a host for an option.
_HOST = re.compile(r"(?:\w[\w.-]*|\[[0-9A-Fa-f:.]+\])", re.ASCII)
_USER = re.compile(r"\w[\w.-]*", re.ASCII)

# What git's check-ref-format refuses, and characters that ls-remote takes for wildcards.
_NOT_IN_REFS = re.compile(
    r"[\x00-\x20\x7f~^:?*\[\]\\]|\.\.|@\{|//|^/|/$|\.$|^\.|/\.|\.lock(?:/|$)|^-|^@$"
)


def public_url(url: str) -> str:
    """
    The URL in one spelling, and without what is secret in it.

    :param url: as :func:`is_supported` likes it; a path is absolute.
    """
    if url.startswith("/"):
        return Path("/", url.lstrip("/")).as_uri()
    scp = _SCP.fullmatch(url)
    if scp:
        return f"ssh://{scp['host']}/{quote(scp['path'].lstrip('/'), safe=_SAFE)}"
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    if parts.scheme in ("http", "https"):
        # Both parts may be secret: tokens are given as user names too.
        user = at = ""
    user = user.partition(":")[0]
    # The rest as it is: what is escaped already stays escaped.
    path = quote(parts.path, safe=_SAFE + "%")
    if parts.scheme == "file":
        path = "/" + path.lstrip("/")
    return urlunsplit((parts.scheme, f"{user}{at}{host}", path, "", ""))


def rewriting(url: str) -> dict[str, str]:
    """
    The configuration of git with which the public form of a URL leads to where
    ``url`` does; empty where it does so by itself.
    """
    if _SCP.fullmatch(url) or has_secret(url):
        return {f"url.{url}.insteadOf": public_url(url)}
    return {}


def has_secret(url: str) -> bool:
    """Whether something is in a URL that the public form must not have."""
    parts = urlsplit(url)
    user, at, _ = parts.netloc.rpartition("@")
    return bool(at) and (parts.scheme in ("http", "https") or ":" in user)


def is_supported(url: str) -> bool:
    """Whether it is the URL of a repository: an absolute path, too, or ``host:path``."""
    # A leading dash would make an option of it, two colons call a remote helper.
    if url.startswith("-") or "::" in url.partition("/")[0] or not url.isprintable():
        return False
    if url.startswith("/"):
        return bool(url.strip("/"))
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
    """Whether a branch or a tag can have this name."""
    return bool(name) and len(name) <= 250 and not _NOT_IN_REFS.search(name)


_SAFE = "/!$&'()*+,;=~"
