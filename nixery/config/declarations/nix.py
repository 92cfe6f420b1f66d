"""Settings of Nix: the limits of its commands, and options of nix.conf."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from attrs import frozen

from nixery.config import types
from nixery.config.setting import setting

__all__ = ["NixConfig"]


@frozen(kw_only=True)
class NixConfig:
    """Settings of Nix: the limits of its commands, and options of nix.conf."""

    nix_timeout: int = setting(
        types.integer(1, unit="seconds"),
        "how long the build of one derivation may take; it may print nothing for half of that",
        default=3600,
        variable="NIX_TIMEOUT",
    )
    eval_timeout: float = setting(
        types.SECONDS, "how long the evaluation of one image's packages may take", default=120.0
    )
    max_eval_memory: int = setting(
        types.integer(64, unit="MiB"),
        "memory that an evaluation may use",
        default=4096,
        aliases=("eval_memory",),
    )
    evaluators: int = setting(
        types.integer(0, 64, unit="package sets"),
        "package sets to keep in memory, so that evaluations need not read them again",
        default=3,
    )
    allow_import_from_derivation: bool = setting(
        types.BOOLEAN, "allow evaluations to build what they read", default=False
    )
    allow_unpinned_fetches: bool = setting(
        types.BOOLEAN,
        "allow evaluations to fetch what has no hash or commit, and may change",
        default=False,
    )
    substitute_only: bool = setting(
        types.BOOLEAN,
        "take everything from binary caches, and build nothing here",
        default=False,
    )
    nix_options: Mapping[str, str] = setting(
        types.NIX_OPTIONS,
        "additional options of nix.conf for every Nix command, as {max-jobs: 4}",
        default={},
        secret=True,
    )
    nix_options_file: Path | None = setting(
        types.INCLUDED_FILE,
        "file of such options, as in nix.conf: for secret ones, as access-tokens",
    )
