"""
Checks that run in the container, as root.

Their order counts: it is that of an installation whose unit had ``DynamicUser=``, which is brought
up to date and then changed as the documentation says.
"""

from __future__ import annotations

import os
import pwd
import re
import shutil
import socket
import stat
import time
from pathlib import Path

from tests.guest.steps import (
    CONFIGURATION,
    UNITS,
    configure,
    extend,
    install_units,
    join_nix_users,
    journal,
    make_user,
    pull,
    run,
    run_checks,
    shown,
    start,
    wait_until,
)
from tests.listing import statuses_below

KEY = "/etc/nixery/key.pem"
CERTIFICATE = "/etc/nixery/certificate.pem"
TLS_PORT = 8445

RESTART_SECONDS = 5
"""``RestartSec=`` of the units."""


def ends_for_good(unit: str = "nixery.service") -> None:
    """See that a service ends at its start with EX_CONFIG, and is not started again."""
    before = int(shown(unit, "NRestarts"))
    run("systemctl", "restart", unit, status=None)
    wait_until(
        # systemd calls it activating as well while it waits to start it again.
        lambda: shown(unit, "SubState") in {"failed", "auto-restart", "running"},
        f"the end of {unit}",
    )
    assert shown(unit, "SubState") == "failed", journal(unit)
    assert shown(unit, "ExecMainStatus") == str(os.EX_CONFIG), journal(unit)
    time.sleep(2 * RESTART_SECONDS)
    assert shown(unit, "ActiveState") == "failed", journal(unit)
    assert int(shown(unit, "NRestarts")) == before


def stored(state: str) -> set[int]:
    """Return the inodes of the files in the storage of a state directory."""
    return {status.st_ino for status in statuses_below(Path(state, "storage"))}


def installation() -> None:
    """The files can be installed."""
    install_units()
    for unit in ("nixery.service", "nixery@.service"):
        # The machine may have other things to do.
        extend(unit, "slow", "[Service]\nTimeoutStartSec=600\nWatchdogSec=600\n")
    extend("nixery.service", "dynamic", "[Service]\nDynamicUser=yes\n")


def without_the_group() -> None:
    """Debian's Nix daemon lets in the members of a group only: the start is tried once."""
    ends_for_good()
    said = journal("nixery")
    assert "SupplementaryGroups=GROUP" in said and "nix-users" in said, said


def with_the_group() -> None:
    """The drop-in of the documentation lets the service in."""
    for unit in ("nixery.service", "nixery@.service"):
        join_nix_users(unit)
    start("nixery")
    pull("hello")


def from_a_dynamic_user() -> None:
    """State moves from the dynamic user to the static one of the same name."""
    digest = pull("hello")
    assert Path("/var/lib/nixery").is_symlink()
    assert stored("/var/lib/nixery")
    run("systemctl", "stop", "nixery")
    make_user()
    (UNITS / "nixery.service.d" / "dynamic.conf").unlink()
    run("systemctl", "daemon-reload")
    before = stored("/var/lib/private/nixery")
    start("nixery")
    user = pwd.getpwnam("nixery")
    for directory in ("/var/lib/nixery", "/var/cache/nixery"):
        status = os.lstat(directory)
        assert (status.st_mode, status.st_uid) == (0o040700, user.pw_uid), (directory, status)
        owners = {status.st_uid for status in statuses_below(Path(directory))}
        assert owners <= {user.pw_uid}, owners
    assert not Path("/var/lib/private/nixery").exists()
    assert before <= stored("/var/lib/nixery")
    assert pull("hello") == digest


def reload() -> None:
    """It is the same process after a reload."""
    before = shown("nixery", "MainPID")
    run("systemctl", "reload", "nixery")
    assert shown("nixery", "MainPID") == before
    assert shown("nixery", "ActiveState") == "active"
    pull("hello")


def hardening() -> None:
    """The service's exposure level has not risen."""
    said = run("systemd-analyze", "security", "--no-pager", "nixery")
    found = re.search(r"Overall exposure level for nixery.service: ([0-9.]+)", said)
    assert found is not None and float(found[1]) <= 1.3, said


def commands() -> None:
    """``nixery-admin`` finds the images when it runs as the documentation says."""
    said = run(
        *("systemd-run", "--quiet", "--pipe", "--wait", "--property=User=nixery"),
        "--property=EnvironmentFile=-/etc/nixery/environment",
        *("--setenv=STATE_DIRECTORY=/var/lib/nixery", "--setenv=CACHE_DIRECTORY=/var/cache/nixery"),
        *("/opt/nixery/bin/nixery-admin", "list"),
    )
    assert "hello" in said, said
    # Without a configuration, the place of the images is enough.
    command = ("/opt/nixery/bin/nixery-admin", "list", "--storage-path", "/var/lib/nixery/storage")
    said = run("runuser", "-u", "nixery", "--", *command)
    assert "hello" in said, said


def unusable_configuration() -> None:
    """A wrong setting ends the service once."""
    configure("prot: 8080")
    try:
        ends_for_good()
    finally:
        configure("port: 8080")
    start("nixery")
    pull("hello")


def passed_socket() -> None:
    """The order of the documentation is one that systemd accepts; the service answers there."""
    extend("nixery.socket", "port", "[Socket]\nListenStream=\nListenStream=8443\n")
    # Beside a running service, systemd refuses it.
    run("systemctl", "start", "nixery.socket", status=1)
    run("systemctl", "stop", "nixery")
    run("systemctl", "enable", "--now", "nixery.socket")
    run("systemctl", "start", "nixery")
    for port in (8443, 8080):
        pull("hello", port)
    run("systemctl", "stop", "nixery")
    # A client starts it.
    pull("hello", 8443)
    run("systemctl", "disable", "--now", "nixery.socket")
    start("nixery")


def passed_unix_socket() -> None:
    """Nor does the service need to own a UNIX socket, which outlasts it."""
    path = "/run/nixery.sock"
    run("groupadd", "--system", "proxy-users")
    extend(
        "nixery.socket",
        "port",
        f"[Socket]\nListenStream=\nListenStream={path}\nSocketMode=0660\nSocketGroup=proxy-users\n",
    )
    run("systemctl", "stop", "nixery")
    run("systemctl", "start", "nixery.socket")
    for _ in range(2):
        # A client starts it.
        pull("hello", path)
        status = os.stat(path)
        assert (stat.S_IMODE(status.st_mode), status.st_uid) == (0o660, 0), status
        run("systemctl", "stop", "nixery")
    run("systemctl", "stop", "nixery.socket")
    extend("nixery.socket", "port", "[Socket]\nListenStream=\nListenStream=8443\n")
    start("nixery")


def waiting_client() -> None:
    """A client that waits does not have a service started for ever that cannot start."""
    run("systemctl", "stop", "nixery")
    configure("prot: 8080")
    run("systemctl", "start", "nixery.socket")
    with socket.create_connection(("127.0.0.1", 8443)):
        wait_until(lambda: shown("nixery.socket", "ActiveState") == "failed", "the socket's end")
    assert shown("nixery", "ActiveState") == "failed"
    configure("port: 8080")
    run("systemctl", "reset-failed", "nixery", "nixery.socket")
    start("nixery")


def instances() -> None:
    """Two run beside each other, and beside the one: neither reads what is the other's."""
    names = {"blue": 8081, "green": 8082}
    with Path("/etc/sysusers.d/nixery.conf").open("a") as file:
        file.writelines(f"u nixery-{name} - - /var/lib/nixery-{name}\n" for name in names)
    run("systemd-sysusers")
    for name, port in names.items():
        run("install", "-d", "-g", f"nixery-{name}", "-m", "750", str(CONFIGURATION / name))
        configure(f"port: {port}", instance=name)
        run("systemctl", "enable", "--now", f"nixery@{name}")
    assert len({pull("other", port) for port in names.values()}) == 1
    pull("hello")
    for name, other in (("blue", "green"), ("green", "blue")):
        user = pwd.getpwnam(f"nixery-{name}").pw_uid
        pid = shown(f"nixery@{name}", "MainPID")
        assert os.stat(f"/proc/{pid}").st_uid == user
        for directory in ("/var/lib", "/var/cache"):
            status = os.lstat(f"{directory}/nixery-{name}")
            assert (status.st_mode, status.st_uid) == (0o040700, user), status
        for path in (f"/etc/nixery/{other}/nixery.yaml", f"/var/lib/nixery-{other}/storage"):
            run("runuser", "-u", f"nixery-{name}", "--", "test", "!", "-r", path)
    # A client starts it by its socket.
    run("systemctl", "stop", "nixery@blue")
    extend("nixery@blue.socket", "address", "[Socket]\nListenStream=8444\n")
    run("systemctl", "enable", "--now", "nixery@blue.socket")
    pull("other", 8444)
    units = ("nixery@blue.socket", *(f"nixery@{name}" for name in names))
    run("systemctl", "disable", "--now", *units)


def certify() -> None:
    """Make a key and a certificate of its own."""
    run(
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
        *("-nodes", "-days", "30", "-keyout", KEY, "-out", CERTIFICATE, "-subj", "/CN=localhost"),
        *("-addext", "subjectAltName=DNS:localhost"),
    )


def serve_tls(certificate: str, key: str) -> None:
    """Serve with TLS on one port, and without on the other."""
    configure(
        f"listen: [tcp:{TLS_PORT}, 'plain:tcp:8080:interface=127.0.0.1']",
        f"tls_certificate: {certificate}",
        f"tls_key: {key}",
    )
    start("nixery")
    pull("hello")
    assert_certificate_used()


def assert_certificate_used() -> None:
    """See that clients who trust the certificate are served."""
    run("curl", "--fail", "--silent", "--cacert", CERTIFICATE, f"https://localhost:{TLS_PORT}/v2/")


def credentials() -> None:
    """A certificate and a key that only root can read are used by the service."""
    certify()
    os.chmod(KEY, 0o600)
    loaded = f"LoadCredential=tls-certificate:{CERTIFICATE}\nLoadCredential=tls-key:{KEY}\n"
    extend("nixery.service", "tls", f"[Service]\n{loaded}")
    serve_tls("credential:tls-certificate", "credential:tls-key")


def renewal() -> None:
    """A reload is enough to use new files that a group of the service can read."""
    run("groupadd", "--system", "tls-readers")
    extend("nixery.service", "tls", "[Service]\nSupplementaryGroups=tls-readers\n")
    shutil.chown(KEY, group="tls-readers")
    os.chmod(KEY, 0o640)
    serve_tls(CERTIFICATE, KEY)
    before = shown("nixery", "MainPID")
    certify()
    run("systemctl", "reload", "nixery")
    assert_certificate_used()
    assert shown("nixery", "MainPID") == before
    (UNITS / "nixery.service.d" / "tls.conf").unlink()
    run("systemctl", "daemon-reload")


def home_directory() -> None:
    """A package set in a home directory is read if the drop-in of the documentation is there."""
    home = "/home/developer"
    shutil.copytree("/srv/set", f"{home}/set")
    extend("nixery.service", "home", "[Service]\nProtectHome=read-only\n")
    (CONFIGURATION / "nixery.yaml").write_text(f"port: 8080\npkgs_path: {home}/set\n")
    start("nixery")
    pull("third")


def storage_elsewhere() -> None:
    """Images lie in a directory that was given to the user."""
    run("install", "-d", "-o", "nixery", "-g", "nixery", "-m", "750", "/srv/images")
    extend(
        "nixery.service",
        "images",
        "[Unit]\nRequiresMountsFor=/srv/images\n[Service]\nReadWritePaths=/srv/images\n",
    )
    configure("port: 8080", "storage_path: /srv/images")
    start("nixery")
    pull("hello")
    assert any(Path("/srv/images").iterdir())


def disk() -> None:
    """The state is a disk of its own, which belonged to root."""
    run("systemctl", "stop", "nixery")
    shutil.rmtree("/var/lib/nixery")
    Path("/var/lib/nixery").mkdir()
    run("mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/var/lib/nixery")
    configure("port: 8080")
    start("nixery")
    pull("hello")
    assert os.path.ismount("/var/lib/nixery")
    assert Path("/var/lib/nixery").owner() == "nixery"


CHECKS = (
    installation,
    without_the_group,
    with_the_group,
    from_a_dynamic_user,
    reload,
    hardening,
    commands,
    unusable_configuration,
    passed_socket,
    passed_unix_socket,
    waiting_client,
    instances,
    credentials,
    renewal,
    home_directory,
    storage_elsewhere,
    disk,
)

if __name__ == "__main__":
    run_checks(CHECKS)
