"""
A client of partial pulls, which does what podman does with a ``zstd:chunked`` layer.

It fetches both tables in one request, then those chunks that it has not yet in another one, makes
the archive anew, and checks every digest on its way.
"""

from __future__ import annotations

import hashlib
import json
import struct
from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from email import message_from_bytes, policy
from typing import Any

from attrs import define, field, frozen
from fastcrc import crc64
from zstandard import ZstdDecompressor

from nixery.storage.interface import ByteRange

__all__ = ["PREFIX", "PartialPuller", "PulledLayer", "digest_of", "parse_parts", "read_table"]

PREFIX = "io.github.containers.zstd-chunked."

ReadRanges = Callable[[Sequence[ByteRange]], Sequence[bytes]]
"""Reads parts of a blob, in one request."""


@frozen(kw_only=True)
class PulledLayer:
    """
    A layer that was pulled.

    :param archive: made of tar-split and the files.
    :param entries: the table of contents.
    :param files: by name.
    :param fetched: the bytes of the blob that were asked for.
    """

    archive: bytes
    entries: Sequence[Mapping[str, Any]]
    files: Mapping[str, bytes]
    fetched: int


@define
class PartialPuller:
    """Pulls layers; has the chunks of those that it has pulled."""

    chunks: dict[str, bytes] = field(factory=dict)

    def pull(self, read: ReadRanges, annotations: Mapping[str, str]) -> PulledLayer:
        """
        Pull a layer.

        :param annotations: those of its descriptor.
        :raises AssertionError: something is not what a digest or a position says.
        """
        places = {
            name: [int(each) for each in annotations[f"{PREFIX}{name}-position"].split(":")]
            for name in ("manifest", "tarsplit")
        }
        tables = [ByteRange(start=at, stop=at + size) for at, size, *_ in places.values()]
        contents, tar_split = read(tables)
        assert digest_of(contents) == annotations[f"{PREFIX}manifest-checksum"]
        assert places["manifest"][3] == 1
        table = json.loads(_expand(contents, places["manifest"][2]))
        assert digest_of(tar_split) == table["tarSplitDigest"]
        lines = _expand(tar_split, places["tarsplit"][2]).splitlines()

        parts = _chunks(table["entries"])
        missing = {digest: part for _, part, digest, _ in parts if digest not in self.chunks}
        order = sorted(missing.items(), key=lambda item: item[1].start)
        for (digest, _), data in zip(
            order, read([part for _, part in order]) if order else [], strict=True
        ):
            # Exactly one frame, whose header has the size.
            self.chunks[digest] = ZstdDecompressor().decompress(data)
            assert digest_of(self.chunks[digest]) == digest
        files: dict[str, bytes] = {}
        for name, _, digest, offset in parts:
            assert offset == len(files.get(name, b""))
            files[name] = files.get(name, b"") + self.chunks[digest]
        for each in table["entries"]:
            if "digest" in each:
                assert digest_of(files[each["name"]]) == each["digest"]
        return PulledLayer(
            archive=_assemble([json.loads(line) for line in lines], files),
            entries=table["entries"],
            files=files,
            fetched=sum(part.stop - part.start for part in (*tables, *missing.values())),
        )


def read_table(blob: bytes, annotations: Mapping[str, str]) -> Sequence[Mapping[str, Any]]:
    """Return the entries of the table of contents of a layer that is here."""
    at, size, expanded, _ = map(int, annotations[f"{PREFIX}manifest-position"].split(":"))
    entries: Sequence[Mapping[str, Any]] = json.loads(_expand(blob[at : at + size], expanded))[
        "entries"
    ]
    return entries


def parse_parts(content_type: str, body: bytes) -> list[tuple[str, bytes]]:
    """Return Content-Range and data of each part, as the standard library parses the body."""
    head = f"Content-Type: {content_type}\r\n\r\n".encode("ascii")
    message = message_from_bytes(head + body, policy=policy.HTTP)
    parts = []
    for part in message.iter_parts():
        data = part.get_payload(decode=True)
        assert isinstance(data, bytes)
        parts.append((str(part["Content-Range"]), data))
    return parts


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _expand(data: bytes, size: int) -> bytes:
    expanded = ZstdDecompressor().decompressobj().decompress(data)
    assert len(expanded) == size
    return expanded


def _chunks(
    entries: Sequence[Mapping[str, Any]],
) -> list[tuple[str, ByteRange, str, int]]:
    """Return the chunks of all files: name, place in the blob, digest, offset in the file."""
    ends = {each["name"]: each["endOffset"] for each in entries if "endOffset" in each}
    starts = [each for each in entries if "offset" in each]
    chunks = []
    for each, following in zip(starts, [*starts[1:], {}], strict=True) if starts else ():
        is_last = following.get("type") != "chunk"
        stop = ends[each["name"]] if is_last else following["offset"]
        # No offset is 0, which would mean that there is none.
        assert 0 < each["offset"] < stop
        digest = each.get("chunkDigest") or each["digest"]
        part = ByteRange(start=each["offset"], stop=stop)
        chunks.append((each["name"], part, digest, each.get("chunkOffset", 0)))
    return chunks


def _assemble(tar_split: Sequence[Mapping[str, Any]], files: Mapping[str, bytes]) -> bytes:
    """Make the archive of tar-split and files."""
    archive = []
    for position, each in enumerate(tar_split):
        assert each["position"] == position
        if each["type"] == 2:
            archive.append(b64decode(each["payload"]))
            continue
        data = files.get(each["name"], b"")
        assert each.get("size", 0) == len(data)
        crc = b64decode(each["payload"]) if data else each["payload"]
        assert crc == (struct.pack(">Q", crc64.go_iso(data)) if data else None)
        archive.append(data)
    return b"".join(archive)
