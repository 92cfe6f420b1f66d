"""
Errors of counting popularity data.
"""

from __future__ import annotations

from attrs import frozen

from nixery.errors import NixeryError

__all__ = ["CacheIncomplete", "LogInUse"]


@frozen(kw_only=True)
class CacheIncomplete(NixeryError):
    """
    A binary cache has so little of a package set that counting it is useless.

    :param found: how many store paths it has.
    :param missing: how many it does not have.
    :param unusable: how many it describes by an invalid narinfo.
    """

    cache: str
    found: int
    missing: int
    unusable: int

    @property
    def message(self) -> str:
        return (
            f"{self.cache} has {self.found} of the store paths, lacks {self.missing}, and gives"
            f" unusable answers for {self.unusable}: name the cache that belongs to the channel"
            " with --cache"
        )


@frozen(kw_only=True)
class LogInUse(NixeryError):
    """Another process writes to a log that only one process may write to."""

    path: str

    @property
    def message(self) -> str:
        return f"another process uses {self.path}: wait until it has ended"
