"""
Errors of a storage.
"""

from __future__ import annotations

from attrs import frozen

from nixery.errors import NixeryError, StorageError
from nixery.runtime.sizes import format_size

__all__ = [
    "BlobUnknown",
    "BlobsMissing",
    "CollectionRunning",
    "DigestMismatch",
    "DiskSpaceLow",
    "StorageFull",
    "StorageRefused",
    "StorageUnavailable",
    "UploadLost",
]


@frozen(kw_only=True)
class BlobUnknown(NixeryError):
    """No blob of this digest is stored."""

    digest: str

    @property
    def message(self) -> str:
        return (
            f"no blob {self.digest} is stored here:"
            " pull the image by its tag to have its layers made again"
        )


@frozen(kw_only=True)
class StorageFull(StorageError):
    """The storage has no free space left."""

    @property
    def message(self) -> str:
        return (
            f"storage failed to {self.operation}: {self.reason};"
            " free some space or point the storage at a larger disk"
        )


@frozen(kw_only=True)
class StorageUnavailable(StorageError):
    """The storage is temporarily unreachable or failing: a retry may succeed."""

    @property
    def message(self) -> str:
        return f"storage failed to {self.operation}: {self.reason}; try again in a moment"


@frozen(kw_only=True)
class BlobsMissing(NixeryError):
    """
    Layers were repeatedly removed from the storage while an image was made of them: by
    hand, by a lifecycle rule of a bucket, or by a garbage collection that keeps too little.
    """

    digests: tuple[str, ...]

    @property
    def message(self) -> str:
        return (
            f"{len(self.digests)} layers of the image were deleted from the storage while it was"
            " being built: try again in a moment, and let collections keep recent layers"
        )


@frozen(kw_only=True)
class DiskSpaceLow(StorageFull):
    """
    Too little space is free to make images; stored images are still served.

    :param path: a directory of the file system in question.
    :param free: the free space in bytes.
    :param needed: the free space that is required, in bytes.
    """

    path: str
    free: int
    needed: int

    @property
    def message(self) -> str:
        return (
            f"nothing is built while the disk of {self.path} is nearly full:"
            f" {format_size(self.free)} are free, and min_free_space asks for"
            f" {format_size(self.needed)}. Images that are stored are still"
            " served. Free some space, or let nixery-admin gc --max-storage-size remove old images"
        )


@frozen(kw_only=True)
class CollectionRunning(NixeryError):
    """Another garbage collection is running in the storage."""

    path: str

    @property
    def message(self) -> str:
        return f"a collection of {self.path} is already running: wait until it has ended"


@frozen(kw_only=True)
class StorageRefused(StorageError):
    """
    The storage service denies the daemon a necessary operation.

    :param advice: what the operator has to do about it, in the imperative.
    """

    advice: str

    @property
    def message(self) -> str:
        return f"storage failed to {self.operation}: {self.reason}; {self.advice}"


@frozen(kw_only=True)
class UploadLost(StorageError):
    """
    The uploaded part of a blob is lost, and the daemon no longer has it to send it again:
    the caller may make the blob once more.
    """


@frozen(kw_only=True)
class DigestMismatch(StorageError):
    """The bytes do not hash to the digest they were announced with."""

    expected: str
    actual: str
