"""Makes the catalog of images, for their pages."""

from __future__ import annotations

from typing import Any

from attrs import frozen

from nixery.inspection.catalog import ImageCatalog
from nixery.inspection.image_comparer import ImageComparer
from nixery.runtime.clocks import WallClock
from nixery.runtime.startup import Component
from nixery.runtime.workers import Workers
from nixery.wiring.storage import StorageSubsystem

__all__ = ["InspectionSubsystem", "make_inspection"]


@frozen(kw_only=True)
class InspectionSubsystem:
    """The catalog of the images that were served, and their comparison."""

    catalog: ImageCatalog
    comparer: ImageComparer
    components: tuple[Component, ...]


def make_inspection(
    cpu: Workers,
    reactor: Any,  # the global reactor, which has no type
    wall_clock: WallClock,
    *,
    stored: StorageSubsystem,
) -> InspectionSubsystem:
    """
    Make the catalog.

    :param cpu: the pool in which reports are made.
    :param wall_clock: tells the time at which an image was first served.
    """
    # Reports are stored even without pages: they are there when the pages are switched on later.
    catalog = ImageCatalog(
        storage=stored.storage,
        image_cache=stored.images,
        cpu=cpu,
        clock=reactor,
        wall_clock=wall_clock,
    )
    return InspectionSubsystem(
        catalog=catalog,
        comparer=ImageComparer(catalog=catalog, storage=stored.storage, cpu=cpu),
        components=(Component(name="image catalog", stop=catalog.stop),),
    )
