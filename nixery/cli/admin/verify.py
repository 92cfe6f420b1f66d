"""
Checks that stored blobs have their digests and that stored records refer to existing blobs.

Disks change bits, and people move files. A pull notices missing and truncated files, but does not
hash a gigabyte again each time; this command does, when it is run. It repairs only by removing: the
next pull makes the removed image again.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from attrs import define, field, frozen

from nixery.image.names import Digest
from nixery.storage.filesystem.blobs import DESCRIPTION
from nixery.storage.filesystem.files import failures, make_directory
from nixery.storage.filesystem.garbage_collector import (
    Step,
    locked,
    move_aside,
    run_blocking,
    survey,
)
from nixery.storage.filesystem.scan import Inventory, StoredImage

__all__ = ["Fault", "Verification", "verify"]

READ_BYTES = 1 << 20


@frozen(kw_only=True)
class Fault:
    """
    A fault of a blob, an image or a record.

    :param kind: ``damaged``, ``incomplete`` (only the bytes or only the description is there),
        ``dangling`` (refers to something missing), ``unreadable``.
    :param what: names the blob, image or record.
    :param detail: describes the fault.
    """

    kind: str
    what: str
    detail: str


@define(kw_only=True)
class Verification:
    """
    The result of a verification.

    :param blobs: number of blobs that were hashed.
    :param size: their total size, in bytes.
    :param findings: the faults that were found.
    :param repaired: number of blobs and records that were moved aside or removed.
    """

    blobs: int = 0
    size: int = 0
    findings: list[Fault] = field(factory=list)
    repaired: int = 0


def verify(
    root: str, *, repair: bool, threads: int, progress: Callable[[int], object]
) -> Verification:
    """
    Hash every blob, and check that every referenced blob is there. Blocks.

    :param repair: move damaged blobs to ``ROOT/damaged``, and remove the records of incomplete
        images, so that the next pull makes them again.
    :param threads: number of files that are hashed at once.
    :param progress: called with the number of bytes hashed since the last call.
    :raises StorageError: the storage cannot be read.
    """
    inventory = Inventory(root=root)
    run_blocking(survey(inventory))
    done = Verification()
    bad: set[Digest] = set()
    with ThreadPoolExecutor(threads) as pool:
        for digest, trouble in pool.map(
            lambda each: (each, _check(inventory, each, progress)), sorted(inventory.files)
        ):
            done.blobs += 1
            done.size += inventory.files[digest].size
            if trouble is not None:
                bad.add(digest)
                done.findings.append(trouble)
    for digest in sorted(inventory.described.keys() - inventory.files.keys()):
        # A blob whose bytes were stored meanwhile is complete.
        if not os.path.lexists(inventory.path(digest)):
            bad.add(digest)
            done.findings.append(
                Fault(kind="incomplete", what=digest, detail="a description without bytes")
            )
    broken = []
    for unit in inventory.units():
        lost = [each for each in unit.needs if each in bad or _missing(inventory, each)]
        if lost:
            broken.append(unit)
            done.findings.append(
                Fault(
                    kind="dangling",
                    what=", ".join(f"{name}:{tag}" for name, tag in inventory.tags(unit))
                    or unit.manifests[0],
                    detail=f"the image lacks {len(lost)} blobs, {min(lost)} for one",
                )
            )
    done.findings += _records(inventory)
    if repair:
        done.repaired = run_blocking(_repair(inventory, frozenset(bad), broken))
    return done


def _check(inventory: Inventory, digest: Digest, progress: Callable[[int], object]) -> Fault | None:
    hashed, size = hashlib.sha256(), 0
    try:
        with open(inventory.path(digest), "rb", buffering=0) as file:
            while piece := file.read(READ_BYTES):
                hashed.update(piece)
                size += len(piece)
                progress(len(piece))
    except FileNotFoundError:
        return None  # collected meanwhile
    except OSError as error:
        return Fault(kind="unreadable", what=digest, detail=error.strerror or str(error))
    noted = inventory.described.get(digest)
    if "sha256:" + hashed.hexdigest() != digest:
        return Fault(
            kind="damaged", what=digest, detail=f"its bytes hash to sha256:{hashed.hexdigest()}"
        )
    if noted is None:
        if (
            os.path.lexists(inventory.path(digest) + DESCRIPTION)
            and digest not in inventory.described
        ):
            return None  # stored meanwhile
        return Fault(kind="incomplete", what=digest, detail="bytes without a description")
    if noted[1] != size:
        return Fault(
            kind="damaged",
            what=digest,
            detail=f"it has {size} bytes, and its description says {noted[1]}",
        )
    return None


def _missing(inventory: Inventory, digest: Digest) -> bool:
    if inventory.whole(digest):
        return False
    # The list may be older than the image.
    path = inventory.path(digest)
    return not (os.path.lexists(path) and os.path.lexists(path + DESCRIPTION))


def _records(inventory: Inventory) -> Iterator[Fault]:
    for key, manifests in sorted(inventory.images.items()):
        if manifests is None:
            yield Fault(kind="damaged", what=f"image record {key}", detail="it says nothing")
    for key, digest in sorted(inventory.layers.items()):
        if digest is None:
            yield Fault(kind="damaged", what=f"layer record {key}", detail="it says nothing")
        elif _missing(inventory, digest):
            yield Fault(kind="dangling", what=f"layer record {key}", detail=f"names {digest}")
    for place, key in sorted(inventory.served.items()):
        if key not in inventory.images and inventory.records.get("image", key) is None:
            yield Fault(kind="dangling", what=f"served record {place}", detail=f"names {key}")


def _repair(
    inventory: Inventory, bad: frozenset[Digest], broken: Sequence[StoredImage]
) -> Generator[Step, None, int]:
    records, repaired = inventory.records, 0
    damaged = os.path.join(inventory.root, "damaged")
    with failures("move damaged blobs aside"):
        make_directory(damaged)

    def take_off(unit: StoredImage) -> int:
        # If it was built again meanwhile, it is whole.
        if not any(each in bad or _missing(inventory, each) for each in unit.needs):
            return 0
        for key in unit.keys:
            records.delete("image", key)
        for digest in unit.manifests:
            for path in move_aside(inventory, digest, os.path.join(inventory.root, "tmp")):
                os.unlink(path)
        return len(unit.keys) + len(unit.manifests)

    for unit in broken:
        repaired += yield from locked(inventory.root, partial(take_off, unit))
    for digest in sorted(bad):
        repaired += bool(
            (yield from locked(inventory.root, partial(move_aside, inventory, digest, damaged)))
        )
    # Records that were valid before now refer to removed images.
    left = Inventory(root=inventory.root)
    yield from survey(left)
    for finding in _records(left):
        kind, _, key = finding.what.partition(" record ")
        yield from locked(inventory.root, partial(records.delete, kind, key))
        repaired += 1
    return repaired
