"""Settings of the package sources: the package set, its revisions and its system."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from attrs import evolve, frozen

from nixery.config import types, url_types
from nixery.config.setting import ANY_VALUE, setting
from nixery.sources.search_path import PinnedArchive, SearchPath
from nixery.sources.source import (
    NIXPKGS_URL,
    ChannelSource,
    FlakeSource,
    GitSource,
    PathSource,
    Source,
)
from nixery.sources.tag_policy import TagPolicy

__all__ = ["SYSTEMS", "SourceConfig"]

SYSTEMS = (
    "aarch64-linux",
    "armv6l-linux",
    "armv7l-linux",
    "i686-linux",
    "powerpc64le-linux",
    "riscv64-linux",
    "s390x-linux",
    "x86_64-linux",
)
"""The Nix systems that images can be made for."""


@frozen(kw_only=True)
class SourceConfig:
    """Settings of the package sources: the package set, its revisions and its system."""

    channel: str = setting(
        url_types.CHANNEL,
        "nixpkgs channel to take packages from, or a full nixpkgs commit",
        default="nixos-unstable",
        group="source",
    )
    pkgs_repo: str | None = setting(
        url_types.REPOSITORY,
        "git repository with the package set to take packages from",
        secret=True,
        group="source",
    )
    pkgs_path: Path | None = setting(
        types.PATH,
        "path of the package set to take packages from",
        group="source",
    )
    flake: FlakeSource | None = setting(
        url_types.FLAKE,
        "flake to take packages from, as github:owner/repository",
        secret=True,
        group="source",
    )
    allow_unlocked_flake: bool = setting(
        types.BOOLEAN,
        "allow inputs of the flake that its flake.lock does not fix, and that may change",
        default=False,
        requires=("flake", ANY_VALUE),
    )
    pkgs_repo_kind: Literal["package-set", "overlay"] = setting(
        types.choice("package-set", "overlay"),
        "content of the git repository: a package-set, or an overlay on nixpkgs",
        default="package-set",
        requires=("pkgs_repo", ANY_VALUE),
    )
    pkgs_ref: str | None = setting(
        url_types.REF,
        "branch, tag or full commit of the git repository that the tag latest means",
        default_text="the repository's default branch",
        requires=("pkgs_repo", ANY_VALUE),
    )
    submodules: bool = setting(
        types.BOOLEAN,
        "fetch the git repository's submodules",
        default=False,
        requires=("pkgs_repo", ANY_VALUE),
    )
    lfs: bool = setting(
        types.BOOLEAN,
        "fetch the git repository's files in Git LFS; needs git-lfs",
        default=False,
        requires=("pkgs_repo", ANY_VALUE),
    )
    base_channel: str = setting(
        url_types.CHANNEL,
        "nixpkgs channel, or full nixpkgs commit, that an overlay is applied to",
        default="nixos-unstable",
        requires=("pkgs_repo_kind", "overlay"),
    )
    overlays: tuple[Path, ...] = setting(
        types.PATHS,
        "files or directories with overlays to apply to the package set",
        default=(),
        default_text="none",
    )
    nix_path: Mapping[str, Path | PinnedArchive] = setting(
        url_types.NIX_PATH,
        "meaning of <name> in package sets, as {nixpkgs: /srv/nixpkgs}: path, or"
        " archive's URL#HASH",
        default={},
    )
    extra_paths: tuple[Path, ...] = setting(
        types.PATHS,
        "files or directories outside of package sets and overlays that these may read",
        default=(),
        default_text="none",
    )
    allowed_tags: tuple[str, ...] = setting(
        types.TAG_PATTERNS,
        "tags to serve besides latest: patterns as nixos-*, or latest alone",
        default=("*",),
        default_text="*",
        aliases=("revisions",),
    )
    allow_any_commit: bool = setting(
        types.BOOLEAN,
        "allow any commit as a tag, including commits from forks (lets strangers choose"
        " code to build)",
        default=False,
    )
    source_ttl: float = setting(
        types.DURATION,
        "how long to use a channel, branch or tag before it is looked up again; 0: look"
        " at every pull",
        default=900.0,
    )
    channel_url: str = setting(
        url_types.URL,
        "host that tells the commit of a channel",
        default="https://channels.nixos.org",
        secret=True,
    )
    nixpkgs_url: str = setting(
        url_types.ARCHIVE_URL,
        "URL of the archive of a nixpkgs commit",
        default=NIXPKGS_URL,
        secret=True,
    )
    system: str = setting(
        types.choice(*SYSTEMS),
        "Nix system of images whose name does not choose one",
        default="x86_64-linux",
    )
    platforms: tuple[str, ...] = setting(
        types.choices(*SYSTEMS),
        "Nix systems to serve as one index under each tag whose name does not choose"
        " one; must include system",
        default=(),
        default_text="none: such a tag serves system alone",
    )
    platforms_missing: Literal["skip", "fail"] = setting(
        types.choice("skip", "fail"),
        "for an index that lacks a platform: skip it, or fail the pull",
        default="skip",
    )
    nixpkgs_config: Mapping[str, object] = setting(
        types.NIXPKGS_CONFIG,
        "config argument of the package set, as {allowUnfree: true}",
        default={},
    )

    @property
    def source(self) -> Source:
        """The package source that is chosen, with its details."""
        if self.flake is not None:
            return evolve(self.flake, allow_unlocked=self.allow_unlocked_flake, ttl=self.source_ttl)
        if self.pkgs_path is not None:
            return PathSource(path=self.pkgs_path)
        if self.pkgs_repo is not None:
            overlay = self.pkgs_repo_kind == "overlay"
            base = ChannelSource(channel=self.base_channel) if overlay else None
            return GitSource(
                url=self.pkgs_repo,
                ref=self.pkgs_ref,
                base=base,
                submodules=self.submodules,
                lfs=self.lfs,
            )
        return ChannelSource(channel=self.channel)

    @property
    def search_path(self) -> SearchPath:
        """The paths that evaluations may read besides the package set and its overlays."""
        return SearchPath(entries=self.nix_path, extra_paths=self.extra_paths)

    @property
    def tag_policy(self) -> TagPolicy:
        """The tags that are served."""
        return TagPolicy(patterns=self.allowed_tags, any_commit=self.allow_any_commit)
