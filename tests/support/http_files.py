"""A server of files over HTTP, on the loopback interface."""

from __future__ import annotations

from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

__all__ = ["FileHandler", "serve_files"]


class FileHandler(SimpleHTTPRequestHandler):
    """Serves files, and prints nothing."""

    def log_message(self, *args: Any) -> None:
        pass


def serve_files(
    case: SynchronousTestCase, directory: Path, handler: type[FileHandler] = FileHandler
) -> str:
    """Serve a directory until the end of a test; :return: its URL, without a slash at the end."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(directory)))
    thread = Thread(target=server.serve_forever)
    thread.start()
    case.addCleanup(thread.join)
    case.addCleanup(server.server_close)
    case.addCleanup(server.shutdown)
    return f"http://127.0.0.1:{server.server_port}"
