"""Tests of a start on a bucket: real processes of twistd on the tests' own service."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.support.fake_gcs.process import fake_gcs

CHECKOUT = Path(__file__).resolve().parent.parent.parent


class GcsStartTests(SynchronousTestCase):
    """Permanent faults end the daemon with status 78, passing ones do not."""

    def setUp(self) -> None:
        if shutil.which("nix-build") is None:
            raise SkipTest("Nix is not installed")
        self.directory = Path(self.mktemp()).absolute()
        (self.directory / "set").mkdir(parents=True)
        (self.directory / "set" / "default.nix").write_text("{ }\n")
        self.key = fake_gcs().key_file(self.directory / "key.json")
        self.bucket = fake_gcs().make_bucket()

    def start(self, *options: str, **environ: str) -> subprocess.Popen[str]:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        process = subprocess.Popen(
            [
                sys.executable,
                str(Path(sys.executable).parent / "twistd"),
                "--nodaemon",
                f"--pidfile={self.directory / 'pid'}",
                "nixery",
                "--listen",
                f"tcp:{self.port}:interface=127.0.0.1",
                "--storage-backend=gcs",
                f"--gcs-bucket={self.bucket.name}",
                *options,
            ],
            cwd=self.directory,
            env={
                **os.environ,
                "PYTHONPATH": str(CHECKOUT),
                "NIX_CONFIG": "build-users-group =\n",
                "NIXERY_PKGS_PATH": str(self.directory / "set"),
                "STATE_DIRECTORY": str(self.directory / "state"),
                "CACHE_DIRECTORY": str(self.directory / "cache"),
                "GOOGLE_APPLICATION_CREDENTIALS": str(self.key),
                **environ,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def fails(self, *words: str, options: tuple[str, ...] = (), **environ: str) -> None:
        process = self.start("--gcs-endpoint", fake_gcs().url, *options, **environ)
        output, _ = process.communicate(timeout=60)
        self.assertEqual(78, process.returncode, output)
        self.assertNotIn("Traceback", output)
        for word in ("Cannot start: ", *words):
            self.assertIn(word, output)

    def readiness(self) -> tuple[int, str]:
        """The status of ``/readyz``; 0: there is no answer."""
        try:
            with urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=30) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def wait_for(self, status: int, text: str) -> None:
        """Wait until the readiness is this one, and mentions ``text``."""
        deadline = time.monotonic() + 60
        while (answer := self.readiness())[0] != status or text not in answer[1]:
            self.assertLess(time.monotonic(), deadline, answer)
            # Each is a line in a log that is not read before the end.
            time.sleep(0.1)

    def end(self, process: subprocess.Popen[str]) -> str:
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
        self.assertEqual(-signal.SIGTERM, process.returncode, output)
        self.assertNotIn("Traceback", output)
        return output

    def test_service_becomes_ready_and_ends_in_good_order(self) -> None:
        """It becomes ready, and ends in good order."""
        process = self.start("--gcs-endpoint", fake_gcs().url)
        self.wait_for(200, "ok")
        self.assertIn(f"stored in the bucket {self.bucket.name}", self.end(process))

    def test_bucket_that_does_not_exist(self) -> None:
        """A bucket that does not exist."""
        self.fails("none-such", "GCS_BUCKET", options=("--gcs-bucket=none-such",))

    def test_bucket_that_the_account_may_not_use(self) -> None:
        """A bucket that the account may not use."""
        self.bucket.fail("*", "status", 403, times=1000)
        self.fails(self.bucket.name, "Storage Object Admin")

    def test_credentials_that_are_not_there(self) -> None:
        """Credentials that are not there."""
        self.fails(
            "GOOGLE_APPLICATION_CREDENTIALS",
            GOOGLE_APPLICATION_CREDENTIALS=str(self.directory / "none.json"),
        )

    def test_service_that_cannot_be_reached_is_waited_for(self) -> None:
        """
        A service that cannot be reached is waited for: the daemon listens, is healthy
        and not ready, says what it waits for, and ends in good order.
        """
        # Bound, so that no other process gets it, and not listened on.
        closed = socket.socket()
        self.addCleanup(closed.close)
        closed.bind(("127.0.0.1", 0))
        process = self.start("--gcs-endpoint", f"http://127.0.0.1:{closed.getsockname()[1]}")
        self.wait_for(503, "Connection refused")
        with urlopen(f"http://127.0.0.1:{self.port}/healthz", timeout=30) as answer:
            self.assertEqual(200, answer.status)
        self.end(process)

    def test_service_that_fails_at_first_is_reached_as_soon_as_it_does_not(self) -> None:
        """A service that fails at first is reached as soon as it does not."""
        self.bucket.fail("list", "status", 503, times=10**6)
        process = self.start("--gcs-endpoint", fake_gcs().url)
        self.wait_for(503, "503")
        self.bucket.heal()
        self.wait_for(200, "ok")
        self.assertIn(f"stored in the bucket {self.bucket.name}", self.end(process))
