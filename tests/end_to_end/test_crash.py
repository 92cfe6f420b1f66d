"""
A registry that ends at the worst moment: nothing is left of it, the next one starts,
and the same pull succeeds.
"""

from __future__ import annotations

import contextlib
import os
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from signal import SIGTERM
from types import NoneType

from tests.end_to_end.daemon import Daemon
from tests.end_to_end.fault_injection import ChaosCase, HeldCommands, Saboteur
from tests.end_to_end.package_sets import WatchedSet
from tests.end_to_end.processes import private_directory, wait_until
from tests.end_to_end.wire import Answer

COMMANDS = (
    "nix repl",
    "nix-store --serve",
    "nix-build --log-format",
    "nix-store --query",
    "nix-store --dump-db",
)
"""The commands that are run for an image that has to be built."""

EVALUATING = 0.3
"""Seconds of processor time that starting a process does not take."""

SAMPLE = 7
"""Of the steps in which an image is stored, how many are tried in one run."""


class CrashCase(ChaosCase):
    """A registry that is brought to a moment, and ended then."""

    def setUp(self) -> None:
        super().setUp()
        self.packages = WatchedSet()
        self.directory = private_directory("crashing")
        self.storage = self.directory / "state" / "storage"

    def start(
        self,
        interpreter: Sequence[str] = (sys.executable,),
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self.daemon = Daemon(
            self.packages.path,
            directory=self.directory,
            interpreter=interpreter,
            environ=environ,
            options=["--shutdown-timeout=0"],
        ).start()
        self.addCleanup(self.daemon.kill)

    @contextlib.contextmanager
    def asking(self, name: str) -> Iterator[Future[Answer]]:
        """Ask for an image meanwhile."""
        with ThreadPoolExecutor(1) as pool:
            yield pool.submit(self.daemon.registry.manifest, name)

    def wait_for_evaluation(self) -> None:
        """Wait until one has been at it for a while: a process that waits has done nothing."""
        wait_until(
            lambda: any(
                "repl" in each and _seconds(each.partition(":")[0]) > EVALUATING
                for each in self.processes()
            ),
            "an evaluation to begin",
        )

    def drafts(self) -> list[Path]:
        return list((self.storage / "tmp").iterdir())

    def processes(self) -> list[str]:
        """Find the registry's processes, itself included, by their environment."""
        marks = [str(each).encode() for each in (self.packages.directory, self.directory)]
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                environ = (process / "environ").read_bytes()
                command = (process / "cmdline").read_bytes()
            except OSError:
                continue
            if any(mark in environ for mark in marks):
                found.append(f"{process.name}: {command!r}")
        return found


def _seconds(process: str) -> float:
    """The processor time that a process has used; none when it has ended."""
    try:
        fields = (Path("/proc") / process / "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class KillTests(CrashCase):
    """A process that is killed, as by a power failure."""

    def check_recovery(self, name: str) -> None:
        """Nothing of the one that was killed runs on, and the next one does its work."""
        self.wait_for_end("what it had started")
        self.daemon.start()
        self.check_tidy(self.daemon)
        self.check(self.daemon, name)
        self.check_tidy(self.daemon)

    def wait_for_end(self, what: str) -> None:
        wait_until(lambda: self.processes() == [], f"{what} to end", seconds=20)

    def kill_while_asked(self, name: str, ready: Callable[[], object]) -> None:
        with self.asking(name) as asked:
            ready()
            self.daemon.kill()
            self.assertIsInstance(asked.exception(), OSError)

    def test_killed_before_any_of_nixs_commands(self) -> None:
        """Killed before any of Nix's commands."""
        commands = HeldCommands()
        self.start(environ=commands.environ())
        for number, command in enumerate(COMMANDS):
            commands.hold(command)
            self.kill_while_asked(f"guest-{number}", lambda: commands.wait_for(command))  # noqa: B023  # called before the loop goes on
            commands.forget(command)
            self.check_recovery(f"guest-{number}")

    def test_killed_during_evaluation_that_heeds_no_signal_which_it_could_ignore(self) -> None:
        """Killed during an evaluation that heeds no signal which it could ignore."""
        self.start()
        self.kill_while_asked("stubborn", self.wait_for_evaluation)
        self.check_recovery("plain")

    def test_killed_in_the_middle_of_a_layer(self) -> None:
        """Killed in the middle of a layer."""
        saboteur = Saboteur(("open", "/nix/store/"))
        self.start(saboteur.interpreter)
        # A start reads a file of the store, too.
        saboteur.order("wait", 1)
        self.kill_while_asked("large", lambda: saboteur.wait_for(1))
        self.assertNotEqual(self.drafts(), [])
        saboteur.order("count")
        self.check_recovery("large")

    def test_killed_between_any_two_steps_of_storing(self) -> None:
        """Killed between two of the steps in which an image is stored, any two of them."""
        changes = ("os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink")
        saboteur = Saboteur(*((change, str(self.directory)) for change in changes))
        self.start(saboteur.interpreter)
        # The first image is not like the others: it makes directories, and packs what
        # the others have in common with it.
        self.check(self.daemon, "guest-0")
        self.daemon.stop()
        self.daemon.start()
        saboteur.order("count")
        self.check(self.daemon, "guest-1")
        # The last steps come after the answer, and the registry does not end before them.
        self.daemon.stop()
        steps = saboteur.steps()
        self.assertGreater(len(steps), 2 * SAMPLE, steps)
        self.daemon.start()
        sample = sorted({1, len(steps), *random.sample(range(2, len(steps)), SAMPLE - 2)})
        for number, step in enumerate(sample, 2):
            saboteur.order("kill", step)
            with self.asking(f"guest-{number}") as asked:
                lost = asked.exception()
                self.assertIsInstance(lost, (OSError, NoneType))
            if lost is None:
                # The last steps come after an answer that is whole, at the latest when it ends.
                # One less may come than before: two threads may make the same directory.
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.daemon.pid, SIGTERM)
            self.wait_for_end(f"the registry at step {step}, one of {steps},")
            saboteur.order("count")
            self.check_recovery(f"guest-{number}")


class StopTests(CrashCase):
    """A process that is told to stop."""

    def check_end(self, answer: Answer) -> None:
        self.assertEqual(answer.status, 503)
        self.assertEqual(self.processes(), [])
        self.check_tidy(self.daemon)
        self.daemon.start()
        self.check(self.daemon, "large")

    def test_stopped_before_any_of_nixs_commands(self) -> None:
        """Stopped before any of Nix's commands."""
        commands = HeldCommands()
        self.start(environ=commands.environ())
        for number, command in enumerate(COMMANDS):
            commands.hold(command)
            with self.asking(f"guest-{number}") as asked:
                commands.wait_for(command)
                self.daemon.stop()
                answer = asked.result()
            commands.forget(command)
            self.assertEqual(answer.status, 503, command)
            self.assertEqual(self.processes(), [])
            self.check_tidy(self.daemon)
            self.daemon.start()
        self.check(self.daemon, "large")

    def test_stopped_during_an_evaluation_that_does_not_heed_the_first_signal(self) -> None:
        """Stopped during an evaluation that does not heed the first signal."""
        self.start()
        with self.asking("stubborn") as asked:
            self.wait_for_evaluation()
            self.daemon.stop()
            self.check_end(asked.result())

    def test_stopped_in_the_middle_of_a_layer(self) -> None:
        """Stopped in the middle of a layer."""
        saboteur = Saboteur(("open", "/nix/store/"))
        self.start(saboteur.interpreter)
        # A start reads a file of the store, too.
        saboteur.order("wait", 1)
        with self.asking("large") as asked, ThreadPoolExecutor(1) as pool:
            saboteur.wait_for(1)
            self.assertNotEqual(self.drafts(), [])
            stopped = pool.submit(self.daemon.stop)
            wait_until(lambda: not self.daemon.registry.answers(), "it to listen no more")
            saboteur.let()
            stopped.result()
            saboteur.order("count")
            self.check_end(asked.result())
