"""
Gather what the first screen of an image's page tells beside its contents: since when its tag means
it, the build that made it, and the other tags of its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from attrs import frozen
from twisted.web.server import Request

from nixery.builds.views import BuildState, BuildView
from nixery.http.ui.client_commands import guess_program
from nixery.http.visibility import VisibilityRules
from nixery.image.closure import package_name
from nixery.image.names import Digest
from nixery.inspection.image_list import ImageEntry
from nixery.inspection.report import ImageReport
from nixery.runtime.clocks import WallTime

__all__ = ["ImageFacts", "KeptBuilds", "find_facts", "program_of"]

MAX_OTHER_TAGS = 20
"""The number of other tags that a page links."""


class KeptBuilds(Protocol):
    """Supplies the builds that are known."""

    def overview(self) -> Sequence[BuildView]:
        """Return the running builds, then those that have ended, the youngest first."""


class ServedImages(Protocol):
    """Supplies the names of the images that were served."""

    async def list_keys(self) -> Sequence[str]:
        """Return the names of all images, each with its tag, sorted."""

    async def read_entries(self, keys: Sequence[str]) -> Sequence[ImageEntry]:
        """Return the list entries of some images, in the order of their names."""


@frozen(kw_only=True)
class ImageFacts:
    """
    Facts about an image, apart from its contents.

    :param first_served: the time at which the tag first meant it; ``None``: it is not known.
    :param build: the id of the build that made it; ``None``: it is not known any more.
    :param other_tags: other tags of its name, as names with tags.
    """

    first_served: WallTime | None = None
    build: str | None = None
    other_tags: tuple[str, ...] = ()


async def find_facts(
    catalog: ServedImages,
    builds: KeptBuilds | None,
    visibility: VisibilityRules,
    request: Request,
    label: str,
    digests: frozenset[Digest],
) -> ImageFacts:
    """
    Find what is known of an image.

    :param builds: ``None``: builds are not shown.
    :param label: its name and tag.
    :param digests: those of its manifest, and of the index that it is in.
    :raises StorageError: the storage failed.
    """
    entries = await catalog.read_entries([label])
    name = label.rpartition(":")[0] + ":"
    tags = [key for key in await catalog.list_keys() if key.startswith(name) and key != label]
    made_by = None
    for build in () if builds is None else builds.overview():
        # A build that is another client's may be of an image that this one may not see.
        if (
            build.state is BuildState.SUCCEEDED
            and build.digest in digests
            and visibility.may_see(request, build.image)
        ):
            made_by = build.id
    return ImageFacts(
        first_served=entries[0].first_served if entries else None,
        build=made_by,
        other_tags=tuple(tags[:MAX_OTHER_TAGS]),
    )


def program_of(repository: str, report: ImageReport) -> str:
    """Guess the program that somebody wants to run: one that is there, where that is known."""
    pnames = {
        asked: package_name(each.name) for each in report.packages for asked in each.requested
    }
    guessed = guess_program(repository, pnames)
    if report.programs is None or report.omitted_programs or guessed in report.programs:
        return guessed
    return report.programs[0] if len(report.programs) == 1 else ""
