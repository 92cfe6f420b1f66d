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

from nixery.artifacts.attachment import decode_attachments
from nixery.artifacts.signing_key import VerificationKey
from nixery.artifacts.simple_signing import Signature, decode_signature
from nixery.errors import StorageError
from nixery.image.names import Digest
from nixery.storage.errors import BlobUnknown
from nixery.storage.filesystem.blobs import DESCRIPTION
from nixery.storage.filesystem.files import make_directory, translate_os_errors
from nixery.storage.filesystem.garbage_collector import (
    Step,
    run_blocking,
    scan,
    with_lock,
)
from nixery.storage.filesystem.removal import move_aside
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
    root: str,
    *,
    repair: bool,
    threads: int,
    progress: Callable[[int], object],
    keys: Sequence[VerificationKey] = (),
) -> Verification:
    """
    Hash every blob, and check that every referenced blob is there. Blocks.

    :param repair: move damaged blobs to ``ROOT/damaged``, and remove the records of incomplete
        images, so that the next pull makes them again.
    :param threads: number of files that are hashed at once.
    :param progress: called with the number of bytes hashed since the last call.
    :param keys: verify the signatures that were made with one of them.
    :raises StorageError: the storage cannot be read.
    """
    inventory = Inventory(root=root)
    run_blocking(scan(inventory))
    verification = Verification()
    damaged: set[Digest] = set()
    with ThreadPoolExecutor(threads) as pool:
        for digest, fault in pool.map(
            lambda each: (each, _check_blob(inventory, each, progress)), sorted(inventory.files)
        ):
            verification.blobs += 1
            verification.size += inventory.files[digest].size
            if fault is not None:
                damaged.add(digest)
                verification.findings.append(fault)
    for digest in sorted(inventory.descriptions.keys() - inventory.files.keys()):
        # A blob whose bytes were stored meanwhile is complete.
        if not os.path.lexists(inventory.path(digest)):
            damaged.add(digest)
            verification.findings.append(
                Fault(kind="incomplete", what=digest, detail="a description without bytes")
            )
    incomplete = []
    for image in inventory.stored_images():
        missing = [each for each in image.needs if each in damaged or _is_missing(inventory, each)]
        if missing:
            incomplete.append(image)
            verification.findings.append(
                Fault(
                    kind="dangling",
                    what=", ".join(f"{name}:{tag}" for name, tag in inventory.tags(image))
                    or image.manifests[0],
                    detail=f"the image lacks {len(missing)} blobs, {min(missing)} for one",
                )
            )
    verification.findings += _check_records(inventory, keys)
    if repair:
        verification.repaired = run_blocking(
            _repair(inventory, frozenset(damaged), incomplete, keys)
        )
    return verification


def _check_blob(
    inventory: Inventory, digest: Digest, progress: Callable[[int], object]
) -> Fault | None:
    hashed, size = hashlib.sha256(), 0
    try:
        with open(inventory.path(digest), "rb", buffering=0) as file:
            while chunk := file.read(READ_BYTES):
                hashed.update(chunk)
                size += len(chunk)
                progress(len(chunk))
    except FileNotFoundError:
        return None  # collected meanwhile
    except OSError as error:
        return Fault(kind="unreadable", what=digest, detail=error.strerror or str(error))
    description = inventory.descriptions.get(digest)
    if "sha256:" + hashed.hexdigest() != digest:
        return Fault(
            kind="damaged", what=digest, detail=f"its bytes hash to sha256:{hashed.hexdigest()}"
        )
    if description is None:
        if (
            os.path.lexists(inventory.path(digest) + DESCRIPTION)
            and digest not in inventory.descriptions
        ):
            return None  # stored meanwhile
        return Fault(kind="incomplete", what=digest, detail="bytes without a description")
    if description[1] != size:
        return Fault(
            kind="damaged",
            what=digest,
            detail=f"it has {size} bytes, and its description says {description[1]}",
        )
    return None


def _is_missing(inventory: Inventory, digest: Digest) -> bool:
    if inventory.is_complete(digest):
        return False
    # The list may be older than the image.
    path = inventory.path(digest)
    return not (os.path.lexists(path) and os.path.lexists(path + DESCRIPTION))


def _check_records(inventory: Inventory, keys: Sequence[VerificationKey] = ()) -> Iterator[Fault]:
    for key, manifests in sorted(inventory.images.items()):
        if manifests is None:
            yield Fault(kind="damaged", what=f"image record {key}", detail="it says nothing")
    for key, digest in sorted(inventory.layers.items()):
        if digest is None:
            yield Fault(kind="damaged", what=f"layer record {key}", detail="it says nothing")
        elif _is_missing(inventory, digest):
            yield Fault(kind="dangling", what=f"layer record {key}", detail=f"names {digest}")
    for served_key, key in sorted(inventory.tag_records.items()):
        if key not in inventory.images and inventory.records.get("image", key) is None:
            yield Fault(kind="dangling", what=f"served record {served_key}", detail=f"names {key}")

    for kind, key in sorted(inventory.other_records):
        if kind in ("bundle", "document", "signature"):
            yield from _check_attached(inventory, kind, key, keys)


def _check_attached(
    inventory: Inventory, kind: str, key: str, keys: Sequence[VerificationKey]
) -> Iterator[Fault]:
    """Check the record of documents, bundles or a signature, and what it names."""
    record = inventory.records.get(kind, key)
    if record is None:
        return  # collected meanwhile
    what = f"{kind} record {key}"
    try:
        if kind == "signature":
            signature = decode_signature(record)
            named = {signature.payload.digest}
        else:
            signature = None
            named = {digest for each in decode_attachments(record) for digest in each.digests}
    except ValueError:
        yield Fault(kind="damaged", what=what, detail="it says nothing")
        return
    missing = [digest for digest in named if _is_missing(inventory, digest)]
    if missing:
        yield Fault(kind="dangling", what=what, detail=f"names {min(missing)}")
    elif signature is not None and not _is_good(inventory, signature, keys):
        yield Fault(kind="damaged", what=what, detail="its signature is not that of its payload")


def _is_good(inventory: Inventory, signature: Signature, keys: Sequence[VerificationKey]) -> bool:
    """Tell whether a signature is valid, if the key that it names is known."""
    key = next((each for each in keys if each.id == signature.key_id), None)
    if key is None:
        return True
    try:
        payload = inventory.blobs.read(signature.payload.digest, is_use=False)
    except (BlobUnknown, StorageError):
        return True  # told of the blob itself
    return key.is_valid(signature.signature, payload)


def _repair(
    inventory: Inventory,
    damaged_digests: frozenset[Digest],
    incomplete: Sequence[StoredImage],
    keys: Sequence[VerificationKey],
) -> Generator[Step, None, int]:
    records, repaired = inventory.records, 0
    damaged = os.path.join(inventory.root, "damaged")
    with translate_os_errors("move damaged blobs aside"):
        make_directory(damaged)

    def remove_image(image: StoredImage) -> int:
        # If it was built again meanwhile, it is whole.
        if not any(each in damaged_digests or _is_missing(inventory, each) for each in image.needs):
            return 0
        for key in image.keys:
            records.delete("image", key)
        for digest in image.manifests:
            for path in move_aside(inventory, digest, os.path.join(inventory.root, "tmp")):
                os.unlink(path)
        return len(image.keys) + len(image.manifests)

    for image in incomplete:
        repaired += yield from with_lock(inventory.root, partial(remove_image, image))
    for digest in sorted(damaged_digests):
        repaired += bool(
            (yield from with_lock(inventory.root, partial(move_aside, inventory, digest, damaged)))
        )
    # Records that were valid before now refer to removed images.
    remaining = Inventory(root=inventory.root)
    yield from scan(remaining)
    for fault in _check_records(remaining, keys):
        kind, _, key = fault.what.partition(" record ")
        yield from with_lock(inventory.root, partial(records.delete, kind, key))
        repaired += 1
    return repaired
