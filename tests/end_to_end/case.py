"""
Shared fixtures of the tests: registries and engines that are started once a run.

Starting a container engine takes longer than most tests, and trial has no
fixtures for a class or a module: each of these is started by the first test that
asks for it, and ends with the run.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Generic, TypeVar

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.end_to_end.daemon import DAEMONS, Daemon
from tests.end_to_end.engines import REQUIRED, Containerd, Docker, Podman, Skopeo, require
from tests.end_to_end.package_sets import WatchedSet, demo_set

__all__ = [
    "EndToEndCase",
    "Once",
    "containerd",
    "demo_registry",
    "docker",
    "podman",
    "skopeo",
    "watched_registry",
    "watched_set",
]

T = TypeVar("T")


class Once(Generic[T]):
    """
    Something that is made by the first call and kept; so is the failure to make
    it, which would only take as long again for every other test.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._made: list[T] = []
        self._failure: Exception | None = None

    def __call__(self) -> T:
        if self._failure is not None:
            # Without the traces of the tests that asked before.
            raise self._failure.with_traceback(None)
        if not self._made:
            try:
                self._made.append(self._make())
            except Exception as error:
                self._failure = error
                raise
        return self._made[0]

    @property
    def made(self) -> list[T]:
        """It, if it has been made."""
        return self._made


docker = Once(Docker)
podman = Once(Podman)
containerd = Once(Containerd)
skopeo = Once(Skopeo)

watched_set = Once(WatchedSet)
"""Packages whose builds can be watched."""

demo_registry = Once(lambda: Daemon(demo_set(), name="demo").start())
"""A registry on the demo package set."""

watched_registry = Once(lambda: Daemon(watched_set().path, name="watched").start())
"""A registry on :data:`watched_set`."""


class EndToEndCase(SynchronousTestCase):
    """
    A test against running programs.  When it fails, what the registries logged
    meanwhile is shown with it.
    """

    def setUp(self) -> None:
        require("nix-build", "setpriv")
        if os.getuid() != 0:
            reason = "container engines and an unsandboxed Nix need root"
            if os.environ.get(REQUIRED):
                raise AssertionError(reason)
            raise SkipTest(reason)
        test = getattr(self, self._testMethodName)
        setattr(self, self._testMethodName, lambda: _explained(self.id(), test))


def _explained(name: str, test: Callable[[], None]) -> None:
    """Run a test; if it fails, show what the registries said meanwhile."""
    offsets = {daemon: daemon.log_size() for daemon in DAEMONS}
    try:
        test()
    except SkipTest:
        raise
    except BaseException:
        for daemon in DAEMONS:
            said = daemon.log(offsets.get(daemon, 0))
            if said:
                print(f"\n--- {name}: {daemon.directory} said:\n{said[-8000:]}---")
        raise
