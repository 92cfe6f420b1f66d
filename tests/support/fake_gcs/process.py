"""
Google Cloud Storage, as far as the storage needs it, for tests.

Unlike the emulators it enforces preconditions, keeps upload sessions, verifies
signatures with the public key, and fails as it is told to.  It is a process of its
own on the loopback interface, so that a blocking client can reach it from a test and
two daemons can share it.  A test has a bucket of its own, and with it faults and a
log of its own.
"""

from __future__ import annotations

import atexit
import json
import subprocess
import sys
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

__all__ = ["FakeBucket", "FakeGcs", "RemoteGcs", "fake_gcs"]

_numbers = count(1)


class RemoteGcs:
    """
    A server that runs already.

    :param url: where.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def control(self, what: str, **given: object) -> Any:
        """Tell the server something."""
        request = Request(
            f"{self.url}/control/{what}", json.dumps(given).encode(), {"Connection": "close"}
        )
        with urlopen(request, timeout=30) as answer:
            body = answer.read()
        return json.loads(body) if body else None

    def key_file(self, path: Path) -> Path:
        """Write the key file of the account that may use the buckets."""
        path.write_text(json.dumps(self.control("account", url=self.url)))
        return path

    def make_bucket(self, **properties: object) -> FakeBucket:
        """A new bucket."""
        bucket = FakeBucket(self, f"bucket-{next(_numbers)}")
        self.control("make", bucket=bucket.name, **properties)
        return bucket

    def skew(self, seconds: float) -> None:
        """Put the server's clock ahead."""
        self.control("clock", skew=seconds)


class FakeGcs(RemoteGcs):
    """A server that ends with the process that started it."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.fake_gcs.server"],
            cwd=Path(__file__).parents[3],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        atexit.register(self.close)
        assert self._process.stdout is not None
        super().__init__(self._process.stdout.readline().strip())

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()


class FakeBucket:
    """A bucket of the server."""

    def __init__(self, server: RemoteGcs, name: str) -> None:
        self.server = server
        self.name = name

    def control(self, what: str, **given: object) -> Any:
        return self.server.control(what, bucket=self.name, **given)

    def fail(
        self, where: str, action: str, value: int = 0, *, times: int = 1, skip: int = 0
    ) -> None:
        """Have something go wrong; see :mod:`tests.support.fake_gcs.server`."""
        self.control("fault", where=where, action=action, value=value, times=times, skip=skip)

    def heal(self) -> None:
        """No more faults, and an empty log."""
        self.control("heal")

    def put(
        self, name: str, data: bytes, *, media_type: str = "text/plain", age: float = 0.0
    ) -> None:
        """Put an object without an upload."""
        self.control("put", name=name, hex=data.hex(), type=media_type, age=age)

    def remove(self, name: str) -> None:
        """Remove an object, as a lifecycle rule would."""
        self.control("remove", name=name)

    def state(self) -> Any:
        return self.control("state")

    def things(self, prefix: str = "") -> dict[str, Any]:
        """The objects whose names begin with ``prefix``."""
        return {
            name: thing for name, thing in self.state()["things"].items() if name.startswith(prefix)
        }

    def log(self, operation: str | None = None) -> list[tuple[str, int]]:
        """The operations so far with their statuses, or those of one kind."""
        return [(name, status) for name, status in self.state()["log"] if operation in (None, name)]


@cache
def fake_gcs() -> FakeGcs:
    """The server that the tests of a run share."""
    return FakeGcs()
