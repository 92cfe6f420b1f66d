"""
Makes one frozen :class:`Config` of all sources that configure the daemon.

Defaults are overridden by the file, the file by the environment, the environment by the command
line; the settings are declared in :mod:`nixery.config.settings`. Everything is checked here, before
anything starts, and everything that is wrong is reported at once.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from attrs import evolve, field, frozen

from nixery.config.contradictions import find_contradictions
from nixery.config.errors import ConfigError, ConfigProblem
from nixery.config.file import read_file
from nixery.config.layer import COMMAND_LINE, ENVIRONMENT, make_layer, merge, with_credentials
from nixery.config.settings import SETTINGS
from nixery.image.patterns import PackagePatterns
from nixery.layers.compression_levels import Compression, default_level
from nixery.limits.addresses import TrustedProxies
from nixery.runtime.sizes import FreeSpaceLimit
from nixery.sources.source import ChannelSource, GitSource, PathSource, Source
from nixery.sources.tag_policy import TagPolicy

__all__ = ["Config", "load_config"]


@frozen(kw_only=True)
class Config:
    """
    The configuration of a daemon, checked.

    A field is what the setting of its name in :data:`nixery.config.settings.SETTINGS`
    says, but for some that are made of several settings:

    :param listen: endpoint strings, from ``listen`` or from ``port``.
    :param source: the package source, from ``channel``, ``pkgs_repo`` or ``pkgs_path``, and the
        details of each.
    :param rules: the tags that are served, from ``allowed_tags`` and ``allow_any_commit``.
    :param compression: of layers, from ``compression`` and ``compression_level``.
    :param warnings: deprecated names that were used; two configurations that differ in nothing
        else are equal.
    """

    listen: tuple[str, ...]
    tls_certificate: Path | None
    tls_key: Path | None
    public_url: str | None
    auth: Literal["none", "htpasswd", "token"]
    htpasswd_file: Path | None
    auth_rules: Mapping[str, PackagePatterns] = field(hash=False)
    token_key: Path
    trusted_proxies: TrustedProxies
    requests_per_client: int
    requests_per_client_burst: int
    builds_per_client: int
    builds_per_client_per_hour: int
    connections_per_client: int
    max_connections: int
    request_read_timeout: float
    idle_timeout: float
    send_timeout: float
    min_response_rate: int
    max_packages: int
    max_closure_size: int
    allow_packages: PackagePatterns | None
    deny_packages: PackagePatterns | None
    source: Source
    rules: TagPolicy
    overlays: tuple[Path, ...]
    source_ttl: float
    fetch_timeout: float
    source_retention: int
    channel_url: str
    nixpkgs_url: str
    system: str
    nixpkgs_config: Mapping[str, object] = field(hash=False)
    state_directory: Path
    cache_directory: Path
    storage_backend: Literal["filesystem", "gcs"]
    storage_path: Path
    max_storage_size: int | None
    max_image_age: float | None
    retention_grace: float
    min_free_space: FreeSpaceLimit
    gcs_bucket: str | None
    gcs_signing_key: Path | None = field(repr=False)
    gcs_signing_account: str | None
    gcs_redirect: bool
    gcs_endpoint: str | None
    google_application_credentials: Path | None
    nix_timeout: int
    nix_max_silent: int
    build_deadline: float
    eval_timeout: float
    max_eval_memory: int
    max_evaluations: int
    max_builds: int
    max_queued_builds: int
    allow_import_from_derivation: bool
    substitute_only: bool
    # Access tokens are options of Nix.
    nix_options: Mapping[str, str] = field(hash=False, repr=False)
    layer_budget: int
    layer_strategy: Literal["affinity", "dominators"]
    compression: Compression
    popularity_url: str | None
    popularity_refresh: bool
    failure_cache_ttl: float
    evaluation_ttl: float
    stale_while_revalidate: float
    pull_wait_timeout: float
    shutdown_timeout: float
    web_ui: bool
    show_builds: bool
    show_images: bool
    metrics: bool
    log_format: Literal["text", "json"]
    cpu_workers: int
    warnings: tuple[ConfigProblem, ...] = field(default=(), eq=False)


def load_config(
    command_line: Mapping[str, object],
    environ: Mapping[str, str],
    passed: Sequence[str] = (),
) -> Config:
    """
    Read and check the configuration.

    :param command_line: texts, and lists of texts for repeated options, by the
        names of settings, former and removed ones included; ``config`` names the
        file. ``None`` counts as not given.
    :param environ: the environment; an empty variable counts as unset, and one that is no setting
        is ignored.
    :param passed: endpoint strings of sockets that the service manager opened, which are
        listened on beside what is configured, and in place of the default.
    :raises ConfigError: with all that is wrong.
    """
    problems: list[ConfigProblem] = []
    warnings: list[ConfigProblem] = []
    variables = {
        setting.name: environ[setting.variable]
        for setting in SETTINGS
        if setting.variable is not None and environ.get(setting.variable)
    }
    layers = [
        read_file(command_line, environ, problems, warnings),
        make_layer(ENVIRONMENT, variables, problems, warnings),
        make_layer(COMMAND_LINE, command_line, problems, warnings),
    ]
    layers = [with_credentials(layer, environ, problems) for layer in layers]
    values, ranks = merge(layers, problems)
    problems += find_contradictions(values, ranks, layers)
    if problems:
        raise ConfigError(problems=tuple(problems))
    if ranks.get("compression", -1) > ranks.get("compression_level", -1):
        # A compression level belongs to the kind of compression that its own layer had.
        values.pop("compression_level", None)
    return evolve(_assemble(values, environ, passed), warnings=tuple(warnings))


# -- the value --------------------------------------------------------------------


def _assemble(
    given: Mapping[str, object], environ: Mapping[str, str], passed: Sequence[str]
) -> Config:
    # Any: the table knows the types of its values, the type checker does not.
    # A test compares the fields of Config with the values of the table.
    values: dict[str, Any] = {setting.name: setting.default for setting in SETTINGS}
    values["cpu_workers"] = len(os.sched_getaffinity(0))
    values["state_directory"] = _directory(environ, "STATE", ".local/state")
    values["cache_directory"] = _directory(environ, "CACHE", ".cache")
    values.update(given)
    if values["storage_path"] is None:
        values["storage_path"] = values["state_directory"] / "storage"

    if values["token_key"] is None:
        values["token_key"] = values["state_directory"] / "token-key.pem"

    port = values.pop("port")
    if port is not None:
        values["listen"] = (f"tcp:{port}",)
    if passed:
        # The service manager opened them, and clients that connect to them must get an answer.
        # Configured endpoints are used as well; the default one is not.
        configured = values["listen"] if {"listen", "port"} & given.keys() else ()
        values["listen"] = tuple(dict.fromkeys((*passed, *configured)))

    values["source"] = _source(values)
    values["rules"] = TagPolicy(
        patterns=values.pop("allowed_tags"), any_commit=values.pop("allow_any_commit")
    )
    kind, level = (values.pop(name) for name in ("compression", "compression_level"))
    values["compression"] = Compression(
        kind=kind, level=default_level(kind) if level is None else level
    )
    return Config(**values)


def _source(values: dict[str, Any]) -> Source:
    """Take the settings of the source out of ``values``."""
    channel, repository, path = (values.pop(name) for name in ("channel", "pkgs_repo", "pkgs_path"))
    kind, ref, base = (values.pop(name) for name in ("pkgs_repo_kind", "pkgs_ref", "base_channel"))
    if path is not None:
        return PathSource(path=path)
    if repository is not None:
        below = ChannelSource(channel=base) if kind == "overlay" else None
        return GitSource(url=repository, ref=ref, base=below)
    return ChannelSource(channel=channel)


def _directory(environ: Mapping[str, str], purpose: str, fallback: str) -> Path:
    """
    Return the directory for state or cache: the one of systemd, else the one of the XDG base
    directory specification.
    """
    # systemd separates several directories by colons; the first is ours.
    given = environ.get(f"{purpose}_DIRECTORY", "").split(":")[0]
    if given:
        return Path(given).absolute()
    base = environ.get(f"XDG_{purpose}_HOME", "")
    # The specification has relative paths ignored.
    if Path(base).is_absolute():
        return Path(base) / "nixery"
    return Path(environ.get("HOME") or os.path.expanduser("~")) / fallback / "nixery"
