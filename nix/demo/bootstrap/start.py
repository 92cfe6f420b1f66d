"""
``nix/demo/start``: sets up a registry with the demo package set on a Debian machine with Python.

The steps are ordered by duration: errors that can be found at once are reported first.
"""

from __future__ import annotations

import json
import os
import runpy
import shutil
import signal
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

from bootstrap.addresses import Address, parse_endpoint
from bootstrap.arguments import HELP, Arguments, UsageError, parse_arguments
from bootstrap.children import Children, Finished, Interrupted
from bootstrap.console import Console
from bootstrap.environment import Environments, has_venv
from bootstrap.nixstore import store_fault
from bootstrap.packages import InstallationFailed, install_command, install_packages

__all__ = ["main"]

_DEMO = Path(__file__).resolve().parents[1]

CHECKOUT = _DEMO.parents[1]

_NIX_BY_ITSELF = """\
build-users-group =
sandbox = false
substitute = false"""
"""
Settings for root without a Nix daemon, which builds by itself: there may be no users for the
builds. And the demo set comes from Debian: no cache of Nix packages has any of it.
"""

_DAEMON_SOCKET = Path("/nix/var/nix/daemon-socket/socket")


def main(argv: Sequence[str]) -> int:
    """Run the command; return its exit status, unless the process has become the registry."""
    console = Console("start")
    try:
        arguments = parse_arguments(argv, os.environ)
    except UsageError as error:
        console.say(str(error))
        return 2
    if arguments.help:
        sys.stdout.write(HELP)
        return 0
    if arguments.version:
        version = runpy.run_path(str(CHECKOUT / "nixery/version.py"))["VERSION"]
        sys.stdout.write(f"Nixery in Python, version {version}\n")
        return 0
    try:
        with Children(console) as children:
            return _Start(arguments, children, console).run()
    except InstallationFailed as error:
        console.quote(error.output)
        console.say(error.message)
        return 1
    except Interrupted as interruption:
        console.say("interrupted: nothing that was begun is left half made")
        # The parent process sees the signal in the status, as of any other program.
        signal.signal(interruption.number, signal.SIG_DFL)
        os.kill(os.getpid(), interruption.number)
        return 128 + interruption.number


class _Start:
    """
    Runs the steps.

    :param arguments: the parsed command line.
    :param children: runs other programs.
    :param console: shows progress.
    """

    def __init__(self, arguments: Arguments, children: Children, console: Console) -> None:
        self._arguments = arguments
        self._children = children
        self._console = console
        # Set in the environment, for children and the registry too.
        os.environ.setdefault("HOME", str(Path.home()))
        cache = os.environ.get("XDG_CACHE_HOME", "")
        base = Path(cache) if cache.startswith("/") else Path.home() / ".cache"
        self._environments = Environments(base / "nixery", children, console)

    def run(self) -> int:
        """Take all steps; returns only if the registry is not to be started."""
        endpoints = self._arguments.endpoints
        if endpoints is not None:
            self._check_ports(endpoints)
        with self._environments.locked():
            self._install_packages()
            self._use_nix()
            environment = self._environment()
            # Held for as long as this process lives, and by the registry that it becomes.
            self._environments.use(environment)
            endpoints, public_url = self._listening(environment)
            self._check_ports(endpoints)
            package_set = self._package_set(environment)
            self._check_ports(endpoints)
            self._children.check()
        if self._arguments.prepare_only:
            sys.stdout.write(f"{package_set}\n")
            return 0
        self._announce(endpoints, public_url)
        os.environ["NIXERY_PKGS_PATH"] = str(package_set)
        os.environ.setdefault("NIX_POPULARITY_URL", f"file://{package_set}/popularity.json")
        # twistd imports from its working directory, and the checkout there may differ from the
        # installed version.
        os.chdir(environment)
        twistd = str(environment / "bin/twistd")
        argv = [twistd, "--nodaemon", "--pidfile=", "nixery", *self._arguments.registry]
        sys.stderr.flush()
        return os.execv(twistd, argv)  # noqa: S606  # it is what this process is for

    # -- Debian packages ------------------------------------------------------------

    def _install_packages(self) -> None:
        reasons = {}
        if shutil.which("nix-build") is None:
            reasons["nix-bin"] = "Nix is missing"
        if _find_python() is None:
            reasons["python3-venv"] = "Python cannot make virtual environments"
        if not reasons:
            return
        packages = sorted(reasons)
        why = " and ".join(reasons.values())
        if os.geteuid() != 0:
            raise InstallationFailed(
                f"{why}: run this as root, or have root install it first:"
                f"\n    {install_command(packages)}"
            )
        self._console.say(why)
        install_packages(packages, children=self._children, console=self._console)

    def _use_nix(self) -> None:
        if os.geteuid() == 0 and "NIX_CONFIG" not in os.environ and not _is_socket(_DAEMON_SOCKET):
            os.environ["NIX_CONFIG"] = _NIX_BY_ITSELF
        fault = store_fault()
        if fault is not None:
            raise InstallationFailed(fault)
        try:
            done = self._children.run(["nix-instantiate", "--eval", "-E", "1"])
        except OSError as error:
            raise InstallationFailed(f"nix-instantiate cannot be run: {error.strerror}") from error
        if done.status != 0:
            raise InstallationFailed(
                "Nix is installed, but cannot be used; what it says is above. Run this as root,"
                " or join the group of Nix's users.",
                done.tail(),
            )

    # -- Python environment ---------------------------------------------------------

    def _environment(self) -> Path:
        python = _find_python()
        if python is None:
            raise InstallationFailed(
                "Python 3.11 or later is needed, with its modules venv and ensurepip"
            )
        found = self._environments.find(CHECKOUT, python)
        return found or self._environments.make(CHECKOUT, python)

    def _listening(self, environment: Path) -> tuple[tuple[str, ...], str | None]:
        """Return the endpoint strings, and the URL that clients use, if one is configured."""
        known = self._arguments.endpoints
        settings = [
            name for name, value in os.environ.items() if name.startswith("NIXERY_") and value
        ]
        if known is not None and not settings and len(self._arguments.registry) <= 2 * len(known):
            return known, None
        done = self._run_demoset(environment, "demoset.endpoints", *self._arguments.registry)
        if done.status != 0:
            raise InstallationFailed(done.tail())
        answer = json.loads(done.output.splitlines()[-1])
        return tuple(answer["listen"]), answer["public_url"]

    def _package_set(self, environment: Path) -> Path:
        self._console.begin("making the demo package set ready")
        arguments = [] if self._arguments.directory is None else [self._arguments.directory]
        if self._arguments.refresh:
            arguments.append("--refresh")
        done = self._run_demoset(environment, "demoset", *arguments)
        if done.status != 0:
            raise InstallationFailed(done.tail())
        *notes, directory = done.output.splitlines()
        for note in notes:
            self._console.say(note)
        return Path(directory)

    def _run_demoset(self, environment: Path, module: str, *arguments: str) -> Finished:
        """Run a module of the demo set, which lies in the checkout, with what is installed."""
        return self._children.run(
            # Nothing is written into the checkout.
            [environment / "bin/python", "-B", "-m", module, *arguments],
            environ={
                **os.environ,
                "PYTHONPATH": str(_DEMO),
                "TMPDIR": str(self._environments.scratch),
            },
            cwd=environment,
            detail=_lock_progress,
        )

    # -- endpoints ------------------------------------------------------------------

    def _check_ports(self, endpoints: Sequence[str]) -> None:
        if self._arguments.prepare_only:
            return
        for address in _addresses(endpoints):
            problem = address.problem()
            if problem is not None:
                raise InstallationFailed(f"{problem}: end that, or choose another port with --port")

    def _announce(self, endpoints: Sequence[str], public_url: str | None) -> None:
        addresses = _addresses(endpoints)
        places = [address.describe() for address in addresses]
        places += [text for text in endpoints if parse_endpoint(text) is None]
        lines = ["", f"The registry is about to listen on {' and '.join(places)}."]
        registry = public_url.split("://", 1)[1] if public_url else None
        if registry is None and addresses:
            registry = addresses[0].registry
        if registry is not None:
            lines += [
                "In another terminal, for example:",
                "",
                f"    docker run --rm {registry}/hello hello",
                f"    docker run --rm -it {registry}/shell/git/htop",
                "",
                "Each name after the address is a package, and `shell` stands for bash and what",
                "goes with it. The first pull of an image builds it, and takes a little longer.",
            ]
        self._console.quote("\n".join([*lines, "", ""]))


def _addresses(endpoints: Sequence[str]) -> list[Address]:
    return [address for address in map(parse_endpoint, endpoints) if address is not None]


def _find_python() -> Path | None:
    """Return the first interpreter that can make an environment for the registry."""
    for python in (Path(sys.executable), Path("/usr/bin/python3")):
        if has_venv(python):
            return python
    return None


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(path.stat().st_mode)
    except OSError:
        return False


def _lock_progress(line: str) -> str | None:
    return line if line.startswith("asking apt") else None
