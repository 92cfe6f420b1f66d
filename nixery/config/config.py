"""The configuration as one frozen value: a group of settings in each field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_type_hints

import attrs
from attrs import field, frozen

from nixery.config.declarations.access import AccessConfig
from nixery.config.declarations.builds import BuildConfig
from nixery.config.declarations.gcs import GcsConfig
from nixery.config.declarations.http import HTTPConfig
from nixery.config.declarations.layers import LayerConfig
from nixery.config.declarations.limits import LimitConfig
from nixery.config.declarations.nix import NixConfig
from nixery.config.declarations.observability import ObservabilityConfig
from nixery.config.declarations.retention import RetentionConfig
from nixery.config.declarations.signing import SigningConfig
from nixery.config.declarations.sources import SourceConfig
from nixery.config.declarations.storage import StorageConfig
from nixery.config.declarations.tls import TLSConfig
from nixery.config.declarations.ui import UIConfig
from nixery.config.errors import ConfigProblem

__all__ = ["GROUPS", "Config"]


@frozen(kw_only=True)
class Config:
    """
    The configuration of a daemon, checked.

    :param warnings: deprecated names that were used, and variables that are no settings; two
        configurations that differ in nothing else are equal.
    """

    http: HTTPConfig
    tls: TLSConfig
    access: AccessConfig
    signing: SigningConfig
    limits: LimitConfig
    sources: SourceConfig
    storage: StorageConfig
    retention: RetentionConfig
    gcs: GcsConfig
    nix: NixConfig
    layers: LayerConfig
    builds: BuildConfig
    ui: UIConfig
    observability: ObservabilityConfig
    warnings: tuple[ConfigProblem, ...] = field(default=(), eq=False)


GROUPS: Mapping[str, type[attrs.AttrsInstance]] = {
    name: kind for name, kind in get_type_hints(Config).items() if attrs.has(kind)
}
"""The groups of settings, by the fields of :class:`Config`."""
