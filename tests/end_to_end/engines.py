"""
The clients: Docker, podman, skopeo and containerd, each with data of its own.

None of them touches what the machine's own engines have, and none needs a
network: pulls come from the loopback interface, containers have no interface.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from typing import Protocol

from twisted.trial.unittest import SkipTest

from tests.end_to_end.daemon import private_environment
from tests.end_to_end.processes import (
    Finished,
    Server,
    at_end,
    private_directory,
    run,
)

__all__ = ["REQUIRED", "Containerd", "Docker", "Engine", "Podman", "Skopeo", "require"]

REQUIRED = "NIXERY_REQUIRE_ENGINES"
"""Set where every client is installed: one that is missing is a failure there."""


class Engine(Protocol):
    """What pulls images and runs containers."""

    def pull(self, image: str) -> Finished:
        """Pull ``127.0.0.1:port/name``."""

    def run(self, image: str, *command: str) -> Finished:
        """Run a command in a new container of an image that was pulled."""

    def remove(self, image: str) -> Finished:
        """Forget an image."""


def require(*programs: str) -> None:
    """
    Skip the test that runs, unless all programs are installed.

    :raises SkipTest: one is missing.
    :raises AssertionError: one is missing where all should be there.
    """
    path = os.environ["PATH"] + ":/usr/sbin:/sbin"
    missing = [program for program in programs if shutil.which(program, path=path) is None]
    if missing:
        reason = f"not installed: {', '.join(missing)}"
        if os.environ.get(REQUIRED):
            raise AssertionError(reason)
        raise SkipTest(reason)


class Docker:
    """A Docker daemon and its client."""

    def __init__(self) -> None:
        require("docker", "dockerd", "containerd", "runc")
        directory = private_directory("docker")
        socket = directory / "socket"
        self._client = ["docker", "--host", f"unix://{socket}"]
        self._environ = {
            **private_environment(directory),
            "DOCKER_CONFIG": str(directory / "config"),
        }
        self._server = Server(
            [
                "dockerd",
                f"--host=unix://{socket}",
                f"--data-root={directory / 'data'}",
                f"--exec-root={directory / 'exec'}",
                f"--pidfile={directory / 'pid'}",
                f"--storage-driver={'overlay2' if _overlay_works() else 'vfs'}",
                "--iptables=false",
                "--ip6tables=false",
                "--bridge=none",
            ],
            log=directory / "log",
            ready=lambda: self._command("version").status == 0,
            environ=self._environ,
        )
        at_end(self._close)
        self._server.start()

    def pull(self, image: str) -> Finished:
        return self._command("pull", image)

    def run(self, image: str, *command: str) -> Finished:
        return self._command("run", "--rm", "--network=none", image, *command)

    def remove(self, image: str) -> Finished:
        return self._command("rmi", "--force", image)

    def _command(self, *arguments: str) -> Finished:
        return run([*self._client, *arguments], environ=self._environ)

    def _close(self) -> None:
        if self._server.running:
            self._server.stop()


class Podman:
    """podman, which has no daemon."""

    def __init__(self) -> None:
        require("podman", "conmon")
        directory = private_directory("podman")
        # Raising a container's limits needs a privilege that root in a container
        # does not have; and crun refuses hosts with both versions of cgroups.
        self._limits = ["--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024"]
        runtime = ["--runtime=runc"] if shutil.which("runc", path="/usr/sbin:/usr/bin") else []
        self._client = [
            "podman",
            f"--root={directory / 'root'}",
            f"--runroot={directory / 'run'}",
            f"--tmpdir={directory / 'tmp'}",
            f"--storage-driver={'overlay' if _overlay_works() else 'vfs'}",
            "--cgroup-manager=cgroupfs",
            "--events-backend=file",
            *runtime,
        ]
        self._environ = private_environment(directory)

    def pull(self, image: str) -> Finished:
        return self._command("pull", "--tls-verify=false", image)

    def run(self, image: str, *command: str) -> Finished:
        return self._command(
            "run", "--rm", "--pull=never", "--network=none", *self._limits, image, *command
        )

    def remove(self, image: str) -> Finished:
        return self._command("rmi", "--force", image)

    def _command(self, *arguments: str) -> Finished:
        return run([*self._client, *arguments], environ=self._environ)


class Containerd:
    """containerd, by its own client ``ctr``."""

    def __init__(self) -> None:
        require("containerd", "ctr", "runc")
        directory = private_directory("containerd")
        socket = directory / "socket"
        configuration = directory / "config.toml"
        configuration.write_text(
            "version = 2\n"
            f'root = "{directory / "root"}"\n'
            f'state = "{directory / "state"}"\n'
            'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n'
            f'[grpc]\naddress = "{socket}"\n'
        )
        self._client = ["ctr", "--address", str(socket)]
        self._snapshotter = f"--snapshotter={'overlayfs' if _overlay_works() else 'native'}"
        self._environ = private_environment(directory)
        self._containers = 0
        self._server = Server(
            ["containerd", "--config", str(configuration)],
            log=directory / "log",
            ready=lambda: self._command("version").status == 0,
            environ=self._environ,
        )
        at_end(self._close)
        self._server.start()

    def pull(self, image: str) -> Finished:
        return self._command("images", "pull", "--plain-http", self._snapshotter, _with_tag(image))

    def run(self, image: str, *command: str) -> Finished:
        self._containers += 1
        return self._command(
            "run", "--rm", self._snapshotter, _with_tag(image), f"c{self._containers}", *command
        )

    def remove(self, image: str) -> Finished:
        return self._command("images", "remove", "--sync", _with_tag(image))

    def _command(self, *arguments: str) -> Finished:
        return run([*self._client, *arguments], environ=self._environ)

    def _close(self) -> None:
        if self._server.running:
            self._server.stop()


class Skopeo:
    """skopeo, which copies and inspects images and runs nothing."""

    def __init__(self) -> None:
        require("skopeo")
        self.directory = private_directory("skopeo")
        self._environ = private_environment(self.directory)

    def inspect(self, image: str, *options: str) -> Finished:
        return self._command("inspect", "--tls-verify=false", *options, f"docker://{image}")

    def copy(self, image: str, destination: str) -> Finished:
        """:param destination: with its transport, ``oci:/some/where:tag``."""
        return self._command("copy", "--src-tls-verify=false", f"docker://{image}", destination)

    def _command(self, *arguments: str) -> Finished:
        return run(["skopeo", *arguments], environ=self._environ)


def _with_tag(image: str) -> str:
    """ctr completes nothing."""
    return image if ":" in image.rpartition("/")[2] else f"{image}:latest"


@functools.cache
def _overlay_works() -> bool:
    """
    Whether layers can be stacked by the kernel.

    In a container that is itself on an overlay they often cannot; engines then
    copy the whole file system once for every layer.
    """
    directory = private_directory("overlay")
    for name in ("lower", "upper", "work", "merged"):
        (directory / name).mkdir()
    options = ",".join(f"{name}dir={directory / name}" for name in ("lower", "upper", "work"))
    mounted = subprocess.run(
        ["mount", "-t", "overlay", "overlay", "-o", options, str(directory / "merged")],
        check=False,
        capture_output=True,
    )
    return mounted.returncode == 0
