"""Tell what an image was made of, for its provenance: the package set, and what belongs to it."""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from nixery.artifacts.provenance import Material
from nixery.sources.git_urls import public_url
from nixery.sources.search_path import PinnedArchive, search_path_of
from nixery.sources.source import (
    PackageSet,
    Revision,
    SourceTree,
    is_pinned_path,
    overlay_paths,
)
from nixery.sources.source_trees import source_trees

__all__ = ["flake_materials", "source_materials"]

_FORGES = ("github", "gitlab", "sourcehut")
"""Kinds of inputs that are named by owner and repository."""


def source_materials(revision: Revision) -> tuple[Material, ...]:
    """Return the package set of a revision, then overlays on it, then its search path."""
    trees = [_fetched(tree) for tree in source_trees(revision)]
    if not trees:
        trees = [_local(Path(revision.identity["path"]))]
    search_path = search_path_of(revision)
    return (
        *trees,
        *map(_local, overlay_paths(revision)),
        *(
            Material(uri=entry.url, digest={"sha256": entry.sha256})
            if isinstance(entry, PinnedArchive)
            else _local(entry)
            for entry in search_path.entries.values()
        ),
        *map(_local, search_path.extra_paths),
    )


def flake_materials(package_set: PackageSet) -> tuple[Material, ...]:
    """
    Return the inputs of a flake, as its lock file names them, and those of its inputs.

    Nix has read the file before: what cannot be read here, such as an input of a new kind, is
    left out, and fails no image.  This reads the file: call it on a worker thread.

    :param package_set: a flake that was fetched.
    """
    flake = json.loads(package_set.flake)
    file = Path(flake["tree"]["path"], flake["directory"], "flake.lock")
    materials = set()
    with suppress(*_UNREADABLE):
        for node in json.loads(file.read_text("utf-8"))["nodes"].values():
            with suppress(*_UNREADABLE):
                materials.add(_input(node["locked"]))
    return tuple(
        Material(uri=uri, digest=dict([digest]) if digest else {})
        for uri, digest in sorted(materials)
    )


_UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError)


def _input(locked: Mapping[str, str]) -> tuple[str, tuple[str, str] | tuple[()]]:
    """Return the URI of a locked input, and what identifies its content."""
    kind = locked["type"]
    if kind in _FORGES:
        host = f"?host={locked['host']}" if "host" in locked else ""
        uri = f"{kind}:{locked['owner']}/{locked['repo']}{host}"
    elif kind == "path":
        uri = f"path:{locked['path']}"
    else:
        uri = f"{'' if kind in ('tarball', 'file') else f'{kind}+'}{public_url(locked['url'])}"
    if "rev" in locked:
        return uri, ("gitCommit", locked["rev"])
    algorithm, _, encoded = locked.get("narHash", "").partition("-")
    return uri, (algorithm, b64decode(encoded, validate=True).hex()) if encoded else ()


def _fetched(tree: SourceTree) -> Material:
    if tree.kind == "flake" and tree.url.startswith("path:"):
        return _local(Path(tree.url.removeprefix("path:")))
    return Material(
        uri=f"git+{tree.url}" if tree.kind == "git" else tree.url,
        digest={"gitCommit": tree.commit} if tree.commit else {},
    )


def _local(path: Path) -> Material:
    # A store path says what is in it, and is the same on every machine.
    return Material(uri=f"nix:{path}" if is_pinned_path(path) else path.absolute().as_uri())
