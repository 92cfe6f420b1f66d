"""
Plan the layers of an image without packing them, and find those that are stored.

The plan is that of a build: the same closure, the same grouping, the same keys.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import frozen

from nixery.builds import cache_keys
from nixery.builds.layer_cache import LAYERS, LayerRecord
from nixery.builds.pipeline import ImagePipeline
from nixery.builds.request import ImageRequest
from nixery.image.closure import RuntimeGraph
from nixery.image.packages import Evaluation
from nixery.layers import ustar
from nixery.layers.grouping import plan_layers
from nixery.layers.rootfs import RootTree, plan_root
from nixery.layers.tarball import FORMAT
from nixery.storage.interface import Storage

__all__ = ["PlannedLayer", "plan_stored_layers"]


@frozen(kw_only=True)
class PlannedLayer:
    """
    A layer of an image that is not built yet.

    :param unpacked_size: the bytes of its files, nearly.
    :param record: the layer, if it is stored.
    """

    unpacked_size: int
    record: LayerRecord | None


async def plan_stored_layers(
    pipeline: ImagePipeline, request: ImageRequest, evaluation: Evaluation, graph: RuntimeGraph
) -> Sequence[PlannedLayer]:
    """
    Return the layers that an image will have, from the bottom to the top.

    :param pipeline: would make the image.
    :param graph: the closure, which is valid and protected from garbage collection.
    :raises MissingPath: a store path cannot be read.
    :raises StorageError: the storage failed.
    """
    settings = request.settings
    plan = await pipeline.cpu.run(plan_layers, graph, settings.popularity, settings.layers)

    def make_root() -> tuple[RootTree, str]:
        tree = plan_root(
            evaluation.packages,
            closure=[path.path for path in graph.paths],
            store=pipeline.store_directory,
        )
        return tree, tree.identity()

    tree, identity = await pipeline.cpu.run(make_root)
    compression = pipeline.compression.label
    sizes = {
        cache_keys.layer_key(group.paths, compression, FORMAT): group.nar_size for group in plan
    }
    sizes[cache_keys.root_key(identity, compression, FORMAT)] = ustar.BLOCK * len(tree.entries)
    records = await _find_stored(pipeline.storage, list(sizes))
    return [
        PlannedLayer(unpacked_size=size, record=records.get(key)) for key, size in sizes.items()
    ]


async def _find_stored(storage: Storage, keys: Sequence[str]) -> Mapping[str, LayerRecord]:
    """Return the layers whose blobs exist; nothing is pulled, so no use is recorded."""
    found = {}
    for key, text in (await storage.get_records(LAYERS, keys)).items():
        try:
            found[key] = LayerRecord.decode(text)
        except ValueError:
            # The build that needs it withdraws it, and makes the layer again.
            continue
    missing = await storage.missing({record.digest for record in found.values()}, record_use=False)
    return {key: record for key, record in found.items() if record.digest not in missing}
