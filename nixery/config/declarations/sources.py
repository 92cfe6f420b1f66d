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
        "take packages from this nixpkgs channel, or this full nixpkgs commit",
        default="nixos-unstable",
        group="source",
    )
    pkgs_repo: str | None = setting(
        url_types.REPOSITORY,
        "take packages from the package set in this git repository",
        secret=True,
        group="source",
    )
    pkgs_path: Path | None = setting(
        types.PATH,
        "take packages from the package set at this path",
        group="source",
    )
    flake: FlakeSource | None = setting(
        url_types.FLAKE,
        "take packages from this flake, as github:owner/repository",
        secret=True,
        group="source",
    )
    allow_unlocked_flake: bool = setting(
        types.BOOLEAN,
        "whether the flake may have inputs that its flake.lock does not fix, and that move",
        default=False,
        requires=("flake", ANY_VALUE),
    )
    pkgs_repo_kind: Literal["package-set", "overlay"] = setting(
        types.choice("package-set", "overlay"),
        "what is in the git repository: a package-set, or an overlay on nixpkgs",
        default="package-set",
        requires=("pkgs_repo", ANY_VALUE),
    )
    pkgs_ref: str | None = setting(
        url_types.REF,
        "the branch, tag or full commit of the git repository that the tag latest means",
        default_text="the repository's default branch",
        requires=("pkgs_repo", ANY_VALUE),
    )
    submodules: bool = setting(
        types.BOOLEAN,
        "whether the git repository's submodules are fetched with it",
        default=False,
        requires=("pkgs_repo", ANY_VALUE),
    )
    lfs: bool = setting(
        types.BOOLEAN,
        "whether the git repository's files in Git LFS are fetched with it; needs git-lfs",
        default=False,
        requires=("pkgs_repo", ANY_VALUE),
    )
    base_channel: str = setting(
        url_types.CHANNEL,
        "the nixpkgs channel, or full nixpkgs commit, that an overlay is applied to",
        default="nixos-unstable",
        requires=("pkgs_repo_kind", "overlay"),
    )
    overlays: tuple[Path, ...] = setting(
        types.PATHS,
        "files or directories with overlays, which the package set is extended by",
        default=(),
        default_text="none",
    )
    nix_path: Mapping[str, Path | PinnedArchive] = setting(
        url_types.NIX_PATH,
        "what <name> means, as {nixpkgs: /srv/nixpkgs}: a path, or an archive's URL#HASH",
        default={},
    )
    extra_paths: tuple[Path, ...] = setting(
        types.PATHS,
        "files or directories that package sets and overlays may read besides their own",
        default=(),
        default_text="none",
    )
    allowed_tags: tuple[str, ...] = setting(
        types.TAG_PATTERNS,
        "which tags are served besides latest: patterns as nixos-*, or latest alone",
        default=("*",),
        default_text="*",
        aliases=("revisions",),
    )
    allow_any_commit: bool = setting(
        types.BOOLEAN,
        "whether a tag may be any commit, even one of a fork: code of anybody's is then built",
        default=False,
    )
    source_ttl: float = setting(
        types.DURATION,
        "how long a channel, branch or tag is not looked up again; 0: look at every pull",
        default=900.0,
    )
    channel_url: str = setting(
        url_types.URL,
        "the host that says which commit a channel is at",
        default="https://channels.nixos.org",
        secret=True,
    )
    nixpkgs_url: str = setting(
        url_types.ARCHIVE_URL, "the archive of a nixpkgs commit", default=NIXPKGS_URL, secret=True
    )
    system: str = setting(
        types.choice(*SYSTEMS),
        "the Nix system of images whose name chooses none",
        default="x86_64-linux",
    )
    platforms: tuple[str, ...] = setting(
        types.choices(*SYSTEMS),
        "the Nix systems that every tag serves whose name chooses none, as an index; system is one",
        default=(),
        default_text="none: such a tag serves system alone",
    )
    platforms_missing: Literal["skip", "fail"] = setting(
        types.choice("skip", "fail"),
        "what becomes of an index if a platform cannot be had: it lacks that, or the pull fails",
        default="skip",
    )
    nixpkgs_config: Mapping[str, object] = setting(
        types.NIXPKGS_CONFIG,
        "what the package set gets as its config argument, as {allowUnfree: true}",
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
