"""
Notices to the service manager: assignments in a datagram, see sd_notify(3).

There are libraries for it.  The one without C cannot be told not to block, the ones with
C need systemd's headers where the package is installed, and what they do is this.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping

from twisted.logger import Logger

__all__ = ["NotifySocket"]


class NotifySocket:
    """
    Tells the service manager; nobody, where there is none.

    :param environ: the environment of the process: ``NOTIFY_SOCKET`` is the path of a
        socket, or ``@`` and an abstract name.
    """

    _log = Logger()

    def __init__(self, environ: Mapping[str, str]) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._failed = False

    @property
    def heard(self) -> bool:
        """Whether there is somebody to be told."""
        return self._address.startswith(("/", "\0"))

    def tell(self, **values: object) -> None:
        """
        Send assignments: ``tell(READY=1, STATUS="serving")``.  Never waits and never fails: a
        notice that is lost is no reason to end.
        """
        if not self.heard:
            return
        # A line end would begin another assignment.
        lines = [f"{name}={' '.join(str(value).split())}" for name, value in values.items()]
        kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        try:
            with socket.socket(socket.AF_UNIX, kind) as sender:
                sender.sendto("\n".join(lines).encode("utf-8"), self._address)
        except OSError as error:
            if not self._failed:
                self._log.warn("The service manager cannot be told: {error}", error=error)
            self._failed = True
        else:
            self._failed = False
