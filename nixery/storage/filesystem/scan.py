"""
Reads the contents of a directory of images, and the references between them.

It works in small steps: each is one call on a worker thread, so that scanning a
hundred thousand files does not block other work for long.  Everything blocks.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress

from attrs import define, field, frozen

from nixery.artifacts.attachment import subject_of
from nixery.artifacts.simple_signing import decode_signature
from nixery.errors import NixeryError, StorageError
from nixery.image.image_index import index_manifests
from nixery.image.manifests import INDEX_TYPES, MANIFEST_TYPES, parse_manifest
from nixery.image.names import Digest, parse_digest
from nixery.runtime.clocks import SystemWallClock, WallTime
from nixery.storage.filesystem.blobs import DESCRIPTION, Blobs, read_description
from nixery.storage.filesystem.files import read_file, translate_os_errors
from nixery.storage.filesystem.records import Records

__all__ = ["BlobFile", "Inventory", "StoredImage", "image_manifests", "read_files", "read_names"]

# The clock that the times of files come from.
_clock = SystemWallClock()

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
    def of(cls, status: os.stat_result, now: WallTime) -> BlobFile:
        return cls(
            size=status.st_size,
            used=WallTime(status.st_mtime),
            signature=(status.st_ino, status.st_mtime_ns, status.st_ctime_ns),
            fresh=max(status.st_mtime, status.st_ctime) > now - TIMESTAMP_RESOLUTION_SECONDS,
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
    :param parts: of an index, the manifests of its platforms.
    """

    manifests: tuple[Digest, ...]
    parts: frozenset[Digest] = frozenset()
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
    :param descriptions: the descriptions of the blobs that have one: media type and size;
        ``None`` if the description is invalid.
    :param manifests: for each manifest the blobs it names; ``None`` if it cannot be
        read.
    :param indexes: for each index of platforms the manifests it names, which are among its blobs
        in ``manifests`` too.
    :param subjects: for each manifest that belongs to another one, as those of SBOMs and
        signatures, that one.
    :param payloads: for each signature record the blob that was signed.
    :param images: for each image record the manifests it names.
    :param tag_records: for each name and tag the key of its image record.
    :param names: spellings of names, by their keys.
    :param layers: for each layer record the blob it names; ``None`` if it names none.
    :param other_records: for each further record about an image, by kind and key, the manifest it
        is about.
    """

    root: str
    files: dict[Digest, BlobFile] = field(factory=dict)
    descriptions: dict[Digest, tuple[str, int] | None] = field(factory=dict)
    manifests: dict[Digest, frozenset[Digest] | None] = field(factory=dict)
    indexes: dict[Digest, frozenset[Digest]] = field(factory=dict)
    subjects: dict[Digest, Digest] = field(factory=dict)
    payloads: dict[str, Digest] = field(factory=dict)
    images: dict[str, tuple[Digest, ...] | None] = field(factory=dict)
    tag_records: dict[str, str] = field(factory=dict)
    names: dict[str, str] = field(factory=dict)
    layers: dict[str, Digest | None] = field(factory=dict)
    other_records: dict[tuple[str, str], Digest | None] = field(factory=dict)

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

    def is_complete(self, digest: Digest) -> bool:
        """Tell whether a blob exists with the size that its description says."""
        description, file = self.descriptions.get(digest), self.files.get(digest)
        return description is not None and file is not None and description[1] == file.size

    @property
    def total(self) -> int:
        """Return the size of all blobs together in bytes."""
        return sum(file.size for file in self.files.values())

    def stored_images(self) -> list[StoredImage]:
        """Return the images, the least recently pulled one first."""
        images: dict[tuple[Digest, ...], StoredImage] = {}
        for key, manifests in sorted(self.images.items()):
            if manifests is not None:
                images.setdefault(manifests, StoredImage(manifests=manifests)).keys.append(key)
        referenced = {digest for manifests in images for digest in manifests}
        for digest in sorted(self.manifests.keys() - referenced - self.subjects.keys()):
            images[digest,] = StoredImage(manifests=(digest,))
        attached = self.attached_blobs()
        for image in images.values():
            image.parts = self._parts(image.manifests)
            pulled = {*image.manifests, *image.parts}
            digests = {
                *pulled,
                *(blob for each in pulled for blob in self.manifests.get(each) or ()),
                *(blob for each in pulled for blob in attached.get(each, ())),
            }
            image.needs = frozenset(digests)
            image.broken = tuple(
                sorted(digest for digest in digests if not self.is_complete(digest))
            )
            image.used = max(
                (self.files[each].used for each in image.manifests if each in self.files),
                default=_NEVER,
            )
        # A client that pulls an index may pull the image of any platform next.
        owners = {digest: image for image in images.values() for digest in image.manifests}
        for index in images.values():
            for image in (owners[digest] for digest in index.parts if digest in owners):
                image.used = max(image.used, index.used)
        return sorted(
            images.values(), key=lambda image: (image.used, not image.parts, image.manifests)
        )

    def _parts(self, manifests: Iterable[Digest]) -> frozenset[Digest]:
        """Return the manifests that indexes name."""
        return frozenset().union(*(self.indexes.get(each, ()) for each in manifests))

    def attached_manifests(self) -> dict[Digest, list[Digest]]:
        """Return the manifests that belong to each manifest."""
        attached: dict[Digest, list[Digest]] = {}
        for manifest, subject in self.subjects.items():
            attached.setdefault(subject, []).append(manifest)
        return attached

    def attached_blobs(self) -> dict[Digest, set[Digest]]:
        """Return what belongs to each manifest: further manifests, their blobs, payloads."""
        attached: dict[Digest, set[Digest]] = {}
        for manifest, subject in self.subjects.items():
            attached.setdefault(subject, set()).update(
                {manifest, *(self.manifests.get(manifest) or ())}
            )
        for key, payload in self.payloads.items():
            signed = self.other_records["signature", key]
            if signed is not None:
                attached.setdefault(signed, set()).add(payload)
        return attached

    def tags(self, image: StoredImage) -> list[tuple[str, str]]:
        """Return the names and tags that an image was served under, sorted."""
        keys = set(image.keys)
        tag_keys = (
            tag_key.partition("/") for tag_key, key in self.tag_records.items() if key in keys
        )
        return sorted((self.names.get(name, f"?{name[:12]}"), tag) for name, _, tag in tag_keys)


def read_files(inventory: Inventory) -> Iterator[None]:
    """Find the bytes of all blobs."""
    with translate_os_errors("look through the blobs"):
        for number, directory in enumerate(_directories(inventory)):
            now = _clock.now()
            with os.scandir(directory) as entries:
                for entry in entries:
                    if not entry.name.endswith(DESCRIPTION):
                        digest = _digest(entry.name, directory)
                        if digest is None:
                            continue
                        with suppress(FileNotFoundError):  # another process collects garbage
                            status = entry.stat(follow_symlinks=False)
                            inventory.files[digest] = BlobFile.of(status, now)
            if number % DIRECTORIES_PER_STEP == DIRECTORIES_PER_STEP - 1:
                yield
        yield


def read_names(inventory: Inventory) -> Iterator[None]:
    """Read all descriptions, manifests and records."""
    with translate_os_errors("read descriptions"):
        for number, directory in enumerate(_directories(inventory)):
            for name in os.listdir(directory):
                digest = _digest(name.removesuffix(DESCRIPTION), directory)
                if name.endswith(DESCRIPTION) and digest is not None:
                    inventory.descriptions[digest] = _read_description(
                        os.path.join(directory, name)
                    )
            if number % DIRECTORIES_PER_STEP == DIRECTORIES_PER_STEP - 1:
                yield
        yield
    # Records first, then what they name, which is stored before the records are.
    for number, (kind, key) in enumerate(_record_keys(inventory)):
        value = inventory.records.get(kind, key)
        if value is not None:
            _add_record(inventory, kind, key, value)
        if number % FILES_PER_STEP == FILES_PER_STEP - 1:
            yield
    yield
    manifest_digests = {digest for each in inventory.images.values() for digest in each or ()}
    manifest_digests |= {
        digest
        for digest, description in inventory.descriptions.items()
        if description is not None and description[0] in MANIFEST_TYPES | INDEX_TYPES
    }
    for number, digest in enumerate(sorted(manifest_digests)):
        if os.path.lexists(inventory.path(digest)):
            _add_manifest(inventory, digest)
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


def _record_keys(inventory: Inventory) -> Iterator[tuple[str, str]]:
    for kind in (
        "bundle",
        "document",
        "image",
        "layer",
        "listed",
        "member",
        "name",
        "report",
        "served",
        "signature",
    ):
        for key in inventory.records.keys(kind, ""):
            yield kind, key


def _add_record(inventory: Inventory, kind: str, key: str, value: bytes) -> None:
    text = value.decode("utf-8", "replace")
    match kind:
        case "image":
            inventory.images[key] = image_manifests(value)
        case "layer":
            inventory.layers[key] = _parse_digest_field(text)
        case "bundle" | "document" | "listed" | "member" | "signature":
            inventory.other_records[kind, key] = _parse_digest_field(text)
            if kind == "signature":
                with suppress(ValueError):
                    inventory.payloads[key] = decode_signature(value).payload.digest
        case "report":
            inventory.other_records[kind, key] = _parse_digest_field(json.dumps({"digest": key}))
        case "name":
            inventory.names[key] = text
        case "served":
            inventory.tag_records[key] = text


def image_manifests(value: bytes) -> tuple[Digest, ...] | None:
    """Return the manifests that an image record names; ``None`` if it is invalid."""
    try:
        return tuple(parse_digest(each["digest"]) for each in json.loads(value)["manifests"])
    except (KeyError, TypeError, ValueError, NixeryError):
        return None


def _parse_digest_field(text: str) -> Digest | None:
    try:
        return parse_digest(json.loads(text)["digest"])
    except (KeyError, TypeError, ValueError, NixeryError):
        return None


def _read_description(path: str) -> tuple[str, int] | None:
    try:
        return read_description(path)
    except StorageError:
        return None


def _add_manifest(inventory: Inventory, digest: Digest) -> None:
    try:
        body = read_file(inventory.path(digest))
        description = inventory.descriptions.get(digest)
        if description is not None and description[0] in INDEX_TYPES:
            parts = frozenset(index_manifests(body))
            # An index of referrers is made again at the next request, and keeps nothing.
            if not parts:
                return
            inventory.indexes[digest] = parts
        inventory.manifests[digest] = frozenset(blob.digest for blob in parse_manifest(body))
    except (OSError, NixeryError):
        inventory.manifests[digest] = None
        return
    subject = subject_of(body)
    if subject is not None:
        inventory.subjects[digest] = subject
