"""
Keeps a request's id and a build's statistics in the context of the coroutines that work for it.

The id of a request and the statistics of a build belong to the *context* of the coroutines that
work for them (:mod:`contextvars`; Twisted carries it along): so code at any depth can read them,
and no function in between has to pass them on. Work that several requests share counts for the one
that began it.
"""

from __future__ import annotations

from contextvars import ContextVar

from attrs import define

__all__ = ["LookupCounts", "BuildStats", "current_request", "current_build_stats"]

current_request: ContextVar[str] = ContextVar("current_request", default="")
"""The id of the current request; empty if there is none."""


@define(kw_only=True, eq=False)
class BuildStats:
    """
    Statistics of one build so far.

    :param revision: the source of its packages, for people.
    :param failure: the name of the type of the error that ended it.
    :param layers_reused: number of its layers that were stored already.
    :param layers_packed: number of its layers that it packed.
    :param unpacked_bytes: size of the layers that it packed, before compression.
    :param packed_bytes: size of the same layers, as they are stored.
    """

    revision: str = ""
    failure: str = ""
    layers_reused: int = 0
    layers_packed: int = 0
    unpacked_bytes: int = 0
    packed_bytes: int = 0

    def count_packed_layer(self, *, unpacked: int, packed: int) -> None:
        """Count a packed layer; sizes in bytes."""
        self.layers_packed += 1
        self.unpacked_bytes += unpacked
        self.packed_bytes += packed


current_build_stats: ContextVar[BuildStats] = ContextVar("current_build_stats")
"""The statistics of the current build."""


@define(kw_only=True, eq=False)
class LookupCounts:
    """
    Counts lookups, by the place where the result was found.

    Plain numbers: a cached answer has no time for more.
    """

    memory: int = 0
    storage: int = 0
    misses: int = 0
