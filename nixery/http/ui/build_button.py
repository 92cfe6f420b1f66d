"""
Serve the button on the page of an image: ``POST /images/NAME:TAG/build``.

It does what a pull does: the same job, which pulls join, under the same rules and limits.  The
browser is then sent to the page of the build, or to that of the image.
"""

from __future__ import annotations

from typing import Protocol

from attrs import define
from twisted.web.server import Request

from nixery.access.errors import CrossSiteRequest
from nixery.builds.candidates import visible_candidates
from nixery.builds.views import BuildView
from nixery.http.client_address import client_keys
from nixery.http.hosts import HostRules, is_cross_site
from nixery.http.responses import PLAIN_TEXT, answer_with, client_disconnected, set_headers
from nixery.http.ui.image_views import place
from nixery.http.ui.pages import PAGE_HEADERS, Pages
from nixery.http.visibility import VisibilityRules
from nixery.image.errors import PackagesRefused
from nixery.image.names import ImageName, Tag, is_referrers_tag
from nixery.limits.package_rules import PackageRules

__all__ = ["BuildButton"]

RETRY_AFTER_SECONDS = 30


class UnattendedPulls(Protocol):
    """As :class:`nixery.pulls.unattended_pulls.UnattendedPulls`."""

    def allows(self, client: str, name: ImageName, tag: Tag) -> bool:
        """Tell whether a client may wait for an image."""

    async def begin(self, client: str, name: ImageName, tag: Tag) -> BuildView | None:
        """Pull an image; :return: its build."""


class Candidates(Protocol):
    """Finds other names for those that do not exist."""

    async def find_candidates(self, error: PackagesRefused) -> PackagesRefused:
        """Return the error with names that may have been meant by those that do not exist."""


@define(kw_only=True, eq=False)
class BuildButton:
    """
    Has images built for visitors of the pages.

    :param pages: renders errors.
    :param pulls: begins the builds.
    :param candidates: finds other names.
    :param visibility: decides which packages a client may see.
    :param rules: the packages that are served at all.
    :param hosts: the names of the registry; ``None``: every name.
    """

    _pages: Pages
    _pulls: UnattendedPulls
    _candidates: Candidates
    _visibility: VisibilityRules
    _rules: PackageRules
    _hosts: HostRules | None

    async def press(self, request: Request, name: ImageName, tag: Tag) -> bytes | None:
        """
        Begin a build, or join it, and redirect to its page.

        :raises CrossSiteRequest: the request comes from a page of another site.
        :raises NixeryError: the image cannot be made, and no page of a build tells why.
        """
        if is_cross_site(request, self._hosts):
            raise CrossSiteRequest
        if not self._visibility.may_see(request, name.repository):
            return self._pages.error(request, 403, "one of these packages is not for you")
        if is_referrers_tag(tag):
            return self._pages.error(request, 404, f"{tag} is the tag of signatures, not of images")
        self._rules.check(name)
        # The user before the address, which is that of the client of a trusted proxy.
        client = client_keys(request)[-1]
        if not self._pulls.allows(client, name, tag):
            set_headers(request, {b"Retry-After": b"%d" % RETRY_AFTER_SECONDS})
            return self._pages.error(
                request, 429, "too many images are being built for you already: try again later"
            )
        try:
            build = await self._pulls.begin(client, name, tag)
        except PackagesRefused as error:
            found = await self._candidates.find_candidates(error)
            raise PackagesRefused(
                problems=tuple(
                    visible_candidates(each, lambda seen: self._visibility.may_see(request, seen))
                    for each in found.problems
                )
            ) from None
        if client_disconnected(request):
            return None
        page = place(f"{name.repository}:{tag}")
        location = page if build is None else f"/builds/{build.id}"
        request.setResponseCode(303)
        set_headers(request, {**PAGE_HEADERS, b"Location": location.encode("ascii")})
        return answer_with(request, PLAIN_TEXT, f"{location}\n".encode("ascii"))
