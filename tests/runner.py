"""
Installs what the tests need on a Debian machine, and runs all of them.

    tests/run                   everything
    tests/run unit mypy         some environments of tox.ini

It needs nothing but Python's standard library, because it is what installs the
rest.  The last line it prints is counted from the lines that trial ended with; a
suite, a linter or a type check that failed in another way counts as one failure.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
ENVIRONMENTS = ("lint", "mypy", "unit", "fuzz", "docs", "integration", "end-to-end", "browser")
TOOLS = CHECKOUT / ".tox" / "tools"

PROGRAMS = {
    "nix-build": "nix-bin",
    "skopeo": "skopeo",
    "podman": "podman",
    "dockerd": "docker.io",
    "containerd": "containerd",
    "ctr": "containerd",
    "runc": "runc",
    "crun": "crun",
    "qemu-x86_64": "qemu-user",
    "busybox": "busybox-static",
    "debootstrap": "debootstrap",
    "git": "git",
    "zstd": "zstd",
    "setsid": "util-linux",
    "chromium": "chromium",
    "chromedriver": "chromium-driver",
    "systemd-analyze": "systemd",
    "openssl": "openssl",
}
"""Programs that the tests run, and the Debian packages that have them."""

_RESULT = re.compile(r"^(?:PASSED|FAILED)(?: \((?P<counts>[a-zA-Z0-9=, ]*)\))?\s*$")


@dataclass(frozen=True, kw_only=True)
class Tally:
    """How many tests ended how."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            passed=self.passed + other.passed,
            failed=self.failed + other.failed,
            skipped=self.skipped + other.skipped,
        )

    def __str__(self) -> str:
        skipped = f", {self.skipped} skipped" if self.skipped else ""
        return f"{self.passed} passed, {self.failed} failed{skipped}"


def main(arguments: list[str]) -> int:
    """Run the environments that were asked for, or all; the exit status."""
    unknown = sorted(set(arguments) - set(ENVIRONMENTS))
    if unknown:
        print(f"no such environment: {', '.join(unknown)}; there are {', '.join(ENVIRONMENTS)}")
        return 2
    chosen = [name for name in ENVIRONMENTS if name in arguments or not arguments]
    if {"integration", "end-to-end", "browser"} & set(chosen):
        _install_debian_packages()
    tox = _install_tox()
    # A package that is built again would keep modules that no longer exist.
    shutil.rmtree(CHECKOUT / "build", ignore_errors=True)

    total = Tally()
    lines = []
    for name in chosen:
        begun = time.monotonic()
        tally = _run(tox, name)
        total += tally
        lines.append(f"{name}: {tally} ({time.monotonic() - begun:.0f} s)")
    print("\n" + "\n".join(lines))
    print(total, flush=True)
    return 1 if total.failed else 0


def count(lines: Iterable[str], status: int) -> Tally:
    """
    What an environment's output says.

    :param lines: all of its lines.
    :param status: its exit status.
    """
    tally = Tally()
    for line in lines:
        result = _RESULT.match(line)
        if result:
            counts = dict(
                item.split("=", 1) for item in (result["counts"] or "").split(", ") if "=" in item
            )
            # Only the last such line is trial's own: a test may print one as well.
            tally = Tally(
                passed=int(counts.get("successes", 0)) + int(counts.get("expectedFailures", 0)),
                failed=int(counts.get("failures", 0))
                + int(counts.get("errors", 0))
                + int(counts.get("unexpectedSuccesses", 0)),
                skipped=int(counts.get("skips", 0)),
            )
    if status != 0 and tally.failed == 0:
        tally += Tally(failed=1)
    return tally


def _run(tox: Path, name: str) -> Tally:
    print(f"\n== {name}", flush=True)
    environ = {
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        # All clients are installed: one that is missing must not skip its tests.
        "NIXERY_REQUIRE_ENGINES": "1",
    }
    with subprocess.Popen(
        [str(tox), "run", "-e", name],
        cwd=CHECKOUT,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            sys.stdout.write(line)
            sys.stdout.flush()
            lines.append(line)
    return count(lines, process.returncode)


def _install_debian_packages() -> None:
    path = f"{os.environ['PATH']}:/usr/local/sbin:/usr/sbin:/sbin"
    missing = {
        package for program, package in PROGRAMS.items() if not shutil.which(program, path=path)
    }
    if missing:
        _apt_get(sorted(missing))


def _install_tox() -> Path:
    """The tox of a virtual environment of its own, made if it is not there."""
    tox = TOOLS / "bin" / "tox"
    if not tox.exists():
        try:
            import ensurepip  # noqa: F401, PLC0415  # Debian has it in a package of its own
        except ImportError:
            _apt_get(["python3-venv"])
        _call([sys.executable, "-m", "venv", "--clear", str(TOOLS)])
        pip = [str(TOOLS / "bin" / "python"), "-m", "pip", "--disable-pip-version-check"]
        _call([*pip, "install", "--quiet", "tox>=4.20"])
    return tox


def _apt_get(packages: list[str]) -> None:
    if os.geteuid() != 0:
        sys.exit(f"run this as root, or install first: apt-get install {' '.join(packages)}")
    # Another apt may be running, on a new machine the one that updates it.
    wait = ["-o", "DPkg::Lock::Timeout=300"]
    environ = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    _call(["apt-get", *wait, "--quiet", "update"], environ)
    _call(
        ["apt-get", *wait, "--quiet", "--yes", "install", "--no-install-recommends", *packages],
        environ,
    )


def _call(command: list[str], environ: Mapping[str, str] | None = None, tries: int = 3) -> None:
    """Run a command that needs a network, more than once if it fails."""
    for attempt in range(1, tries + 1):
        print("+", " ".join(command), flush=True)
        if not subprocess.run(
            command, env=environ, stdin=subprocess.DEVNULL, check=False
        ).returncode:
            return
        if attempt < tries:
            time.sleep(5 * attempt)
    sys.exit(f"failed {tries} times: {' '.join(command)}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
