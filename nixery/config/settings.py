"""
Lists the settings, group by group.

:data:`SETTINGS` is the one table of what can be configured: the name of a setting in the
configuration file, its environment variable and its option, the kind of its value, and one line
that says what it does. The command line, the check of the file, the reading of the environment and
the reference documentation are all made from it. A new setting is one more field of a group in
:mod:`nixery.config.declarations`, and nothing else.
"""

from __future__ import annotations

from nixery.config.config import GROUPS
from nixery.config.setting import Setting, declared_settings

__all__ = ["SETTINGS"]

SETTINGS: tuple[Setting, ...] = tuple(
    setting for group in GROUPS.values() for setting in declared_settings(group)
)
"""Every setting."""
