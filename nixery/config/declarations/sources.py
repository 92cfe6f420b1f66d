"""Settings of the package sources: the package set, its revisions and its system."""

from __future__ import annotations

from nixery.config import types
from nixery.config.setting import ANY_VALUE, Setting
from nixery.sources.source import NIXPKGS_URL

__all__ = ["SOURCE_SETTINGS", "SYSTEMS"]

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

SOURCE_SETTINGS: tuple[Setting, ...] = (
    Setting(
        name="channel",
        kind=types.CHANNEL,
        help="take packages from this nixpkgs channel, or this full nixpkgs commit",
        default="nixos-unstable",
        variable="NIXERY_CHANNEL",
        group="source",
    ),
    Setting(
        name="pkgs_repo",
        kind=types.REPOSITORY,
        help="take packages from the package set in this git repository",
        variable="NIXERY_PKGS_REPO",
        group="source",
    ),
    Setting(
        name="pkgs_path",
        kind=types.PATH,
        help="take packages from the package set at this path",
        variable="NIXERY_PKGS_PATH",
        group="source",
    ),
    Setting(
        name="pkgs_repo_kind",
        kind=types.choice("package-set", "overlay"),
        help="what is in the git repository: a package-set, or an overlay on nixpkgs",
        default="package-set",
        requires=("pkgs_repo", ANY_VALUE),
    ),
    Setting(
        name="pkgs_ref",
        kind=types.REF,
        help="the branch, tag or full commit of the git repository that the tag latest means",
        default_text="the repository's default branch",
        requires=("pkgs_repo", ANY_VALUE),
    ),
    Setting(
        name="base_channel",
        kind=types.CHANNEL,
        help="the nixpkgs channel, or full nixpkgs commit, that an overlay is applied to",
        default="nixos-unstable",
        requires=("pkgs_repo_kind", "overlay"),
    ),
    Setting(
        name="overlays",
        kind=types.PATHS,
        help="files or directories with overlays, which the package set is extended by",
        default=(),
        default_text="none",
    ),
    Setting(
        name="allowed_tags",
        kind=types.TAG_PATTERNS,
        help="which tags are served besides latest: patterns as nixos-*, or latest alone",
        default=("*",),
        default_text="*",
        aliases=("revisions",),
    ),
    Setting(
        name="allow_any_commit",
        kind=types.BOOLEAN,
        help="whether a tag may be any commit, even one of a fork: code of anybody's is then built",
        default=False,
        default_text="false",
    ),
    Setting(
        name="source_ttl",
        kind=types.DURATION,
        help="how long a channel, branch or tag is not looked up again; 0: look at every pull",
        default=900.0,
    ),
    Setting(
        name="fetch_timeout",
        kind=types.SECONDS,
        help="how long it may take to fetch a revision of the package set",
        default=1800.0,
    ),
    Setting(
        name="source_retention",
        kind=types.integer(86400, unit="seconds"),
        help="how long a fetched revision that is not used is kept from garbage collection",
        default=1209600,
        aliases=("source_keep",),
    ),
    Setting(
        name="channel_url",
        kind=types.URL,
        help="the host that says which commit a channel is at",
        default="https://channels.nixos.org",
    ),
    Setting(
        name="nixpkgs_url",
        kind=types.ARCHIVE_URL,
        help="the archive of a nixpkgs commit",
        default=NIXPKGS_URL,
    ),
    Setting(
        name="system",
        kind=types.choice(*SYSTEMS),
        help="the Nix system of images whose name chooses none",
        default="x86_64-linux",
    ),
    Setting(
        name="nixpkgs_config",
        kind=types.NIXPKGS_CONFIG,
        help="what the package set gets as its config argument, as {allowUnfree: true}",
        default={},
        default_text="{}",
    ),
)
