"""
Publishes objects under their final names.

An object that is named by a digest is never replaced by different bytes, and two
instances that publish the same blob both succeed: every request is conditional
on the existing generation, and existing objects are compared by size and checksum.  That
also handles lost answers.
"""

from __future__ import annotations

from google.api_core import exceptions as api
from twisted.logger import Logger

from nixery.errors import StorageError
from nixery.storage.errors import UploadLost
from nixery.storage.gcs.http import IMMUTABLE, StoredObject, encode_crc32c, extend_crc32c
from nixery.storage.gcs.objects import Objects
from nixery.storage.gcs.retry import RetryState, UnexpectedResponse

__all__ = ["promote", "publish"]

MAX_PUBLISH_ATTEMPTS = 8
"""Maximum attempts while the existing object is changed concurrently."""

_log = Logger()


def publish(objects: Objects, name: str, data: bytes, media_type: str) -> StoredObject:
    """
    Store a small object, unless it exists already.

    :return: the new object, or the existing one.
    """
    for _ in range(MAX_PUBLISH_ATTEMPTS):
        existing = _find(objects, name, len(data), encode_crc32c(extend_crc32c(data)))
        if isinstance(existing, StoredObject):
            return existing
        try:
            return objects.put(name, data, media_type, cache_control=IMMUTABLE, replacing=existing)
        except api.PreconditionFailed:
            continue
    raise _contention(name)


def promote(objects: Objects, staged: StoredObject, name: str, media_type: str) -> StoredObject:
    """
    Move a staged object to its final name, unless that exists already.

    The staged object is removed in any case.

    :return: the published object, or the existing one.
    :raises UploadLost: the staged object has disappeared.
    """
    removed = False
    try:
        if staged.media_type != media_type:
            staged = objects.retype(staged, media_type)
        existing = _find(objects, name, staged.size, staged.crc32c)
        for _ in range(MAX_PUBLISH_ATTEMPTS):
            if isinstance(existing, StoredObject):
                return existing
            try:
                moved = objects.move(staged, name, replacing=existing)
            except (api.NotFound, api.PreconditionFailed):
                existing = _find(objects, name, staged.size, staged.crc32c)
                if isinstance(existing, int) and objects.stat(staged.name) is None:
                    removed = True
                    raise UploadLost(
                        operation="publish a blob", reason="it has vanished from the bucket"
                    ) from None
            except (api.MethodNotImplemented, api.MethodNotAllowed):
                copied = _copy(objects, staged, name, replacing=existing)
                if copied is not None:
                    return copied
                existing = _find(objects, name, staged.size, staged.crc32c)
            else:
                removed = True
                return moved
        raise _contention(name)
    finally:
        if not removed:
            discard(objects, staged)


def discard(objects: Objects, staged: StoredObject) -> None:
    """Delete a staged object, also after the task was stopped.  Never raises."""
    try:
        objects.for_cleanup().delete(staged.name, staged.generation)
    except Exception as error:  # noqa: BLE001  # a sweep will delete it
        _log.warn(
            "{name} could not be deleted, and is left for a sweep: {error}",
            name=staged.name,
            error=error,
        )


def _find(objects: Objects, name: str, size: int, crc32c: str) -> StoredObject | int:
    """
    Find the existing object of a name.

    :return: the object, if it has this size and checksum; else the generation that has
        to be replaced, 0 if there is none.
    """
    existing = objects.stat(name)
    if existing is None:
        return 0
    if not existing.matches(size, crc32c):
        _log.error(
            "{name} is damaged, its size {found} or its checksum is not what it should be:"
            " it is replaced",
            name=name,
            existing=existing.size,
        )
        return existing.generation
    return existing


def _copy(
    objects: Objects, staged: StoredObject, name: str, *, replacing: int
) -> StoredObject | None:
    """
    Copy an object to another name, if the service offers no move.

    :return: the copy; ``None``: an object of that name was created meanwhile.
    """
    attempts = RetryState("publish a blob", objects.retry_policy, objects.stop)
    token: str | None = None
    previous_bytes = 0
    while True:
        attempts.check()
        try:
            copied, token, copied_bytes = objects.rewrite(staged, name, token, replacing=replacing)
        except api.PreconditionFailed:
            return None
        except api.GoogleAPICallError as error:
            if error.code != 410:
                raise
            # The token has expired, and the copied part is lost with it.
            token, previous_bytes = None, 0
            attempts.failed(UnexpectedResponse("the copy has to begin again and again"))
            continue
        if copied is not None:
            return copied
        if copied_bytes > previous_bytes:
            attempts.progressed()
        else:
            attempts.failed(UnexpectedResponse("the service copies nothing"))
        previous_bytes = copied_bytes


def _contention(name: str) -> StorageError:
    return StorageError(operation="publish a blob", reason=f"{name} changes all the time")
