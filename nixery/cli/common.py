"""
Code shared by the commands that do the daemon's work without it: they run, end and report errors
alike, and build packages from a name.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Coroutine, Mapping
from time import monotonic
from typing import Any

from attrs import frozen
from twisted.internet.defer import CancelledError, Deferred

from nixery.builds.candidates import find_candidates, visible_candidates
from nixery.builds.realisation import realise as realise_with_retries
from nixery.cli.console import error_line, print_note, print_warning
from nixery.cli.errors import USAGE_ERRORS, describe_os_error
from nixery.cli.progress_bar import ProgressBar
from nixery.config.config import Config
from nixery.config.errors import ConfigError
from nixery.config.load import load_config
from nixery.errors import NixeryError
from nixery.image.errors import PackagesRefused
from nixery.image.names import ImageName
from nixery.image.packages import Evaluation
from nixery.nix.interface import Nix, Realisation
from nixery.nix.progress import Phase, Progress
from nixery.runtime.workers import WorkerPool
from nixery.sources.source import PackageSet

__all__ = [
    "FAILURE",
    "INTERRUPTED",
    "USAGE",
    "BarProgress",
    "Command",
    "NullProgress",
    "evaluate",
    "realise",
]

USAGE = 2
FAILURE = 1
INTERRUPTED = 130

THREADS = 4


@frozen(kw_only=True)
class Command:
    """
    Runs a command's work on the reactor.

    :param name: its name, ``nixery-layers``.
    """

    name: str

    def main(self, body: Callable[[], int | None]) -> None:
        """
        Run all of the command, and end the process.

        Exits with the status that the body returns, or with 1 and a message if something is wrong
        or could not be done; with 2 if it was called wrongly, and with 130 after an interrupt.
        """
        try:
            try:
                status: object = body()
            except SystemExit as end:
                status = end.code
            # Here, and not at the end of the interpreter, which would print a traceback.
            sys.stdout.flush()
        except (KeyboardInterrupt, NixeryError, OSError) as error:
            status = self._report(error)
        sys.exit(status)  # type: ignore[arg-type]  # as SystemExit.code

    # Any: the global reactor has no type.
    def run(
        self, reactor: Any, work: Callable[[WorkerPool], Coroutine[Deferred[Any], Any, None]]
    ) -> Deferred[None]:
        """
        Do the work, with a pool of threads; for :func:`nixery.runtime.reactor_time.run_reactor`.

        An interrupt cancels the work, and the process waits until its children are gone. Failures
        are reported on standard error, and by the exit status.
        """
        pool = WorkerPool(self.name, THREADS, reactor)
        finished: Deferred[None] = Deferred()

        async def run_and_exit() -> None:
            pool.startService()
            try:
                await work(pool)
            except (CancelledError, NixeryError, OSError) as error:
                sys.exit(self._report(error))
            finally:
                await pool.stopService()
                finished.callback(None)

        task = Deferred.fromCoroutine(run_and_exit())

        def stop() -> Deferred[None]:
            task.cancel()
            return finished

        reactor.addSystemEventTrigger("before", "shutdown", stop)
        return task

    def load_config(self, given: Mapping[str, object], environ: Mapping[str, str]) -> Config:
        """
        Read the configuration, and print warnings of deprecated settings on standard error.

        :raises ConfigError: the configuration cannot be used.
        """
        config = load_config(given, environ)
        for warning in config.warnings:
            print_warning(self.name, warning.describe())
        return config

    def _report(self, error: BaseException) -> int:
        """Print what went wrong on standard error; return the exit status."""
        if isinstance(error, CancelledError | KeyboardInterrupt):
            return INTERRUPTED
        if isinstance(error, OSError):
            _discard_unwritable_output()
        if not isinstance(error, BrokenPipeError):
            text = describe_os_error(error) if isinstance(error, OSError) else str(error)
            print_note(error_line(self.name, text, sys.stderr))
        return USAGE if isinstance(error, (ConfigError, *USAGE_ERRORS)) else FAILURE


async def evaluate(nix: Nix, package_set: PackageSet, name: ImageName) -> Evaluation:
    """
    Evaluate the packages of an image.

    :raises NixeryError: they cannot be evaluated; names that may have been meant are told.
    """
    try:
        return await nix.evaluate(package_set, name.system, name.package_requests)
    except PackagesRefused as error:
        problems = find_candidates(error.problems, monotonic)
        raise PackagesRefused(problems=tuple(map(visible_candidates, problems))) from None


async def realise(
    nix: Nix, package_set: PackageSet, name: ImageName, progress: Progress
) -> tuple[Evaluation, Realisation]:
    """
    Build the packages of an image, and keep them even if a garbage collection runs meanwhile.

    :raises NixeryError: they cannot be built.
    """

    async def fetch() -> PackageSet:
        return package_set

    evaluation = await evaluate(nix, package_set, name)
    realisation, evaluation = await realise_with_retries(nix, fetch, name, evaluation, progress)
    return evaluation, realisation


class NullProgress:
    """Implements :class:`nixery.nix.progress.Progress`, and prints nothing."""

    def phase(self, phase: Phase, /) -> None:
        pass

    def count(self, phase: Phase, done: int, expected: int, unit: str, /) -> None:
        pass

    def derivation(self, derivation: str, /) -> None:
        pass

    def derivation_phase(self, derivation: str, phase: str, /) -> None:
        pass

    def derivation_ended(self, derivation: str, succeeded: bool, /) -> None:
        pass

    def log(self, line: str, derivation: str, /) -> None:
        pass


class BarProgress(NullProgress):
    """
    Shows the phases of a build, and what is counted in them.

    :param bar: shows them.
    """

    def __init__(self, bar: ProgressBar) -> None:
        self._bar = bar

    def phase(self, phase: Phase, /) -> None:
        self._bar.start(phase.value)

    def count(self, _phase: Phase, done: int, expected: int, _unit: str, /) -> None:
        self._bar.update(done, expected)


def _discard_unwritable_output() -> None:
    """Keep the interpreter from complaining at its end that nobody reads the output."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
