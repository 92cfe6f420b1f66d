"""
Stores records as small objects.
    records/KIND/KEY           the record; the key is percent-encoded
    records/KIND.long/SHA256   a record whose encoded key is too long for the name
                               of an object: a line with the encoded key, then the
                               record

A kind has no dot, so that the two never collide.  Everything blocks, on worker
threads.
"""

from __future__ import annotations

import hashlib
from urllib.parse import quote_from_bytes, unquote_to_bytes

from attrs import frozen
from google.api_core import exceptions as api

from nixery.errors import StorageError
from nixery.storage.gcs.http import StoredObject, crc_of, crc_text
from nixery.storage.gcs.objects import Objects
from nixery.storage.rules import check_kind, check_small

__all__ = ["Records"]

MAX_NAME = 800
"""Maximum length in bytes of an encoded key in a name; the service allows 1024 in all."""

MAX_CHANGE_ATTEMPTS = 16
"""Maximum attempts to change a record that is changed concurrently."""

NOT_CACHED = "no-store"
"""``Cache-Control`` of objects that may change."""


@frozen(kw_only=True, eq=False)
class Records:
    """
    The records of a bucket, for one task.

    Methods raise :class:`nixery.errors.StorageError`.
    """

    objects: Objects

    def get(self, kind: str, key: str) -> bytes | None:
        """Return the record, ``None`` when there is none."""
        return self._read(_place(kind, key))

    def add(self, kind: str, key: str, value: bytes) -> bytes:
        """:return: the existing record, or ``value`` if it was created."""
        place = _place(kind, key)
        check_small("store a record", len(value))
        for _ in range(MAX_CHANGE_ATTEMPTS):
            found = self._read(place)
            if found is not None:
                return found
            try:
                self._write(place, value, replacing=0)
            except api.PreconditionFailed:
                # Another writer was faster, or this request succeeded and its answer was lost.
                continue
            return value
        raise _contention(kind)

    def set(self, kind: str, key: str, value: bytes) -> None:
        """
        Create or replace the record.

        Each try replaces only the generation that was seen before, so that a try whose
        answer is late or lost does not overwrite a later write of another writer.
        """
        place = _place(kind, key)
        check_small("store a record", len(value))
        seen: StoredObject | None = None
        for _ in range(MAX_CHANGE_ATTEMPTS):
            try:
                self._write(place, value, replacing=0 if seen is None else seen.generation)
            except api.PreconditionFailed:
                seen = self.objects.stat(place.name)
                data = place.head + value
                if seen is not None and seen.holds(len(data), crc_text(crc_of(data))):
                    return
            else:
                return
        raise _contention(kind)

    def delete(self, kind: str, key: str) -> None:
        """Remove the record, if there is one."""
        self.objects.delete(_place(kind, key).name)

    def keys(self, kind: str, prefix: str) -> list[str]:
        """Return the keys of a kind that begin with ``prefix``, sorted."""
        folder = f"records/{check_kind(kind)}/"
        found: list[str | None] = []
        encoded = _encode(prefix)
        if len(encoded) <= MAX_NAME:
            for page in self.objects.list(folder + encoded):
                found += (_decode(item.name.removeprefix(folder)) for item in page)
        for page in self.objects.list(f"records/{kind}.long/"):
            found += (self._long_key(item) for item in page)
        return sorted(key for key in found if key is not None and key.startswith(prefix))

    def _read(self, place: _Place) -> bytes | None:
        data = self.objects.get(place.name)
        if data is None:
            return None
        if not data.startswith(place.head):
            raise StorageError(operation="read a record", reason=f"{place.name} is damaged")
        return data[len(place.head) :]

    def _write(self, place: _Place, value: bytes, *, replacing: int) -> None:
        self.objects.put(
            place.name,
            place.head + value,
            "application/octet-stream" if place.head else "application/json",
            cache_control=NOT_CACHED,
            replacing=replacing,
        )

    def _long_key(self, stored: StoredObject) -> str | None:
        data = self.objects.get(stored.name)
        return (
            None if data is None else _decode(data.partition(b"\n")[0].decode("ascii", "replace"))
        )


@frozen(kw_only=True)
class _Place:
    """
    The location of a record.

    :param head: the bytes before the record in its object.
    """

    name: str
    head: bytes = b""


def _place(kind: str, key: str) -> _Place:
    encoded = _encode(key)
    if len(encoded) <= MAX_NAME:
        return _Place(name=f"records/{check_kind(kind)}/{encoded}")
    data = encoded.encode("ascii")
    name = f"records/{check_kind(kind)}.long/{hashlib.sha256(data).hexdigest()}"
    return _Place(name=name, head=data + b"\n")


def _encode(key: str) -> str:
    """Encode ``key`` in letters, digits, ``_.-~`` and percent signs."""
    # Keys may contain lone surrogates.
    return quote_from_bytes(key.encode("utf-8", "surrogatepass"), safe="")


def _decode(encoded: str) -> str | None:
    """Decode a key; ``None``: this is not the name of a record."""
    try:
        key = unquote_to_bytes(encoded).decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return None
    return key if _encode(key) == encoded else None


def _contention(kind: str) -> StorageError:
    return StorageError(
        operation="store a record", reason=f"a record of the kind {kind} changes all the time"
    )
