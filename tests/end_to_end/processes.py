"""
Children of the tests: commands that end, servers that run until they are stopped.

The tests start other programs' daemons as root.  Whatever happens to a test, none
of them may be left behind: every server ends with the process that started it,
and is stopped, with all that it mounted, when the tests end.
"""

from __future__ import annotations

import atexit
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from attrs import frozen

from tests.scratch import remove_tree

__all__ = [
    "Finished",
    "Server",
    "at_end",
    "free_port",
    "private_directory",
    "run",
    "wait_until",
]

T = TypeVar("T")


@frozen(kw_only=True)
class Finished:
    """A command that has ended."""

    argv: tuple[str, ...]
    status: int
    stdout: str
    stderr: str

    @property
    def output(self) -> str:
        """All that it said."""
        return self.stdout + self.stderr

    def checked(self) -> Finished:
        """:raises AssertionError: it did not succeed."""
        if self.status != 0:
            raise AssertionError(self.describe())
        return self

    def describe(self) -> str:
        return f"{' '.join(self.argv)}\nended with status {self.status}:\n{self.output}"


def run(
    argv: Sequence[str],
    *,
    environ: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    typed: str = "",
    seconds: float = 180,
) -> Finished:
    """
    Run a command to its end, with all of its descendants.

    :param environ: its whole environment; that of the tests by default.
    :param typed: its standard input.
    :param seconds: when to kill it.
    :raises AssertionError: it had to be killed.
    """
    with subprocess.Popen(
        argv,
        env=None if environ is None else dict(environ),
        cwd=cwd,
        stdin=subprocess.PIPE if typed else subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as child:
        try:
            stdout, stderr = child.communicate(typed or None, timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            stdout, stderr = child.communicate()
            raise AssertionError(
                f"{' '.join(argv)} did not end within {seconds} s:\n{stdout}{stderr}"
            ) from None
        except BaseException:
            os.killpg(child.pid, signal.SIGKILL)
            raise
    return Finished(argv=tuple(argv), status=child.returncode, stdout=stdout, stderr=stderr)


class Server:
    """
    A program that runs until it is stopped; what it says goes to a file.

    :param argv: the command.
    :param log: the file; appended to, so that a server which is started again
        goes on where it was.
    :param ready: tells whether it serves.
    :param identity: options of ``setpriv``: as whom it runs.
    :param seconds: how long it may take to serve.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        log: Path,
        ready: Callable[[], bool],
        environ: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        umask: int = 0o022,
        identity: Sequence[str] = (),
        seconds: float = 180,
    ) -> None:
        self._argv = tuple(argv)
        self._log = log
        self._ready = ready
        self._environ = environ
        self._cwd = cwd
        self._umask = umask
        self._identity = tuple(identity)
        self._seconds = seconds
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        if self._child is None:
            raise AssertionError(f"{self._argv[0]} does not run")
        return self._child.pid

    @property
    def running(self) -> bool:
        return self._child is not None and self._child.poll() is None

    def start(self) -> None:
        """Start it, and wait until it serves."""
        with self._log.open("ab") as log:
            self._child = subprocess.Popen(
                # A test that is killed cannot clean up: the kernel does.
                ["setpriv", *self._identity, "--pdeathsig", "TERM", "--", *self._argv],
                env=None if self._environ is None else dict(self._environ),
                cwd=self._cwd,
                umask=self._umask,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C is for the tests, which stop servers in their own order.
                start_new_session=True,
            )
        try:
            wait_until(
                lambda: self._exited() or self._ready(),
                f"{self._argv[0]} to serve",
                seconds=self._seconds,
            )
            if not self.running:
                raise AssertionError(f"{self._argv[0]} ended with {self._child.poll()}")
        except BaseException as error:
            self.kill()
            raise AssertionError(f"{error}\n{self.said()[-4000:]}") from error

    def stop(self, seconds: float = 30) -> int:
        """
        Ask it to end, and wait.

        :return: its exit status, negative if a signal ended it.
        :raises AssertionError: it had to be killed.
        """
        if self._child is None:
            raise AssertionError(f"{self._argv[0]} was not started")
        self._child.terminate()
        try:
            return self._child.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{self._argv[0]} did not end within {seconds} s") from None

    def kill(self) -> None:
        """End it at once, as a power failure would."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()

    def said(self, since: int = 0) -> str:
        """Its log from an offset in bytes on."""
        if not self._log.exists():
            return ""
        return self._log.read_bytes()[since:].decode(errors="replace")

    def _exited(self) -> bool:
        return not self.running


def wait_until(true: Callable[[], bool], what: str, *, seconds: float = 180) -> None:
    """:raises AssertionError: it has not become true in time."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds} s for {what}, in vain")
        time.sleep(0.05)


def free_port() -> int:
    """A TCP port of the loopback interface on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def at_end(clean: Callable[[], object]) -> None:
    """Call ``clean`` when the tests have ended, last come, first served."""
    atexit.register(clean)


def private_directory(name: str) -> Path:
    """
    A new directory that goes, mounts and all, when the tests have ended.

    Its path is short: sockets in it have to fit into 108 characters.
    """
    directory = Path(tempfile.mkdtemp(prefix=f"nixery-{name}-"))

    at_end(lambda: remove_tree(directory))
    return directory
