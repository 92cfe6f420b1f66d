"""
Interferes with the calls by which this process changes files.

The interpreter announces most of them before it makes them (PEP 578), whatever module makes them
and by whatever function.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import local
from typing import Any
from unittest import mock

from attrs import frozen

__all__ = ["Call", "before_system_calls", "states_before_changes"]


@frozen
class Call:
    """
    A call that is about to be made.

    :param name: as :func:`sys.audit` has it; ``create`` for an ``open`` that may make a file.
    :param path: the path that is opened, made, changed or removed.
    :param source: for a link or a new name: the old name.
    """

    name: str
    path: str
    source: str = ""


_PATHS = {
    "open": 0,
    "os.chmod": 0,
    "os.link": 1,
    "os.mkdir": 0,
    "os.remove": 0,
    "os.rename": 1,
    "os.symlink": 1,
    "os.utime": 0,
}
"""The position of the path among the arguments of each event."""

_listeners: list[Callable[[Call], None]] = []
_this_thread = local()


@contextmanager
def before_system_calls(listener: Callable[[Call], None]) -> Iterator[None]:
    """
    Call a listener before each call of any thread, but for its own.

    An exception of the listener takes the place of the call, as one of the system would.
    """
    _install()
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.pop()


@cache
def _install() -> None:
    # An audit hook stays until the process ends.
    sys.addaudithook(_announce)


def _announce(event: str, arguments: tuple[Any, ...]) -> None:
    if not _listeners or event not in _PATHS or getattr(_this_thread, "listens", False):
        return
    path = arguments[_PATHS[event]]
    if isinstance(path, int):
        path = os.readlink(f"/proc/self/fd/{path}")
    creates = event == "open" and arguments[2] & os.O_CREAT
    source = os.fsdecode(arguments[0]) if event in ("os.link", "os.rename") else ""
    _this_thread.listens = True
    try:
        _listeners[-1](Call("create" if creates else event, os.fsdecode(path), source))
    finally:
        _this_thread.listens = False


@contextmanager
def states_before_changes(directory: Path) -> Iterator[list[Path]]:
    """
    Copy a directory before each change of files: a process that dies there leaves that state.

    :return: the copies, in order.
    """
    states: list[Path] = []
    copying = False

    def copy() -> None:
        nonlocal copying
        if not copying:
            copying = True
            state = directory.with_name(f"{directory.name}-{len(states)}")
            states.append(shutil.copytree(directory, state, symlinks=True))
            copying = False

    def announced(call: Call) -> None:
        if call.name not in ("open", "os.utime"):
            copy()

    def after_copy(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            copy()
            return function(*arguments)

        return call

    with (
        # These are not announced.
        mock.patch.object(os, "fsync", after_copy(os.fsync)),
        mock.patch.object(os, "write", after_copy(os.write)),
        before_system_calls(announced),
    ):
        yield states
