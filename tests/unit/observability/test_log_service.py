"""Tests of :mod:`nixery.observability.log_service`."""

from __future__ import annotations

import io
from typing import Any

from twisted.application.service import Application, Service
from twisted.logger import ILogObserver, LogLevel, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from nixery.observability.log_service import LoggedService


class ChatterTests(SynchronousTestCase):
    """Lines of twistd that the daemon says itself."""

    def test_introductions_of_twisted_are_left_out(self) -> None:
        """Messages of twistd and its ports about themselves are left out; all others are logged."""
        log, application = io.StringIO(), Application("x")
        service = LoggedService(Service(), log, lambda event: f"{formatEvent(event)}\n")
        service.setServiceParent(application)
        observer: Any = ILogObserver(application)
        namespace = "twisted.scripts._twistd_unix.UnixAppLogger"
        for text in (
            "twistd {version} ({exe} {pyVersion}) starting up.",
            "reactor class: {reactor}.",
            "Server Shut Down.",
        ):
            event = {"log_format": text, "version": 1, "exe": 2, "pyVersion": 3, "reactor": 4}
            observer({**event, "log_namespace": namespace, "log_level": LogLevel.info})
        for message in ("RegistrySite starting on 8080", "(TCP Port 8080 Closed)"):
            observer(
                {
                    "log_namespace": "log_legacy",
                    "log_format": "{log_text}",
                    "log_text": message,
                    "message": (message,),
                }
            )
        self.assertEqual("Server Shut Down.\n(TCP Port 8080 Closed)\n", log.getvalue())
