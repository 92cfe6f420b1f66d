"""
What is stored in one go: first all bytes, then all names.

A layer is its bytes, their description and its record; an image is some more.  The
files are written first and then brought to the disk one after the other, so that the
file system has less to do for each; then they become visible in their order, and then
the directories are synchronised, each once.  All of it runs beside threads that pack,
which it must not slow down.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from nixery.storage.filesystem.files import synchronise_directory

__all__ = ["Placement", "Synchronised", "publish_together", "publish_in_order"]


class Synchronised(Protocol):
    """A draft, of whichever kind."""

    def synchronise(self) -> None:
        """Wait until it is on the disk."""


class Placement(Protocol):
    """A blob or a record that is written and not yet visible."""

    @property
    def drafts(self) -> Sequence[Synchronised]:
        """What has to be on the disk before; nothing where it was stored already."""

    def place(self) -> str:
        """
        Make it visible, whole, at one instant.

        :return: the directory that it is in now, which has to be synchronised.
        """


def publish_together(placements: Sequence[Placement]) -> None:
    """
    Make them visible in their order, and wait until all of it is on the disk.

    A power failure meanwhile may leave any of them without the ones before.
    """
    _synchronise(placements)
    for directory in dict.fromkeys([each.place() for each in placements]):
        synchronise_directory(directory)


def publish_in_order(placements: Sequence[Placement]) -> None:
    """As :func:`place`, but each is on the disk before the next becomes visible."""
    _synchronise(placements)
    for each in placements:
        synchronise_directory(each.place())


def _synchronise(placements: Sequence[Placement]) -> None:
    for each in placements:
        for draft in each.drafts:
            draft.synchronise()
