"""
Removes unused images and blobs from a directory of images.

Image records name manifests, and manifests name a config and layers.  Manifests are live,
also those that no record names, because clients pull by digest.  Everything that no live
manifest names is garbage; records of layers keep nothing alive: they only save packing.
The *policy* decides which images stop being live, the least recently pulled ones first;
images and blobs that were used within the grace period are kept in any case.

The guarantee: **a stored manifest never names a blob that this collector removed**, whatever
runs concurrently, in this process or in others, and wherever this process dies.  It holds
because

1. an image is removed from the outside in: its names and tags, its records, its
   manifests; all of that is on the disk before any blob is removed.  A crash in between
   leaves garbage for the next collection, and no dangling references;
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
   bytes to the directory of drafts.  A reader that has it open reads it to its end.  It is
   deleted from there without the lock, and swept like a draft after a crash.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import suppress
from enum import Enum
from functools import partial
from secrets import token_hex
from typing import TypeVar

from nixery.image.names import Digest
from nixery.runtime.clocks import SystemWallClock, WallClock, WallTime
from nixery.storage.errors import CollectionRunning, StorageUnavailable
from nixery.storage.filesystem.blobs import DESCRIPTION
from nixery.storage.filesystem.files import failures, synchronise_directory
from nixery.storage.filesystem.gc_policy import Collected, Policy, choose
from nixery.storage.filesystem.last_used import RESOLUTION_SECONDS
from nixery.storage.filesystem.publish_lock import attempt_collection, attempt_removal
from nixery.storage.filesystem.scan import (
    BlobFile,
    Inventory,
    StoredImage,
    image_manifests,
    read_files,
    read_names,
)

__all__ = [
    "Step",
    "Work",
    "collect",
    "run_blocking",
    "locked",
    "move_aside",
    "purge",
    "survey",
]

T = TypeVar("T")

_clock = SystemWallClock()

REMOVAL_BATCH_SIZE = 64
"""Maximum number of blobs that are removed while the lock is held once."""

MAX_LOCK_ATTEMPTS = 1200
"""Attempts to get the lock, several per second, before a collection gives up."""


class Step(Enum):
    """Tells the caller that runs the steps of a collection how to continue."""

    GO = "go on at once"
    WAIT = "go on in a moment: somebody publishes"


Work = Generator[Step, None, Collected]
"""A collection, step by step; steps may run on different threads, one at a time."""


def run_blocking(work: Generator[Step, None, T]) -> T:
    """Run all steps of a collection on this thread, and block."""
    while True:
        try:
            if next(work) is Step.WAIT:
                time.sleep(0.05)
        except StopIteration as end:
            result: T = end.value
            return result


def collect(root: str, policy: Policy, ages: WallClock | None = None) -> Work:
    """
    Remove everything that the policy does not keep.

    :param root: the directory of the storage.
    :param ages: the clock for ages; by default, the wall clock of this machine.
    :raises CollectionRunning: another collection is running.
    :raises StorageError: the disk failed; files removed before that stay removed.
    """
    ages = ages or _clock
    with attempt_collection(root) as alone:
        if not alone:
            raise CollectionRunning(path=root)
        inventory = Inventory(root=root)
        yield from survey(inventory)
        done = Collected(dry_run=policy.dry_run)
        units = inventory.units()
        victims = choose(inventory, units, policy, ages.now())
        kept = yield from _untag(inventory, units, victims, policy, done)
        yield from _remove(inventory, kept, policy, done, ages.now())
        yield from _remove_dangling(inventory, policy, done)
        yield from _correct_times(inventory, policy)
        if policy.max_bytes is not None:
            done.over = max(0, done.total - policy.max_bytes)
        return done


def purge(root: str, chosen: Sequence[StoredImage], inventory: Inventory, *, dry_run: bool) -> Work:
    """
    Remove some images now, however recently they were pulled, and the blobs only they name.

    :param inventory: a survey made just now, which has these images.
    :raises CollectionRunning: a collection is running.
    """
    policy = Policy(grace=0.0, dry_run=dry_run)
    with attempt_collection(root) as alone:
        if not alone:
            raise CollectionRunning(path=root)
        done = Collected(dry_run=dry_run)
        kept = yield from _untag(inventory, inventory.units(), chosen, policy, done)
        mine = frozenset(digest for unit in chosen for digest in unit.needs)
        yield from _remove(inventory, kept, policy, done, _clock.now(), only=mine)
        return done


def survey(inventory: Inventory) -> Generator[Step, None, None]:
    """Read the contents of the directory, in the order that makes removing safe."""
    with failures("survey the storage"):
        for _ in read_files(inventory):
            yield Step.GO
        # Every publisher has either ended, or not checked its blobs yet.
        yield from locked(inventory.root, lambda: None)
        for _ in read_names(inventory):
            yield Step.GO


def move_aside(inventory: Inventory, digest: Digest, directory: str) -> list[str]:
    """
    Make a blob absent, and move its files to ``directory``.  The caller holds the lock.

    :return: the new paths of its files.
    """
    path, name = inventory.path(digest), os.path.join(directory, token_hex(16))
    moved = []
    # The description goes first: without it there is no blob.
    for suffix in (DESCRIPTION, ""):
        with suppress(FileNotFoundError):
            os.rename(path + suffix, name + suffix)
            moved.append(name + suffix)
    return moved


def locked(root: str, change: Callable[[], T]) -> Generator[Step, None, T]:
    """
    Change something while the lock keeps publishers out.

    :raises StorageUnavailable: publishers held the lock at every attempt.
    """
    for _ in range(MAX_LOCK_ATTEMPTS):
        with failures("change the storage"), attempt_removal(root) as held:
            if held:
                return change()
        yield Step.WAIT
    raise StorageUnavailable(
        operation="collect what is not needed", reason="images are published all the time"
    )


# -- the steps --------------------------------------------------------------------------


def _untag(
    inventory: Inventory,
    units: Sequence[StoredImage],
    victims: Iterable[StoredImage],
    policy: Policy,
    done: Collected,
) -> Generator[Step, None, frozenset[Digest]]:
    """Remove images from the store; returns the blobs that the remaining images need."""
    leaving = {unit.manifests for unit in victims}
    staying = [unit for unit in units if unit.manifests not in leaving]
    served: dict[str, list[str]] = {}
    for place, key in inventory.served.items():
        served.setdefault(key, []).append(place)
    notes: dict[Digest | None, list[tuple[str, str]]] = {}
    for note, about in inventory.notes.items():
        notes.setdefault(about, []).append(note)
    naming = Counter(digest for unit in units for digest in unit.manifests)
    for victim in [unit for unit in units if unit.manifests in leaving]:
        # A manifest that another image names too is kept.
        alone = [digest for digest in victim.manifests if naming[digest] == 1]
        outside = [("served", place) for key in victim.keys for place in served.get(key, ())]
        outside += [note for digest in alone for note in notes.get(digest, ())]
        drafts: list[str] | None = []
        if not policy.dry_run:
            drafts = yield from locked(
                inventory.root, partial(_unpublish, inventory, victim, alone, outside)
            )
        if drafts is None:
            done.spared += 1
            staying.append(victim)
        else:
            done.images += 1
            naming.subtract(victim.manifests)
            _delete(drafts)
        yield Step.GO
    return frozenset(digest for unit in staying for digest in unit.needs)


def _unpublish(
    inventory: Inventory,
    unit: StoredImage,
    manifests: Sequence[Digest],
    outside: Sequence[tuple[str, str]],
) -> list[str] | None:
    """
    Remove an image.  The caller holds the lock.

    :param manifests: those of its manifests that no other image has.
    :param outside: the records that named it, or were about it, when they were listed.
    :return: the paths to be deleted; ``None`` if it was used since, and is kept.
    """
    if not all(_untouched(inventory, digest) for digest in unit.manifests):
        return None
    records = inventory.records
    for kind, key in outside:
        # The record may name another image by now.
        if kind != "served" or records.get(kind, key) == inventory.served[key].encode():
            records.delete(kind, key)
    for key in unit.keys:
        value = records.get("image", key)
        if value is not None and image_manifests(value) == unit.manifests:
            records.delete("image", key)
    drafts = _discard(inventory, manifests)
    # Has to be on the disk before any blob that it names is removed.
    for directory in {os.path.dirname(inventory.path(digest)) for digest in manifests}:
        if os.path.isdir(directory):
            synchronise_directory(directory)
    return drafts


def _remove(
    inventory: Inventory,
    kept: frozenset[Digest],
    policy: Policy,
    done: Collected,
    now: WallTime,
    only: frozenset[Digest] | None = None,
) -> Generator[Step, None, None]:
    """Remove the blobs that no manifest names."""
    everything = inventory.files.keys() | inventory.described.keys()
    garbage = []
    for digest in sorted(everything if only is None else everything & only):
        file = inventory.files.get(digest)
        # Left for the next collection: changed too close to the listing, or used recently.
        recent = file is not None and (file.fresh or now - file.used < policy.protection)
        if digest not in kept and not recent:
            garbage.append(digest)
    done.total = inventory.total
    for start in range(0, len(garbage), REMOVAL_BATCH_SIZE):
        batch = garbage[start : start + REMOVAL_BATCH_SIZE]
        sizes = {
            digest: inventory.files[digest].size for digest in batch if digest in inventory.files
        }
        removed: Sequence[Digest] = batch
        if not policy.dry_run:
            removed, drafts = yield from locked(
                inventory.root, partial(_discard_untouched, inventory, batch)
            )
            _delete(drafts)
        freed = sum(sizes.get(digest, 0) for digest in removed)
        done.blobs += len(removed)
        done.spared += len(batch) - len(removed)
        done.freed += freed
        done.total -= freed
        yield Step.GO


def _remove_dangling(
    inventory: Inventory, policy: Policy, done: Collected
) -> Generator[Step, None, None]:
    """Remove the dangling records."""
    if policy.dry_run:
        return
    records = inventory.records

    def leads_nowhere(kind: str, key: str) -> bool:
        if kind == "served":
            return records.get("image", inventory.served[key]) is None
        digest = inventory.layers[key] if kind == "layer" else inventory.notes[kind, key]
        return digest is not None and not os.path.lexists(inventory.path(digest))

    def tidy(batch: Sequence[tuple[str, str]]) -> None:
        for kind, key in batch:
            if leads_nowhere(kind, key):
                records.delete(kind, key)
                done.records += 1

    doubtful = [("layer", key) for key in inventory.layers]
    doubtful += [("served", place) for place in inventory.served]
    doubtful += list(inventory.notes)
    for start in range(0, len(doubtful), REMOVAL_BATCH_SIZE):
        batch = [
            each for each in doubtful[start : start + REMOVAL_BATCH_SIZE] if leads_nowhere(*each)
        ]
        if batch:
            yield from locked(inventory.root, partial(tidy, batch))
        yield Step.GO


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
            with failures("correct a time"), suppress(FileNotFoundError, PermissionError):
                os.utime(inventory.path(digest))
            yield Step.GO


def _untouched(inventory: Inventory, digest: Digest) -> bool:
    """Tell whether a blob's file is unchanged since it was listed; a missing one counts as so."""
    listed = inventory.files.get(digest)
    try:
        found = os.stat(inventory.path(digest))
    except FileNotFoundError:
        return True
    if listed is None or listed.fresh:
        return False
    return BlobFile.of(found, WallTime(0.0)).signature == listed.signature


def _discard(inventory: Inventory, digests: Sequence[Digest]) -> list[str]:
    """Make blobs absent.  The caller holds the lock.  :return: the paths to be deleted."""
    drafts = os.path.join(inventory.root, "tmp")
    return [path for digest in digests for path in move_aside(inventory, digest, drafts)]


def _discard_untouched(
    inventory: Inventory, digests: Sequence[Digest]
) -> tuple[list[Digest], list[str]]:
    """Make the blobs absent that were not used since the listing.  The caller holds the lock."""
    unused = [digest for digest in digests if _untouched(inventory, digest)]
    return unused, _discard(inventory, unused)


def _delete(paths: Sequence[str]) -> None:
    # Not while the lock is held: deleting large files takes long.
    for path in paths:
        with suppress(FileNotFoundError):  # swept by a process that has just started
            os.unlink(path)
