"""Real children: groups, signals and pipes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock, deferLater
from twisted.trial.unittest import TestCase

from nixery.process.errors import ProcessFailed, ProcessTimedOut
from nixery.process.spawner import Command, ProcessResult, ProcessSpawner

ENVIRONMENT = {"PATH": os.environ["PATH"]}


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            # Its present parent may not have reaped it yet.
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    # Both are possible, since it may end between opening and reading.
    except (FileNotFoundError, ProcessLookupError):
        return False


async def wait_until_gone(pid: int) -> None:
    """Fails by the test's own timeout."""
    while is_alive(pid):
        await deferLater(cast(Any, reactor), 0.01)


class Announced:
    """The first line of a child's standard error, when it comes."""

    def __init__(self) -> None:
        self.line: Deferred[bytes] = Deferred()

    def __call__(self, line: bytes) -> None:
        if not self.line.called:
            self.line.callback(line)


class ChildTests(TestCase):
    """Children of the real reactor."""

    timeout = 60

    def setUp(self) -> None:
        self.clock = Clock()
        self.spawner = ProcessSpawner(cast(Any, reactor), self.clock, kill_delay=5, drain_timeout=3)

    def run_shell(self, script: str, **fields: Any) -> Deferred[ProcessResult]:
        fields.setdefault("environment", ENVIRONMENT)
        command = Command(argv=("sh", "-c", script), **fields)
        return Deferred.fromCoroutine(self.spawner.run(command))

    @contextmanager
    def killed_afterwards(self, pid: int) -> Iterator[None]:
        try:
            yield
        finally:
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)

    async def test_both_pipes_are_drained_beyond_their_capacity(self) -> None:
        """Both pipes are drained, far beyond their capacity."""
        script = (
            "i=0; while [ $i -lt 3000 ]; do i=$((i+1));"
            " echo 0123456789012345678901234567890123456789012345678901234567890123;"
            " echo 0123456789012345678901234567890123456789012345678901234567890123 >&2; done"
        )
        result = await self.run_shell(script)
        self.assertEqual(len(result.stdout), 3000 * 65)
        self.assertEqual(len(result.stderr), 16 * 1024)

    async def test_environment_and_input(self) -> None:
        """A child sees the environment that it is given, and an empty standard input."""
        result = await self.run_shell(
            'cat; echo "$HOME/$GIVEN"', environment={**ENVIRONMENT, "GIVEN": "x"}
        )
        self.assertEqual(result.stdout, b"/x\n")

    async def test_child_of_low_priority(self) -> None:
        """A child of low priority has the lowest, and is as any other otherwise."""
        result = await self.run_shell("nice; echo $# >&2", low_priority=True)
        lowest = min(19, os.nice(0) + 19)
        self.assertEqual((b"%d\n" % lowest, "0\n"), (result.stdout, result.stderr))
        with self.assertRaises(ProcessFailed) as caught:
            await self.run_shell("exit 7", low_priority=True)
        self.assertEqual(7, caught.exception.output.status)

    async def test_status_and_signal_of_a_child_are_told_apart(self) -> None:
        """Status and signal of a child are told apart."""
        for script, status, number in (("exit 7", 7, None), ("kill -9 $$", None, 9)):
            with self.assertRaises(ProcessFailed) as caught:
                await self.run_shell(script)
            output = caught.exception.output
            self.assertEqual((output.status, output.signal), (status, number))

    async def test_child_leads_a_process_group_and_a_session_of_its_own(self) -> None:
        """A child leads a process group and a session of its own."""
        result = await self.run_shell("cut -d ' ' -f 4-6 /proc/$$/stat; echo $$")
        parent, group, session, own = result.stdout.split()
        self.assertEqual((int(parent), group, session), (os.getpid(), own, own))
        self.assertNotEqual(int(group), os.getpgrp())

    async def test_deadline_reaches_grandchildren(self) -> None:
        """At the deadline the children of the child end with it."""
        announced = Announced()
        running = self.run_shell(
            "sleep 1000 & echo $! >&2; wait", timeout=10.0, on_stderr_line=announced
        )
        grandchild = int(await announced.line)
        with self.killed_afterwards(grandchild):
            self.clock.advance(10)
            with self.assertRaises(ProcessTimedOut):
                await running
            await wait_until_gone(grandchild)

    async def test_child_that_ignores_sigterm_is_killed_after_grace_with_its_children(self) -> None:
        """A child that ignores SIGTERM is killed after the grace, with its children."""
        announced = Announced()
        running = self.run_shell(
            "trap '' TERM; sleep 1000 & echo $! >&2; while :; do wait; done",
            on_stderr_line=announced,
        )
        grandchild = int(await announced.line)
        with self.killed_afterwards(grandchild):
            running.cancel()
            self.clock.advance(4.9)
            await deferLater(cast(Any, reactor), 0.05)
            self.assertNoResult(running)
            self.clock.advance(0.1)
            with self.assertRaises(CancelledError):
                await running
            await wait_until_gone(grandchild)

    async def test_cancelling_a_second_time_kills_at_once(self) -> None:
        """Cancelling a second time kills at once."""
        announced = Announced()
        running = self.run_shell(
            "trap '' TERM; echo ready >&2; while :; do read x < /dev/zero; done",
            on_stderr_line=announced,
        )
        await announced.line
        running.cancel()
        running.cancel()
        with self.assertRaises(CancelledError):
            await running

    async def test_cancelled_at_once(self) -> None:
        """A child that is cancelled before it has a group of its own ends all the same."""
        for _ in range(20):
            running = self.run_shell("sleep 1000")
            running.cancel()
            with self.assertRaises(CancelledError):
                await running

    async def test_processes_that_a_child_leaves_in_its_group_end_with_it(self) -> None:
        """Processes that a child leaves in its group end with it."""
        result = await self.run_shell("sleep 1000 > /dev/null 2>&1 & echo $!")
        left = int(result.stdout)
        with self.killed_afterwards(left):
            await wait_until_gone(left)

    async def test_pipe_held_open(self) -> None:
        """Something in another group that holds the pipes delays the result, no more."""
        announced = Announced()
        running = self.run_shell(
            "setsid sh -c 'echo $$ >&2; exec sleep 1000' & echo done; sleep 0.2",
            on_stderr_line=announced,
        )
        stray = int(await announced.line)
        with self.killed_afterwards(stray):
            while not self.clock.getDelayedCalls():
                await deferLater(cast(Any, reactor), 0.01)
            self.assertNoResult(running)
            self.clock.advance(3)
            self.assertEqual((await running).stdout, b"done\n")
            self.assertTrue(is_alive(stray))
