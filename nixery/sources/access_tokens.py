"""
Give git the access tokens of Nix, for repositories that Nix fetches as archives of their host.

Nix fetches ``github:`` and ``gitlab:`` with tokens of its option ``access-tokens``, but their
branches and tags are listed by git.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from urllib.parse import quote, urlsplit

from attrs import evolve

from nixery.sources.source import GitSource

__all__ = ["parse_access_tokens", "with_access_token"]

_OPTION = re.compile(r"\s*(?:extra-)?access-tokens\s*=(?P<value>[^#\n]*)")

_USER = "oauth2"
"""A user name that all these hosts take beside a token."""


def parse_access_tokens(lines: Iterable[str]) -> dict[str, str]:
    """
    Return the tokens by their hosts, or by a host and the beginning of a path.

    :param lines: lines of a nix.conf.
    """
    tokens: dict[str, str] = {}
    for line in lines:
        match = _OPTION.match(line)
        for part in match["value"].split() if match else ():
            host, _, token = part.partition("=")
            tokens[host] = token
    return tokens


def with_access_token(source: GitSource, tokens: Mapping[str, str]) -> GitSource:
    """
    Return a repository with the token that Nix would use for it, if there is one.

    :param source: its URL has no password.
    :param tokens: as :func:`parse_access_tokens` returns them.
    """
    parts = urlsplit(source.url)
    place = parts.netloc + parts.path
    fitting = [host for host in tokens if place == host or place.startswith(f"{host}/")]
    if parts.scheme != "https" or not fitting:
        return source
    # The type of a token of GitLab is for Nix.
    token = tokens[max(fitting, key=len)].removeprefix("OAuth2:").removeprefix("PAT:")
    credentials = f"{_USER}:{quote(token, safe='')}"
    return evolve(source, url=parts._replace(netloc=f"{credentials}@{parts.netloc}").geturl())
