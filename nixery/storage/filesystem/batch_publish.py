"""
Publishes several files in one operation: first all contents, then all names.

A layer has its bytes, their description and its record; an image has some more.  The
files are written first and then synchronised one after the other, so that the
file system has less to do for each; then they become visible in their order, and then
the directories are synchronised, each once.  All of it runs concurrently with threads that
pack, which it must not slow down.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from nixery.storage.filesystem.files import synchronise_directory

__all__ = ["Placement", "Synchronisable", "publish_in_stages", "publish_together"]


class Synchronisable(Protocol):
    """A temporary file of any kind."""

    def synchronise(self) -> None:
        """Wait until it is on the disk."""


class Placement(Protocol):
    """A blob or a record that is written but not yet visible."""

    @property
    def temp_files(self) -> Sequence[Synchronisable]:
        """Return the temporary files to synchronise before; empty if it was stored already."""

    def place(self) -> str:
        """
        Make it visible, atomically.

        :return: the directory that it is in now, which has to be synchronised.
        """


def publish_together(placements: Sequence[Placement]) -> None:
    """
    Make placements visible in their order, and wait until all of them are on the disk.

    A power failure meanwhile may leave any of them without the ones before.
    """
    _synchronise(placements)
    _place(placements)


def publish_in_stages(stages: Sequence[Sequence[Placement]]) -> None:
    """Like :func:`publish_together`, but a stage is on the disk before the next is visible."""
    _synchronise([each for placements in stages for each in placements])
    for placements in stages:
        _place(placements)


def _place(placements: Sequence[Placement]) -> None:
    for directory in dict.fromkeys([each.place() for each in placements]):
        synchronise_directory(directory)


def _synchronise(placements: Sequence[Placement]) -> None:
    for each in placements:
        for temp_file in each.temp_files:
            temp_file.synchronise()
