"""Finds values that are valid one by one and contradict each other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from nixery.config.errors import ConfigProblem
from nixery.config.layer import Layer
from nixery.config.setting import ANY_VALUE, Setting
from nixery.config.settings import SETTINGS

__all__ = ["find_contradictions"]


_OVERLAY_FLAKE = (
    "it does not apply to the packages of a flake, which it makes itself: write a flake with"
    " legacyPackages = import nixpkgs { overlays = ...; config = ...; }, which may have that flake"
    " as an input, and name yours in flake"
)
_PURE = (
    "it does not apply to a flake, whose evaluation is pure and sees only its inputs: make what it"
    " needs an input of it"
)
_NOT_FOR_FLAKES = {
    "overlays": _OVERLAY_FLAKE,
    "nixpkgs_config": _OVERLAY_FLAKE,
    "nix_path": _PURE,
    "extra_paths": _PURE,
    "allow_unpinned_fetches": _PURE,
}
"""Settings that mean nothing where the source is a flake, and what to do in their place."""


def find_contradictions(
    values: Mapping[str, object], ranks: Mapping[str, int], layers: list[Layer]
) -> Iterator[ConfigProblem]:
    """Find combinations of values that are valid one by one and contradict each other."""
    by_name = {setting.name: setting for setting in SETTINGS}
    for setting in SETTINGS:
        if setting.requires is None or setting.name not in ranks:
            continue
        other, needed = setting.requires
        if other in ranks and other not in values:
            continue  # its value did not parse, so what was meant is unknown
        actual = values.get(other, by_name[other].default)
        # If a higher layer chooses something else, a lower one's details have no effect; layers
        # exist for that.
        group = by_name[other].group
        choosing = [
            ranks[each.name]
            for each in SETTINGS
            if each.name in ranks and (each.name == other or (group and each.group == group))
        ]
        overridden = max(choosing, default=-1) > ranks[setting.name]
        if needed is ANY_VALUE and actual is None:
            only = f"it needs {other} too"
        elif needed is not ANY_VALUE and actual != needed:
            only = f"it needs {other}: {needed} (now: {actual})"
        else:
            continue
        if not overridden:
            yield layers[ranks[setting.name]].problem(setting, only)
    yield from _check_flake(values, ranks, layers, by_name)
    yield from _check_platforms(values, ranks, layers, by_name)
    yield from _check_auth(values, ranks, layers, by_name)
    if "signing_key" in ranks and "public_url" not in ranks:
        yield layers[ranks["signing_key"]].problem(
            by_name["signing_key"],
            "give public_url too: it is the name of the registry that is signed",
        )
    if values.get("storage_backend") == "gcs" and "storage_backend" in ranks:
        layer = layers[ranks["storage_backend"]]
        if "gcs_bucket" not in ranks:
            yield layer.problem(
                by_name["storage_backend"], "name the bucket too: GCS_BUCKET or gcs_bucket"
            )
        for one, two in (
            ("gcs_signing_key", "gcs_signing_account"),
            ("gcs_signing_account", "gcs_signing_key"),
        ):
            if one in ranks and two not in ranks:
                yield layers[ranks[one]].problem(by_name[one], f"give {two} too, or neither")


def _check_flake(
    values: Mapping[str, object],
    ranks: Mapping[str, int],
    layers: list[Layer],
    by_name: Mapping[str, Setting],
) -> Iterator[ConfigProblem]:
    """Check the settings that change a package set against ``flake``."""
    if values.get("flake") is None:
        return
    for name, text in _NOT_FOR_FLAKES.items():
        if values.get(name):
            yield layers[ranks[name]].problem(by_name[name], text)


def _check_platforms(
    values: Mapping[str, object],
    ranks: Mapping[str, int],
    layers: list[Layer],
    by_name: Mapping[str, Setting],
) -> Iterator[ConfigProblem]:
    """Check the platforms of indexes against ``system``."""
    platforms = values.get("platforms")
    system = values.get("system", by_name["system"].default)
    if isinstance(platforms, tuple) and platforms and system not in platforms:
        yield layers[ranks["platforms"]].problem(
            by_name["platforms"],
            f"add {system}, which is the system: clients that accept no index get its image",
        )


def _check_auth(
    values: Mapping[str, object],
    ranks: Mapping[str, int],
    layers: list[Layer],
    by_name: Mapping[str, Setting],
) -> Iterator[ConfigProblem]:
    """Check the settings for passwords, rules, anonymous clients and tokens against ``auth``."""
    if "auth" in ranks and "auth" not in values:
        return
    auth = values.get("auth", "none")
    rules = values.get("auth_rules")
    if auth == "none":
        for name in ("htpasswd_file", "auth_rules"):
            if name in ranks and ranks.get("auth", -1) <= ranks[name]:
                yield layers[ranks[name]].problem(
                    by_name[name],
                    "it needs auth: htpasswd or token; without it, everyone can pull everything",
                )
        return
    if "htpasswd_file" not in ranks:
        yield layers[ranks["auth"]].problem(
            by_name["auth"],
            "name the file of the passwords too: htpasswd_file (htpasswd -B -c FILE USER makes"
            " one)",
        )
    if auth != "token" and isinstance(rules, Mapping) and "anonymous" in rules:
        yield layers[ranks["auth_rules"]].problem(
            by_name["auth_rules"],
            "pulls without logging in (anonymous) need auth: token; with a plain password, clients"
            " either always send one or never",
        )
    if auth == "token" and "port" in ranks and "public_url" not in ranks:
        yield layers[ranks["auth"]].problem(
            by_name["auth"],
            "give public_url too: it is where clients of other machines fetch their tokens",
        )
