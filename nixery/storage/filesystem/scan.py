"""
Reads the contents of a directory of images, and the references between them.

It works in small steps: each is one call on a worker thread, so that scanning a
hundred thousand files does not block other work for long.  Everything blocks.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress

from attrs import define, field, frozen

from nixery.errors import NixeryError, StorageError
from nixery.image.manifests import DOCKER_MANIFEST, OCI_MANIFEST, parse_manifest
from nixery.image.names import Digest, parse_digest
from nixery.runtime.clocks import SystemWallClock, WallTime
from nixery.storage.filesystem.blobs import DESCRIPTION, Blobs, read_description
from nixery.storage.filesystem.files import failures, read_file
from nixery.storage.filesystem.records import Records

__all__ = ["BlobFile", "Inventory", "StoredImage", "image_manifests", "read_files", "read_names"]

# The clock that the times of files come from.
_clock = SystemWallClock()

MANIFESTS = (OCI_MANIFEST, DOCKER_MANIFEST)

FILES_PER_STEP = 64
"""Number of small files that are read per step."""

DIRECTORIES_PER_STEP = 8
"""Number of directories of blobs that are listed per step; there are 256."""

TIMESTAMP_RESOLUTION_SECONDS = 1.0
"""
Seconds within which two changes of a file may have the same time: file systems take it
from a clock that ticks some hundred times a second.
"""

_NEVER = WallTime(0.0)
"""The last use of an image that has no files: earlier than any real time."""


@frozen(kw_only=True)
class BlobFile:
    """
    The file with the bytes of a blob.

    :param size: in bytes.
    :param used: the time of its last use.
    :param signature: a value that changes whenever it is used or replaced.
    :param fresh: whether the next change might leave the signature as it is.
    """

    size: int
    used: WallTime
    signature: tuple[int, int, int]
    fresh: bool

    @classmethod
    def of(cls, found: os.stat_result, now: WallTime) -> BlobFile:
        return cls(
            size=found.st_size,
            used=WallTime(found.st_mtime),
            signature=(found.st_ino, found.st_mtime_ns, found.st_ctime_ns),
            fresh=max(found.st_mtime, found.st_ctime) > now - TIMESTAMP_RESOLUTION_SECONDS,
        )


@define(kw_only=True)
class StoredImage:
    """
    An image: manifests that a record names together, or one that no record names.

    :param manifests: their digests, the preferred one first.
    :param keys: the keys of its image records.
    :param used: the time of its last pull.
    :param needs: all blobs that its manifests name, and its manifests.
    :param broken: the digests among ``needs`` that are missing.
    """

    manifests: tuple[Digest, ...]
    keys: list[str] = field(factory=list)
    used: WallTime = _NEVER
    needs: frozenset[Digest] = frozenset()
    broken: tuple[Digest, ...] = ()


@define(kw_only=True)
class Inventory:
    """
    The contents of a directory of images.

    :func:`read_files` fills in the first part, and then :func:`read_names` the others.

    :param root: the directory.
    :param files: the bytes of blobs, whole or not.
    :param described: the descriptions of the blobs that have one: media type and size;
        ``None`` if the description is invalid.
    :param manifests: for each manifest the blobs it names; ``None`` if it cannot be
        read.
    :param images: for each image record the manifests it names.
    :param served: for each name and tag the key of its image record.
    :param names: spellings of names, by their keys.
    :param layers: for each layer record the blob it names; ``None`` if it names none.
    :param notes: for each further record about an image, by kind and key, the manifest it
        is about.
    """

    root: str
    files: dict[Digest, BlobFile] = field(factory=dict)
    described: dict[Digest, tuple[str, int] | None] = field(factory=dict)
    manifests: dict[Digest, frozenset[Digest] | None] = field(factory=dict)
    images: dict[str, tuple[Digest, ...] | None] = field(factory=dict)
    served: dict[str, str] = field(factory=dict)
    names: dict[str, str] = field(factory=dict)
    layers: dict[str, Digest | None] = field(factory=dict)
    notes: dict[tuple[str, str], Digest | None] = field(factory=dict)

    @property
    def blobs(self) -> Blobs:
        return Blobs(self.directory, os.path.join(self.root, "tmp"))

    @property
    def records(self) -> Records:
        return Records(os.path.join(self.root, "records"), os.path.join(self.root, "tmp"))

    @property
    def directory(self) -> str:
        return os.path.join(self.root, "blobs", "sha256")

    def path(self, digest: Digest) -> str:
        """Return the path of a blob's bytes."""
        name = digest.removeprefix("sha256:")
        return os.path.join(self.directory, name[:2], name)

    def whole(self, digest: Digest) -> bool:
        """Tell whether a blob exists with the size that its description says."""
        noted, file = self.described.get(digest), self.files.get(digest)
        return noted is not None and file is not None and noted[1] == file.size

    @property
    def total(self) -> int:
        """Return the size of all blobs together in bytes."""
        return sum(file.size for file in self.files.values())

    def units(self) -> list[StoredImage]:
        """Return the images, the least recently pulled one first."""
        found: dict[tuple[Digest, ...], StoredImage] = {}
        for key, manifests in sorted(self.images.items()):
            if manifests is not None:
                found.setdefault(manifests, StoredImage(manifests=manifests)).keys.append(key)
        named = {digest for manifests in found for digest in manifests}
        for digest in sorted(self.manifests.keys() - named):
            found[digest,] = StoredImage(manifests=(digest,))
        for unit in found.values():
            parts = {
                *unit.manifests,
                *(blob for each in unit.manifests for blob in self.manifests.get(each) or ()),
            }
            unit.needs = frozenset(parts)
            unit.broken = tuple(sorted(digest for digest in parts if not self.whole(digest)))
            unit.used = max(
                (self.files[each].used for each in unit.manifests if each in self.files),
                default=_NEVER,
            )
        return sorted(found.values(), key=lambda unit: (unit.used, unit.manifests))

    def tags(self, unit: StoredImage) -> list[tuple[str, str]]:
        """Return the names and tags that an image was served under, sorted."""
        keys = set(unit.keys)
        places = (place.partition("/") for place, key in self.served.items() if key in keys)
        return sorted((self.names.get(name, f"?{name[:12]}"), tag) for name, _, tag in places)


def read_files(inventory: Inventory) -> Iterator[None]:
    """Find the bytes of all blobs."""
    with failures("look through the blobs"):
        for number, directory in enumerate(_directories(inventory)):
            now = _clock.now()
            with os.scandir(directory) as entries:
                for entry in entries:
                    if not entry.name.endswith(DESCRIPTION):
                        digest = _digest(entry.name, directory)
                        if digest is None:
                            continue
                        with suppress(FileNotFoundError):  # another process collects garbage
                            found = entry.stat(follow_symlinks=False)
                            inventory.files[digest] = BlobFile.of(found, now)
            if number % DIRECTORIES_PER_STEP == DIRECTORIES_PER_STEP - 1:
                yield
        yield


def read_names(inventory: Inventory) -> Iterator[None]:
    """Read all descriptions, manifests and records."""
    with failures("read descriptions"):
        for number, directory in enumerate(_directories(inventory)):
            for name in os.listdir(directory):
                digest = _digest(name.removesuffix(DESCRIPTION), directory)
                if name.endswith(DESCRIPTION) and digest is not None:
                    inventory.described[digest] = _description(os.path.join(directory, name))
            if number % DIRECTORIES_PER_STEP == DIRECTORIES_PER_STEP - 1:
                yield
        yield
    # Records first, then what they name, which is stored before the records are.
    for number, (kind, key) in enumerate(_keys(inventory)):
        value = inventory.records.get(kind, key)
        if value is not None:
            _note_record(inventory, kind, key, value)
        if number % FILES_PER_STEP == FILES_PER_STEP - 1:
            yield
    yield
    known = {digest for each in inventory.images.values() for digest in each or ()}
    known |= {
        digest
        for digest, noted in inventory.described.items()
        if noted is not None and noted[0] in MANIFESTS
    }
    for number, digest in enumerate(sorted(known)):
        if os.path.lexists(inventory.path(digest)):
            inventory.manifests[digest] = _manifest(inventory.path(digest))
        if number % FILES_PER_STEP == FILES_PER_STEP - 1:
            yield
    yield


def _directories(inventory: Inventory) -> list[str]:
    with os.scandir(inventory.directory) as entries:
        return sorted(entry.path for entry in entries if entry.is_dir(follow_symlinks=False))


def _digest(name: str, directory: str) -> Digest | None:
    if name[:2] != os.path.basename(directory):
        return None
    try:
        return parse_digest("sha256:" + name)
    except NixeryError:
        return None


def _keys(inventory: Inventory) -> Iterator[tuple[str, str]]:
    for kind in ("image", "layer", "listed", "name", "report", "served"):
        for key in inventory.records.keys(kind, ""):
            yield kind, key


def _note_record(inventory: Inventory, kind: str, key: str, value: bytes) -> None:
    text = value.decode("utf-8", "replace")
    match kind:
        case "image":
            inventory.images[key] = image_manifests(value)
        case "layer":
            inventory.layers[key] = _digest_in(text)
        case "listed":
            inventory.notes[kind, key] = _digest_in(text)
        case "report":
            inventory.notes[kind, key] = _digest_in(json.dumps({"digest": key}))
        case "name":
            inventory.names[key] = text
        case "served":
            inventory.served[key] = text


def image_manifests(value: bytes) -> tuple[Digest, ...] | None:
    """Return the manifests that an image record names; ``None`` if it is invalid."""
    try:
        return tuple(parse_digest(each["digest"]) for each in json.loads(value)["manifests"])
    except (KeyError, TypeError, ValueError, NixeryError):
        return None


def _digest_in(text: str) -> Digest | None:
    try:
        return parse_digest(json.loads(text)["digest"])
    except (KeyError, TypeError, ValueError, NixeryError):
        return None


def _description(path: str) -> tuple[str, int] | None:
    try:
        return read_description(path)
    except StorageError:
        return None


def _manifest(path: str) -> frozenset[Digest] | None:
    try:
        return frozenset(blob.digest for blob in parse_manifest(read_file(path)))
    except (OSError, NixeryError):
        return None
