"""
Parsers for the values of settings.

A parser takes what a layer of the configuration holds (text from the environment
and the command line, YAML data from the file) and returns the value, or raises
:class:`InvalidValue` with a text that says which values are valid. That text never repeats a whole
value, which may be a secret.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import yaml
from attrs import frozen

from nixery.config.yaml_loader import load_yaml
from nixery.image.patterns import PackagePatterns, parse_patterns
from nixery.layers.compression_levels import LEVELS, Compression, parse_compression
from nixery.limits.addresses import TrustedProxies, parse_proxies
from nixery.runtime.sizes import FreeSpaceLimit, parse_free_space_limit, parse_size

__all__ = [
    "AUTH_RULES",
    "BOOLEAN",
    "COMPRESSION",
    "DURATION",
    "ENDPOINTS",
    "NIXPKGS_CONFIG",
    "NIX_OPTIONS",
    "PACKAGES",
    "PATH",
    "PATHS",
    "PROXIES",
    "SECONDS",
    "SIZE",
    "SPACE",
    "HOSTS",
    "INCLUDED_FILE",
    "TAG_PATTERNS",
    "TEXT",
    "Kind",
    "InvalidValue",
    "choice",
    "choices",
    "integer",
    "parse_mapping",
    "parse_path",
    "parse_text",
]


class InvalidValue(ValueError):
    """A setting has an invalid value; the text says which values are valid."""


@frozen(kw_only=True)
class Kind:
    """
    The kind of a setting's value, and its parser.

    :param name: its name in documentation, ``seconds``; units belong here.
    :param parse: parses what a layer holds into the value. Raises :class:`InvalidValue`.
    :param repeated: whether the option may be given several times; its value is
        then a list of texts.
    :param is_list: whether a variable is split at commas before it is parsed.
    """

    name: str
    parse: Callable[[object], object]
    repeated: bool = False
    is_list: bool = False


def integer(minimum: int, maximum: int | None = None, *, unit: str = "integer") -> Kind:
    """Make a kind for whole numbers within limits, both included."""
    limits = f"of at least {minimum}" if maximum is None else f"between {minimum} and {maximum}"
    expected = f"give a whole number {limits}"

    def parse(value: object) -> int:
        if isinstance(value, str) and re.fullmatch(r"\s*[+-]?[0-9]{1,15}\s*", value):
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            raise InvalidValue(expected)
        if value < minimum or (maximum is not None and value > maximum):
            raise InvalidValue(expected)
        return value

    return Kind(name=unit, parse=parse)


def choice(*choices: str) -> Kind:
    """Make a kind for a choice among a few words."""

    def parse(value: object) -> str:
        for allowed in choices:
            if value == allowed:
                return allowed
        raise InvalidValue(f"give one of {', '.join(choices)}")

    return Kind(name="choice", parse=parse)


def choices(*allowed: str) -> Kind:
    """Make a kind for a list of different words among a few."""

    def parse(value: object) -> tuple[str, ...]:
        items = value if isinstance(value, list | tuple) else [value]
        # None of the words has a comma or a space in it.
        words = [part for item in items for part in parse_text(item).replace(",", " ").split()]
        if not set(words) <= set(allowed):
            raise InvalidValue(f"give a list of {', '.join(allowed)}")
        return tuple(dict.fromkeys(words))

    return Kind(name="list", parse=parse)


def parse_text(value: object) -> str:
    # A number is taken for the text it was written as (a bucket called 2024);
    # true and false are not, because YAML also reads `no` and `on` as such.
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.strip() or not value.isprintable():
        raise InvalidValue("give a text that is not empty")
    return value.strip()


def _parse_boolean(value: object) -> bool:
    words = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in words:
        return words[value.strip().lower()]
    raise InvalidValue("give true or false")


def _parse_number(value: object, expected: str) -> float:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise InvalidValue(expected)
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise InvalidValue(expected) from None
    if not (math.isfinite(number) and number >= 0):
        raise InvalidValue(expected)
    return number


def _parse_seconds(value: object) -> float:
    expected = "give a number of seconds greater than 0, without a unit"
    number = _parse_number(value, expected)
    if number == 0:
        raise InvalidValue(expected)
    return number


def _parse_duration(value: object) -> float:
    return _parse_number(value, "give a number of seconds, 0 or more, without a unit")


def parse_path(value: object) -> Path:
    # Made absolute at once: twistd changes its directory when it starts.
    try:
        return Path(parse_text(value)).expanduser().absolute()
    except RuntimeError:
        raise InvalidValue("write the path without ~: that home directory is unknown") from None


def _parse_paths(value: object) -> tuple[Path, ...]:
    items = value if isinstance(value, list | tuple) else [value]
    return tuple(parse_path(item) for item in items)


def _parse_tag_patterns(value: object) -> tuple[str, ...]:
    expected = "give tags or patterns of tags, as [nixos-*, v1.?], or latest alone"
    items = value if isinstance(value, list | tuple) else [value]
    # No tag has a comma or a space in it.
    patterns = [part for item in items for part in parse_text(item).replace(",", " ").split()]
    if not patterns or not all(re.fullmatch(r"[\w.*?!\[\]-]+", part, re.A) for part in patterns):
        raise InvalidValue(expected)
    return tuple(patterns)


def _parse_hosts(value: object) -> tuple[str, ...]:
    items = value if isinstance(value, list | tuple) else [value]
    # No host has a comma or a space in it.
    names = [part for item in items for part in parse_text(item).replace(",", " ").split()]
    if not all(re.fullmatch(r"\*|(\*\.)?[\w-]+(\.[\w-]+)*", name, re.A) for name in names):
        raise InvalidValue("give names of hosts without ports, as [nixery.lan, *.example.org]")
    return tuple(name.lower() for name in names)


def _parse_included_file(value: object) -> Path:
    path = parse_path(value)
    # A line of nix.conf is split at white space, and has no quotes.
    if re.search(r"[\s#]", str(path)):
        raise InvalidValue("give a path without spaces and #: Nix cannot include any other")
    return path


def _parse_endpoints(value: object) -> tuple[str, ...]:
    items = value if isinstance(value, list | tuple) else [value]
    texts = tuple(item.strip() for item in items if isinstance(item, str) and item.strip())
    if not items or len(texts) != len(items):
        raise InvalidValue(
            "give one Twisted endpoint string or a list of them, as tcp:8080:interface=127.0.0.1"
        )
    return texts


def parse_mapping(value: object) -> dict[str, object]:
    expected = "give a mapping, as {name: value}"
    if isinstance(value, str):
        try:
            value = load_yaml(value)
        except (yaml.YAMLError, RecursionError):
            raise InvalidValue(expected) from None
    if not isinstance(value, Mapping):
        raise InvalidValue(expected)
    wrong = [key for key in value if not isinstance(key, str)]
    if wrong:
        raise InvalidValue(f"put the name {wrong[0]!r} into quotation marks")
    return dict(value)


_OWN_NIX_OPTIONS = {
    "allow-import-from-derivation": "the setting allow_import_from_derivation is for that",
    "eval-system": "the setting system is for that",
    "max-silent-time": "the setting nix_timeout is for that",
    "nix-path": "the daemon sets it itself",
    "pure-eval": "the daemon sets it itself",
    "restrict-eval": "the daemon sets it itself",
    "system": "the setting system is for that",
    "timeout": "the setting nix_timeout is for that",
}


def _parse_nix_options(value: object) -> dict[str, str]:
    options: dict[str, str] = {}
    for name, given in parse_mapping(value).items():
        if not re.fullmatch(r"[a-z][a-z0-9-]*", name):
            raise InvalidValue(f"{name!r} is not the name of an option of nix.conf")
        if name in _OWN_NIX_OPTIONS:
            raise InvalidValue(f"leave {name!r} out: {_OWN_NIX_OPTIONS[name]}")
        items = given if isinstance(given, list) else [given]
        if not all(isinstance(item, str | int | float) for item in items):
            raise InvalidValue(f"give {name!r} a text, a number, true, false, or a list of texts")
        options[name] = " ".join(
            str(item).lower() if isinstance(item, bool) else str(item) for item in items
        )
    return options


def _parse_auth_rules(value: object) -> dict[str, PackagePatterns]:
    rules: dict[str, PackagePatterns] = {}
    for user, given in parse_mapping(value).items():
        items = given if isinstance(given, list) else [given]
        texts = [item for item in items if isinstance(item, str)]
        if len(texts) < len(items):
            raise InvalidValue(
                f"give {user!r} a list of patterns, as [shell, git, python3Packages.*]"
            )
        try:
            rules[user] = parse_patterns(texts)
        except ValueError as error:
            raise InvalidValue(f"of {user!r}, {error}") from None
    return rules


def _parse_nixpkgs_config(value: object) -> dict[str, object]:
    config: dict[str, object] = {}
    for name, item in parse_mapping(value).items():
        # YAML knows dates, sets and cycles, which the Nix side cannot receive.
        try:
            config[name] = json.loads(json.dumps(item, allow_nan=False))
        except (TypeError, ValueError, RecursionError):
            raise InvalidValue(
                f"give {name!r} texts, numbers, true, false, lists and mappings only"
            ) from None
    return config


def _parse_bytes(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    try:
        return parse_size(parse_text(value))
    except ValueError:
        raise InvalidValue("give a size, as 200 GiB, or a number of bytes") from None


def _parse_compression(value: object) -> Compression:
    if isinstance(value, Compression):
        return value
    try:
        return parse_compression(parse_text(value))
    except ValueError:
        kinds = (
            f"{kind}-{levels[0]} to {kind}-{levels[-1]}"
            for kind, levels in LEVELS.items()
            if levels[-1]
        )
        raise InvalidValue(
            f"give {', '.join(LEVELS)}, or one with a level: {', '.join(kinds)}"
        ) from None


def _parse_proxies(value: object) -> TrustedProxies:
    if isinstance(value, TrustedProxies):
        return value
    items = value if isinstance(value, list | tuple) else [value]
    texts = [part for item in items for part in parse_text(item).replace(",", " ").split()]
    try:
        return parse_proxies(texts)
    except ValueError:
        raise InvalidValue("give addresses and networks, as [10.0.0.0/8, ::1], or unix") from None


def _parse_packages(value: object) -> PackagePatterns:
    items = value if isinstance(value, list | tuple) else [value]
    texts = [part for item in items for part in parse_text(item).replace(",", " ").split()]
    try:
        return parse_patterns(texts)
    except ValueError as error:
        raise InvalidValue(str(error)) from None


def _parse_space(value: object) -> FreeSpaceLimit:
    if isinstance(value, FreeSpaceLimit):
        return value
    try:
        return parse_free_space_limit(parse_text(value))
    except ValueError:
        raise InvalidValue("give a size, as 1 GiB, a number of bytes, or a share, as 5%") from None


TEXT = Kind(name="text", parse=parse_text)
PATH = Kind(name="path", parse=parse_path)
PATHS = Kind(name="paths", parse=_parse_paths, is_list=True)
BOOLEAN = Kind(name="boolean", parse=_parse_boolean)
SECONDS = Kind(name="seconds", parse=_parse_seconds)
PROXIES = Kind(name="networks", parse=_parse_proxies)
PACKAGES = Kind(name="patterns", parse=_parse_packages)
SIZE = Kind(name="size", parse=_parse_bytes)
SPACE = Kind(name="size or share", parse=_parse_space)
DURATION = Kind(name="seconds", parse=_parse_duration)
HOSTS = Kind(name="hosts", parse=_parse_hosts)
TAG_PATTERNS = Kind(name="patterns", parse=_parse_tag_patterns)
COMPRESSION = Kind(name="compression", parse=_parse_compression)
ENDPOINTS = Kind(name="endpoint strings", parse=_parse_endpoints, repeated=True, is_list=True)
AUTH_RULES = Kind(name="mapping", parse=_parse_auth_rules)
INCLUDED_FILE = Kind(name="path", parse=_parse_included_file)
NIX_OPTIONS = Kind(name="mapping", parse=_parse_nix_options)
NIXPKGS_CONFIG = Kind(name="mapping", parse=_parse_nixpkgs_config)
