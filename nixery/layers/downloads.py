"""
Compute what a client downloads to get an image that is planned, if it has another one already.

The layers are packed as ``zstd:chunked``, and only their tables of contents are kept, so that the
figures are those of the layers that a registry would send.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence

from attrs import field, frozen

from nixery.image.closure import StorePath
from nixery.layers.compression import Compression
from nixery.layers.contents_table import TablePlaces, find_tables, read_files
from nixery.layers.partial_pull import PartialPull, PullCounter
from nixery.layers.tarball import STORE, pack_store_paths
from nixery.runtime.sizes import format_size

__all__ = ["ChunkedLayer", "Download", "compute_download", "draw_downloads", "pack_chunked"]

Layers = Mapping[tuple[StorePath, ...], "ChunkedLayer"]
"""The layers of an image, by their store paths."""


@frozen(kw_only=True)
class ChunkedLayer:
    """
    A layer that was packed as ``zstd:chunked``.

    :param size: of the blob, in bytes.
    :param places: the places of its tables; ``None`` if it has none, because of a name that is not
        UTF-8.
    :param table: its compressed table of contents.
    """

    size: int
    places: TablePlaces | None
    table: bytes = field(repr=False)


@frozen(kw_only=True)
class Download:
    """
    The download of an image where another one is present.

    :param present: the name of the other image.
    :param layers: number of layers of the image.
    :param new_layers: number of those that the other image has not.
    :param size: bytes of the new layers.
    :param partial: what a client of partial pulls fetches.
    """

    present: str
    layers: int
    new_layers: int
    size: int
    partial: PartialPull

    def json(self) -> dict[str, object]:
        """Return it as JSON, for programs."""
        return {
            "present": self.present,
            "layers": self.layers,
            "new_layers": self.new_layers,
            "size": self.size,
            "partial_pull": self.partial.json(),
        }


def pack_chunked(paths: Sequence[str], *, level: int, store: str = STORE) -> ChunkedLayer:
    """
    Pack a layer, and keep its table of contents.  Blocks, and needs its size on disk meanwhile.

    :param paths: as in the image.
    :param level: of zstd.
    :param store: the directory of this machine that holds the store paths.
    :raises MissingPath: a path cannot be read.
    """
    compression = Compression(kind="zstd-chunked", level=level)
    with tempfile.TemporaryFile() as file:
        packed = pack_store_paths(paths, file.write, compression=compression, store=store)
        places = find_tables(packed.annotations, packed.size)
        table = b""
        if places is not None:
            file.seek(places.start)
            table = file.read(places.stop - places.start)
    return ChunkedLayer(size=packed.size, places=places, table=table)


def compute_download(
    present: str, old: Layers, new: Layers, sizes: Mapping[tuple[StorePath, ...], int]
) -> Download:
    """
    Compute a download.  Blocks.

    :param present: the name of the image that the client has.
    :param old: its layers.
    :param new: the layers of the image that it pulls.
    :param sizes: the sizes of those, in bytes, as they are compressed for clients of whole layers.
    """
    counter = PullCounter()
    for layer in old.values():
        if layer.places is not None:
            counter.hold(read_files(layer.table, layer.places))
    missing = {paths: layer for paths, layer in new.items() if paths not in old}
    for layer in missing.values():
        if layer.places is None:
            counter.pull_whole(layer.size)
        else:
            counter.pull(read_files(layer.table, layer.places), layer.places.size)
    return Download(
        present=present,
        layers=len(new),
        new_layers=len(missing),
        size=sum(sizes[paths] for paths in missing),
        partial=counter.result(),
    )


def draw_downloads(image: str, downloads: Sequence[Download], *, chunked: bool) -> str:
    """
    Describe downloads as text, a paragraph each.

    :param image: the name of the image that is pulled.
    :param chunked: true if the registry compresses layers for partial pulls.
    """
    condition = "" if chunked else " (if compression is zstd-chunked)"
    lines: list[str] = []
    for each in downloads:
        partial = each.partial
        rows = {
            "whole layers": (each.size, f"{each.new_layers} of {each.layers} layers are new"),
            "partial pull": (
                partial.size,
                f"{partial.new_files} of {partial.all_files} files are new{condition}",
            ),
            "with reflinks": (
                partial.reflink_size,
                "the same on XFS or Btrfs, where parts of files are reused",
            ),
        }
        lines += ["", f"Download of {image} where {each.present} is present:"]
        for title, (size, detail) in rows.items():
            lines.append(f"  {title:13}  {format_size(size):>8}  {detail}")
    return "".join(f"{line}\n" for line in lines)
