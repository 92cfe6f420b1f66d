"""
Describes an image that has just been made, and its inputs.
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen

from nixery.image.closure import RuntimeGraph
from nixery.image.manifests import ImageLayer
from nixery.image.names import Digest
from nixery.image.packages import Evaluation
from nixery.layers.plan import LayerPlan, Popularity

__all__ = ["BuildRecord"]


@frozen(kw_only=True, eq=False)
class BuildRecord:
    """
    An image that has just been made, and its inputs.

    :param digest: of its OCI manifest.
    :param source: the package set's revision, for people.
    :param layers: the layers of the plan, in its order, then those on top of them.
    :param programs: the names of the entries of ``/bin``, sorted.
    :param notes: sentences on entries of the packages that are not in the image's root.
    """

    digest: Digest
    source: str
    evaluation: Evaluation
    graph: RuntimeGraph
    plan: LayerPlan
    layers: Sequence[ImageLayer]
    popularity: Popularity
    programs: Sequence[str] = ()
    notes: Sequence[str] = ()
