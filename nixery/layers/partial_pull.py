"""
Compute what a partial pull of ``zstd:chunked`` layers fetches, beside what a client has.

It follows the client of podman, buildah and CRI-O (``pkg/chunked`` of containers/storage).  For
each new layer the client fetches both tables.  It takes a file whose digest it knows from a layer
that it has.  Of any other file it fetches the chunks, in one request of several ranges: ranges with
a small gap between them become one, and so do as many others as are needed to ask for no more than
:data:`MAX_RANGES`.  On a file system with reflinks it also takes single chunks from files of other
layers.  Files of layers that are pulled at the same time are not shared.
"""

from __future__ import annotations

from collections.abc import Iterable

from attrs import define, field, frozen

from nixery.layers.contents_table import ListedFile

__all__ = ["MAX_RANGES", "PartialPull", "PullCounter"]

MAX_RANGES = 1024
"""Maximum number of ranges that the client asks for in one request."""

MAX_GAP_BYTES = 1024
"""Two ranges with no more than this number of bytes between them are fetched as one."""


@frozen(kw_only=True)
class PartialPull:
    """
    The bytes that a client fetches of new layers.

    :param tables: both tables of each chunked layer.
    :param files: contents, where whole files are taken from other layers.
    :param chunks: contents, where chunks are taken from other layers as well.
    :param whole: layers that are not chunked.
    :param new_files: number of files of which any content is fetched.
    :param all_files: number of files that are not empty, in the chunked layers.
    """

    tables: int = 0
    files: int = 0
    chunks: int = 0
    whole: int = 0
    new_files: int = 0
    all_files: int = 0

    @property
    def size(self) -> int:
        """All bytes that are fetched on any file system."""
        return self.tables + self.files + self.whole

    @property
    def reflink_size(self) -> int:
        """All bytes that are fetched on a file system with reflinks."""
        return self.tables + self.chunks + self.whole

    def json(self) -> dict[str, int]:
        """Return it as JSON, for programs."""
        return {
            "size": self.size,
            "size_with_reflinks": self.reflink_size,
            "tables": self.tables,
            "whole_layers": self.whole,
            "new_files": self.new_files,
            "files": self.all_files,
        }


@define(kw_only=True, eq=False)
class PullCounter:
    """Adds up what a client fetches, layer by layer; memory grows with what the client has."""

    _held: set[int] = field(factory=set, init=False)
    _tables: int = field(default=0, init=False)
    _files: int = field(default=0, init=False)
    _chunks: int = field(default=0, init=False)
    _whole: int = field(default=0, init=False)
    _new_files: int = field(default=0, init=False)
    _all_files: int = field(default=0, init=False)

    def hold(self, files: Iterable[ListedFile]) -> None:
        """Add the files of a chunked layer that the client has."""
        for each in files:
            self._held.add(each.key)
            self._held.update(chunk.key for chunk in each.chunks)

    def pull(self, files: Iterable[ListedFile], table_size: int) -> None:
        """
        Count a chunked layer that the client has not.

        :param files: in the order of their places in the blob.
        :param table_size: the size of both tables, in bytes.
        """
        by_file, by_chunk = _Ranges(), _Ranges()
        for each in files:
            self._all_files += 1
            if each.key in self._held:
                continue
            self._new_files += 1
            for chunk in each.chunks:
                by_file.add(chunk.start, chunk.stop)
                # The table has no digest for the only chunk of a file.
                if len(each.chunks) == 1 or chunk.key not in self._held:
                    by_chunk.add(chunk.start, chunk.stop)
        self._tables += table_size
        self._files += by_file.size()
        self._chunks += by_chunk.size()

    def pull_whole(self, size: int) -> None:
        """Count a layer that is not chunked, which the client has not."""
        self._whole += size

    def result(self) -> PartialPull:
        """Return the sum."""
        return PartialPull(
            tables=self._tables,
            files=self._files,
            chunks=self._chunks,
            whole=self._whole,
            new_files=self._new_files,
            all_files=self._all_files,
        )


class _Ranges:
    """The ranges of a layer that are asked for, in rising order."""

    def __init__(self) -> None:
        self._size = 0
        self._stop: int | None = None
        self._gaps: list[int] = []

    def add(self, start: int, stop: int) -> None:
        self._size += stop - start
        if self._stop is not None and start > self._stop:
            self._gaps.append(start - self._stop)
        self._stop = stop

    def size(self) -> int:
        """Return the number of bytes that are fetched, with those of gaps."""
        gaps = sorted(self._gaps)
        surplus = max(0, len(gaps) + 2 - MAX_RANGES)
        return (
            self._size
            + sum(gaps[:surplus])
            + sum(gap for gap in gaps[surplus:] if gap <= MAX_GAP_BYTES)
        )
