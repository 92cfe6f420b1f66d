"""
Who may see what: the one question that pages ask before they show a build or an image.

There are no users yet, and everybody may see everything that the pages show at all.
Whatever tells clients apart one day is an implementation of this protocol, and no
page has to change for it.
"""

from __future__ import annotations

from typing import Protocol

from twisted.web.server import Request

__all__ = ["AllowAll", "VisibilityRules"]


class VisibilityRules(Protocol):
    """Decides what a client gets to see."""

    def may_see(self, request: Request, image: str) -> bool:
        """
        Whether whoever sent a request may see an image: its builds, their logs, and
        what it is made of.  What may not be seen is answered as if it was not there.

        :param image: its name, as a client wrote it: ``shell/git``.
        """


class AllowAll:
    """Everybody sees everything."""

    def may_see(self, _request: Request, _image: str) -> bool:
        """As :meth:`VisibilityRules.may_see` says."""
        return True
