"""
Which images a collection takes off, and what it tells of itself: values and a decision,
without a look at the disk.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from attrs import define, field, frozen

from nixery.image.names import Digest
from nixery.runtime.clocks import WallTime
from nixery.storage.filesystem.last_used import RESOLUTION
from nixery.storage.filesystem.scan import Inventory, StoredImage

__all__ = ["Collected", "Policy", "choose"]


@frozen(kw_only=True)
class Policy:
    """
    What may stay.

    :param max_bytes: how many bytes all blobs may take; ``None``: any number.
    :param max_age: how long ago an image may have been pulled last, in seconds;
        ``None``: for ever.
    :param grace: what was used this short a time ago stays, in seconds.
    :param dry_run: remove nothing, only say what would go.
    """

    max_bytes: int | None = None
    max_age: float | None = None
    grace: float = 86400.0
    dry_run: bool = False

    @property
    def protection(self) -> float:
        """How old what is noted of the last use may be for a thing to stay, in seconds."""
        return self.grace + RESOLUTION if self.grace else 0.0


@define(kw_only=True)
class Collected:
    """
    What a collection did.

    :param images: how many images it took off.
    :param blobs: how many blobs it removed.
    :param freed: how many bytes they had.
    :param records: how many records of layers and names that led nowhere it removed.
    :param spared: how many images and blobs were used just when they were to go.
    :param total: the bytes of all blobs that are left.
    :param over: by how many bytes that is too much all the same, because the rest is
        within the time of grace.
    """

    images: int = 0
    blobs: int = 0
    freed: int = 0
    records: int = 0
    spared: int = 0
    total: int = 0
    over: int = 0
    dry_run: bool = field(default=False)

    def describe(self) -> str:
        """One sentence, for the log and for people."""
        done = "would remove" if self.dry_run else "removed"
        text = (
            f"{done} {self.images} images and {self.blobs} blobs, {self.freed / 2**20:.1f} MiB;"
            f" {self.total / 2**20:.1f} MiB stay"
        )
        if self.over:
            text += (
                f", {self.over / 2**20:.1f} MiB more than max_bytes: all of it was used within"
                " the time of grace (retention_grace)"
            )
        return text


def choose(
    inventory: Inventory, units: Sequence[StoredImage], policy: Policy, now: WallTime
) -> tuple[StoredImage, ...]:
    """
    The images that have to go, the one first that was not pulled for the longest time.

    :param units: all images, in that order.
    """
    naming = Counter(digest for unit in units for digest in unit.needs)
    sizes = {digest: file.size for digest, file in inventory.files.items()}

    def stays(digest: Digest) -> bool:
        return naming[digest] > 0 or now - inventory.files[digest].used < policy.protection

    total = sum(size for digest, size in sizes.items() if stays(digest))
    victims = []
    for unit in units:
        age = now - unit.used
        too_old = policy.max_age is not None and age > policy.max_age
        too_much = policy.max_bytes is not None and total > policy.max_bytes
        if age < policy.protection or not (too_old or too_much):
            continue
        victims.append(unit)
        for digest in unit.needs:
            naming[digest] -= 1
            if digest in sizes and not stays(digest):
                total -= sizes[digest]
    return tuple(victims)
