"""
The revisions of flakes, and what is fetched of them.

A flake is fetched by ``nix/fetch_flake.nix``: its tree, and the inputs that its ``flake.lock``
names.  The result is one file in the Nix store that refers to all of them, so that one root
protects all, and is read by :func:`read_flake`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import mkdtemp
from urllib.parse import quote, urlencode

from attrs import evolve, frozen

from nixery.errors import UnexpectedOutput
from nixery.image.canonical_json import canonical_json
from nixery.sources.git_urls import public_url
from nixery.sources.source import (
    FlakeInput,
    FlakeSource,
    ResolvedRef,
    Revision,
    SourceTree,
    commit_label,
    is_pinned_path,
)

__all__ = [
    "FetchedFlake",
    "flake_fetch",
    "flake_revision",
    "flake_tree",
    "lock_copy",
    "locked_tree",
    "read_flake",
]


def flake_revision(
    source: FlakeSource,
    name: str,
    resolved: ResolvedRef | None,
    *,
    path: Path | None = None,
    version: str | None = None,
) -> Revision:
    """
    Return the revision of a flake.

    A commit stands for its lock file too, which is one of its files.

    :param name: the name of the tag's reference, as people know it.
    :param resolved: the commit; ``None`` for a path or an archive.
    :param path: of a flake at a path, its path without symlinks.
    :param version: of such a flake, as in :class:`nixery.sources.source.Revision`.
    """
    identity = {
        "kind": "flake",
        "url": source.public_url if path is None else f"path:{path}",
        "directory": source.directory,
    }
    if source.submodules:
        identity["submodules"] = "true"
    if resolved is None:
        if source.nar_hash:
            identity["nar_hash"] = source.nar_hash
        pinned = bool(source.nar_hash) or (path is not None and is_pinned_path(path))
        pinned = pinned and not source.allow_unlocked
        return Revision(
            identity=identity,
            pinned=pinned,
            label=source.public_url,
            version=None if pinned else version,
        )
    identity["commit"] = resolved.commit
    return Revision(
        identity=identity,
        pinned=not source.allow_unlocked,
        label=commit_label(name, resolved.commit),
        ref=resolved.ref,
    )


def flake_tree(source: FlakeSource, revision: Revision) -> SourceTree:
    """Return what is fetched for a revision of a flake."""
    identity = revision.identity
    return SourceTree(
        kind="flake",
        url=public_url(source.location) if source.kind == "git" else identity["url"],
        commit=identity.get("commit", ""),
        ref=revision.ref,
        flake=source,
    )


def flake_fetch(tree: SourceTree, *, shallow: bool = True) -> dict[str, object]:
    """
    Return the argument of ``builtins.fetchTree`` for the tree of a flake.

    :param shallow: whether a git repository may be fetched without its history, where its URL
        asks for that.
    """
    source = tree.flake
    if source is None:
        raise ValueError("the tree is no flake")
    if source.kind in ("github", "gitlab"):
        owner, _, name = source.location.rpartition("/")
        result: dict[str, object] = {"owner": quote(owner, safe=""), "repo": name}
        if source.host != f"{source.kind}.com":
            result["host"] = source.host
        result["rev"] = tree.commit
    elif source.kind == "git":
        result = {"url": tree.url, "rev": tree.commit}
        result |= {"ref": tree.ref} if tree.ref else {"allRefs": True}
        # The history is fetched, as by Nix itself, for flakes may count their commits: without
        # this, ``fetchTree`` of Nix 2.20 and later leaves it out.
        result["shallow"] = source.shallow and shallow
        if source.submodules:
            result["submodules"] = True
    elif source.kind == "path":
        result = {"path": tree.url.removeprefix("path:")}
    else:
        result = {"url": source.location}
        if source.nar_hash:
            result["narHash"] = source.nar_hash
    return {"type": source.kind, **result}


@frozen(kw_only=True)
class FetchedFlake:
    """
    The trees of a flake that were fetched.

    :param tree: the store path of its tree.
    :param info: what it sees of itself: the hash of the tree, its commit and its time.
    :param directory: as in :class:`nixery.sources.source.FlakeSource`.
    :param inputs: those in its lock file.
    """

    tree: Path
    info: Mapping[str, str | int]
    directory: str
    inputs: tuple[FlakeInput, ...] = ()

    @property
    def url(self) -> str:
        """The URL that ``builtins.getFlake`` takes in pure evaluation."""
        query = {name: str(value) for name, value in sorted(self.info.items())}
        # Nix before 2.26 refuses this parameter, and is given the tree.
        if self.directory:
            query["dir"] = self.directory
        return f"path:{self.tree}?{urlencode(query, quote_via=quote, safe='')}"

    @property
    def argument(self) -> str:
        """The JSON that ``nix/flake_set.nix`` takes."""
        tree = {"type": "path", "path": str(self.tree), **self.info}
        return canonical_json({"directory": self.directory, "tree": tree, "url": self.url}).decode()

    @property
    def lock_file(self) -> Path:
        """The path of its lock file, which may be missing."""
        return self.tree / self.directory / "flake.lock"


def read_flake(source: FlakeSource, file: Path) -> FetchedFlake:
    """
    Read what was fetched.

    :param file: made by ``nix/fetch_flake.nix``.
    :raises UnexpectedOutput: it is not.
    """
    text = file.read_text("utf-8")
    try:
        data = json.loads(text)
        return FetchedFlake(
            tree=Path(data["path"]),
            info=dict(data["info"]),
            directory=source.directory,
            inputs=tuple(
                FlakeInput(name=each["name"], rev=each["rev"], path=Path(each["path"]))
                for each in data["inputs"]
            ),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise UnexpectedOutput(what="what was fetched of a flake", excerpt=text[:200]) from error


def lock_copy(flake: FetchedFlake, printed: bytes, directory: Path) -> Path | None:
    """
    Copy the tree of a flake, with a lock file that fits it.

    :param printed: by ``nix flake metadata``, which tells the lock file.
    :param directory: the copy is made in a new directory in it.
    :return: the copy; ``None`` if the tree has just this lock file, or needs none.
    :raises UnexpectedOutput: something else was printed.
    """
    try:
        locks = json.loads(printed)["locks"]
        needed = len(locks["nodes"]) > 1
    except (ValueError, KeyError, TypeError) as error:
        raise UnexpectedOutput(
            what="the lock file of a flake", excerpt=printed[:200].decode("utf-8", "replace")
        ) from error
    try:
        present = json.loads(flake.lock_file.read_text("utf-8"))
    except (OSError, ValueError):
        present = None
    if present == locks or (present is None and not needed):
        return None
    copy = Path(mkdtemp(dir=directory)) / "source"
    shutil.copytree(flake.tree, copy, symlinks=True)
    lock_file = copy / flake.directory / "flake.lock"
    # Nothing in the store is writable, nor is its copy.
    for path in (lock_file.parent, lock_file):
        if path.exists():
            path.chmod(0o755)
    lock_file.write_text(json.dumps(locks, indent=2), "utf-8")
    return copy


def locked_tree(source: FlakeSource, flake: FetchedFlake, copy: Path) -> SourceTree:
    """Return the copy of a flake that :func:`lock_copy` has made, to be fetched in its place."""
    return SourceTree(
        kind="flake",
        url=f"path:{copy}",
        commit="",
        flake=evolve(source, kind="path"),
        info={name: value for name, value in flake.info.items() if name != "narHash"},
    )
