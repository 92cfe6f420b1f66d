"""
Removes unused images and blobs from a directory of images.

Image records name manifests, and manifests name a config and layers.  Manifests are live, also
those that no record names, because clients pull by digest, and with them what belongs to them:
SBOMs, signatures.  All else is garbage; records of layers only save packing.  The *policy*
decides which images stop being live, the least recently pulled ones first; images and blobs that
were used within the grace period are kept in any case.

The guarantee: **a stored manifest never names a blob that this collector removed**, whatever
runs concurrently, in this process or in others, and wherever this process dies.  It holds
because

1. an image is removed from the outside in: its names and tags, its records, its
   manifests; all of that is on the disk before any blob is removed.  A crash in between
   leaves garbage for the next collection, and no dangling references.  An index is removed
   before the images of its platforms, and with the first of them;
2. a publisher of a manifest holds the lock of :mod:`nixery.storage.filesystem.publish_lock`
   shared with other publishers, *touches* every blob that the manifest names, and stores the
   manifest, or fails because a blob is missing and makes the image again.  The collector
   holds the lock exclusively, for some files at a time, and keeps every file whose
   times have changed since it was listed;
3. blobs are listed first, then the lock is held once, and then manifests are read.  A
   publisher that touched a blob before the blob was listed had the lock before the
   collector, and so ended before manifests were read: its manifest is seen.  A later
   publisher touched the blob after it was listed: the changed time is seen.  A file that was
   changed at the very moment of the listing, when two changes may have the same time, is
   left for the next collection;
4. a pull in progress touches the blobs it looks up, see :mod:`.last_used`, and a
   daemon looks up all blobs of an image before it answers with its manifest.  If the daemon
   was first, the image is kept; if the collector was, the daemon finds a blob missing and
   makes the image again.  Answers from the daemon's cache were looked up seconds ago, and so
   are within the grace period.  Only a grace period of 0 gives that up: clients may then
   get a 404 between manifest and layer, and their next try succeeds;
5. a blob is removed by moving its description, which makes it absent, and then its
   bytes to the directory of temporary files.  A reader that has it open reads it to its end.  It is
   deleted from there without the lock, and swept like a temporary file after a crash.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import suppress
from enum import Enum
from functools import partial
from typing import TypeVar

from nixery.image.names import Digest
from nixery.runtime.clocks import SystemWallClock, WallClock, WallTime
from nixery.storage.errors import CollectionRunning, StorageUnavailable
from nixery.storage.filesystem.files import synchronise_directory, translate_os_errors
from nixery.storage.filesystem.gc_policy import CollectionResult, Policy, choose_images
from nixery.storage.filesystem.last_used import RESOLUTION_SECONDS
from nixery.storage.filesystem.publish_lock import attempt_collection, attempt_removal
from nixery.storage.filesystem.removal import (
    delete_files,
    is_unchanged,
    move_to_temp,
    move_unchanged_to_temp,
)
from nixery.storage.filesystem.scan import (
    Inventory,
    StoredImage,
    image_manifests,
    read_files,
    read_names,
)

__all__ = [
    "Step",
    "Collection",
    "collect",
    "run_blocking",
    "with_lock",
    "purge",
    "scan",
]

T = TypeVar("T")

_clock = SystemWallClock()

REMOVAL_BATCH_SIZE = 64
"""Maximum number of blobs that are removed while the lock is held once."""

MAX_LOCK_ATTEMPTS = 1200
"""Attempts to get the lock, several per second, before a collection gives up."""


class Step(Enum):
    """Tells the caller that runs the steps of a collection how to continue."""

    CONTINUE = "go on at once"
    WAIT = "go on in a moment: somebody publishes"


Collection = Generator[Step, None, CollectionResult]
"""A collection, step by step; steps may run on different threads, one at a time."""


def run_blocking(
    collection: Generator[Step, None, T], on_step: Callable[[], object] = lambda: None
) -> T:
    """
    Run all steps of a collection on this thread, and block.

    :param on_step: called after each step.
    """
    while True:
        try:
            if next(collection) is Step.WAIT:
                time.sleep(0.05)
            on_step()
        except StopIteration as end:
            result: T = end.value
            return result


def collect(root: str, policy: Policy, age_clock: WallClock | None = None) -> Collection:
    """
    Remove everything that the policy does not keep.

    :param root: the directory of the storage.
    :param age_clock: the clock for ages; by default, the wall clock of this machine.
    :raises CollectionRunning: another collection is running.
    :raises StorageError: the disk failed; files removed before that stay removed.
    """
    age_clock = age_clock or _clock
    with attempt_collection(root) as acquired:
        if not acquired:
            raise CollectionRunning(path=root)
        inventory = Inventory(root=root)
        yield from scan(inventory)
        result = CollectionResult(dry_run=policy.dry_run)
        images = inventory.stored_images()
        chosen = choose_images(inventory, images, policy, age_clock.now())
        live = yield from _untag(inventory, images, chosen, policy, result)
        yield from _remove(inventory, live, policy, result, age_clock.now())
        yield from _remove_dangling(inventory, policy, result)
        yield from _correct_times(inventory, policy)
        if policy.max_bytes is not None:
            result.over = max(0, result.total - policy.max_bytes)
        return result


def purge(
    root: str, chosen: Sequence[StoredImage], inventory: Inventory, *, dry_run: bool
) -> Collection:
    """
    Remove some images now, however recently they were pulled, the blobs that only they name, and
    the records of these.

    :param inventory: a survey made just now, which has these images.
    :raises CollectionRunning: a collection is running.
    """
    policy = Policy(grace=0.0, dry_run=dry_run)
    with attempt_collection(root) as acquired:
        if not acquired:
            raise CollectionRunning(path=root)
        result = CollectionResult(dry_run=dry_run)
        live = yield from _untag(inventory, inventory.stored_images(), chosen, policy, result)
        candidates = frozenset(digest for image in chosen for digest in image.needs)
        yield from _remove(inventory, live, policy, result, _clock.now(), candidates=candidates)
        yield from _remove_dangling(inventory, policy, result)
        return result


def scan(inventory: Inventory) -> Generator[Step, None, None]:
    """Read the contents of the directory, in the order that makes removing safe."""
    with translate_os_errors("survey the storage"):
        for _ in read_files(inventory):
            yield Step.CONTINUE
        # Every publisher has either ended, or not checked its blobs yet.
        yield from with_lock(inventory.root, lambda: None)
        for _ in read_names(inventory):
            yield Step.CONTINUE


def with_lock(root: str, action: Callable[[], T]) -> Generator[Step, None, T]:
    """
    Change something while the lock keeps publishers out.

    :raises StorageUnavailable: publishers held the lock at every attempt.
    """
    for _ in range(MAX_LOCK_ATTEMPTS):
        with translate_os_errors("change the storage"), attempt_removal(root) as acquired:
            if acquired:
                return action()
        yield Step.WAIT
    raise StorageUnavailable(
        operation="collect what is not needed", reason="images are published all the time"
    )


def _untag(
    inventory: Inventory,
    images: Sequence[StoredImage],
    to_remove: Iterable[StoredImage],
    policy: Policy,
    result: CollectionResult,
) -> Generator[Step, None, frozenset[Digest]]:
    """Remove images from the store; returns the blobs that the remaining images need."""
    removed = {image.manifests for image in to_remove}
    removed_manifests = {digest for manifests in removed for digest in manifests}
    removed |= {
        image.manifests for image in images if not image.parts.isdisjoint(removed_manifests)
    }
    remaining = [image for image in images if image.manifests not in removed]
    kept_parts: set[Digest] = set()
    tag_keys: dict[str, list[str]] = {}
    for tag_key, key in inventory.tag_records.items():
        tag_keys.setdefault(key, []).append(tag_key)
    records_about: dict[Digest | None, list[tuple[str, str]]] = {}
    for record, digest in inventory.other_records.items():
        records_about.setdefault(digest, []).append(record)
    reference_counts = Counter(digest for image in images for digest in image.manifests)
    attached = inventory.attached_manifests()
    # An index precedes its images, see Inventory.stored_images().
    for image in [image for image in images if image.manifests in removed]:
        if not kept_parts.isdisjoint(image.manifests):
            result.spared += 1
            remaining.append(image)
            continue
        # A manifest that another image names too is kept.
        exclusive = [digest for digest in image.manifests if reference_counts[digest] == 1]
        outer_records = [
            ("served", tag_key) for key in image.keys for tag_key in tag_keys.get(key, ())
        ]
        outer_records += [
            record for digest in exclusive for record in records_about.get(digest, ())
        ]
        exclusive += [each for digest in exclusive for each in attached.get(digest, ())]
        moved_paths: list[str] | None = []
        if not policy.dry_run:
            moved_paths = yield from with_lock(
                inventory.root, partial(_unpublish, inventory, image, exclusive, outer_records)
            )
        if moved_paths is None:
            result.spared += 1
            remaining.append(image)
            kept_parts |= image.parts
        else:
            result.images += 1
            reference_counts.subtract(image.manifests)
            delete_files(moved_paths)
        yield Step.CONTINUE
    return frozenset(digest for image in remaining for digest in image.needs)


def _unpublish(
    inventory: Inventory,
    image: StoredImage,
    manifests: Sequence[Digest],
    outer_records: Sequence[tuple[str, str]],
) -> list[str] | None:
    """
    Remove an image.  The caller holds the lock.

    :param manifests: those of its manifests that no other image has, and what belongs to them.
    :param outer_records: the records that named it, or were about it, when they were listed.
    :return: the paths to be deleted; ``None`` if it was used since, and is kept.
    """
    if not all(is_unchanged(inventory, digest) for digest in image.manifests):
        return None
    records = inventory.records
    for kind, key in outer_records:
        # The record may name another image by now.
        if kind != "served" or records.get(kind, key) == inventory.tag_records[key].encode():
            records.delete(kind, key)
    for key in image.keys:
        value = records.get("image", key)
        if value is not None and image_manifests(value) == image.manifests:
            records.delete("image", key)
    moved_paths = move_to_temp(inventory, manifests)
    # Has to be on the disk before any blob that it names is removed.
    for directory in {os.path.dirname(inventory.path(digest)) for digest in manifests}:
        if os.path.isdir(directory):
            synchronise_directory(directory)
    return moved_paths


def _remove(
    inventory: Inventory,
    live: frozenset[Digest],
    policy: Policy,
    result: CollectionResult,
    now: WallTime,
    candidates: frozenset[Digest] | None = None,
) -> Generator[Step, None, None]:
    """Remove the blobs that no manifest names."""
    digests = inventory.files.keys() | inventory.descriptions.keys()
    garbage = []
    for digest in sorted(digests if candidates is None else digests & candidates):
        file = inventory.files.get(digest)
        # Left for the next collection: changed too close to the listing, or used recently.
        recent = file is not None and (file.fresh or now - file.used < policy.protection)
        if digest not in live and not recent:
            garbage.append(digest)
    result.total = inventory.total
    garbage.sort(key=lambda digest: digest not in inventory.manifests)  # these first
    for start in range(0, len(garbage), REMOVAL_BATCH_SIZE):
        batch = garbage[start : start + REMOVAL_BATCH_SIZE]
        sizes = {
            digest: inventory.files[digest].size for digest in batch if digest in inventory.files
        }
        removed: Sequence[Digest] = batch
        if not policy.dry_run:
            removed, moved_paths = yield from with_lock(
                inventory.root, partial(move_unchanged_to_temp, inventory, batch)
            )
            delete_files(moved_paths)
        freed = sum(sizes.get(digest, 0) for digest in removed)
        result.blobs += len(removed)
        result.spared += len(batch) - len(removed)
        result.freed += freed
        result.total -= freed
        yield Step.CONTINUE


def _remove_dangling(
    inventory: Inventory, policy: Policy, result: CollectionResult
) -> Generator[Step, None, None]:
    """Remove the dangling records."""
    if policy.dry_run:
        return
    records = inventory.records

    def is_dangling(kind: str, key: str) -> bool:
        if kind == "served":
            return records.get("image", inventory.tag_records[key]) is None
        digest = inventory.layers[key] if kind == "layer" else inventory.other_records[kind, key]
        return digest is not None and not os.path.lexists(inventory.path(digest))

    def remove_batch(batch: Sequence[tuple[str, str]]) -> None:
        for kind, key in batch:
            if is_dangling(kind, key):
                records.delete(kind, key)
                result.records += 1

    candidates = [("layer", key) for key in inventory.layers]
    candidates += [("served", tag_key) for tag_key in inventory.tag_records]
    candidates += list(inventory.other_records)
    for start in range(0, len(candidates), REMOVAL_BATCH_SIZE):
        batch = [
            each for each in candidates[start : start + REMOVAL_BATCH_SIZE] if is_dangling(*each)
        ]
        if batch:
            yield from with_lock(inventory.root, partial(remove_batch, batch))
        yield Step.CONTINUE


def _correct_times(inventory: Inventory, policy: Policy) -> Generator[Step, None, None]:
    """
    Set times of files that lie in the future to now.

    A clock that was wrong leaves such times, and they would protect unused files until
    then.
    """
    if policy.dry_run:
        return
    latest = _clock.now() + RESOLUTION_SECONDS
    for digest, file in inventory.files.items():
        _, modified, changed = file.signature
        if max(modified, changed) / 1e9 > latest:
            # Set to now, not to a time from the listing: it may be in use at this moment.
            with (
                translate_os_errors("correct a time"),
                suppress(FileNotFoundError, PermissionError),
            ):
                os.utime(inventory.path(digest))
            yield Step.CONTINUE
