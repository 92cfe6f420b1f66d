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
from collections.abc import Mapping, Sequence
from pathlib import Path
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
    """A container engine: it pulls images and runs containers."""

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

    def inspect_manifest(self, image: str) -> Finished:
        """Print the manifest or the list of an image, without a pull."""
        return self._command("manifest", "inspect", "--insecure", image)

    def log_in(self, registry: str, user: str, password: str) -> Finished:
        """Log in at ``127.0.0.1:port``, to be sent with what is pulled from there."""
        return self._command("login", "--username", user, "--password", password, registry)

    def log_out(self, registry: str) -> Finished:
        return self._command("logout", registry)

    @property
    def auth_file(self) -> Path:
        """The file in which ``docker login`` keeps what it got, in place of the password."""
        return Path(self._environ["DOCKER_CONFIG"]) / "config.json"

    def server_version(self) -> str:
        """That of the daemon."""
        return self._command("version", "--format", "{{.Server.Version}}").checked().stdout

    def run(self, image: str, *command: str, options: Sequence[str] = ()) -> Finished:
        return self._command("run", "--rm", "--network=none", *options, image, *command)

    def remove(self, image: str) -> Finished:
        return self._command("rmi", "--force", image)

    def type(self, arguments: Sequence[str], typed: str = "") -> Finished:
        """
        Run a command as it is documented.

        :param typed: what is then typed.
        """
        return run([*self._client, *arguments], environ=self._environ, typed=typed)

    def _command(self, *arguments: str) -> Finished:
        return run([*self._client, *arguments], environ=self._environ)

    def _close(self) -> None:
        if self._server.running:
            self._server.stop()


class Podman:
    """podman, which has no daemon."""

    def __init__(self) -> None:
        require("podman", "conmon")
        directory = private_directory("pod")
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

    def pull(self, image: str, *options: str) -> Finished:
        return self._command("pull", "--tls-verify=false", *options, image)

    def pull_verified(self, image: str, *options: str) -> Finished:
        """Pull over TLS, from somebody whose certificate is believed."""
        return self._command("pull", *options, image)

    def log_in(self, registry: str, user: str, password: str) -> Finished:
        """Log in at ``127.0.0.1:port``, to be sent with what is pulled from there."""
        return self._command(
            "login", "--tls-verify=false", "--username", user, "--password", password, registry
        )

    def run(self, image: str, *command: str, options: Sequence[str] = ()) -> Finished:
        return self._command(
            *("run", "--rm", "--pull=never", "--network=none"),
            *(*self._limits, *options, image, *command),
        )

    def remove(self, image: str) -> Finished:
        return self._command("rmi", "--force", image)

    def load(self, archive: Path, image: str) -> None:
        """Make an image of a root file system."""
        self._command("import", str(archive), image).checked()

    def build(self, context: Path, dockerfile: str, image: str, **arguments: str) -> None:
        """Make an image of a Dockerfile, on the host's network."""
        given = [f"--build-arg={name}={value}" for name, value in arguments.items()]
        run(
            [
                *self._client,
                *("build", "--isolation=chroot", "--network=host", "--layers=false"),
                *(*self._limits, *given),
                *("--tag", image, "--file", str(context / dockerfile), str(context)),
            ],
            environ=self._environ,
            seconds=900,
        ).checked()

    def start(self, image: str, volumes: Mapping[Path, str], environ: Mapping[str, str]) -> str:
        """
        Start a container on the host's network that may do nothing special.

        :return: its id.
        """
        return (
            self._command(
                *("run", "--detach", "--pull=never", "--network=host", *self._limits),
                *("--read-only", "--cap-drop=ALL", "--security-opt=no-new-privileges"),
                *(f"--volume={source}:{target}" for source, target in volumes.items()),
                *(f"--env={name}={value}" for name, value in environ.items()),
                image,
            )
            .checked()
            .stdout.strip()
        )

    def logs(self, container: str) -> Finished:
        """The output of a container so far."""
        return self._command("logs", container)

    def stop(self, container: str) -> Finished:
        """Ask a container to end, and wait until it has."""
        return self._command("stop", "--time=30", container)

    def kill(self, container: str) -> None:
        """End and forget a container, at once."""
        self._command("rm", "--force", "--volumes", container)

    def type(self, arguments: Sequence[str], typed: str = "") -> Finished:
        """
        Run a command as it is documented, with the options that the tests' machine needs.

        :param typed: what is then typed.
        """
        first, *rest = arguments
        options = ["--network=none", *self._limits] if first == "run" else []
        return run([*self._client, first, *options, *rest], environ=self._environ, typed=typed)

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

    def pull(self, image: str, *options: str) -> Finished:
        return self._command(
            "images", "pull", "--plain-http", *options, self._snapshotter, _with_tag(image)
        )

    def pull_verified(self, image: str, *options: str) -> Finished:
        """Pull over TLS, from somebody whose certificate is believed."""
        return self._command("images", "pull", *options, self._snapshotter, _with_tag(image))

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

    def inspect_verified(self, image: str, *options: str) -> Finished:
        """Inspect over TLS, at somebody whose certificate is believed."""
        return self._command("inspect", *options, f"docker://{image}")

    def inspect(self, image: str, *options: str) -> Finished:
        return self._command("inspect", "--tls-verify=false", *options, f"docker://{image}")

    def log_in(self, registry: str, user: str, password: str) -> Finished:
        """Log in at ``127.0.0.1:port``, to be sent with what is copied from there."""
        return self._command(
            "login", "--tls-verify=false", "--username", user, "--password", password, registry
        )

    def copy(self, image: str, destination: str, *options: str) -> Finished:
        """:param destination: with its transport, ``oci:/some/where:tag``."""
        return self._command(
            "copy", "--src-tls-verify=false", *options, f"docker://{image}", destination
        )

    def _command(self, *arguments: str) -> Finished:
        return run(["skopeo", *arguments], environ=self._environ)


def _with_tag(image: str) -> str:
    """ctr completes nothing."""
    return image if ":" in image.rpartition("/")[2] else f"{image}:latest"


@functools.cache
def _overlay_works() -> bool:
    """
    Tell whether layers can be stacked by the kernel.

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
