"""
Installs what the tests need on a Debian machine, and runs them: see :data:`USAGE`.

It needs nothing but Python's standard library, because it is what installs the
rest.  The last line it prints is counted from the lines that trial ended with; a
suite, a linter or a type check that failed in another way counts as one failure.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bootstrap.children import Interrupted
from bootstrap.nixstore import store_fault
from bootstrap.packages import InstallationFailed, install_command, install_packages
from tests.environments import ENVIRONMENTS, shortages
from tests.lanes import Lane, run_lanes
from tests.programs import missing, packages
from tests.scratch import Scratch

CHECKOUT = Path(__file__).resolve().parent.parent
TOOLS = CHECKOUT / ".tox" / "tools"

FULL = "full"
"""Asks for the heavy tests, too."""

HEAVY = ", ".join(name for name, each in ENVIRONMENTS.items() if each.heavy)

USAGE = f"""\
usage: tests/run [--help] [{FULL}] [ENVIRONMENT...]

Runs the tests: all, or some environments of tox.ini. {FULL} adds the heavy ones: both
commands of the README in clean roots of Debian 12 and 13, each package of the demo set,
and {HEAVY}, which is not run otherwise unless it is named.

    {" ".join(ENVIRONMENTS)}

As root, this first installs the Debian packages that are missing, and all is run. Another
user is told the command that installs them; what needs root is then left out:
{", ".join(name for name, each in ENVIRONMENTS.items() if each.root)}.

Two environments run at a time where both are wanted: one that computes, and one that mostly
waits for container engines. The output of each is shown in one piece.

All environments need 6 GB of disk: half of it stays in .tox, half is for temporary files.
guest needs 1 GB more, which stays in ~/.cache/nixery-tests.
Python packages come from the index that pip is configured for.

The last line is "N passed, N failed", with ", N skipped" if tests were skipped. The exit
status is 0 if nothing failed, 1 if something did, and 2 if nothing was run.
"""

_RESULT = re.compile(r"^(?:PASSED|FAILED)(?: \((?P<counts>[a-zA-Z0-9=, ]*)\))?\s*$", re.MULTILINE)


class CannotRunError(Exception):
    """The tests cannot be run; the message is for the user."""


@dataclass(frozen=True, kw_only=True)
class Tally:
    """Counts of tests by their result."""

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


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """
    The result of an environment.

    :param tests: its tests, if it ran any.
    :param succeeded: whether all is well.
    """

    tests: Tally | None = None
    succeeded: bool

    @property
    def tally(self) -> Tally:
        """The counts that it adds to the last line: a failure that is no test's counts as one."""
        tally = self.tests or Tally()
        if not self.succeeded and not tally.failed:
            tally += Tally(failed=1)
        return tally

    def __str__(self) -> str:
        if self.tests is None:
            return "ok" if self.succeeded else "failed"
        return str(self.tally)


@dataclass(frozen=True)
class _Result:
    """
    The result of an environment, for the last lines.

    :param left: the names of files that it left in its temporary directory.
    """

    outcome: Outcome
    seconds: float
    left: Sequence[str]


def main(arguments: Sequence[str]) -> int:
    """Run the environments that were asked for, or all; the exit status."""
    if {"-h", "--help"} & set(arguments):
        print(USAGE, end="")
        return 0
    try:
        chosen = choose(arguments)
        check_disk(chosen)
        prepare(chosen)
        tox = _install_tox()
    except CannotRunError as error:
        print(f"tests/run: {error}", file=sys.stderr)
        return 2
    except InstallationFailed as error:
        print(f"{error.output}\ntests/run: {error.message}", file=sys.stderr)
        return 2
    except Interrupted as error:
        return 128 + error.number
    # A package that is built again would keep modules that no longer exist.
    shutil.rmtree(CHECKOUT / "build", ignore_errors=True)
    signal.signal(signal.SIGTERM, _exit)
    signal.signal(signal.SIGHUP, _exit)
    return _run_all(tox, chosen, full=FULL in arguments)


def choose(arguments: Sequence[str], *, root: bool | None = None) -> list[str]:
    """
    The environments to run.

    :param root: whether this is root; the process's own identity by default.
    :raises CannotRunError: there is no such environment, or it is for root alone.
    """
    root = os.geteuid() == 0 if root is None else root
    named = [argument for argument in arguments if argument != FULL]
    unknown = sorted(set(named) - set(ENVIRONMENTS))
    if unknown:
        raise CannotRunError(
            f"no such environment: {', '.join(unknown)}. There are {', '.join(ENVIRONMENTS)}."
        )
    chosen = []
    for name, environment in ENVIRONMENTS.items():
        if named and name not in named:
            continue
        if environment.heavy and not named and FULL not in arguments:
            continue
        if environment.root and not root:
            if named:
                raise CannotRunError(f"run {name} as root: {environment.root}.")
            print(f"{name} is left out: {environment.root}", flush=True)
            continue
        chosen.append(name)
    return chosen


def check_disk(chosen: Iterable[str]) -> None:
    """:raises CannotRunError: there is too little room for some environments."""
    full = shortages(chosen, CHECKOUT, Path(tempfile.gettempdir()))
    if full:
        raise CannotRunError("\n".join(["there is not enough room.", *full]))


def prepare(chosen: Iterable[str]) -> None:
    """
    See to what some environments need of the machine.

    :raises CannotRunError: something is missing, and this is not root or it cannot be
        installed.
    :raises InstallationFailed: the same, and apt-get has said why.
    """
    needed = {"venv", *(program for name in chosen for program in ENVIRONMENTS[name].programs)}
    lacking = missing(needed)
    tried: list[str] = []
    while lacking:
        print(f"missing: {', '.join(lacking)}", flush=True)
        wanted = packages(lacking)
        if os.geteuid() != 0:
            raise CannotRunError(
                "run this as root, or have root install them first:\n\n"
                f"    {install_command(wanted)}\n"
            )
        if wanted == tried:
            raise CannotRunError(f"still missing, though these are installed: {' '.join(wanted)}")
        # Where apt had no lists before, it may know better packages now.
        install_packages(wanted)
        lacking, tried = missing(lacking), wanted
    if "nix-build" in needed:
        fault = store_fault()
        if fault:
            raise CannotRunError(fault)


def count(output: str, status: int) -> Outcome:
    """
    Count the tests in an environment's output.

    :param output: all of it.
    :param status: its exit status.
    """
    tests = None
    # Only the last result is trial's own: a test may print one as well.
    for result in _RESULT.finditer(output):
        counts = dict(
            item.split("=", 1) for item in (result["counts"] or "").split(", ") if "=" in item
        )
        tests = Tally(
            passed=int(counts.get("successes", 0)) + int(counts.get("expectedFailures", 0)),
            failed=int(counts.get("failures", 0))
            + int(counts.get("errors", 0))
            + int(counts.get("unexpectedSuccesses", 0)),
            skipped=int(counts.get("skips", 0)),
        )
    return Outcome(tests=tests, succeeded=status == 0 and not (tests and tests.failed))


def _run_all(tox: Sequence[str], chosen: Sequence[str], *, full: bool) -> int:
    results: dict[str, _Result] = {}
    lanes = [
        _lane(tox, [name for name in chosen if ENVIRONMENTS[name].waits == waits], results, full)
        for waits in (False, True)
    ]
    run_lanes(lanes, _show)
    print()
    total = Tally()
    for name in chosen:
        result = results[name]
        total += result.outcome.tally
        print(f"{name}: {result.outcome} ({result.seconds:.0f} s)")
        if result.left:
            print(f"{name} left in the temporary directory: {', '.join(result.left)}")
    print(total, flush=True)
    return 1 if total.failed else 0


def _show(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _lane(
    tox: Sequence[str], names: Iterable[str], results: dict[str, _Result], full: bool
) -> Lane:
    """Start environments one after the other, and note their results."""
    for name in names:
        begun = time.monotonic()
        with Scratch(Path(tempfile.gettempdir())) as scratch:
            finished = yield f"\n== {name}\n", _start(tox, name, scratch, full=full)
            outcome = count(finished.output, finished.status)
            results[name] = _Result(outcome, time.monotonic() - begun, scratch.left())
        if outcome.succeeded:
            # Hundreds of MB; after a failure they may tell why.
            shutil.rmtree(CHECKOUT / ".tox" / name / "tmp", ignore_errors=True)


def _start(
    tox: Sequence[str], name: str, scratch: Scratch, *, full: bool
) -> subprocess.Popen[bytes]:
    environ = {
        **os.environ,
        "PYTHONUNBUFFERED": "1",
        "TMPDIR": str(scratch.path),
        # All clients are installed: one that is missing must not skip its tests.
        "NIXERY_REQUIRE_ENGINES": "1",
    }
    if full:
        environ["NIXERY_TEST_FULL"] = "1"
    return subprocess.Popen(
        [*tox, "run", "-e", name],
        cwd=CHECKOUT,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=(scratch.lock,),
        # Ctrl-C is for this process, which asks tox to end, once.
        start_new_session=True,
    )


def _exit(number: int, _: object) -> None:
    """Handle a signal: end, and clean up on the way."""
    signal.signal(number, signal.SIG_IGN)
    sys.exit(128 + number)


def _install_tox() -> list[str]:
    """The tox of a virtual environment of its own, which is made unless one there works."""
    python = str(TOOLS / "bin" / "python")
    tox = [python, "-m", "tox"]
    try:
        works = not subprocess.run([*tox, "--version"], capture_output=True, check=False).returncode
    except OSError:
        works = False
    if not works:
        _call([sys.executable, "-m", "venv", "--clear", str(TOOLS)])
        pip = [python, "-m", "pip", "--disable-pip-version-check"]
        _call([*pip, "install", "--quiet", "tox>=4.20"])
    return tox


def _call(command: Sequence[str], tries: int = 3) -> None:
    """
    Run a command that needs a network, more than once if it fails.

    :raises CannotRunError: it failed each time.
    """
    for attempt in range(1, tries + 1):
        print("+", " ".join(command), flush=True)
        if not subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode:
            return
        if attempt < tries:
            time.sleep(5 * attempt)
    raise CannotRunError(f"failed {tries} times: {' '.join(command)}")


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
