"""
Queries Debian's archive through apt, without touching the machine's own apt.

apt is run on a configuration, state and cache of its own in a temporary directory: an empty list of
installed packages, the architecture that is asked about, and of the machine's settings only the
sources, their keys and the network (proxies). Nothing needs root, and no other run of apt
interferes.
"""

from __future__ import annotations

import mmap
import os
import re
import shutil
import subprocess
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import IO

from demoset.debian import Record, Records, parse_uris
from demoset.errors import DemoFailed
from nixery.process.errors import CommandMissing, CommandOutput, ProcessFailed

__all__ = ["Apt", "native_architecture", "plain_uri", "run"]

_PREFERENCES = """\
Explanation: Only Debian itself, so that no third party's package of the same
Explanation: name is taken, and of Debian only what is installed by default.
Package: *
Pin: release a=*-backports
Pin-Priority: -1

Package: *
Pin: release a=experimental
Pin-Priority: -1

Package: *
Pin: release o=Debian
Pin-Priority: 500

Package: *
Pin: release a=*
Pin-Priority: -1
"""

_KEPT = re.compile(
    r"(Acquire|Dir::Etc::(sourcelist|sourceparts|trusted|trustedparts|netrc"
    r"|netrcparts))\b"
)
"""
The machine's settings that are copied into apt's own configuration. Hooks are left out: some of
them clean caches or wake desktop services, and fail for users who are not root.
"""

_OFFLINE = re.compile(
    r"Could not resolve|Temporary failure|Could not connect|Unable to connect|Cannot initiate"
    r"|Connection failed|Connection timed out|Network is unreachable|No route to host"
)

_NO_SOURCES = (
    "add the archive to apt's sources: a file in /etc/apt/sources.list.d with the lines"
    " `Types: deb`, `URIs:` and a Debian mirror, `Suites:` and the release, `Components: main`"
)


def run(
    argv: Sequence[str],
    environment: Mapping[str, str],
    cwd: Path | None = None,
    stdout: IO[bytes] | None = None,
) -> bytes:
    """
    Run a command to its end.

    :param stdout: a file for its standard output.
    :return: its standard output; nothing if that went to a file.
    :raises CommandMissing: there is no such command.
    :raises ProcessFailed: it ended with a status other than 0, or by a signal.
    """
    try:
        done = subprocess.run(
            argv,
            env=dict(environment),
            cwd=cwd,
            stdout=subprocess.PIPE if stdout is None else stdout,
            stderr=subprocess.PIPE,
            check=False,
        )
    except FileNotFoundError:
        raise CommandMissing(command=argv[0]) from None
    if done.returncode != 0:
        raise ProcessFailed(
            output=CommandOutput(
                argv=tuple(argv),
                status=done.returncode if done.returncode > 0 else None,
                signal=-done.returncode if done.returncode < 0 else None,
                stderr=done.stderr.decode("utf-8", "replace")[-4000:],
            )
        )
    return done.stdout or b""


def native_architecture() -> str:
    """
    Return Debian's name of this machine's architecture.

    :raises DemoFailed: this machine has no dpkg.
    """
    try:
        return run(["dpkg", "--print-architecture"], os.environ).decode().strip()
    except CommandMissing:
        raise DemoFailed(
            reason="dpkg and apt are missing here, and the demo package set is made of Debian's",
            advice="use a Debian machine, or another package set",
        ) from None


class Apt:
    """
    Debian's archive for one architecture.

    :param home: an empty directory for its exclusive use; the caller that made it removes it.
    :param architecture: Debian's name of it, ``arm64``.
    """

    def __init__(self, home: Path, architecture: str) -> None:
        self.architecture = architecture
        self._home = home
        self._records: Records | None = None
        self._environment = {
            **os.environ,
            "LC_ALL": "C",
            "APT_CONFIG": str(home / "apt.conf"),
        }

    def update(self) -> None:
        """
        Fetch the archive's lists.  To be called first.

        :raises DemoFailed: there is no apt, no Debian archive among its sources, or the
            archive cannot be reached.
        :raises ProcessFailed: the lists could not be fetched.
        """
        if shutil.which("apt-get") is None:
            raise DemoFailed(
                reason="apt-get was not found, and the demo package set is made of Debian packages",
                advice="use a Debian machine, or another package set",
            )
        self._configure()
        failure: ProcessFailed | None = None
        try:
            self._apt("apt-get", "update")
        except ProcessFailed as error:
            # One source of several may be unreachable, and may not be needed.
            failure = error
        if not self._has_debian():
            if failure is not None:
                raise _unreachable(failure) or failure
            raise DemoFailed(
                reason=f"apt's sources name no Debian archive for {self.architecture}",
                advice=_NO_SOURCES,
            )

    def record(self, name: str) -> Record | None:
        """Return the record of a package; ``None`` if the archive has none of that name."""
        if self._records is None:
            self._records = self._read_records()
        return self._records.get(name)

    def uris(self, records: Collection[Record]) -> Mapping[str, str]:
        """
        Return the URL of the .deb of each record, by name, in a form that Nix can fetch.

        :raises DemoFailed: apt would fetch one by a method that Nix does not have.
        """
        output = self._apt("apt-get", "download", "--print-uris", *_exact(records))
        uris = parse_uris(output)
        return {record.name: plain_uri(uris[record.name]) for record in records}

    def download(self, record: Record) -> Path:
        """Fetch a .deb, checked against the archive's signed sums; return its path."""
        self._apt("apt-get", "download", *_exact([record]))
        return next(self._home.glob(f"{record.name}_*.deb"))

    def _configure(self) -> None:
        for directory in ("state/lists/partial", "cache/archives/partial"):
            (self._home / directory).mkdir(parents=True)
        (self._home / "state/status").touch()
        (self._home / "preferences").write_text(_PREFERENCES, encoding="utf-8")
        machine = run(["apt-config", "dump"], {**os.environ, "LC_ALL": "C"}).decode()
        settings = [line for line in machine.splitlines() if _KEPT.match(line)]
        home = self._home
        own = {
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
            # Otherwise apt reports success even if it could fetch nothing at all.
            "APT::Update::Error-Mode": "any",
            "APT::Architecture": self.architecture,
            # The unprivileged user that root's apt downloads as cannot read a
            # private temporary directory.
            "APT::Sandbox::User": "root",
            "Dir::State": home / "state",
            "Dir::State::status": home / "state/status",
            "Dir::Cache": home / "cache",
            "Dir::Cache::pkgcache": "pkgcache.bin",
            "Dir::Cache::srcpkgcache": "",
            "Dir::Log": home,
            "Dir::Etc::preferences": home / "preferences",
            "Dir::Etc::preferencesparts": "/dev/null",
            # The settings derived from the machine's files are in this configuration already.
            "Dir::Etc::main": "/dev/null",
            "Dir::Etc::parts": "/dev/null",
        }
        settings += ["#clear Acquire::Languages;"]
        settings += [f'{key} "{value}";' for key, value in own.items()]
        settings += [f'APT::Architectures {{ "{self.architecture}"; }};', ""]
        (home / "apt.conf").write_text("\n".join(settings), encoding="utf-8")

    def _read_records(self) -> Records:
        # One call for all packages: each call costs apt more (0.7 s, for the priorities of all)
        # than printing them all does.
        path = self._home / "available"
        with path.open("w+b") as file:
            run(["apt-cache", "dumpavail"], self._environment, cwd=self._home, stdout=file)
            # An empty file cannot be mapped.
            return Records(
                mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if file.tell() else b""
            )

    def _has_debian(self) -> bool:
        wanted = ["Created-By: Packages", "Origin: Debian", f"Architecture: {self.architecture}"]
        return bool(
            self._apt("apt-get", "indextargets", "--format", "$(FILENAME)", *wanted).strip()
        )

    def _apt(self, *argv: str) -> str:
        return run(argv, self._environment, cwd=self._home).decode("utf-8", "replace")


def _unreachable(failure: ProcessFailed) -> DemoFailed | None:
    """Return the failure as one of the network, if apt says that it is."""
    for line in failure.output.stderr.splitlines():
        if _OFFLINE.search(line):
            return DemoFailed(
                reason=f"Debian's archive cannot be reached ({line.removeprefix('E: ').strip()})",
                advice="connect this machine to a network, or tell apt its proxy",
            )
    return None


def _exact(records: Collection[Record]) -> list[str]:
    return sorted(f"{record.name}={record.version}" for record in records)


def plain_uri(uri: str) -> str:
    """
    Return a URL that Nix can fetch in place of one of apt's.

    A list of mirrors in a file (``mirror+file:``, which Debian's cloud images are
    set up with) is replaced by the first of its mirrors.

    :raises DemoFailed: there is no such URL.
    """
    scheme, _, rest = uri.partition(":")
    if scheme in {"http", "https"}:
        return uri
    if scheme in {"file", "copy"}:
        return "file://" + rest.removeprefix("//")
    if scheme == "mirror+file":
        path = Path(rest.removeprefix("//"))
        for listing in path.parents:
            if listing.is_file():
                for line in listing.read_text(encoding="utf-8").splitlines():
                    mirror = line.partition("#")[0].split()
                    if mirror:
                        within = path.relative_to(listing)
                        return plain_uri(f"{mirror[0].rstrip('/')}/{within}")
    raise DemoFailed(
        reason=f"apt would fetch {uri}, and Nix cannot",
        advice="let apt's sources name a Debian mirror by an http or https URL",
    )
