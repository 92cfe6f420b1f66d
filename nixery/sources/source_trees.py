"""
Tell which trees are fetched for a revision.
"""

from __future__ import annotations

from nixery.sources.source import Revision, SourceTree

__all__ = ["source_trees"]


def source_trees(revision: Revision) -> tuple[SourceTree, ...]:
    """
    Return the trees to fetch for a revision: the package set, then the source's overlay.

    There is an overlay only where the source is one, and no tree for a path.  The tree of a flake
    names it only: :func:`nixery.sources.flakes.flake_tree` is to be fetched.
    """
    identity = revision.identity
    match identity["kind"]:
        case "nixpkgs":
            return (_archive(identity["url"], identity["commit"]),)
        case "git":
            return (_git_tree(revision),)
        case "overlay":
            return (_archive(identity["base_url"], identity["base"]), _git_tree(revision))
        case "flake":
            commit = identity.get("commit", "")
            return (SourceTree(kind="flake", url=identity["url"], commit=commit),)
    return ()


def _archive(url: str, commit: str) -> SourceTree:
    return SourceTree(kind="archive", url=url.replace("{commit}", commit), commit=commit)


def _git_tree(revision: Revision) -> SourceTree:
    identity = revision.identity
    return SourceTree(
        kind="git",
        url=identity["url"],
        commit=identity["commit"],
        ref=revision.ref,
        submodules="submodules" in identity,
        lfs="lfs" in identity,
    )
