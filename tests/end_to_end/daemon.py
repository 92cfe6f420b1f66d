"""
Our own daemon, started as its users start it: ``twistd -n nixery``.

It runs in an environment of its own, from a directory that is not the checkout,
and can be started again on the same state.
"""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import nixery
from tests.end_to_end.processes import (
    Finished,
    Server,
    at_end,
    free_port,
    private_directory,
    run,
)
from tests.end_to_end.wire import Registry

__all__ = [
    "DAEMONS",
    "RECHECK",
    "Daemon",
    "checkout",
    "private_environment",
    "run_admin",
    "single_user_nix",
]


class Daemon:
    """
    A registry on a port of the loopback interface.

    :param package_set: what it serves.
    :param name: for its directory.
    :param environ: variables on top of the private environment.
    :param options: of the command line.
    :param constants: values of constants of modules, by their full names, in place of
        those that take too long or too much for a test.
    :param identity: options of ``setpriv``: as whom it runs.
    :param interpreter: the command that is Python; the tests' own by default.
    :param umask: of the process.
    :param plain: whether this port speaks no TLS, where the options ask for it.
    :param signing_key: the file of a key; images are then signed, under this address.
    :param directory: where its state, its home and its log are; a directory of
        its own by default.
    """

    def __init__(
        self,
        package_set: Path,
        *,
        name: str = "registry",
        environ: Mapping[str, str] | None = None,
        options: Sequence[str] = (),
        constants: Mapping[str, object] | None = None,
        identity: Sequence[str] = (),
        interpreter: Sequence[str] = (sys.executable,),
        umask: int = 0o022,
        plain: bool = False,
        signing_key: Path | None = None,
        directory: Path | None = None,
    ) -> None:
        self.directory = directory or private_directory(name)
        self.storage = self.directory / "state" / "storage"
        home = self.directory / "home"
        for each in (home, self.directory / "state", self.directory / "cache"):
            each.mkdir(exist_ok=True)
        port = free_port()
        self.address = f"127.0.0.1:{port}"
        self.registry = Registry(port)
        if signing_key is not None:
            public_url = f"http://{self.address}"
            options = [*options, "--signing-key", str(signing_key), "--public-url", public_url]
        self._server = Server(
            [
                *interpreter,
                "-c",
                f"{set_constants(constants or {})}from twisted.scripts.twistd import run; run()",
                "-n",
                "--pidfile=",
                "nixery",
                "--listen",
                f"{'plain:' if plain else ''}tcp:{port}:interface=127.0.0.1",
                *options,
            ],
            log=self.directory / "log",
            ready=self.registry.answers,
            environ={
                **private_environment(home),
                **checkout(),
                **single_user_nix(),
                "NIXERY_PKGS_PATH": str(package_set),
                "STATE_DIRECTORY": str(self.directory / "state"),
                "CACHE_DIRECTORY": str(self.directory / "cache"),
                **(environ or {}),
            },
            cwd=home,
            umask=umask,
            identity=identity,
        )
        at_end(self._server.kill)
        DAEMONS.append(self)

    @property
    def pid(self) -> int:
        return self._server.pid

    def start(self) -> Daemon:
        """Start it, and wait until it answers."""
        self._server.start()
        return self

    def stop(self) -> None:
        """
        Ask it to end, as systemd does.

        :raises AssertionError: it did not end in an orderly way.
        """
        begun = self.log_size()
        status = self._server.stop()
        # When all is done, twistd ends by the signal that it was sent.
        if status != -signal.SIGTERM or "Server Shut Down." not in self.log(begun):
            raise AssertionError(f"the registry ended with {status}:\n{self.log(begun)}")

    def kill(self) -> None:
        """End it at once."""
        self._server.kill()

    def log(self, since: int = 0) -> str:
        """The daemon's log, from an offset on."""
        return self._server.said(since)

    def log_size(self) -> int:
        """The offset at which the log goes on."""
        return len(self._server.said().encode())

    def written(self) -> int:
        """Bytes that the process has written so far, to files and to sockets."""
        counters = Path(f"/proc/{self.pid}/io").read_text().splitlines()
        return int(next(line.split()[1] for line in counters if line.startswith("wchar:")))


DAEMONS: list[Daemon] = []
"""All daemons that were made, so that their logs can be read."""


def set_constants(constants: Mapping[str, object]) -> str:
    """Return Python code that sets constants of modules, given by their full names."""
    modules = {name.rpartition(".")[0] for name in constants}
    return "".join(
        [
            *(f"import {module}; " for module in sorted(modules)),
            *(f"{name} = {value!r}; " for name, value in constants.items()),
        ]
    )


RECHECK = "nixery.wiring.storage.RECHECK_INTERVAL_SECONDS"
"""The constant to be 0 where each pull is to look for the blobs in storage."""


def private_environment(home: Path) -> dict[str, str]:
    """An environment in which nothing of the machine's user is found."""
    return {
        # What Debian keeps in sbin is needed by container engines.
        "PATH": os.environ["PATH"] + ":/usr/local/sbin:/usr/sbin:/sbin",
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home / "config"),
        "XDG_CACHE_HOME": str(home / "cache"),
        "XDG_DATA_HOME": str(home / "data"),
        "XDG_STATE_HOME": str(home / "state"),
        "XDG_RUNTIME_DIR": str(home),
        "LANG": "C.UTF-8",
    }


def single_user_nix() -> dict[str, str]:
    """
    Return the environment of Nix on a machine without a Nix daemon: it is used by root,
    without build users and without a sandbox, which containers often cannot have.
    """
    if "NIX_REMOTE" in os.environ:
        return {"NIX_REMOTE": os.environ["NIX_REMOTE"]}
    return {"NIX_CONFIG": "build-users-group =\nsandbox = false\nsubstitute = false\n"}


@functools.cache
def run_admin(*arguments: str, **environ: str) -> Finished:
    """Run ``nixery-admin`` in a process of its own, without a configuration."""
    home = private_directory("admin")
    return run(
        [
            sys.executable,
            *("-c", "from nixery.cli.admin.command import admin; admin()"),
            *arguments,
        ],
        environ={
            **private_environment(home),
            **checkout(),
            "STATE_DIRECTORY": str(home / "state"),
            "CACHE_DIRECTORY": str(home / "cache"),
            **environ,
        },
        cwd=home,
    )


def checkout() -> dict[str, str]:
    """Return the environment that finds the daemon, if it is not installed beside this Python."""
    installed = subprocess.run(
        [sys.executable, "-c", "import nixery"], cwd="/", check=False, capture_output=True
    )
    if installed.returncode == 0:
        return {}
    return {"PYTHONPATH": str(Path(nixery.__file__).parents[1])}
