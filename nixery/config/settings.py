"""
Lists the settings, each once.

:data:`SETTINGS` is the one table of what can be configured: the name of a setting in the
configuration file, its environment variable and its option, the kind of its value, and one line
that says what it does. The command line, the check of the file, the reading of the environment and
the reference documentation are all made from it; a new setting is one more row in a module of
:mod:`nixery.config.declarations`, and a field of :class:`nixery.config.config.Config`.
"""

from __future__ import annotations

from nixery.config.declarations.access import ACCESS_SETTINGS
from nixery.config.declarations.caches import CACHE_SETTINGS
from nixery.config.declarations.deadlines import DEADLINE_SETTINGS
from nixery.config.declarations.gcs import GCS_SETTINGS
from nixery.config.declarations.layers import LAYER_SETTINGS
from nixery.config.declarations.limits import LIMIT_SETTINGS
from nixery.config.declarations.listening import LISTENING_SETTINGS
from nixery.config.declarations.nix import NIX_SETTINGS
from nixery.config.declarations.observability import OBSERVABILITY_SETTINGS
from nixery.config.declarations.retention import RETENTION_SETTINGS
from nixery.config.declarations.sources import SOURCE_SETTINGS
from nixery.config.declarations.storage import STORAGE_SETTINGS
from nixery.config.declarations.workers import WORKER_SETTINGS
from nixery.config.setting import Setting

__all__ = ["SETTINGS"]

SETTINGS: tuple[Setting, ...] = (
    *LISTENING_SETTINGS,
    *ACCESS_SETTINGS,
    *LIMIT_SETTINGS,
    *SOURCE_SETTINGS,
    *STORAGE_SETTINGS,
    *RETENTION_SETTINGS,
    *GCS_SETTINGS,
    *NIX_SETTINGS,
    *LAYER_SETTINGS,
    *CACHE_SETTINGS,
    *DEADLINE_SETTINGS,
    *OBSERVABILITY_SETTINGS,
    *WORKER_SETTINGS,
)
"""Every setting, group by group."""
