"""
Estimate the bytes of a pull: exactly of layers that are stored, otherwise by their compression.

A layer's compressed size is known when it has been packed.  Before that, it is estimated by what
the stored layers of the same image have, if these are enough to tell, or by the usual ratio.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import evolve

from nixery.builds.planned_layers import PlannedLayer
from nixery.image.names import Digest
from nixery.inspection.estimate import Accuracy, PullSize

__all__ = ["DEFAULT_RATIOS", "exact_size", "least_size", "planned_size", "shared_size"]

MIN_MEASURED_BYTES = 1 << 20
"""The unpacked bytes of stored layers from which the compression of the others is estimated."""

DEFAULT_RATIOS: Mapping[str, float] = {
    "gzip": 0.42,
    "zstd": 0.40,
    "zstd-chunked": 0.42,
    "none": 1.02,
}
"""Compressed size by unpacked size of the packages of nixpkgs, where nothing was measured."""


def exact_size(sizes: Sequence[int]) -> PullSize:
    """Return the size of layers whose compressed bytes are known."""
    return PullSize(layers=len(sizes), size=sum(sizes), accuracy=Accuracy.EXACT)


def planned_size(layers: Sequence[PlannedLayer], compression: str) -> PullSize:
    """
    Return the size of the layers of an image that is not built yet.

    :param compression: its kind.
    """
    ratio = _ratio(layers, compression)
    sizes = [
        round(layer.unpacked_size * ratio) if layer.record is None else layer.record.size
        for layer in layers
    ]
    complete = all(layer.record is not None for layer in layers)
    return evolve(exact_size(sizes), accuracy=Accuracy.EXACT if complete else Accuracy.ESTIMATE)


def shared_size(layers: Sequence[PlannedLayer], held: frozenset[Digest]) -> PullSize:
    """
    Return the size of the layers that a client has of an image that is not built yet.

    A layer that is not stored is in no image that was pulled from here.

    :param held: the layers of the client's image.
    """
    records = [layer.record for layer in layers if layer.record is not None]
    return exact_size([record.size for record in records if record.digest in held])


def least_size(unpacked: int, compression: str) -> PullSize:
    """
    Return the least size of an image of which only some store paths are known.

    :param unpacked: their bytes.
    :param compression: the kind of compression.
    """
    return PullSize(
        layers=None,
        size=round(unpacked * DEFAULT_RATIOS[compression]),
        accuracy=Accuracy.LOWER_BOUND,
    )


def _ratio(layers: Sequence[PlannedLayer], compression: str) -> float:
    """Return the compressed size of a byte, as the stored ones of some layers have it."""
    stored = [(layer.record.size, layer.unpacked_size) for layer in layers if layer.record]
    unpacked = sum(size for _, size in stored)
    if unpacked >= MIN_MEASURED_BYTES:
        return sum(size for size, _ in stored) / unpacked
    return DEFAULT_RATIOS[compression]
