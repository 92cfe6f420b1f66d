"""
Parsers for settings that are URLs, or name package sources; see :mod:`nixery.config.types`.
"""

from __future__ import annotations

import re
from urllib.parse import urlsplit

from nixery.config.types import InvalidValue, Kind, parse_path, parse_text
from nixery.image.names import is_commit
from nixery.sources.git_urls import SCHEMES, has_unusable_password, is_ref_name, is_supported

__all__ = ["ARCHIVE_URL", "BASE_URL", "CHANNEL", "DATA_URL", "REF", "REPOSITORY", "URL"]


def _parse_channel(value: object) -> str:
    text = parse_text(value)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", text):
        raise InvalidValue("give the name of a channel, as nixos-unstable, or a full commit")
    return text.lower() if is_commit(text.lower()) else text


def _parse_repository(value: object) -> str:
    text = parse_text(value)
    # As in git: a colon before any slash separates a host from a path.
    if ":" not in text.partition("/")[0] and not text.startswith("-"):
        text = str(parse_path(text))
    if has_unusable_password(text):
        raise InvalidValue(
            "leave the password out, which ssh and git take from no URL: give the user that the"
            " registry runs as an SSH key, and write ssh://USER@HOST/PATH"
        )
    if not is_supported(text):
        raise InvalidValue(
            f"give the URL of a git repository ({', '.join(SCHEMES)}), host:path, or a path"
        )
    return text


def _parse_ref(value: object) -> str:
    text = parse_text(value)
    if not is_ref_name(text):
        raise InvalidValue("give the name of a branch or a tag, or a full commit")
    return text.lower() if is_commit(text.lower()) else text


def _parse_url(value: object) -> str:
    text = parse_text(value)
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or " " in text:
        raise InvalidValue("give a URL that begins with http:// or https:// and names a host")
    return text


def _parse_data_url(value: object) -> str:
    text = parse_text(value)
    if not text.startswith("file:"):
        return _parse_url(text)
    parts = urlsplit(text)
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/"):
        raise InvalidValue("give an absolute path, as file:///srv/popularity.json")
    return text


def _parse_archive_url(value: object) -> str:
    text = parse_text(value)
    if "{commit}" not in text:
        raise InvalidValue("give a URL with {commit} where the commit belongs")
    if "@" in urlsplit(_parse_url(text.replace("{commit}", "0" * 40))).netloc:
        raise InvalidValue(
            "leave user and password out, which others on this machine would see: Nix takes them"
            " from the file that netrc-file names in nix.conf"
        )
    return text


def _parse_base_url(value: object) -> str:
    parts = urlsplit(_parse_url(value))
    if parts.query or parts.fragment or parts.path.strip("/") or "@" in parts.netloc:
        raise InvalidValue("give scheme, host and port only, as https://registry.example.org")
    return f"{parts.scheme}://{parts.netloc}"


REF = Kind(name="git reference", parse=_parse_ref)
ARCHIVE_URL = Kind(name="URL", parse=_parse_archive_url)
CHANNEL = Kind(name="channel", parse=_parse_channel)
REPOSITORY = Kind(name="URL", parse=_parse_repository)
URL = Kind(name="URL", parse=_parse_url)
DATA_URL = Kind(name="URL", parse=_parse_data_url)
BASE_URL = Kind(name="URL", parse=_parse_base_url)
