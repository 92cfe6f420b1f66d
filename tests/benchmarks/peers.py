"""
The servers that are compared: our daemon, Debian's docker-registry, nginx.

Each runs as its package runs it by default, with its log in a file, on the loopback
interface.
"""

from __future__ import annotations

import http.client
import json
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from tests.benchmarks.client import request_for
from tests.benchmarks.measure import Unavailable
from tests.end_to_end.daemon import Daemon, single_user_nix
from tests.end_to_end.processes import Server, at_end, free_port, private_directory, run

__all__ = [
    "ACCEPT",
    "Daemon",
    "DockerRegistry",
    "Nginx",
    "manifest_request",
    "peak_memory",
    "pinned_set",
    "processor_seconds",
    "settle",
]

ACCEPT = (
    "application/vnd.docker.distribution.manifest.v2+json,"
    " application/vnd.docker.distribution.manifest.list.v2+json,"
    " application/vnd.oci.image.index.v1+json,"
    " application/vnd.oci.image.manifest.v1+json,"
    " */*"
)
"""The media types that container engines accept as a manifest."""

REGISTRY_CONFIG = """\
version: 0.1
log:
  fields:
    service: registry
storage:
  cache:
    blobdescriptor: inmemory
  filesystem:
    rootdirectory: {directory}
  delete:
    enabled: true
http:
  addr: 127.0.0.1:{port}
  headers:
    X-Content-Type-Options: [nosniff]
health:
  storagedriver:
    enabled: true
    interval: 10s
    threshold: 3
"""
"""The configuration that Debian installs, without its password file."""

NGINX_CONFIG = """\
daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
{user}
events {{ worker_connections 768; }}
http {{
    access_log {directory}/access.log;
    sendfile on;
    tcp_nopush on;
    default_type application/octet-stream;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{
        listen 127.0.0.1:{port};
        root {root};
    }}
}}
"""
"""The configuration that Debian installs, with one worker."""


class DockerRegistry:
    """Debian's docker-registry."""

    def __init__(self) -> None:
        if shutil.which("docker-registry") is None:
            raise Unavailable("docker-registry is not installed: apt-get install docker-registry")
        directory = private_directory("peer")
        self.port = free_port()
        config = directory / "config.yml"
        config.write_text(REGISTRY_CONFIG.format(directory=directory / "data", port=self.port))
        self._server = Server(
            ["docker-registry", "serve", str(config)],
            log=directory / "log",
            ready=lambda: _answers(self.port, "/v2/"),
        )
        at_end(self._server.kill)
        self._server.start()

    @property
    def pid(self) -> int:
        return self._server.pid

    def stop(self) -> None:
        self._server.stop()

    def push_manifest(self, name: str, tag: str, media_type: str, body: bytes, port: int) -> None:
        """
        Push a manifest, and before it the blobs that it names.

        :param port: of the registry that has the blobs, under the same name.
        """
        manifest = json.loads(body)
        for blob in {each["digest"] for each in (manifest["config"], *manifest["layers"])}:
            _, data = _call(port, "GET", f"/v2/{name}/blobs/{blob}")
            headers, _ = _call(self.port, "POST", f"/v2/{name}/blobs/uploads/")
            place = headers["location"].removeprefix(f"http://127.0.0.1:{self.port}")
            _call(self.port, "PUT", f"{place}&digest={blob}", data)
        _call(self.port, "PUT", f"/v2/{name}/manifests/{tag}", body, {"Content-Type": media_type})


class Nginx:
    """
    Debian's nginx with sendfile and one worker.

    :param root: the directory that it serves.
    """

    def __init__(self, root: Path) -> None:
        if shutil.which("nginx", path=_path()) is None:
            raise Unavailable("nginx is not installed: apt-get install nginx-light")
        directory = private_directory("nginx")
        self.port = free_port()
        config = directory / "nginx.conf"
        config.write_text(
            NGINX_CONFIG.format(
                directory=directory,
                root=root,
                port=self.port,
                # Files of our daemon are readable by its own user only.
                user="user root;" if os.getuid() == 0 else "",
            )
        )
        (root / "ready").write_text("ready\n")
        self._server = Server(
            ["nginx", "-p", str(directory), "-c", str(config)],
            environ={**os.environ, "PATH": _path()},
            log=directory / "log",
            ready=lambda: _answers(self.port, "/ready"),
        )
        at_end(self._server.kill)
        self._server.start()

    @property
    def pid(self) -> int:
        return self._server.pid

    def stop(self) -> None:
        self._server.stop()


def manifest_request(name: str, reference: str, *, method: str = "GET") -> bytes:
    """The request of a client that pulls an image."""
    return request_for(
        f"/v2/{name}/manifests/{reference}", method=method, headers={"Accept": ACCEPT}
    )


def pinned_set(directory: Path) -> Path:
    """A copy of a package set in the Nix store, where nothing ever changes."""
    added = run(
        ["nix-store", "--add", str(directory)], environ={**os.environ, **single_user_nix()}
    ).checked()
    return Path(added.stdout.strip())


def processor_seconds(pid: int) -> float:
    """The processor time that a process and its running children have used so far."""
    ticks = 0
    for each in (str(pid), *Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
        # The second field is a name in parentheses and may hold anything.
        fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def settle(pid: int) -> None:
    """Wait until a process has come to rest: daemons load what they will need when they start."""
    busy = -1.0
    while busy != (busy := processor_seconds(pid)):
        time.sleep(0.3)


def peak_memory(pid: int) -> int:
    """The most memory that a process has had so far, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in status if line.startswith("VmHWM:"))) * 1024


def _answers(port: int, path: str) -> bool:
    try:
        _call(port, "GET", path)
    except (OSError, http.client.HTTPException, AssertionError):
        return False
    return True


def _call(
    port: int,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> tuple[Mapping[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body, dict(headers or {}))
        answer = connection.getresponse()
        data = answer.read()
    finally:
        connection.close()
    if answer.status >= 300:
        raise AssertionError(f"{method} {path}: {answer.status} {data[:500]!r}")
    return {name.lower(): value for name, value in answer.headers.items()}, data


def _path() -> str:
    return os.environ["PATH"] + ":/usr/sbin"
