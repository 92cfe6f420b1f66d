"""
Checks that run in the container, as root: prints one JSON object for each.

The order counts: it is that of an installation whose unit had ``DynamicUser=``, which is
brought up to date and then changed as the documentation says.
"""

from __future__ import annotations

import json
import os
import pwd
import re
import shutil
import socket
import subprocess
import time
import traceback
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
UNITS = Path("/etc/systemd/system")
CONFIGURATION = Path("/etc/nixery")
SET = Path("/srv/set")
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
PATIENCE = 600.0
"""Seconds that something may take which has no limit of its own."""

CHECKS: list[Callable[[], None]] = []


def check(function: Callable[[], None]) -> Callable[[], None]:
    """Have this run, after those that were said before."""
    CHECKS.append(function)
    return function


def run(*command: str, status: int | None = 0) -> str:
    """
    Run a command, and return its output.

    :param status: what it has to end with; ``None`` for anything.
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


def shown(unit: str, name: str) -> str:
    """A property of a unit."""
    return run("systemctl", "show", "--value", f"--property={name}", unit).strip()


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """:raises AssertionError: it does not come true."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"waited in vain for {what}")
        time.sleep(0.5)


def start(unit: str) -> None:
    """Start a unit; if it fails, its journal is told."""
    try:
        run("systemctl", "restart", unit)
    except AssertionError as error:
        raise AssertionError(f"{error}\n{journal(unit)}") from None


def journal(unit: str) -> str:
    """The last lines of a unit."""
    return run("journalctl", "--unit", unit, "--no-pager", "--lines=30", "--output=cat")


def ask(image: str, port: int = 8080) -> tuple[int, str]:
    """Pull the manifest of an image: the status, and its digest or the answer."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v2/{image}/manifests/latest", headers={"Accept": MANIFEST}
    )
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return answer.status, answer.headers["Docker-Content-Digest"]
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def pull(image: str, port: int = 8080) -> str:
    """
    The digest of an image.

    :raises AssertionError: it is not served.
    """
    status, text = ask(image, port)
    if status != 200:
        raise AssertionError(f"{status} {text}\n{journal('nixery*')}")
    return text


def dropin(unit: str, name: str, text: str) -> None:
    """Say more of a unit."""
    directory = UNITS / f"{unit}.d"
    directory.mkdir(exist_ok=True)
    (directory / f"{name}.conf").write_text(text)
    run("systemctl", "daemon-reload")


def refuses_until_mended(unit: str = "nixery.service") -> None:
    """See that a service gives up, once."""
    before = int(shown(unit, "NRestarts"))
    run("systemctl", "restart", unit, status=None)
    wait_until(
        # systemd calls it activating as well while it waits to start it again.
        lambda: shown(unit, "SubState") in {"failed", "auto-restart", "running"},
        f"the end of {unit}",
    )
    assert shown(unit, "SubState") == "failed", journal(unit)
    assert shown(unit, "ExecMainStatus") == str(os.EX_CONFIG), journal(unit)
    # It would be started again five seconds later.
    time.sleep(12)
    assert shown(unit, "ActiveState") == "failed", journal(unit)
    assert int(shown(unit, "NRestarts")) == before


def stored(state: Path) -> set[int]:
    """The files of the storage, by their inodes."""
    return {os.lstat(path).st_ino for path in (state / "storage").rglob("*")}


@check
def installation() -> None:
    """The files are where the documentation puts them; the users are not yet."""
    for unit in ("nixery.service", "systemd/nixery.socket", "systemd/nixery@.socket"):
        shutil.copy(HERE / unit, UNITS)
    shutil.copy(HERE / "nixery.service", UNITS / "nixery@.service")
    shutil.copytree(HERE / "systemd" / "nixery@.service.d", UNITS / "nixery@.service.d")
    shutil.copytree(HERE / "set", SET)
    CONFIGURATION.mkdir()
    (CONFIGURATION / "environment").write_text("NIXERY_CONFIG=/etc/nixery/nixery.yaml\n")
    (CONFIGURATION / "nixery.yaml").write_text(f"port: 8080\npkgs_path: {SET}\n")
    for unit in ("nixery.service", "nixery@.service"):
        # The host may have other things to do.
        dropin(unit, "slow", "[Service]\nTimeoutStartSec=600\nWatchdogSec=600\n")
    dropin("nixery.service", "dynamic", "[Service]\nDynamicUser=yes\n")


@check
def without_the_group() -> None:
    """Debian's Nix daemon lets only the members of a group in: tried once, and not again."""
    refuses_until_mended()
    said = journal("nixery")
    assert "SupplementaryGroups=GROUP" in said and "nix-users" in said, said


@check
def with_the_group() -> None:
    """The drop-in of the documentation helps."""
    for unit in ("nixery.service", "nixery@.service"):
        dropin(unit, "nix-users", "[Service]\nSupplementaryGroups=nix-users\n")
    start("nixery")
    pull("hello")


@check
def from_a_dynamic_user() -> None:
    """State moves from the dynamic user to the static one of the same name."""
    digest = pull("hello")
    assert Path("/var/lib/nixery").is_symlink()
    assert stored(Path("/var/lib/nixery"))
    run("systemctl", "stop", "nixery")
    run(
        "install",
        "-D",
        "-m",
        "644",
        str(HERE / "systemd/nixery.conf"),
        "/etc/sysusers.d/nixery.conf",
    )
    run("systemd-sysusers")
    (UNITS / "nixery.service.d" / "dynamic.conf").unlink()
    run("systemctl", "daemon-reload")
    before = stored(Path("/var/lib/private/nixery"))
    start("nixery")
    user = pwd.getpwnam("nixery")
    for directory in ("/var/lib/nixery", "/var/cache/nixery"):
        status = os.lstat(directory)
        assert (status.st_mode, status.st_uid) == (0o040750, user.pw_uid), (directory, status)
        owners = {os.lstat(path).st_uid for path in Path(directory).rglob("*")}
        assert owners <= {user.pw_uid}, owners
    assert not Path("/var/lib/private/nixery").exists()
    assert before <= stored(Path("/var/lib/nixery"))
    assert pull("hello") == digest


@check
def reload() -> None:
    """It is the same process after a reload."""
    before = shown("nixery", "MainPID")
    run("systemctl", "reload", "nixery")
    assert shown("nixery", "MainPID") == before
    assert shown("nixery", "ActiveState") == "active"
    pull("hello")


@check
def hardening() -> None:
    """The service's exposure level has not risen."""
    said = run("systemd-analyze", "security", "--no-pager", "nixery")
    found = re.search(r"Overall exposure level for nixery.service: ([0-9.]+)", said)
    assert found is not None and float(found[1]) <= 1.3, said


@check
def commands() -> None:
    """``nixery-admin`` finds the images when it runs as the documentation says."""
    said = run(
        *("systemd-run", "--quiet", "--pipe", "--wait", "--property=User=nixery"),
        "--property=EnvironmentFile=-/etc/nixery/environment",
        *("--setenv=STATE_DIRECTORY=/var/lib/nixery", "--setenv=CACHE_DIRECTORY=/var/cache/nixery"),
        *("/opt/nixery/bin/nixery-admin", "list"),
    )
    assert "hello" in said, said


@check
def unusable_configuration() -> None:
    """A wrong setting is told once."""
    file = CONFIGURATION / "nixery.yaml"
    good = file.read_text()
    file.write_text("prot: 8080\n")
    try:
        refuses_until_mended()
    finally:
        file.write_text(good)
    start("nixery")
    pull("hello")


@check
def passed_socket() -> None:
    """The order of the documentation is one that systemd accepts; the service answers there."""
    dropin("nixery.socket", "port", "[Socket]\nListenStream=\nListenStream=8443\n")
    run("systemctl", "start", "nixery.socket", status=1)
    file = CONFIGURATION / "nixery.yaml"
    good = file.read_text()
    file.write_text(f"pkgs_path: {SET}\n")
    run("systemctl", "stop", "nixery")
    run("systemctl", "enable", "--now", "nixery.socket")
    run("systemctl", "start", "nixery")
    pull("hello", 8443)
    run("systemctl", "stop", "nixery")
    # A client starts it.
    pull("hello", 8443)
    run("systemctl", "disable", "--now", "nixery.socket")
    file.write_text(good)
    start("nixery")


@check
def waiting_client() -> None:
    """A client that waits does not have a service started for ever that cannot start."""
    file = CONFIGURATION / "nixery.yaml"
    good = file.read_text()
    run("systemctl", "stop", "nixery")
    file.write_text("prot: 8080\n")
    run("systemctl", "start", "nixery.socket")
    with socket.create_connection(("127.0.0.1", 8443)):
        wait_until(lambda: shown("nixery.socket", "ActiveState") == "failed", "the socket's end")
    assert shown("nixery", "ActiveState") == "failed"
    file.write_text(good)
    run("systemctl", "reset-failed", "nixery", "nixery.socket")
    start("nixery")


@check
def instances() -> None:
    """Two beside each other, and beside the one: neither reads what is the other's."""
    names = {"blue": 8081, "green": 8082}
    with Path("/etc/sysusers.d/nixery.conf").open("a") as file:
        file.writelines(f"u nixery-{name} - - /var/lib/nixery-{name}\n" for name in names)
    run("systemd-sysusers")
    for name, port in names.items():
        own = CONFIGURATION / name
        run("install", "-d", "-g", f"nixery-{name}", "-m", "750", str(own))
        (own / "nixery.yaml").write_text(f"port: {port}\npkgs_path: {SET}\n")
        run("systemctl", "enable", "--now", f"nixery@{name}")
    assert len({pull("other", port) for port in names.values()}) == 1
    pull("hello")
    for name, other in (("blue", "green"), ("green", "blue")):
        user = pwd.getpwnam(f"nixery-{name}").pw_uid
        pid = shown(f"nixery@{name}", "MainPID")
        assert os.stat(f"/proc/{pid}").st_uid == user
        for directory in ("/var/lib", "/var/cache"):
            status = os.lstat(f"{directory}/nixery-{name}")
            assert (status.st_mode, status.st_uid) == (0o040750, user), status
        for path in (f"/etc/nixery/{other}/nixery.yaml", f"/var/lib/nixery-{other}/storage"):
            run("runuser", "-u", f"nixery-{name}", "--", "test", "!", "-r", path)
    # A client starts it by its socket.
    run("systemctl", "stop", "nixery@blue")
    (CONFIGURATION / "blue" / "nixery.yaml").write_text(f"pkgs_path: {SET}\n")
    dropin("nixery@blue.socket", "address", "[Socket]\nListenStream=8444\n")
    run("systemctl", "enable", "--now", "nixery@blue.socket")
    pull("other", 8444)
    run(
        "systemctl", "disable", "--now", "nixery@blue.socket", *(f"nixery@{name}" for name in names)
    )


@check
def storage_elsewhere() -> None:
    """Images lie in a directory that was given to the user."""
    run("install", "-d", "-o", "nixery", "-g", "nixery", "-m", "750", "/srv/images")
    dropin(
        "nixery.service",
        "images",
        "[Unit]\nRequiresMountsFor=/srv/images\n[Service]\nReadWritePaths=/srv/images\n",
    )
    file = CONFIGURATION / "nixery.yaml"
    file.write_text(f"port: 8080\npkgs_path: {SET}\nstorage_path: /srv/images\n")
    start("nixery")
    pull("hello")
    assert any(Path("/srv/images").iterdir())


@check
def disk() -> None:
    """The state is a disk of its own, which belonged to root."""
    run("systemctl", "stop", "nixery")
    shutil.rmtree("/var/lib/nixery")
    Path("/var/lib/nixery").mkdir()
    run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/var/lib/nixery")
    (CONFIGURATION / "nixery.yaml").write_text(f"port: 8080\npkgs_path: {SET}\n")
    start("nixery")
    pull("hello")
    assert os.path.ismount("/var/lib/nixery")
    assert Path("/var/lib/nixery").owner() == "nixery"


def main() -> None:
    for function in CHECKS:
        begun = time.monotonic()
        problem = None
        try:
            function()
        # Whatever is wrong, it is told, and the next one is tried.
        except Exception:  # noqa: BLE001
            problem = traceback.format_exc()
        said = {
            "check": function.__name__,
            "seconds": round(time.monotonic() - begun, 1),
            "problem": problem,
        }
        print(json.dumps(said), flush=True)
    print(json.dumps({"check": "end"}), flush=True)


if __name__ == "__main__":
    main()
