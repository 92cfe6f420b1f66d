"""
Interferes with the calls by which this process changes files.

The interpreter announces most of them before it makes them (PEP 578), whatever module makes them
and by whatever function.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from threading import get_ident
from typing import Any

from attrs import frozen

__all__ = ["Call", "before_system_calls", "killed_before_change"]


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

_listeners: list[tuple[int, Callable[[Call], None]]] = []


@contextmanager
def before_system_calls(listener: Callable[[Call], None]) -> Iterator[None]:
    """
    Call a listener before each call that this thread makes, but for its own.

    An exception of the listener takes the place of the call, as one of the system would.
    """
    _install()
    _listeners.append((get_ident(), listener))
    try:
        yield
    finally:
        _listeners.pop()


@cache
def _install() -> None:
    # An audit hook stays until the process ends.
    sys.addaudithook(_announce)


def _announce(event: str, arguments: tuple[Any, ...]) -> None:
    if not _listeners or event not in _PATHS or _listeners[-1][0] != get_ident():
        return
    path = arguments[_PATHS[event]]
    if isinstance(path, int):
        path = os.readlink(f"/proc/self/fd/{path}")
    creates = event == "open" and arguments[2] & os.O_CREAT
    source = os.fsdecode(arguments[0]) if event in ("os.link", "os.rename") else ""
    current = _listeners.pop()
    try:
        current[1](Call("create" if creates else event, os.fsdecode(path), source))
    finally:
        _listeners.append(current)


def killed_before_change(number: int, work: Callable[[], object]) -> bool:
    """
    Run ``work`` in a child process that is killed before one of its changes to the file system.

    :param number: how many changes it makes before that.
    :return: whether it was killed; if not, the work has come to its end.
    """
    with warnings.catch_warnings():
        # The threads of a pool that has nothing to do are no hazard to the child.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        status = 1
        try:
            with _killed(number):
                work()
            status = 0
        except BaseException:  # noqa: BLE001  # this process ends here
            traceback.print_exc()
        finally:
            os._exit(status)
    _, ended = os.waitpid(child, 0)
    if os.WIFSIGNALED(ended) and os.WTERMSIG(ended) == signal.SIGKILL:
        return True
    if ended != 0:
        raise AssertionError("the work failed, see its traceback on standard error")
    return False


@contextmanager
def _killed(number: int) -> Iterator[None]:
    """Kill this process before a change, of which some are not announced."""
    left = number

    def change() -> None:
        nonlocal left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1

    def announced(call: Call) -> None:
        if call.name not in ("open", "os.utime"):
            change()

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*arguments: Any) -> Any:
            change()
            return function(*arguments)

        return counting

    for name in ("fsync", "write"):
        setattr(os, name, counted(getattr(os, name)))
    with before_system_calls(announced):
        yield
