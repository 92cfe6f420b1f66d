"""Helpers of the checks: install the units, run commands, pull images, and print the results."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import subprocess
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path

HERE = Path("/run/checks")
"""The directory with the files of the checkout."""

UNITS = Path("/etc/systemd/system")
CONFIGURATION = Path("/etc/nixery")
SET = Path("/srv/set")
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
TIMEOUT_SECONDS = 600.0
"""Timeout of a step that has none of its own: the machine may have other things to do."""


def run(*command: str, status: int | None = 0) -> str:
    """
    Run a command, and return its output.

    :param status: the exit status that is expected; ``None`` for any.
    """
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if status is not None and done.returncode != status:
        raise AssertionError(f"{' '.join(command)}: {done.returncode}\n{done.stdout}")
    return done.stdout


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """:raises AssertionError: it does not come true."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited in vain for {what}")
        time.sleep(0.5)


# -- units -------------------------------------------------------------------------------


def install_units() -> None:
    """Put the files where the documentation puts them; the users are not made yet."""
    for unit in ("nixery.service", "systemd/nixery.socket", "systemd/nixery@.socket"):
        shutil.copy(HERE / unit, UNITS)
    shutil.copy(HERE / "nixery.service", UNITS / "nixery@.service")
    shutil.copytree(HERE / "systemd" / "nixery@.service.d", UNITS / "nixery@.service.d")
    shutil.copytree(HERE / "set", SET)
    (SET / "bin").mkdir()
    shutil.copy("/bin/busybox", SET / "bin")
    CONFIGURATION.mkdir()
    (CONFIGURATION / "environment").write_text("NIXERY_CONFIG=/etc/nixery/nixery.yaml\n")
    configure("port: 8080")


def make_user() -> None:
    """Make the user of the registry as the documentation says."""
    users = "/etc/sysusers.d/nixery.conf"
    run("install", "-D", "-m", "644", str(HERE / "systemd/nixery.conf"), users)
    run("systemd-sysusers")


def configure(*lines: str, instance: str = ".") -> None:
    """Write the configuration of a registry, which uses the package set of the checks."""
    file = CONFIGURATION / instance / "nixery.yaml"
    # Builds may take longer than clients usually wait.
    common = (f"pkgs_path: {SET}", f"pull_wait_timeout: {TIMEOUT_SECONDS}")
    file.write_text("".join(f"{line}\n" for line in (*lines, *common)))


def extend(unit: str, name: str, text: str) -> None:
    """Write a drop-in of a unit."""
    directory = UNITS / f"{unit}.d"
    directory.mkdir(exist_ok=True)
    (directory / f"{name}.conf").write_text(text)
    run("systemctl", "daemon-reload")


def join_nix_users(unit: str) -> None:
    """Let a unit use the Nix daemon as the documentation says."""
    extend(unit, "nix-users", "[Service]\nSupplementaryGroups=nix-users\n")


def shown(unit: str, name: str) -> str:
    """Return a property of a unit."""
    return run("systemctl", "show", "--value", f"--property={name}", unit).strip()


def start(unit: str) -> None:
    """Start a unit anew; the error of one that fails has its journal."""
    try:
        run("systemctl", "restart", unit)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{journal(unit)}") from None


def journal(unit: str) -> str:
    """Return the last lines of a unit's journal."""
    return run("journalctl", "--unit", unit, "--no-pager", "--lines=30", "--output=cat")


# -- requests ----------------------------------------------------------------------------


class UNIXConnection(http.client.HTTPConnection):
    """An HTTP connection by a UNIX socket."""

    def __init__(self, path: str) -> None:
        super().__init__("registry", timeout=TIMEOUT_SECONDS)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT_SECONDS)
        self.sock.connect(self._path)


def get(path: str, at: int | str = 8080) -> tuple[int, http.client.HTTPMessage, str]:
    """
    Send a request.

    :param at: a port of the loopback interface, or the path of a UNIX socket.
    :return: status, headers and body of the response.
    """
    connection = (
        UNIXConnection(at)
        if isinstance(at, str)
        else http.client.HTTPConnection("127.0.0.1", at, timeout=TIMEOUT_SECONDS)
    )
    try:
        connection.request("GET", path, headers={"Accept": MANIFEST})
        response = connection.getresponse()
        return response.status, response.headers, response.read().decode()
    finally:
        connection.close()


def pull(image: str, at: int | str = 8080) -> str:
    """
    Pull the manifest of an image, and return its digest.

    :raises AssertionError: it is not served.
    """
    status, headers, body = get(f"/v2/{image}/manifests/latest", at)
    if status != 200:
        raise AssertionError(f"{status} {body}\n{journal('nixery*')}")
    digest: str = headers["Docker-Content-Digest"]
    return digest


# -- results -----------------------------------------------------------------------------


def run_checks(checks: Iterable[Callable[[], None]]) -> None:
    """Run checks in their order; print a JSON object for each, and one for the end."""
    for check in checks:
        begun = time.monotonic()
        problem = None
        try:
            check()
        # The others are run whatever happens to this one.
        except Exception:  # noqa: BLE001
            problem = traceback.format_exc()
        seconds = round(time.monotonic() - begun, 1)
        report = {"check": check.__name__, "seconds": seconds, "problem": problem}
        print(json.dumps(report), flush=True)
    print(json.dumps({"check": "end"}), flush=True)
