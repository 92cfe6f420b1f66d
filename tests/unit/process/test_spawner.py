"""Children, as far as they can be told without any: events in, results out."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from nixery.process.errors import CommandMissing, OutputTooLarge, ProcessFailed, ProcessTimedOut
from nixery.process.protocol import STDERR_TAIL_BYTES
from nixery.process.spawner import Command, ProcessResult, ProcessSpawner


class FakeTransport:
    """A process that is not there: it has no number, and no signal reaches it."""

    pid = None

    def __init__(self) -> None:
        self.closed: list[str] = []

    def closeStdin(self) -> None:  # noqa: N802  # Twisted's name
        self.closed.append("stdin")

    def loseConnection(self) -> None:  # noqa: N802  # Twisted's name
        self.closed.append("all")


class FakeReactor:
    """Spawns nothing and remembers what it was asked to spawn."""

    def __init__(self) -> None:
        self.transport = FakeTransport()
        self.error: OSError | None = None

    def spawnProcess(
        self,
        protocol: ProcessProtocol,
        executable: str,
        args: Sequence[str],
        env: Mapping[str, str],
        /,
        *,
        childFDs: Mapping[int, str],  # noqa: N803  # Twisted's name
    ) -> None:
        if self.error is not None:
            raise self.error
        self.child, self.executable, self.args, self.env = protocol, executable, args, env
        protocol.makeConnection(cast(Any, self.transport))

    def end(self, status: int | None = 0, signal: int | None = None) -> None:
        """The child exits, and its pipes are closed."""
        reason = Failure(
            ProcessDone(0) if status == 0 else ProcessTerminated(status, signal, status)
        )
        self.child.processExited(reason)
        self.child.processEnded(reason)


class SpawnerTests(SynchronousTestCase):
    """Tests of the handling of a child's events."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.reactor = FakeReactor()
        self.spawner = ProcessSpawner(self.reactor, self.clock, kill_delay=5, drain_timeout=3)
        self.command = Command(
            argv=("sh", "-c", "true"), environment={"PATH": os.environ["PATH"], "A": "b"}
        )

    def run_command(self, **changes: Any) -> Deferred[ProcessResult]:
        return Deferred.fromCoroutine(self.spawner.run(evolve(self.command, **changes)))

    def test_child_runs_in_a_group_of_its_own(self) -> None:
        """
        A child runs in a group of its own and no longer than we do, in the given
        environment and nothing else.
        """
        self.run_command()
        setsid, setpriv, shell = (shutil.which(name) for name in ("setsid", "setpriv", "sh"))
        self.assertEqual(self.reactor.executable, setsid)
        self.assertEqual(
            self.reactor.args,
            [setsid, setpriv, "--pdeathsig", "TERM", "--", shell, "-c", "true"],
        )
        self.assertEqual(self.reactor.env, {"PATH": os.environ["PATH"], "A": "b"})
        self.assertEqual(self.reactor.transport.closed, ["stdin"])

    def test_child_can_be_sent_sigkill_when_the_daemon_dies(self) -> None:
        """A child that might ignore SIGTERM can be sent SIGKILL when the daemon dies."""
        self.run_command(parent_death_signal=signal.SIGKILL)
        self.assertEqual(self.reactor.args[2:4], ["--pdeathsig", "KILL"])

    def test_child_can_have_a_low_priority(self) -> None:
        """A child can have a low priority, and runs without where there is no ``nice``."""
        nice, shell = shutil.which("nice"), shutil.which("sh")
        self.run_command(low_priority=True)
        script, *rest = self.reactor.args[self.reactor.args.index("-c") + 1 :]
        self.assertEqual([nice, shell, "-c", "true"], rest)
        self.assertIn("/proc/self/autogroup", script)
        programs = Path(self.mktemp()).absolute()
        programs.mkdir()
        for name in ("setsid", "sh"):
            program = shutil.which(name)
            assert program is not None
            (programs / name).symlink_to(program)
        self.run_command(environment={"PATH": str(programs)}, low_priority=True)
        self.assertEqual(self.reactor.args, [f"{programs}/setsid", f"{programs}/sh", "-c", "true"])

    def test_child_runs_without_setpriv_where_there_is_none(self) -> None:
        """A child runs without setpriv where there is none."""
        programs = Path(self.mktemp()).absolute()
        programs.mkdir()
        for name in ("setsid", "sh"):
            program = shutil.which(name)
            assert program is not None
            (programs / name).symlink_to(program)
        self.run_command(environment={"PATH": str(programs)})
        self.assertEqual(self.reactor.args, [f"{programs}/setsid", f"{programs}/sh", "-c", "true"])

    def test_all_of_standard_output_is_returned_and_no_timer_stays(self) -> None:
        """All of standard output is returned, and no timer stays."""
        result = self.run_command(timeout=10.0)
        self.reactor.child.childDataReceived(1, b"one ")
        self.reactor.child.childDataReceived(1, b"\xfftwo")
        self.reactor.child.childDataReceived(2, b"\x1b[31mcareful\x1b[0m\n")
        self.reactor.end()
        self.assertEqual(
            self.successResultOf(result), ProcessResult(stdout=b"one \xfftwo", stderr="careful\n")
        )
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_handler_gets_standard_output_within_its_limit(self) -> None:
        """A handler of a child has its standard input and output, within the output limit."""
        told: list[object] = []

        class Handler:
            def started(self, stdin: object, /) -> None:
                told.append(stdin)

            def data_received(self, data: bytes, /) -> None:
                told.append(data)
                if data == b"odd":
                    raise ValueError(data)

        result = self.run_command(stdio_handler=Handler(), stdout_limit=6)
        self.assertEqual([self.reactor.transport], told)
        self.assertEqual([], self.reactor.transport.closed)
        for data in (b"one", b"odd"):
            self.reactor.child.childDataReceived(1, data)
        self.assertEqual([b"one", b"odd"], told[1:])
        self.assertEqual(1, len(self.flushLoggedErrors(ValueError)))
        self.reactor.child.childDataReceived(1, b"!")
        self.assertEqual(3, len(told))
        self.reactor.end(status=None, signal=signal.SIGTERM)
        self.failureResultOf(result, OutputTooLarge)

    def test_another_status_is_failure_with_command_and_tail_of_its_errors(self) -> None:
        """Another status is a failure, with the command and the tail of its errors."""
        result = self.run_command()
        self.reactor.child.childDataReceived(2, b"a" * STDERR_TAIL_BYTES)
        self.reactor.child.childDataReceived(2, b"b" * STDERR_TAIL_BYTES + b"end")
        self.reactor.end(status=3)
        output = self.failureResultOf(result, ProcessFailed).value.output
        self.assertEqual((output.argv, output.status, output.signal), (self.command.argv, 3, None))
        self.assertEqual(output.stderr, "b" * (STDERR_TAIL_BYTES - 3) + "end")

    def test_child_that_a_signal_ended_has_failed(self) -> None:
        """A child that a signal ended has failed."""
        result = self.run_command()
        self.reactor.end(status=None, signal=9)
        output = self.failureResultOf(result, ProcessFailed).value.output
        self.assertEqual((output.status, output.signal), (None, 9))

    def test_child_that_fails_after_its_deadline_was_stopped_at_it(self) -> None:
        """A child that fails after its deadline was stopped at it, and not before."""
        result = self.run_command(timeout=10.0)
        self.clock.advance(9.9)
        self.reactor.child.childDataReceived(2, b"busy")
        self.clock.advance(0.1)
        self.assertNoResult(result)
        self.reactor.end(status=None, signal=15)
        failure = self.failureResultOf(result, ProcessTimedOut).value
        self.assertEqual((failure.seconds, failure.output.stderr), (10.0, "busy"))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_failure_before_deadline(self) -> None:
        """A failure before the deadline is a failure."""
        result = self.run_command(timeout=10.0)
        self.clock.advance(9.9)
        self.reactor.end(status=1)
        self.failureResultOf(result, ProcessFailed)

    def test_success_at_deadline(self) -> None:
        """A child that exits successfully after the timeout's signal has succeeded."""
        result = self.run_command(timeout=10.0)
        self.clock.advance(10)
        self.reactor.end()
        self.successResultOf(result)

    def test_output_beyond_the_limit_stops_the_child(self) -> None:
        """Output beyond the limit stops the child; none of it is kept meanwhile."""
        result = self.run_command(stdout_limit=10)
        self.reactor.child.childDataReceived(1, b"0123456789")
        self.assertEqual(self.clock.getDelayedCalls(), [])
        for _ in range(3):
            self.reactor.child.childDataReceived(1, b"x")
        self.assertEqual(len(self.clock.getDelayedCalls()), 1)
        self.assertEqual(self.reactor.child.stdout, [])  # type: ignore[attr-defined]  # the fake's own
        self.reactor.end(status=None, signal=15)
        self.assertEqual(self.failureResultOf(result, OutputTooLarge).value.limit, 10)

    def test_lines_are_put_together_from_whatever_pieces_they_come_in(self) -> None:
        """Lines are put together from whatever pieces they come in."""
        lines: list[bytes] = []
        self.run_command(on_stderr_line=lines.append)
        for piece in (b"o", b"ne\ntwo\n\nth", b"ree"):
            self.reactor.child.childDataReceived(2, piece)
        self.assertEqual(lines, [b"one", b"two", b""])
        self.reactor.end()
        self.assertEqual(lines, [b"one", b"two", b"", b"three"])

    def test_listener_that_fails_is_logged(self) -> None:
        """A listener that fails is logged; the child and its other lines are not hurt."""
        lines: list[bytes] = []

        def listen(line: bytes) -> None:
            lines.append(line)
            raise ZeroDivisionError

        result = self.run_command(on_stderr_line=listen)
        self.reactor.child.childDataReceived(2, b"one\ntwo\n")
        self.reactor.end()
        self.successResultOf(result)
        self.assertEqual(lines, [b"one", b"two"])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)

    def test_cancellation_takes_effect_when_the_child_has_ended(self) -> None:
        """A cancellation takes effect when the child has ended."""
        result = self.run_command(timeout=10.0)
        result.cancel()
        self.assertNoResult(result)
        self.reactor.end(status=None, signal=15)
        self.failureResultOf(result, CancelledError)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_cancelling_again_does_not_end_the_wait_either(self) -> None:
        """Cancelling again does not end the wait either."""
        result = self.run_command()
        result.cancel()
        result.cancel()
        self.assertNoResult(result)
        self.reactor.end(status=None, signal=9)
        self.failureResultOf(result, CancelledError)

    def test_pipes_held_open(self) -> None:
        """Pipes that outlive the child are closed a while after its end."""
        result = self.run_command()
        self.reactor.child.childDataReceived(1, b"whole")
        done = Failure(ProcessDone(0))
        self.reactor.child.processExited(done)
        self.clock.advance(2.9)
        self.assertNotIn("all", self.reactor.transport.closed)
        self.clock.advance(0.1)
        self.assertIn("all", self.reactor.transport.closed)
        self.assertNoResult(result)
        self.reactor.child.processEnded(done)
        self.assertEqual(self.successResultOf(result).stdout, b"whole")

    def test_program_that_is_not_on_the_path_of_the_environment_is_an_error(self) -> None:
        """A program that is not on the PATH of the environment is an error."""
        empty = self.mktemp()
        Path(empty).mkdir()
        missing: list[tuple[str, Callable[[], Deferred[ProcessResult]]]] = [
            ("no-such-program", lambda: self.run_command(argv=("no-such-program",))),
            ("setsid", lambda: self.run_command(environment={"PATH": empty})),
        ]
        for program, run in missing:
            self.assertEqual(self.failureResultOf(run(), CommandMissing).value.command, program)

    def test_child_that_the_system_refuses_to_start_has_failed(self) -> None:
        """A child that the system refuses to start has failed."""
        self.reactor.error = OSError(11, "Resource temporarily unavailable")
        failure = self.failureResultOf(self.run_command(), ProcessFailed).value
        self.assertIn("Resource temporarily unavailable", failure.message)
        self.assertIn("did not start", failure.message)
