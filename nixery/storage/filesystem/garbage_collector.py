"""
Removing from a directory of images what is not wanted any more.

What is live?  Image records name manifests, manifests name a config and layers.  A
manifest that no record names is live too, because clients pull by digest.  Everything
that no live manifest names is garbage, and records of layers keep nothing alive: they
only spare packing.  *Policy* says which images, those not pulled for the longest time
first, stop being live; what was used within the time of grace stays in any case,
image or blob.

The promise: **a manifest that is stored never names a blob that this removed**, whatever
else goes on, in this process or in others, and wherever this one dies.  It holds because

1. an image is taken off from the outside in: what it was served as, its records, its
   manifests, all of that on the disk before any blob goes.  A crash in between leaves
   garbage for the next collection, and nothing that dangles;
2. whoever publishes a manifest holds the lock of :mod:`nixery.storage.filesystem.publish_lock` with
   others like it, *touches* every blob that the manifest names, and stores the manifest,
   or fails because a blob is gone and makes the image again.  Whatever removes holds the
   lock alone, for some files at a time, and spares what does not bear the times any more
   that it bore when it was listed;
3. blobs are listed first, then the lock is held once, and then manifests are read.  A
   publication that touched a blob before that was listed had the lock before us, and so
   ended before manifests were read, which shows its manifest.  One that came later
   touched the blob after it was listed, which shows as well.  What was changed at the
   very moment of the listing, when two changes may bear one time, is left for next time;
4. a pull in progress touches what it looks at, see :mod:`.last_used`, and a
   daemon looks at all blobs of an image before it answers with its manifest.  If it was
   first, the image is spared; if we were, it finds a part missing and makes the image
   again.  What it may answer from memory was looked at seconds ago, and so lies within
   the time of grace.  Only a grace of 0 gives that up: clients may then meet a 404
   between manifest and layer, which is mended by their next try;
5. a blob is removed by moving its description away, which makes it absent, and then its
   bytes, to the directory of drafts.  Whoever has it open reads it to its end.  It is
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
from nixery.storage.filesystem.last_used import RESOLUTION
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

BATCH = 64
"""How many blobs are removed under one lock."""

ATTEMPTS = 1200
"""How often the lock is asked for before a collection gives up, some times a second."""


class Step(Enum):
    """What a step of a collection says to whoever drives it."""

    GO = "go on at once"
    WAIT = "go on in a moment: somebody publishes"


Work = Generator[Step, None, Collected]
"""A collection, step by step; steps may be made on different threads, one at a time."""


def run_blocking(work: Generator[Step, None, T]) -> T:
    """Do all of it on this thread, and block."""
    while True:
        try:
            if next(work) is Step.WAIT:
                time.sleep(0.05)
        except StopIteration as end:
            result: T = end.value
            return result


def collect(root: str, policy: Policy, ages: WallClock | None = None) -> Work:
    """
    Remove what the policy does not keep.

    :param root: the directory of the storage.
    :param ages: ages are counted by it; by default, the wall clock of this machine.
    :raises CollectionRunning: another one is going on.
    :raises StorageError: the disk failed; what was removed so far is.
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
        kept = yield from _take_off(inventory, units, victims, policy, done)
        yield from _remove(inventory, kept, policy, done, ages.now())
        yield from _tidy(inventory, policy, done)
        yield from _correct_times(inventory, policy)
        if policy.max_bytes is not None:
            done.over = max(0, done.total - policy.max_bytes)
        return done


def purge(root: str, chosen: Sequence[StoredImage], inventory: Inventory, *, dry_run: bool) -> Work:
    """
    Remove some images now, however recently they were pulled, and what only they name.

    :param inventory: where they were found, surveyed just now.
    :raises CollectionRunning: a collection is going on.
    """
    policy = Policy(grace=0.0, dry_run=dry_run)
    with attempt_collection(root) as alone:
        if not alone:
            raise CollectionRunning(path=root)
        done = Collected(dry_run=dry_run)
        kept = yield from _take_off(inventory, inventory.units(), chosen, policy, done)
        mine = frozenset(digest for unit in chosen for digest in unit.needs)
        yield from _remove(inventory, kept, policy, done, _clock.now(), only=mine)
        return done


def survey(inventory: Inventory) -> Generator[Step, None, None]:
    """Find out what is there, in the order that makes removing safe."""
    with failures("survey the storage"):
        for _ in read_files(inventory):
            yield Step.GO
        # Whoever publishes has ended, or has not looked for its blobs yet.
        yield from locked(inventory.root, lambda: None)
        for _ in read_names(inventory):
            yield Step.GO


def move_aside(inventory: Inventory, digest: Digest, directory: str) -> list[str]:
    """
    With the lock: make a blob absent, and keep what there is of it in ``directory``.

    :return: what its files are called there.
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
    Change something while nobody publishes.

    :raises StorageUnavailable: somebody does all the time.
    """
    for _ in range(ATTEMPTS):
        with failures("change the storage"), attempt_removal(root) as held:
            if held:
                return change()
        yield Step.WAIT
    raise StorageUnavailable(
        operation="collect what is not needed", reason="images are published all the time"
    )


# -- the steps --------------------------------------------------------------------------


def _take_off(
    inventory: Inventory,
    units: Sequence[StoredImage],
    victims: Iterable[StoredImage],
    policy: Policy,
    done: Collected,
) -> Generator[Step, None, frozenset[Digest]]:
    """Take images off the store; returns what those name that stay."""
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
        # One that another image names as well stays with that one.
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
    With the lock: take an image off.

    :param manifests: those that no other image has.
    :param outside: the records that led to it, or told of it, when they were listed.
    :return: what is left to be deleted; ``None`` if it is being used, and stays.
    """
    if not all(_untouched(inventory, digest) for digest in unit.manifests):
        return None
    records = inventory.records
    for kind, key in outside:
        # It may lead to another image by now.
        if kind != "served" or records.get(kind, key) == inventory.served[key].encode():
            records.delete(kind, key)
    for key in unit.keys:
        value = records.get("image", key)
        if value is not None and image_manifests(value) == unit.manifests:
            records.delete("image", key)
    drafts = _discard(inventory, manifests)
    # Before any blob that it names can go.
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
    """Remove the blobs that nothing names."""
    everything = inventory.files.keys() | inventory.described.keys()
    garbage = []
    for digest in sorted(everything if only is None else everything & only):
        file = inventory.files.get(digest)
        # Bytes of which the listing came too early to tell, or just written: next time.
        recent = file is not None and (file.fresh or now - file.used < policy.protection)
        if digest not in kept and not recent:
            garbage.append(digest)
    done.total = inventory.total
    for start in range(0, len(garbage), BATCH):
        batch = garbage[start : start + BATCH]
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


def _tidy(inventory: Inventory, policy: Policy, done: Collected) -> Generator[Step, None, None]:
    """Remove the records that lead nowhere now."""
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
    for start in range(0, len(doubtful), BATCH):
        batch = [each for each in doubtful[start : start + BATCH] if leads_nowhere(*each)]
        if batch:
            yield from locked(inventory.root, partial(tidy, batch))
        yield Step.GO


def _correct_times(inventory: Inventory, policy: Policy) -> Generator[Step, None, None]:
    """
    Bring times that lie in the future back to now.

    A clock that was wrong once leaves them, and they would protect what nobody uses until
    they have come.
    """
    if policy.dry_run:
        return
    latest = _clock.now() + RESOLUTION
    for digest, file in inventory.files.items():
        _, modified, changed = file.signature
        if max(modified, changed) / 1e9 > latest:
            # To now, and not to what was listed: somebody may use it at this moment.
            with failures("correct a time"), suppress(FileNotFoundError, PermissionError):
                os.utime(inventory.path(digest))
            yield Step.GO


def _untouched(inventory: Inventory, digest: Digest) -> bool:
    """Whether a blob's file is as it was listed; one that is not there is."""
    listed = inventory.files.get(digest)
    try:
        found = os.stat(inventory.path(digest))
    except FileNotFoundError:
        return True
    if listed is None or listed.fresh:
        return False
    return BlobFile.of(found, WallTime(0.0)).signature == listed.signature


def _discard(inventory: Inventory, digests: Sequence[Digest]) -> list[str]:
    """With the lock: make blobs absent.  :return: what is left to be deleted."""
    drafts = os.path.join(inventory.root, "tmp")
    return [path for digest in digests for path in move_aside(inventory, digest, drafts)]


def _discard_untouched(
    inventory: Inventory, digests: Sequence[Digest]
) -> tuple[list[Digest], list[str]]:
    """With the lock: make those blobs absent that nobody has used since."""
    unused = [digest for digest in digests if _untouched(inventory, digest)]
    return unused, _discard(inventory, unused)


def _delete(paths: Sequence[str]) -> None:
    # Not while the lock is held: large files take their time.
    for path in paths:
        with suppress(FileNotFoundError):  # swept by a process that has just started
            os.unlink(path)
