"""
The machine's own settings of apt and pip, which a Debian that is made here has to use as
well: mirrors, proxies, package indexes and certificate authorities.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from attrs import frozen

__all__ = ["Machine", "debian_sources", "read_machine"]

_VARIABLES = re.compile(
    r"(PIP_\w+|SSL_CERT_\w+|REQUESTS_CA_BUNDLE|CURL_CA_BUNDLE|(https?|no|all)_proxy)", re.IGNORECASE
)
"""Of the environment, what tells programs how to reach a network."""

_APT = re.compile(r'Acquire::\S*(Proxy|CaInfo|Verify|Retries|Timeout)\S* ".+";', re.IGNORECASE)
"""Of apt's settings, likewise."""

_PROXY = re.compile(r'Acquire::(https?)::Proxy "(.+)";', re.IGNORECASE)

CERTIFICATES = "usr/local/share/machine"
"""The directory in a root of the files that settings name."""


@frozen(kw_only=True)
class Machine:
    """
    Settings.

    :param mirror: of Debian.
    :param security: of Debian's security updates, if the machine has them.
    :param apt: lines of a configuration file.
    :param pip: options of pip's configuration files by their names, ``global.index-url``.
    :param environ: variables.
    """

    mirror: str
    security: str | None
    apt: tuple[str, ...]
    pip: Mapping[str, str]
    environ: Mapping[str, str]

    def sources(self, release: str) -> str:
        """The content of a ``sources.list``."""
        lines = [
            f"deb {self.mirror} {release} main",
            f"deb {self.mirror} {release}-updates main",
        ]
        if self.security:
            lines.append(f"deb {self.security} {release}-security main")
        return "".join(f"{line}\n" for line in lines)

    def proxies(self) -> dict[str, str]:
        """Variables for programs that fetch from the mirror without apt."""
        matches = (_PROXY.fullmatch(line) for line in self.apt)
        return {f"{match[1]}_proxy": match[2] for match in matches if match}

    def directories(self) -> list[Path]:
        """
        Directories that the settings name.  An index's files lie beside it: of an index
        it is the directory that holds it.
        """
        found = set()
        for name, value in [*self.pip.items(), *self.environ.items()]:
            for word in value.split():
                index = "index-url" in name.lower().replace("_", "-")
                path = Path(urlsplit(word).path if word.startswith("file://") else word)
                if path.is_absolute() and path.is_dir() and path.parts[1] not in {"etc", "usr"}:
                    found.add(path.parent if index and len(path.parts) > 2 else path)
        return sorted(found)

    def put_into(self, root: Path, release: str) -> dict[str, str]:
        """
        Configure a root.

        :return: the environment of commands in it.
        """
        (root / "etc/apt/sources.list").write_text(self.sources(release))
        (root / "etc/apt/apt.conf.d/00machine").write_text("".join(f"{x}\n" for x in self.apt))
        sections: dict[str, list[str]] = {}
        for name, value in self.pip.items():
            section, _, option = name.partition(".")
            words = "\n    ".join(_moved(value, root).split())
            sections.setdefault(section, []).append(f"{option} = {words}\n")
        (root / "etc/pip.conf").write_text(
            "".join(f"[{name}]\n{''.join(lines)}" for name, lines in sections.items())
        )
        return {
            name: _moved(value, root)
            for name, value in self.environ.items()
            if not Path(value).is_dir() or Path(value) in self.directories()
        }


def read_machine() -> Machine | None:
    """The settings of this machine, or ``None`` if it is no Debian with a mirror."""
    if not shutil.which("apt-get"):
        return None
    release = _os_release().get("VERSION_CODENAME", "")
    sources = debian_sources(
        _said(
            *("apt-get", "indextargets", "--format"),
            "$(RELEASE)|$(CODENAME)|$(COMPONENT)|$(REPO_URI)",
            "Identifier: Packages",
        ),
        release,
    )
    if sources is None:
        return None
    mirror, security = sources
    pip = {}
    for line in _said(sys.executable, "-m", "pip", "config", "list").splitlines():
        name, _, value = line.partition("=")
        if not name.startswith(":env:."):
            # As it is written by Python's repr().
            pip[name] = value.strip("'\"").replace("\\n", "\n")
    return Machine(
        mirror=mirror,
        security=security,
        apt=tuple(line for line in _said("apt-config", "dump").splitlines() if _APT.match(line)),
        pip=pip,
        environ={name: value for name, value in os.environ.items() if _VARIABLES.fullmatch(name)},
    )


def debian_sources(targets: str, release: str) -> tuple[str, str | None] | None:
    """
    The mirrors of Debian and of its security updates.

    :param targets: lines of a suite as it is named in the sources, its code name, a
        component and an address, separated by ``|``.  Before apt has read its lists for
        the first time, there are no code names.
    :param release: this machine's code name: other releases may be sources, too.
    """
    mirrors: dict[str, str] = {}
    for line in targets.splitlines():
        suite, codename, component, address = line.split("|", 3)
        if component == "main":
            mirrors.setdefault(codename or suite, address)
    if release not in mirrors:
        return None
    return mirrors[release], mirrors.get(f"{release}-security")


def _moved(value: str, root: Path) -> str:
    """A setting whose files are copied into a root; it names the copies."""

    def moved(word: str) -> str:
        path = Path(word)
        if not (path.is_absolute() and path.is_file()):
            return word
        copy = root / CERTIFICATES / "-".join(path.parts[1:])
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
        return f"/{copy.relative_to(root)}"

    return " ".join(map(moved, value.split(" ")))


def _os_release() -> dict[str, str]:
    lines: Iterable[str] = Path("/etc/os-release").read_text().splitlines()
    pairs = (line.partition("=") for line in lines)
    return {name: value.strip('"') for name, _, value in pairs}


def _said(*argv: str) -> str:
    return subprocess.run(argv, stdout=subprocess.PIPE, check=True, text=True).stdout
