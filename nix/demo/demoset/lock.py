"""Reads and renders ``lock.json``: every .deb that the set is made of, with its URL and sum."""

from __future__ import annotations

import json
from collections.abc import Mapping

from attrs import frozen

from demoset.archive import ArchiveState
from demoset.debian import upstream_version
from demoset.recipes import Unit

__all__ = ["FORMAT", "Lock", "parse_lock", "render_lock"]

FORMAT = 1
"""The version of the lock's format; ``default.nix`` refuses any other."""


@frozen(kw_only=True)
class Lock:
    """
    A lock that was made before.

    :param content: the file.
    :param release: the release of Debian that its packages are from.
    """

    content: bytes
    release: int


def parse_lock(content: bytes, fingerprint: str) -> Lock | None:
    """
    Parse a lock.

    :param fingerprint: hash of the recipes.
    :return: ``None`` if it cannot be used: it is damaged, of another version, or made from other
        recipes.
    """
    try:
        lock = json.loads(content)
    except ValueError:
        return None
    if (
        not isinstance(lock, dict)
        or lock.get("format") != FORMAT
        or lock.get("recipes") != fingerprint
        or not isinstance(lock.get("release"), int)
    ):
        return None
    return Lock(content=content, release=lock["release"])


def render_lock(state: ArchiveState, fingerprint: str) -> Lock:
    """
    Render the lock as JSON, the same for the same state of the archive.

    :param fingerprint: hash of the recipes that it was made from.
    """
    text = json.dumps(
        {
            "format": FORMAT,
            "recipes": fingerprint,
            "release": state.release,
            "systems": {
                name: {
                    unit: _render_unit(content, system.urls)
                    for unit, content in system.units.items()
                }
                for name, system in state.systems.items()
            },
        },
        indent=1,
        sort_keys=True,
    )
    return Lock(content=f"{text}\n".encode(), release=state.release)


def _render_unit(unit: Unit, urls: Mapping[str, str]) -> Mapping[str, object]:
    return {
        "version": upstream_version(unit.main.version),
        "description": unit.main.description,
        "homepage": unit.main.homepage,
        "debs": [
            {
                "name": deb.name,
                "version": deb.version,
                "url": urls[deb.name],
                "size": deb.size,
                "sha256": deb.sha256,
            }
            for deb in unit.debs
        ],
        "depends": list(unit.depends),
    }
