"""
Faults, on purpose and at a known moment.

A Nix store that is a test's own, so that a garbage collection deletes nothing of
other users; Nix commands that wait where a test wants to step in between; and a
registry that stops, or waits, at a given step of its own.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import sys
from contextlib import suppress
from pathlib import Path

from tests.end_to_end.case import EndToEndCase
from tests.end_to_end.daemon import Daemon, private_environment, single_user_nix
from tests.end_to_end.images import CheckedImage, check_image
from tests.end_to_end.processes import Finished, private_directory, run, wait_until

__all__ = ["ChaosCase", "HeldCommands", "PrivateNix", "Saboteur"]

HELD_REPL = Path(__file__).with_name("held_repl.py")


class ChaosCase(EndToEndCase):
    """A test whose registries are checked for what they leave."""

    def check(self, daemon: Daemon, name: str) -> CheckedImage:
        """Pull an image, which has to be whole."""
        answer = daemon.registry.manifest(name)
        self.assertEqual(answer.status, 200, answer.body)
        return check_image(answer.body, lambda digest: daemon.registry.blob(name, digest))

    def check_tidy(self, daemon: Daemon) -> None:
        """
        No root and no half-written file of a registry is left, as soon as it has
        nothing to do any more: what is noted of a build is written after its answer.
        """
        places = (daemon.directory / "state" / "gcroots", daemon.storage / "tmp")
        wait_until(
            lambda: not any(any(place.iterdir()) for place in places),
            f"what is left in {' and '.join(map(str, places))} to be removed",
        )


class PrivateNix:
    """A Nix store that no other process sees: a mount of its own on ``/nix``."""

    def __init__(self) -> None:
        self.directory = private_directory("nix")
        self._home = private_directory("home")
        # The command that it runs sees the store; the process that started it does not.
        self.enter = (
            *("unshare", "--mount", "sh", "-euc"),
            'mount --bind "$0" /nix; exec "$@"',
            str(self.directory),
        )
        self.run("nix-store", "--version")

    def run(self, *argv: str) -> Finished:
        """A command of Nix's, which has to succeed."""
        return self._finish(*argv).checked()

    def _finish(self, *argv: str) -> Finished:
        environ = {**private_environment(self._home), **single_user_nix()}
        return run([*self.enter, *argv], environ=environ)

    def collect_garbage(self) -> None:
        """Remove all that nothing protects."""
        finished = self._finish("nix-collect-garbage")
        # Nix 2.8's own collector aborts now and then, while others register roots.
        while "terminate called without an active exception" in finished.stderr:
            finished = self._finish("nix-collect-garbage")
        finished.checked()

    def remove(self, name: str) -> None:
        """Remove the store path of a name, although it is in use."""
        (path,) = (path for path in self.paths(name) if path.endswith(f"-{name}"))
        self.run("nix-store", "--delete", "--ignore-liveness", path)

    def paths(self, name: str) -> list[str]:
        """The store paths whose names begin with ``name``."""
        below = (self.directory / "store").glob(f"*-{name}*")
        return sorted(f"/nix/store/{path.name}" for path in below)


class HeldCommands:
    """
    Commands that stand before Nix's own on a registry's path, and wait when they
    are told to.  A command is called by its name and its first argument, and ``nix repl``
    whenever it is asked.
    """

    def __init__(self) -> None:
        directory = private_directory("commands")
        self._journal = directory / "journal"
        self._journal.touch()
        self._held = directory / "held"
        self._held.mkdir()
        commands = directory / "bin"
        commands.mkdir()
        self.path = str(commands)
        for name in ("nix-instantiate", "nix-build", "nix-store"):
            script = commands / name
            script.write_text(
                "#!/bin/sh\n"
                f'echo "{name} $1" >> {self._journal}\n'
                f'while [ -e "{self._held}/{name} $1" ]; do sleep 0.02; done\n'
                f'echo "{name} $1 goes on" >> {self._journal}\n'
                f'exec {shutil.which(name)} "$@"\n'
            )
            script.chmod(0o755)
        self._repls = directory / "repls"
        self._repls.mkdir()
        self._lock = directory / "lock"
        self._lock.touch()
        program = commands / "nix"
        program.write_text(
            f'#!/bin/sh\nexec {sys.executable} {HELD_REPL} {directory} {shutil.which("nix")} "$@"\n'
        )
        program.chmod(0o755)

    def environ(self) -> dict[str, str]:
        """The environment that lets a registry find the commands."""
        return {"PATH": f"{self.path}:{private_environment(Path('/'))['PATH']}"}

    def hold(self, command: str) -> None:
        """Let a command wait from now on."""
        (self._held / command).touch()

    def wait_for(self, command: str) -> None:
        """Wait until a command waits."""
        wait_until(lambda: self.waits(command), f"{command} to be called")

    def let(self, command: str) -> None:
        """Let a command go on, and wait until it does: it may be held again then."""
        (self._held / command).unlink()
        wait_until(lambda: not self.waits(command), f"{command} to go on")

    def kill_evaluators(self) -> None:
        """Kill what keeps package sets, and with them the derivations that were written."""
        for each in self._repls.iterdir():
            with suppress(ProcessLookupError):
                os.kill(int(each.name), signal.SIGKILL)
            wait_until(lambda: not Path("/proc", each.name).exists(), "an evaluator to end")  # noqa: B023  # called before the loop goes on
            each.unlink()

    def evaluated(self) -> bool:
        """Tell whether an evaluation has begun, and none goes on."""
        said = self._journal.read_text().splitlines()
        if "nix repl goes on" not in said:
            return False
        with self._lock.open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True

    def forget(self, command: str) -> None:
        """Hold a command no longer, whose waiting processes are dead."""
        (self._held / command).unlink()
        self._journal.write_text("")

    def waits(self, command: str) -> bool:
        """Tell whether a command waits."""
        said = self._journal.read_text().splitlines()
        return said.count(command) > said.count(f"{command} goes on")


class Saboteur:
    """
    A registry's Python that counts its own steps, and ends or waits before one.

    :param steps: names of audit events, each with the beginning of the path that it
        is about, the first one if there are two: ``("os.rename", "/some/where/")``.
    """

    def __init__(self, *steps: tuple[str, str]) -> None:
        self._directory = private_directory("sabotage")
        self._journal = self._directory / "journal"
        self._gate = self._directory / "gate"
        (self._directory / "steps").write_text(json.dumps(steps))
        script = Path(__file__).with_name("crash_hook.py")
        self.interpreter = (sys.executable, str(script), str(self._directory))
        self.order("count")

    def order(self, what: str, at: int = 0) -> None:
        """
        Say what the registry shall do from now on.

        :param what: ``count`` its steps, ``kill`` itself, or ``wait``.
        :param at: before which step, the next one being 1.
        """
        order = self._directory / "next"
        order.write_text(f"{what} {at}")
        self._gate.unlink(missing_ok=True)
        self._journal.write_text("")
        order.rename(self._directory / "order")

    def steps(self) -> list[str]:
        """The steps that the registry has come to since it got its order."""
        return self._journal.read_text().splitlines()

    def wait_for(self, step: int) -> None:
        """Wait until the registry has come so far."""
        wait_until(lambda: len(self.steps()) >= step, f"step {step}")

    def let(self) -> None:
        """Let a registry that waits go on."""
        self._gate.touch()
