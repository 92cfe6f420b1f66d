"""
Parsers for settings that are URLs, or name package sources; see :mod:`nixery.config.types`.
"""

from __future__ import annotations

import base64
import re
from pathlib import Path
from urllib.parse import urlsplit

from nixery.config.types import InvalidValue, Kind, parse_mapping, parse_path, parse_text
from nixery.image.names import is_commit
from nixery.sources.flake_urls import USE_NETRC, InvalidFlakeUrl, parse_flake_url
from nixery.sources.git_urls import SCHEMES, has_unusable_password, is_ref_name, is_supported
from nixery.sources.search_path import PinnedArchive
from nixery.sources.source import FlakeSource

__all__ = [
    "ARCHIVE_URL",
    "BASE_URL",
    "CHANNEL",
    "DATA_URL",
    "FLAKE",
    "NIX_PATH",
    "REF",
    "REPOSITORY",
    "URI",
    "URL",
]

_NIX_DIGITS = "0123456789abcdfghijklmnpqrsvwxyz"
_SHA256 = re.compile(
    rf"(?:sha256[-:])?(?:(?P<hex>[0-9a-f]{{64}})|(?P<nix>[{_NIX_DIGITS}]{{52}})"
    r"|(?P<base64>[A-Za-z0-9+/]{43}=))"
)


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


def _parse_flake(value: object) -> FlakeSource:
    try:
        return parse_flake_url(parse_text(value))
    except InvalidFlakeUrl as error:
        raise InvalidValue(str(error)) from None


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


def _parse_uri(value: object) -> str:
    text = parse_text(value)
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*:[!-~]+", text):
        raise InvalidValue("give a URI, as https://registry.example.org/builder")
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
    _check_archive(text.replace("{commit}", "0" * 40))
    return text


def _check_archive(url: str) -> None:
    """Check the URL of an archive, which Nix downloads."""
    if "@" in urlsplit(_parse_url(url)).netloc:
        raise InvalidValue(USE_NETRC)


def _parse_nix_path(value: object) -> dict[str, Path | PinnedArchive]:
    entries: dict[str, Path | PinnedArchive] = {}
    for name, given in parse_mapping(value).items():
        # Names of the daemon's own entries, and of the files that Nix has built in.
        if not re.fullmatch(r"(?!nixery-|nix\Z)[A-Za-z0-9_][A-Za-z0-9._+-]*", name):
            raise InvalidValue(f"{name!r} cannot be written as <{name}>, or has a meaning already")
        text = parse_text(given)
        if text.startswith("/"):
            entries[name] = parse_path(text)
            continue
        url, _, sha256 = text.rpartition("#")
        digest = _parse_sha256(sha256)
        if not url.startswith(("http://", "https://")) or digest is None:
            raise InvalidValue(
                f"give {name!r} an absolute path, or the URL of an archive with its hash, as"
                " https://host/nixpkgs.tar.gz#sha256-... (nix-prefetch-url --unpack prints one)"
            )
        _check_archive(url)
        entries[name] = PinnedArchive(url=url, sha256=digest.hex())
    return entries


def _parse_sha256(text: str) -> bytes | None:
    """Parse a hash in any of the spellings of Nix."""
    match = _SHA256.fullmatch(text)
    if match is None:
        return None
    if match["hex"]:
        return bytes.fromhex(match["hex"])
    if match["base64"]:
        return base64.b64decode(match["base64"])
    number = 0
    for digit in match["nix"]:
        number = number * 32 + _NIX_DIGITS.index(digit)
    # 52 digits have 4 bits more than a hash.
    return number.to_bytes(32, "little") if number < 1 << 256 else None


def _parse_base_url(value: object) -> str:
    parts = urlsplit(_parse_url(value))
    if parts.query or parts.fragment or parts.path.strip("/") or "@" in parts.netloc:
        raise InvalidValue("give scheme, host and port only, as https://registry.example.org")
    return f"{parts.scheme}://{parts.netloc}"


URI = Kind(name="URI", parse=_parse_uri)
FLAKE = Kind(name="URL", parse=_parse_flake)
REF = Kind(name="git reference", parse=_parse_ref)
ARCHIVE_URL = Kind(name="URL", parse=_parse_archive_url)
CHANNEL = Kind(name="channel", parse=_parse_channel)
REPOSITORY = Kind(name="URL", parse=_parse_repository)
URL = Kind(name="URL", parse=_parse_url)
DATA_URL = Kind(name="URL", parse=_parse_data_url)
BASE_URL = Kind(name="URL", parse=_parse_base_url)
NIX_PATH = Kind(name="mapping", parse=_parse_nix_path)
