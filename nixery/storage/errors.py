"""
Errors of a storage.
"""

from __future__ import annotations

from attrs import frozen

from nixery.errors import NixeryError, StorageError

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
    """There is no room left."""

    @property
    def message(self) -> str:
        return (
            f"storage failed to {self.operation}: {self.reason};"
            " free some space or point the storage at a larger disk"
        )


@frozen(kw_only=True)
class StorageUnavailable(StorageError):
    """The storage cannot be reached, or fails, for the moment: another try may succeed."""

    @property
    def message(self) -> str:
        return f"storage failed to {self.operation}: {self.reason}; try again in a moment"


@frozen(kw_only=True)
class BlobsMissing(NixeryError):
    """
    Layers were removed from the storage while an image was made of them, again and
    again: by hand, by a rule of a bucket, or by a collection that keeps too little.
    """

    digests: tuple[str, ...]

    @property
    def message(self) -> str:
        return (
            f"{len(self.digests)} layers of the image were removed from the storage while it was"
            " being made: try again in a moment, and let collections keep what is recent"
        )


@frozen(kw_only=True)
class DiskSpaceLow(StorageFull):
    """
    So little room is left that no image is made any more; those that are stored are
    served on.

    :param path: the file system in question, by a directory of it.
    :param free: how much is left, in bytes.
    :param needed: how much has to be, in bytes.
    """

    path: str
    free: int
    needed: int

    @property
    def message(self) -> str:
        return (
            f"nothing is built while the disk of {self.path} is nearly full: {self.free >> 20} MiB"
            f" are free, and min_free asks for {self.needed >> 20} MiB. Images that are stored are"
            " still served. Free some space, or let nixery-admin gc --max-bytes remove old images"
        )


@frozen(kw_only=True)
class CollectionRunning(NixeryError):
    """Another collection is removing things from the storage."""

    path: str

    @property
    def message(self) -> str:
        return f"a collection of {self.path} is going on already: wait until it has ended"


@frozen(kw_only=True)
class StorageRefused(StorageError):
    """
    The storage service does not let the daemon do what it has to do.

    :param advice: what the operator has to do about it, in the imperative.
    """

    advice: str

    @property
    def message(self) -> str:
        return f"storage failed to {self.operation}: {self.reason}; {self.advice}"


@frozen(kw_only=True)
class UploadLost(StorageError):
    """
    What was sent of a blob is lost, and no longer here to be sent again: whoever
    makes the blob may make it once more.
    """


@frozen(kw_only=True)
class DigestMismatch(StorageError):
    """Bytes that do not hash to the digest they were announced with."""

    expected: str
    actual: str
