"""
How the log is written: for people by default, as twistd does it; as JSON if asked to.

twistd makes its observer when it has made the application, and asks the application
first whether it has one of its own (``ILogObserver``, a component).  The application is
seen by a service that is put into it: that is where ours is registered, so that every
line is JSON, the very first ones too.
"""

from __future__ import annotations

import errno
import signal
import sys
from collections.abc import Callable, Mapping
from typing import IO, Any, cast

from twisted.application.service import IService, MultiService
from twisted.logger import FileLogObserver, ILogObserver, LogEvent
from twisted.python.components import Componentized
from twisted.python.logfile import LogFile

from nixery.observability.json_log import json_line

__all__ = ["LoggedService", "in_foreground", "log_file"]


class LoggedService(MultiService):
    """
    A service whose application logs JSON, or what else it is told.

    :param service: what it consists of.
    :param file: where lines are written.
    :param line: makes the text of an event.
    """

    def __init__(
        self,
        service: IService,
        file: IO[Any],
        line: Callable[[LogEvent], str] = json_line,
    ) -> None:
        super().__init__()
        self._file = file
        self._line = line
        service.setServiceParent(self)

    # Twisted's interfaces have no types.
    def setServiceParent(self, parent: Any) -> None:  # noqa: N802
        """Be put into an application, or into another service."""
        if isinstance(parent, Componentized):
            parent.setComponent(ILogObserver, FileLogObserver(self._file, self._text))
        super().setServiceParent(parent)

    def _text(self, event: LogEvent) -> str:
        return "" if _of_read_only_cache(event) else self._line(event)


def _of_read_only_cache(event: LogEvent) -> bool:
    """
    Whether an event says that Twisted's list of plugins could not be saved beside them.

    It says so at each start of a program that was installed by somebody else, as root or Nix, and
    is harmless then: the plugins are looked at again.  On a disk that is full or broken it is said.
    """
    return str(event.get("format", "")).startswith("Unable to write to plugin cache") and event.get(
        "errno"
    ) in {errno.EACCES, errno.EPERM, errno.EROFS}


def in_foreground(options: Mapping[str, Any]) -> bool:
    """
    Whether twistd writes its log as text to where :func:`log_file` says, and stays where
    it was started.  A daemon of its own making, and syslog, are left to it.

    :param options: those of twistd.
    """
    return bool(options.get("nodaemon")) and not options.get("syslog")


def log_file(options: Mapping[str, Any], reactor: Any) -> IO[Any]:
    """
    Where twistd would log: standard output, or a file that SIGUSR1 rotates.

    :param options: those of twistd.
    :param reactor: the global reactor, which has no type: rotates on its thread.
    """
    name = options.get("logfile")
    if name == "-" or (not name and options.get("nodaemon")):
        return sys.stdout
    file = LogFile.fromFullPath(name or "twistd.log")
    if not signal.getsignal(signal.SIGUSR1):
        signal.signal(signal.SIGUSR1, lambda *_: reactor.callFromThread(file.rotate))
    return cast(IO[Any], file)
