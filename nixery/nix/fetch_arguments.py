"""
The arguments and the environment of Nix commands that fetch sources, as pure functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from nixery.nix.arguments import (
    FLAKE_FEATURES,
    FLAKE_OPTIONS,
    NixSettings,
    environment,
    json_text,
)
from nixery.sources.flakes import flake_fetch
from nixery.sources.source import SourceTree

__all__ = ["add_root", "fetch", "fetch_and_root", "fetch_environment", "lock_flake"]


def fetch_environment(
    inherited: Mapping[str, str], git: Mapping[str, str], settings: NixSettings, template: Path
) -> dict[str, str]:
    """
    Return the environment of Nix commands that fetch.

    :param inherited: the environment of this process.
    :param git: the environment of git, which Nix runs: its HOME is the home directory with
        the credentials.
    :param template: the path of ``nix/git-template``, for the repositories in which versions of
        Nix before 2.20 keep what they fetch.
    """
    result = dict(git) | environment(git, settings)
    result["GIT_TEMPLATE_DIR"] = str(template)
    # Nix remembers the store paths of commits in its cache.  Former versions of the registry
    # had no template, so that other files may be remembered in the usual place.
    result["XDG_CACHE_HOME"] = str(settings.home / ".cache" / "fetch")
    if inherited.get("HOME"):
        result["HOME"] = inherited["HOME"]
    return result


def fetch(
    tree: SourceTree, fetch_nix: Path, *, shallow: bool = True, without: Path | None = None
) -> tuple[str, ...]:
    """
    Command that fetches a commit into the store, and prints its store path as JSON.

    :param fetch_nix: the path of ``nix/fetch.nix``.
    :param shallow: whether to fetch the commit of a git repository without its history.
    :param without: a list of files that are left out, each followed by a line feed.
    """
    return (
        "nix-instantiate",
        *("--eval", "--strict", "--json"),
        "--read-write-mode",
        *("-A", "path"),
        *_fetching(tree, fetch_nix, shallow, without),
    )


def fetch_and_root(
    tree: SourceTree,
    fetch_nix: Path,
    link: Path,
    *,
    shallow: bool = True,
    without: Path | None = None,
) -> tuple[str, ...]:
    """
    Command that fetches a commit into the store, and roots a derivation that refers to it.

    :param fetch_nix: the path of ``nix/fetch.nix``.
    :param link: becomes a symlink to the derivation.
    :param shallow: whether to fetch the commit of a git repository without its history.
    :param without: as in :func:`fetch`.
    """
    return (
        "nix-instantiate",
        *("--add-root", str(link), "--indirect"),
        *("-A", "holder"),
        *_fetching(tree, fetch_nix, shallow, without),
    )


def _fetching(
    tree: SourceTree, fetch_nix: Path, shallow: bool, without: Path | None
) -> tuple[str, ...]:
    features: tuple[str, ...] = ()
    if tree.flake is not None:
        fetch_nix = fetch_nix.with_name("fetch_flake.nix")
        # The trace tells which input cannot be fetched.
        features = (*FLAKE_OPTIONS, "--show-trace")
        if not tree.is_fixed:
            features += _freshness(tree.flake.ttl)
        arguments = {
            "tree": json_text(flake_fetch(tree, shallow=shallow)),
            "directory": tree.flake.directory,
            "info": json_text(tree.info),
        }
    else:
        arguments = {"kind": tree.kind, "url": tree.url}
        if tree.kind == "git":
            arguments |= {"rev": tree.commit, "ref": tree.ref or ""}
            if not shallow:
                arguments["depth"] = "whole"
        elif tree.kind == "hashed":
            arguments["rev"] = tree.commit
        if without is not None:
            arguments["without"] = str(without)
    return (
        *features,
        # The machine's own nix.conf may set either.
        *("--option", "restrict-eval", "false"),
        *("--option", "pure-eval", "false"),
        *(part for name, value in arguments.items() for part in ("--argstr", name, value)),
        str(fetch_nix),
    )


def lock_flake(url: str, ttl: float) -> tuple[str, ...]:
    """
    Command that prints the lock file which a flake would have now, with all else about it.

    :param url: of its tree in the store.
    :param ttl: seconds for which inputs that move are not looked up again.
    """
    return (
        *("nix", *FLAKE_FEATURES, "flake", "metadata", "--json", "--no-write-lock-file"),
        *_freshness(ttl),
        url,
    )


def _freshness(ttl: float) -> tuple[str, ...]:
    return ("--option", "tarball-ttl", str(int(ttl)))


def add_root(link: Path, path: str) -> tuple[str, ...]:
    """
    Command that roots a store path; fails if the path is not valid any more.

    :param link: becomes a symlink to it, or already is one.
    """
    return ("nix-store", "--realise", "--add-root", str(link), "--indirect", path)
