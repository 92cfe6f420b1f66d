"""
Decides which images a garbage collection removes, and defines its policy and its result.

Nothing here accesses the disk.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from attrs import define, field, frozen

from nixery.image.names import Digest
from nixery.runtime.clocks import WallTime
from nixery.runtime.sizes import format_size
from nixery.storage.filesystem.last_used import RESOLUTION_SECONDS
from nixery.storage.filesystem.scan import Inventory, StoredImage

__all__ = ["GRACE_SECONDS", "CollectionResult", "Policy", "choose_images"]

GRACE_SECONDS = 86400.0
"""
The grace period: a pull has ended after a day, and what was used today is likely to be used
tomorrow.
"""


@frozen(kw_only=True)
class Policy:
    """
    The limits that a garbage collection enforces.

    :param max_bytes: maximum size of all blobs in bytes; ``None``: unlimited.
    :param max_age: maximum time since the last pull of an image, in seconds;
        ``None``: unlimited.
    :param grace: grace period: everything used within the last so many seconds is kept.
    :param dry_run: remove nothing, only report what would be removed.
    """

    max_bytes: int | None = None
    max_age: float | None = None
    grace: float = GRACE_SECONDS
    dry_run: bool = False

    @property
    def protection(self) -> float:
        """Return the age in seconds up to which a recorded last use keeps an image or blob."""
        return self.grace + RESOLUTION_SECONDS if self.grace else 0.0


@define(kw_only=True)
class CollectionResult:
    """
    The result of a collection.

    :param images: how many images it removed.
    :param blobs: how many blobs it removed.
    :param freed: how many bytes they had.
    :param records: how many dangling records of layers and names it removed.
    :param spared: how many images and blobs it kept because they were used just when they
        were to be removed.
    :param total: the bytes of all blobs that are left.
    :param over: by how many bytes that still exceeds the limit, because the rest is within
        the grace period.
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
        """Describe the result in one sentence, for the log and for people."""
        verb = "would remove" if self.dry_run else "removed"
        text = (
            f"{verb} {self.images} images and {self.blobs} blobs, {format_size(self.freed)};"
            f" {format_size(self.total)} stay"
        )
        if self.over:
            text += (
                f", {format_size(self.over)} more than max_storage_size: all of it was used"
                " within the grace period"
            )
        return text


def choose_images(
    inventory: Inventory, images: Sequence[StoredImage], policy: Policy, now: WallTime
) -> tuple[StoredImage, ...]:
    """
    Choose the images to remove, the least recently pulled one first.

    :param images: all images, in that order.
    """
    reference_counts = Counter(digest for image in images for digest in image.needs)
    sizes = {digest: file.size for digest, file in inventory.files.items()}

    def is_kept(digest: Digest) -> bool:
        return (
            reference_counts[digest] > 0 or now - inventory.files[digest].used < policy.protection
        )

    total = sum(size for digest, size in sizes.items() if is_kept(digest))
    chosen = []
    for image in images:
        age = now - image.used
        too_old = policy.max_age is not None and age > policy.max_age
        too_much = policy.max_bytes is not None and total > policy.max_bytes
        if age < policy.protection or not (too_old or too_much):
            continue
        chosen.append(image)
        for digest in image.needs:
            reference_counts[digest] -= 1
            if digest in sizes and not is_kept(digest):
                total -= sizes[digest]
    return tuple(chosen)
