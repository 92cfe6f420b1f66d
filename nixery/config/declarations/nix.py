"""Settings of Nix: the limits of evaluations and builds, and options of nix.conf."""

from __future__ import annotations

from nixery.config import types
from nixery.config.setting import Setting

__all__ = ["NIX_SETTINGS"]

NIX_SETTINGS: tuple[Setting, ...] = (
    Setting(
        name="nix_timeout",
        kind=types.integer(1, unit="seconds"),
        help="how long the build of one derivation may take",
        default=3600,
        variable="NIX_TIMEOUT",
    ),
    Setting(
        name="nix_max_silent",
        kind=types.integer(1, unit="seconds"),
        help="how long the build of one derivation may print nothing",
        default=1800,
    ),
    Setting(
        name="build_deadline",
        kind=types.SECONDS,
        help="how long the making of one image may take in all, once its turn has come",
        default=14400.0,
    ),
    Setting(
        name="eval_timeout",
        kind=types.SECONDS,
        help="how long the evaluation of one image's packages may take",
        default=120.0,
    ),
    Setting(
        name="max_eval_memory",
        kind=types.integer(64, unit="MiB"),
        help="how much memory an evaluation may use",
        default=4096,
        aliases=("eval_memory",),
    ),
    Setting(
        name="max_evaluations",
        kind=types.integer(1, 1024, unit="processes"),
        help="how many evaluations run at once",
        default=4,
        aliases=("evaluations",),
    ),
    Setting(
        name="max_builds",
        kind=types.integer(1, 1024, unit="images"),
        help="how many images are made at once",
        default=4,
    ),
    Setting(
        name="max_queued_builds",
        kind=types.integer(0, 100_000, unit="images"),
        help="how many more may wait for their turn, before clients are sent away for a while",
        default=64,
        aliases=("max_queue",),
    ),
    Setting(
        name="allow_import_from_derivation",
        kind=types.BOOLEAN,
        help="whether an evaluation may build what it reads",
        default=False,
        default_text="false",
    ),
    Setting(
        name="substitute_only",
        kind=types.BOOLEAN,
        help="whether everything has to come from binary caches, and nothing is built here",
        default=False,
        default_text="false",
    ),
    Setting(
        name="nix_options",
        kind=types.NIX_OPTIONS,
        help="further options of nix.conf for every Nix command, as {max-jobs: 4}",
        default={},
        default_text="{}",
    ),
)
