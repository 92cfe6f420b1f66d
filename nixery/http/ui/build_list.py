"""
Choose the builds that a page of the list shows.

    /builds?state=failed     the builds that failed; also ``running`` and ``done``
    /builds?q=git            the builds of images with ``git`` in the name
    /builds?page=2           the next builds of the list
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import frozen
from twisted.web.server import Request

from nixery.builds.views import BuildState, BuildView
from nixery.http.ui.query import argument, number
from nixery.image.names import canonical_repository

__all__ = ["BuildFilter", "BuildListPage", "group_by_cause", "standing_failures"]

BUILDS_PER_PAGE = 50
"""The most builds on one page of the list."""

MAX_NAME_CHARACTERS = 200
"""The most characters of a filter by name that count."""

_STATES = {
    "running": frozenset({BuildState.QUEUED, BuildState.RUNNING}),
    "failed": frozenset({BuildState.FAILED}),
    "done": frozenset({BuildState.SUCCEEDED}),
}


@frozen(kw_only=True)
class BuildListPage:
    """
    A page of the list.

    :param total: the number of builds that match the filter.
    :param number: the number of the page, from 1.
    :param pages: the number of pages, at least 1.
    """

    builds: Sequence[BuildView]
    total: int
    number: int
    pages: int


@frozen(kw_only=True)
class BuildFilter:
    """
    A choice of builds.

    :param state: ``running``, ``failed`` or ``done``; empty: builds in all states.
    :param name: a part of the image's name and tag; empty: all images.
    """

    state: str = ""
    name: str = ""

    @classmethod
    def from_request(cls, request: Request) -> BuildFilter:
        """Return the filter in a query; a state that does not exist counts as none."""
        state = argument(request, b"state")
        return cls(
            state=state if state in _STATES else "",
            name=argument(request, b"q").strip()[:MAX_NAME_CHARACTERS],
        )

    def __bool__(self) -> bool:
        return bool(self.state or self.name)

    def apply(self, builds: Sequence[BuildView]) -> list[BuildView]:
        """Return the builds that match, in their order."""
        name = self.name.lower()
        return [
            build
            for build in builds
            if (not self.state or build.state in _STATES[self.state])
            and any(name in str(label).lower() for label in build.labels)
        ]

    def page(self, builds: Sequence[BuildView], request: Request) -> BuildListPage:
        """Return the page of matching builds that a query asks for; the last one at most."""
        found = self.apply(builds)
        pages = max(1, -(-len(found) // BUILDS_PER_PAGE))
        shown = min(max(number(request, b"page"), 1), pages)
        first = (shown - 1) * BUILDS_PER_PAGE
        return BuildListPage(
            builds=found[first : first + BUILDS_PER_PAGE],
            total=len(found),
            number=shown,
            pages=pages,
        )


def standing_failures(builds: Sequence[BuildView]) -> list[BuildView]:
    """
    Return the failures of images that no later build made, the last failure of each image.

    Names that list the same packages are one image, and so are all tags of one revision.

    :param builds: the ended ones have to be in the order of their ends, the youngest first.
    """
    decided = set[object]()
    failures = []
    for build in builds:
        images = _identities(build)
        if not decided.isdisjoint(images):
            continue
        if build.failure is not None:
            failures.append(build)
        # A cancelled build, or one that still runs, tells nothing of the failure before it.
        if build.failure is not None or build.state is BuildState.SUCCEEDED:
            decided |= images
    return failures


def group_by_cause(failures: Sequence[BuildView]) -> list[list[BuildView]]:
    """Return failed builds in their order, those for which one derivation failed together."""
    groups = dict[object, list[BuildView]]()
    for build in failures:
        failed = build.failure is not None and build.failure.derivation
        groups.setdefault(failed or build.id, []).append(build)
    return list(groups.values())


def _identities(build: BuildView) -> set[object]:
    """Return all that identifies the image of a build."""
    identities: set[object] = {
        (canonical_repository(label.image), label.tag, build.system) for label in build.labels
    }
    return identities | {build.key} if build.key else identities
