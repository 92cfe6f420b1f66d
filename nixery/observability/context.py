"""
What is counted and remembered along the way of a request, for whoever reports it.

A request's id and a build's tally belong to the *context* of the coroutines that work
for them (:mod:`contextvars`; Twisted carries it along): so whatever happens deep below
knows for whom, and nothing in between has to pass it on.  Work that several share
counts for the one that began it.
"""

from __future__ import annotations

from contextvars import ContextVar

from attrs import define

__all__ = ["LookupCounts", "BuildStats", "current_request", "current_tally"]

current_request: ContextVar[str] = ContextVar("current_request", default="")
"""The id of the request that is being worked for; empty: none."""


@define(kw_only=True, eq=False)
class BuildStats:
    """
    What one build has done so far.

    :param revision: what its packages come from, for a person.
    :param failure: the name of the type of what ended it.
    :param layers_known: how many of its layers were stored already.
    :param layers_packed: how many it packed.
    :param unpacked_bytes: of the layers that it packed, before compression.
    :param packed_bytes: of the same, as they are stored.
    """

    revision: str = ""
    failure: str = ""
    layers_known: int = 0
    layers_packed: int = 0
    unpacked_bytes: int = 0
    packed_bytes: int = 0

    def packed(self, *, unpacked: int, packed: int) -> None:
        """A layer has been packed; sizes in bytes."""
        self.layers_packed += 1
        self.unpacked_bytes += unpacked
        self.packed_bytes += packed


current_tally: ContextVar[BuildStats] = ContextVar("current_tally")
"""That of the build that is being worked for."""


@define(kw_only=True, eq=False)
class LookupCounts:
    """
    How often something was looked up, by where it was found.

    Plain numbers: the way of a warm answer has no time for more.
    """

    memory: int = 0
    storage: int = 0
    missing: int = 0
