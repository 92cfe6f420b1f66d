"""
Installs the log observer: text by default, as twistd writes it; JSON if configured.

twistd makes its observer when it has made the application, and asks the application first whether
it has one of its own (``ILogObserver``, a component). A service learns of the application when it
is added to it: our observer is registered at that moment, so that every line is JSON, the very
first ones too.
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
    A service that makes its application log JSON, or in another given format.

    :param service: the service that it wraps.
    :param file: the file that lines are written to.
    :param format_event: makes the text of an event.
    """

    def __init__(
        self,
        service: IService,
        file: IO[Any],
        format_event: Callable[[LogEvent], str] = json_line,
    ) -> None:
        super().__init__()
        self._file = file
        self._format_event = format_event
        service.setServiceParent(self)

    # Twisted's interfaces have no types.
    def setServiceParent(self, parent: Any) -> None:  # noqa: N802
        """Add this service to an application, or to another service."""
        if isinstance(parent, Componentized):
            parent.setComponent(ILogObserver, FileLogObserver(self._file, self._text))
        super().setServiceParent(parent)

    def _text(self, event: LogEvent) -> str:
        if _is_introduction(event) or _is_plugin_cache_error(event):
            return ""
        return self._format_event(event)


def _is_introduction(event: LogEvent) -> bool:
    """
    Tell whether twistd introduces itself, or a port tells of its start.

    The daemon's own first lines name the versions, and :class:`nixery.runtime.listener.Listener`
    the addresses.
    """
    text = str(event.get("log_format") or event.get("format"))
    return text.startswith(("twistd {version}", "reactor class: ")) or (
        event.get("log_namespace") == "log_legacy"
        and " starting on " in "".join(map(str, event.get("message", ())))
    )


def _is_plugin_cache_error(event: LogEvent) -> bool:
    """
    Tell whether an event says that Twisted's list of plugins could not be saved beside them.

    Twisted logs this at each start of a program that another user installed, such as root or Nix,
    and it is harmless then: the plugins are searched again. If the disk is full or broken, the
    event is kept.
    """
    return str(event.get("format", "")).startswith("Unable to write to plugin cache") and event.get(
        "errno"
    ) in {errno.EACCES, errno.EPERM, errno.EROFS}


def in_foreground(options: Mapping[str, Any]) -> bool:
    """
    Tell whether twistd stays in the foreground and writes its log as text to :func:`log_file`. A
    process that twistd daemonizes, and syslog, are left to twistd.

    :param options: the options of twistd.
    """
    return bool(options.get("nodaemon")) and not options.get("syslog")


def log_file(options: Mapping[str, Any], reactor: Any) -> IO[Any]:
    """
    Return the file that twistd would log to: standard output, or a file that SIGUSR1 rotates.

    :param options: the options of twistd.
    :param reactor: the global reactor, which has no type: rotates on its thread.
    """
    name = options.get("logfile")
    if name == "-" or (not name and options.get("nodaemon")):
        return sys.stdout
    file = LogFile.fromFullPath(name or "twistd.log")
    if not signal.getsignal(signal.SIGUSR1):
        signal.signal(signal.SIGUSR1, lambda *_: reactor.callFromThread(file.rotate))
    return cast(IO[Any], file)
