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
from nixery.storage.gcs.http import StoredObject, encode_crc32c, extend_crc32c
from nixery.storage.gcs.objects import Objects
from nixery.storage.rules import check_kind, check_small

__all__ = ["Records"]

MAX_NAME_BYTES = 800
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
        return self._read(_locate(kind, key))

    def add(self, kind: str, key: str, value: bytes) -> bytes:
        """:return: the existing record, or ``value`` if it was created."""
        location = _locate(kind, key)
        check_small("store a record", len(value))
        for _ in range(MAX_CHANGE_ATTEMPTS):
            found = self._read(location)
            if found is not None:
                return found
            try:
                self._write(location, value, replacing=0)
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
        location = _locate(kind, key)
        check_small("store a record", len(value))
        existing: StoredObject | None = None
        for _ in range(MAX_CHANGE_ATTEMPTS):
            try:
                self._write(
                    location, value, replacing=0 if existing is None else existing.generation
                )
            except api.PreconditionFailed:
                existing = self.objects.stat(location.name)
                data = location.header + value
                if existing is not None and existing.matches(
                    len(data), encode_crc32c(extend_crc32c(data))
                ):
                    return
            else:
                return
        raise _contention(kind)

    def delete(self, kind: str, key: str) -> None:
        """Remove the record, if there is one."""
        self.objects.delete(_locate(kind, key).name)

    def keys(self, kind: str, prefix: str) -> list[str]:
        """Return the keys of a kind that begin with ``prefix``, sorted."""
        folder = f"records/{check_kind(kind)}/"
        found: list[str | None] = []
        encoded = _encode(prefix)
        if len(encoded) <= MAX_NAME_BYTES:
            for page in self.objects.list(folder + encoded):
                found += (_decode(item.name.removeprefix(folder)) for item in page)
        for page in self.objects.list(f"records/{kind}.long/"):
            found += (self._long_key(item) for item in page)
        return sorted(key for key in found if key is not None and key.startswith(prefix))

    def _read(self, location: _Location) -> bytes | None:
        data = self.objects.get(location.name)
        if data is None:
            return None
        if not data.startswith(location.header):
            raise StorageError(operation="read a record", reason=f"{location.name} is damaged")
        return data[len(location.header) :]

    def _write(self, location: _Location, value: bytes, *, replacing: int) -> None:
        self.objects.put(
            location.name,
            location.header + value,
            "application/octet-stream" if location.header else "application/json",
            cache_control=NOT_CACHED,
            replacing=replacing,
        )

    def _long_key(self, stored: StoredObject) -> str | None:
        data = self.objects.get(stored.name)
        return (
            None if data is None else _decode(data.partition(b"\n")[0].decode("ascii", "replace"))
        )


@frozen(kw_only=True)
class _Location:
    """
    The location of a record.

    :param header: the bytes before the record in its object.
    """

    name: str
    header: bytes = b""


def _locate(kind: str, key: str) -> _Location:
    encoded = _encode(key)
    if len(encoded) <= MAX_NAME_BYTES:
        return _Location(name=f"records/{check_kind(kind)}/{encoded}")
    data = encoded.encode("ascii")
    name = f"records/{check_kind(kind)}.long/{hashlib.sha256(data).hexdigest()}"
    return _Location(name=name, header=data + b"\n")


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
