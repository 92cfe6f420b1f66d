"""
The kinds and levels of layer compression, as a value that the configuration, the keys of
caches and the packing threads share.

The default is gzip, because every engine reads it.  zstd at level 1 packs nearly as
fast, is a little smaller and much cheaper to unpack: the better choice if Docker is
version 23 or later on all machines.  ``tests/benchmarks/compression.py`` measures this.

zstd-chunked is zstd to all clients, and some of them fetch only what is new of it
(:mod:`nixery.layers.chunked_stream`).
"""

from __future__ import annotations

from collections.abc import Mapping

from attrs import Attribute, Factory, field, frozen, validators

__all__ = ["DEFAULT_KIND", "LEVELS", "Compression", "default_level", "parse_compression"]

LEVELS: Mapping[str, range] = {
    "gzip": range(4),
    "zstd": range(1, 20),
    "zstd-chunked": range(1, 20),
    "none": range(1),
}
"""
The kinds of compression, and the levels that each has.

Those of gzip are ISA-L's, of which 1 is as good as 2 and 3 within some percent.  Those
of zstd are its own, without those that need more memory to unpack than engines reserve;
from 10 on a packing thread takes some ten MB, and hardly keeps up with a network.
"""

DEFAULT_KIND = "gzip"

_DEFAULT_LEVELS = {"gzip": 1, "zstd": 1, "zstd-chunked": 1}


def default_level(kind: str) -> int:
    """Return the default level of a kind: the fastest one that compresses well enough."""
    return _DEFAULT_LEVELS.get(kind, 0)


def _has_level(instance: Compression, _: Attribute[int], value: int) -> None:
    if value not in LEVELS[instance.kind]:
        raise ValueError(f"{instance.kind} has no level {value}")


@frozen(kw_only=True)
class Compression:
    """
    The compression of layers.

    :param kind: ``gzip``, ``zstd``, ``zstd-chunked`` or ``none``.
    :param level: one of its :data:`LEVELS`; 0 for ``none``.
    :raises ValueError: there is no such kind, or it has no such level.
    """

    kind: str = field(default=DEFAULT_KIND, validator=validators.in_(LEVELS))
    level: int = field(
        default=Factory(lambda self: default_level(self.kind), takes_self=True),
        validator=_has_level,
    )

    @property
    def label(self) -> str:
        """The spelling in cache keys: ``gzip-1``, ``zstd-3``, ``none``."""
        return self.kind if self.kind == "none" else f"{self.kind}-{self.level}"


def parse_compression(text: str) -> Compression:
    """
    Parse a kind, or a kind and its level as in :attr:`Compression.label`.

    :raises ValueError: there is no such kind, or it has no such level.
    """
    if text in LEVELS:
        return Compression(kind=text)
    kind, dash, level = text.rpartition("-")
    return Compression(kind=kind, level=int(level)) if dash else Compression(kind=text)
