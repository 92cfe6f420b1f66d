"""
Sends notifications to the service manager: assignments in a datagram, see sd_notify(3).

No library is used: the one in pure Python cannot be told not to block, and those with C need
systemd's headers where the package is installed; this module is all that they would do.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping

from twisted.logger import Logger

__all__ = ["NotifySocket"]


class NotifySocket:
    """
    Sends notifications to the service manager; does nothing where there is none.

    :param environ: the environment of the process: ``NOTIFY_SOCKET`` is the path of a
        socket, or ``@`` and an abstract name.
    """

    _log = Logger()

    def __init__(self, environ: Mapping[str, str]) -> None:
        address = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._failed = False

    @property
    def is_available(self) -> bool:
        """Tell whether there is a service manager to notify."""
        return self._address.startswith(("/", "\0"))

    def notify(self, **values: object) -> None:
        """
        Send assignments: ``notify(READY=1, STATUS="serving")``. Never waits and never fails: a lost
        notification is no reason to end.
        """
        if not self.is_available:
            return
        # A line end would begin another assignment.
        lines = [f"{name}={' '.join(str(value).split())}" for name, value in values.items()]
        kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        try:
            with socket.socket(socket.AF_UNIX, kind) as sender:
                sender.sendto("\n".join(lines).encode("utf-8"), self._address)
        except OSError as error:
            if not self._failed:
                self._log.warn("The service manager cannot be notified: {error}", error=error)
            self._failed = True
        else:
            self._failed = False
