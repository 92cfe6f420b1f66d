"""
The interface by which pages check that a client may see a build or an image.

:class:`AllowAll` is the implementation without users: every client may see everything that
the pages show.  :class:`nixery.http.auth.PagesGuard` is the implementation with users.
"""

from __future__ import annotations

from typing import Protocol

from twisted.web.server import Request

__all__ = ["AllowAll", "VisibilityRules"]


class VisibilityRules(Protocol):
    """Decides which builds and images a client may see."""

    def may_see(self, request: Request, image: str) -> bool:
        """
        Tell whether the sender of a request may see an image: its builds, their logs, and
        its contents.  A page that the client may not see is answered as if it did not exist.

        :param image: its name, as a client wrote it: ``shell/git``.
        """


class AllowAll:
    """Visibility rules under which every client may see every image."""

    def may_see(self, _request: Request, _image: str) -> bool:
        """Return true; see :meth:`VisibilityRules.may_see`."""
        return True
