"""
Tests that type the commands of the documentation into a Debian in which nothing is prepared.

The pages are typed one after the other, as by an administrator who sets up a registry: on Debian,
then with TLS, then with passwords, then behind nginx; Caddy's and Prometheus' own programs check
what the pages show for them.  Two things are not as a reader has them.  There is no nixpkgs,
so that the package set of another test stands for the channel; and the container that runs systemd
has no network, so that what installs packages is typed before it is started, in the same tree.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from twisted.trial.unittest import SkipTest

from tests.clean_roots.root import CHECKOUT, CleanRoot
from tests.clean_roots.test_commands import CleanRootCase
from tests.end_to_end.processes import Finished, private_directory, run
from tests.guest.container import Container
from tests.guest.image import MASKED
from tests.support.documentation import Block, sections

RELEASE = "trixie"
"""The Debian that the page is about: its Nix is new enough for nixpkgs."""

TYPED: Mapping[str, Sequence[str]] = {
    "running/debian.md": ("Nix", "The registry", "As a service"),
    "running/tls.md": ("Get a certificate", "Serve it"),
    "authentication.md": ("Ask for passwords",),
    "running/proxy.md": ("nginx", "Caddy"),
    "running/monitoring.md": ("Metrics",),
}
"""The sections that are typed, by page."""

NOT_TYPED: Mapping[str, Mapping[str, str]] = {
    "running/debian.md": {
        "Debian and other distributions": "no commands",
        "Disks and directories elsewhere": "tests.guest",
        "Sockets": "tests.guest",
        "Commands": "tests.guest",
        "From a unit with a dynamic user": "tests.guest",
    },
    "running/tls.md": {
        "TLS": "no commands",
        "Addresses without TLS": "tests.guest",
        "Renewal": "no commands",
        "A key that only root can read": "tests.guest",
        "Ports below 1024": "no commands",
        "Telling clients to trust it": "tests.end_to_end.test_tls",
        "Other ways": "no commands",
        "No TLS at all": "no commands",
    },
    "authentication.md": {
        "Who may pull": "no commands",
        "Passwords or tokens": "tests.end_to_end.test_auth",
        "Logging in": "tests.end_to_end.test_auth",
        "Kubernetes": "needs a cluster",
        "Rules": "no commands",
        "Pages, metrics and health": "no commands",
        "Other sites in the browser": "no commands",
        "Changing users and rules": "tests.guest",
        "Guessing passwords": "no commands",
    },
    "running/proxy.md": {
        "Behind a proxy": "no commands",
        "Passwords": "no commands",
        "Outgoing proxy": "no commands",
    },
    "running/monitoring.md": {
        "Metrics and logs": "no commands",
        "Logs": "tests.unit.observability",
    },
}
"""The other sections, and why they are not typed, or where they are tested."""

INSTALLS = ("apt-get ", "python3 -m venv ", "/opt/nixery/bin/pip ")
"""The beginnings of the commands that need a network."""

FOREGROUND = "NIXERY_CHANNEL=nixos-25.05 /opt/nixery/bin/twistd -n nixery"
"""A command that runs until it is interrupted, and wants a channel."""

SERVERS = ("caddy", "prometheus")
"""Packages whose own pages say how to install them."""

SERVICES = ("caddy.service", "prometheus.service")
"""Their services, which are not started: one wants the port of nginx."""

NOT_RUN = ("systemctl reload caddy", "systemctl reload prometheus")
"""The commands for these services."""

AUTHORITY = ("curl --fail https://", "curl --fail --cacert authority.pem https://")
"""The beginning of a command, and what its page says to use with an authority of one's own."""

REMOVED = {"listen": ("port", "tls_certificate", "tls_key")}
"""The settings that a page removes, by the one that it adds."""

SYSTEMD = ("busybox-static", "dbus", "libnss-systemd", "systemd-sysv")
"""The packages of every machine that a minimal tree lacks."""

CONFIGURATION = "/etc/nixery/nixery.yaml"
SET = "/srv/set"
CHANNEL = "nixos-25.05"

PASSWORD = "wonderland"  # of nobody


class DocumentationTests(CleanRootCase):
    """The pages of an administrator."""

    def test_each_section_with_commands_is_typed_or_known_not_to_be(self) -> None:
        """Each section is typed, or it is said why not."""
        for page, typed in TYPED.items():
            found = sections(page)
            self.assertEqual({*typed, *NOT_TYPED[page]}, {*found}, page)
            for section, reason in NOT_TYPED[page].items():
                if reason == "no commands":
                    languages = {block.language for block in found[section]}
                    self.assertNotIn("console", languages, (page, section))

    def test_registry_is_set_up_as_documented(self) -> None:
        """The registry is set up on Debian, with TLS and with passwords, as documented."""
        if run(["unshare", "--mount", "--pid", "--fork", "--cgroup", "true"]).status != 0:
            raise SkipTest("this machine lets nobody make a container")
        root = self.make_root(RELEASE, "root")
        blocks = [
            block
            for page, names in TYPED.items()
            for name in names
            for block in sections(page)[name]
        ]
        commands = [command for block in blocks for command in block.commands()]
        install = "apt-get update; apt-get install --yes --no-install-recommends $0 $*"
        self.check_succeeded(root.run("sh", "-euc", install, *SYSTEMD, *SERVERS))
        for command in commands:
            if command.startswith(INSTALLS):
                typed = root.run("sh", "-euc", command, seconds=1800)
                self.assertEqual(0, typed.status, typed.describe())
        _prepare(root)
        container = Container(root.path, private_directory("documentation"))
        container.start()
        administrator = _Administrator(container, str(root.checkout))
        for block in blocks:
            for done in administrator.follow(block):
                log = administrator.type("journalctl --no-pager --unit nixery --lines 40").output
                self.assertEqual(0, done.status, f"{done.output}\n{log}")
        curl = "curl --silent --cacert authority.pem"
        pulled = administrator.type(
            f"{curl} --fail --user alice https://registry.example.org/v2/hello/manifests/latest"
        )
        self.assertEqual(0, pulled.status, pulled.output)
        self.assertIn("schemaVersion", pulled.output)
        refused = administrator.type(f"{curl} https://registry.example.org/v2/")
        self.assertIn("UNAUTHORIZED", refused.output)


class _Administrator:
    """
    Types blocks into a container.

    :param directory: the checkout.
    """

    def __init__(self, container: Container, directory: str) -> None:
        self._container = container
        self._directory = directory
        self._configuration: dict[str, Any] = {}

    def type(self, command: str) -> Finished:
        """Run a command in the checkout, as root, and type the password that it asks for."""
        script = f"cd {shlex.quote(self._directory)} && {command}"
        # htpasswd asks twice; curl takes all that it reads at once for the password.
        typed = f"{PASSWORD}\n" * (2 if command.startswith("htpasswd ") else 1)
        return self._container.run(
            ["sh", "-euc", f"printf %s {shlex.quote(typed)} | {{ {script}; }}"], seconds=600
        )

    def follow(self, block: Block) -> Iterator[Finished]:
        """Do what a block says."""
        title = block.title
        if block.language == "console":
            for command in block.commands():
                if command in {FOREGROUND, *NOT_RUN} or command.startswith(INSTALLS):
                    continue
                yield self.type(command.replace(*AUTHORITY))
        elif title.startswith("systemctl edit "):
            unit = title.split()[-1]
            unit = unit if "." in unit else f"{unit}.service"
            yield self._write(f"/etc/systemd/system/{unit}.d/override.conf", block.text)
        elif title == CONFIGURATION:
            # What a page shows is added to what is there.
            added = yaml.safe_load(block.text)
            for name in (removed for setting in added for removed in REMOVED.get(setting, ())):
                del self._configuration[name]
            self._configuration |= added
            if self._configuration.pop("channel", CHANNEL) != CHANNEL:
                raise AssertionError(f"another channel: {block.text}")
            self._configuration["pkgs_path"] = SET
            yield self._write(title, json.dumps(self._configuration))
        elif title.startswith("/"):
            yield self._write(title, block.text)
        else:
            raise AssertionError(f"nobody knows what to do with it:\n{block.text}")

    def _write(self, path: str, text: str) -> Finished:
        directory = os.path.dirname(path)
        # A directory of drop-ins is made by `systemctl edit`; others have to be there.
        make = f"mkdir -p {directory} && " if directory.endswith(".d") else ""
        return self.type(f"{make}printf %s {shlex.quote(text)} >{path}")


def _prepare(root: CleanRoot) -> None:
    """Put the package set into a root, the registry's name, and no units that run by themselves."""
    place = root.path / SET.removeprefix("/")
    (place / "bin").mkdir(parents=True)
    source = Path(CHECKOUT, "tests", "guest", "set", "default.nix")
    (place / "default.nix").write_bytes(source.read_bytes())
    (place / "bin" / "busybox").write_bytes((root.path / "bin/busybox").read_bytes())
    (place / "bin" / "busybox").chmod(0o755)
    (root.path / "etc/hosts").write_text("127.0.0.1 localhost registry.example.org\n")
    units = root.path / "etc/systemd/system"
    for unit in (*MASKED, *SERVICES):
        (units / unit).unlink(missing_ok=True)
        (units / unit).symlink_to("/dev/null")
