"""Hosts on the loopback interface, for what tests have fetched by HTTP."""

from __future__ import annotations

from typing import Any, cast

from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.portal import Portal
from twisted.internet import reactor
from twisted.trial.unittest import TestCase
from twisted.web.guard import BasicCredentialFactory, HTTPAuthSessionWrapper
from twisted.web.resource import IResource
from twisted.web.server import Site

from tests.integration.test_sources import Realm

__all__ = ["serve"]


def serve(case: TestCase, resource: IResource, *, password: str | None = None) -> str:
    """
    Serve a resource until the test ends, and return its host and port.

    :param password: that of the user ``user``; ``None``: everybody gets it.
    """
    if password is not None:
        checker = InMemoryUsernamePasswordDatabaseDontUse(user=password.encode())
        portal = Portal(Realm(resource), [checker])
        resource = HTTPAuthSessionWrapper(portal, [BasicCredentialFactory(b"x")])
    port = cast(Any, reactor).listenTCP(0, Site(resource), interface="127.0.0.1")
    case.addCleanup(port.stopListening)
    return f"127.0.0.1:{port.getHost().port}"
