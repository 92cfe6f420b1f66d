"""Queries Debian's archive for all that the demo package set is made of."""

from __future__ import annotations

import io
import os
import re
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from attrs import field, frozen

from demoset.apt import Apt, native_architecture, run
from demoset.debian import upstream_version
from demoset.errors import DemoFailed
from demoset.recipes import Recipes, Unit, resolve

__all__ = ["SYSTEMS", "ArchiveState", "ResolvedSystem", "find_release", "query_archive"]

SYSTEMS = {"x86_64-linux": "amd64", "aarch64-linux": "arm64"}
"""Nix' names of the systems that the set is made for, and Debian's."""


@frozen(kw_only=True)
class ResolvedSystem:
    """
    The packages of one system.

    :param units: by name.
    :param urls: of the .debs of all units, by the names of their packages.
    """

    units: Mapping[str, Unit]
    urls: Mapping[str, str]


@frozen(kw_only=True)
class ArchiveState:
    """
    The contents of the archive, as far as the set is made of them.

    :param systems: by Nix' name of the system.
    :param release: the number of the Debian release that the packages are from.
    :param busybox: the program that builds begin with.
    """

    systems: Mapping[str, ResolvedSystem]
    release: int
    busybox: bytes = field(repr=False)


def query_archive(recipes: Recipes) -> ArchiveState:
    """
    Resolve the recipes for each system, with the sources of the machine's apt.

    A mirror may lack another architecture than this machine's: images of that
    system are then refused when they are asked for, and the rest works.

    :raises DemoFailed: something is missing; the message says how to fix it.
    :raises ProcessFailed: apt failed.
    """
    native = native_architecture()
    if native not in SYSTEMS.values():
        raise DemoFailed(
            reason=f"the demo package set is not made for {native}",
            advice=f"use a machine of one of {', '.join(SYSTEMS.values())}",
        )

    def query(apt: Apt) -> ResolvedSystem | None:
        _say(f"asking apt for the {apt.architecture} packages")
        try:
            apt.update()
        except DemoFailed as error:
            if apt.architecture == native:
                raise
            _say(f"left out: {error.message}")
            return None
        units = resolve(recipes, apt.record)
        return ResolvedSystem(
            units=units, urls=apt.uris([deb for unit in units.values() for deb in unit.debs])
        )

    with tempfile.TemporaryDirectory(prefix="nixery-demo-") as scratch:
        apts = {
            system: Apt(Path(scratch, system), architecture)
            for system, architecture in SYSTEMS.items()
        }
        with ThreadPoolExecutor(len(apts)) as pool:
            answers = dict(zip(apts, pool.map(query, apts.values()), strict=True))
        host = next(apt for apt in apts.values() if apt.architecture == native)
        return ArchiveState(
            systems={system: answer for system, answer in answers.items() if answer is not None},
            release=find_release(host),
            busybox=_fetch_busybox(host),
        )


def find_release(apt: Apt) -> int:
    """
    Return the number of the Debian release that apt installs from.

    The version of ``base-files`` begins with it, in testing and unstable as well.

    :raises DemoFailed: the archive does not tell it.
    """
    record = apt.record("base-files")
    number = None if record is None else re.match(r"\d+", upstream_version(record.version))
    if number is None:
        raise DemoFailed(
            reason="Debian's archive has no package base-files that tells its release",
            advice="add the component main to apt's sources",
        )
    return int(number.group())


def _fetch_busybox(apt: Apt) -> bytes:
    """Fetch the program out of Debian's busybox-static."""
    record = apt.record("busybox-static")
    if record is None:
        raise DemoFailed(
            reason="Debian's archive has no package busybox-static",
            advice="add the component main to apt's sources",
        )
    archive = run(["dpkg-deb", "--fsys-tarfile", str(apt.download(record))], os.environ)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            if member.isfile() and member.name.endswith("bin/busybox"):
                content = tar.extractfile(member)
                if content is not None:
                    return content.read()
    raise DemoFailed(
        reason="Debian's busybox-static holds no bin/busybox",
        advice="report this with the release of Debian",
    )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
