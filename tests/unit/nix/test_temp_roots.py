"""Tests for :mod:`nixery.nix.temp_roots`, against a server that a script plays."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from nixery.nix.interface import RootedClosure
from nixery.nix.temp_roots import ANSWER_TIMEOUT_SECONDS, IDLE_SERVER_SECONDS, TempRootHolder
from nixery.process.errors import CommandOutput, ProcessFailed
from tests.support.nix import FakeSpawner, nix_context
from tests.unit.nix.test_serve_protocol import (
    GLIBC,
    HELLO,
    HEXADECIMAL,
    info,
    number,
    string,
    strings,
)

WELCOME = number(0x5452EECB) + number(0x205)


class TempRootHolderTests(SynchronousTestCase):
    """Store paths by a server that a test plays."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.children = FakeSpawner()
        self.holder = TempRootHolder(nix_context(self.children, self.clock))

    def root_if_valid(self, *outputs: str) -> Deferred[RootedClosure | None]:
        return Deferred.fromCoroutine(self.holder.root_if_valid(outputs))

    def stop(self) -> Deferred[None]:
        return Deferred.fromCoroutine(self.holder.stop())

    def answers(self) -> list[bytes]:
        """All that a server says of a closure of two paths."""
        return [
            WELCOME,
            strings([HELLO]),
            strings([GLIBC, HELLO]),
            info(GLIBC) + info(HELLO, [GLIBC]) + string(""),
        ]

    def held(self, pieces: Sequence[bytes] | None = None) -> RootedClosure:
        """Hold a path, with a new server or the spare one."""
        holding = self.root_if_valid(HELLO)
        self.children.processes[-1].print(*(pieces or self.answers()))
        held = self.successResultOf(holding)
        assert held is not None
        return held

    # -- answers --------------------------------------------------------------------

    def test_valid_paths_are_protected_by_a_server_that_runs_on_and_described(self) -> None:
        """Valid paths are protected, by a server that runs on, and described."""
        held = self.held()
        [child] = self.children.processes
        self.assertEqual(("nix-store", "--serve", "--write"), child.command.argv)
        self.assertEqual((HELLO,), held.realisation.outputs)
        self.assertEqual({GLIBC: [], HELLO: [GLIBC]}, graph(held))
        self.assertFalse(child.stdin_closed)
        self.assertFalse(self.holder.root_expired(held.realisation))
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_answers_may_be_cut_anywhere(self) -> None:
        """It does not matter where answers are cut."""
        said = b"".join(self.answers())
        for size in (1, 7, 8, 64):
            pieces = [said[at : at + size] for at in range(0, len(said), size)]
            self.assertEqual({GLIBC: [], HELLO: [GLIBC]}, graph(self.held(pieces)))

    def test_if_one_path_is_not_valid_nothing_is_held_and_the_server_is_let_go(self) -> None:
        """If one path is not valid nothing is held, and the server is let go."""
        holding = self.root_if_valid(HELLO, GLIBC)
        [child] = self.children.processes
        child.print(WELCOME, strings([HELLO]))
        self.assertIsNone(self.successResultOf(holding))
        self.assertTrue(child.stdin_closed)
        child.exit()
        self.successResultOf(self.stop())

    def test_answer_that_leaves_out_a_path_of_the_closure_yields_no_closure(self) -> None:
        """An answer that leaves out a path of the closure yields no closure."""
        holding = self.root_if_valid(HELLO)
        [child] = self.children.processes
        child.print(*self.answers()[:3], info(HELLO, [GLIBC]) + string(""))
        self.assertIsNone(self.successResultOf(holding))

    def test_process_that_does_not_speak_the_protocol_is_stopped(self) -> None:
        """A process that does not speak the protocol is stopped, and other commands are used."""
        for said in (b"usage: nix-store ...\n" * 4, WELCOME + number(1 << 50)):
            holding = self.root_if_valid(HELLO)
            child = self.children.processes[-1]
            child.print(said)
            self.assertIsNone(self.successResultOf(holding))
            self.assertTrue(child.stopped)

    def test_server_may_end_before_it_has_answered_at_any_point(self) -> None:
        """A server may end before it has answered, at any point."""
        for count in range(len(self.answers())):
            holding = self.root_if_valid(HELLO)
            child = self.children.processes[-1]
            child.print(*self.answers()[:count])
            self.assertNoResult(holding)
            output = CommandOutput(argv=("nix-store",), status=1)
            child.result.errback(ProcessFailed(output=output))
            self.assertIsNone(self.successResultOf(holding))
        self.successResultOf(self.stop())

    def test_missing_nix_raises_nothing_here(self) -> None:
        """A missing Nix raises nothing here; the other commands report it."""
        self.children.missing = True
        self.assertIsNone(self.successResultOf(self.root_if_valid(HELLO)))

    def test_silent_server_is_stopped_after_a_timeout(self) -> None:
        """A silent server is stopped after a timeout; a later answer changes nothing."""
        holding = self.root_if_valid(HELLO)
        [child] = self.children.processes
        child.print(WELCOME)
        self.clock.advance(ANSWER_TIMEOUT_SECONDS)
        self.assertIsNone(self.successResultOf(holding))
        self.assertTrue(child.stopped)
        child.print(*self.answers()[1:])

    def test_cancelled_request_ends_when_the_server_has_ended_and_not_before(self) -> None:
        """A cancelled request ends when the server has ended, and not before."""
        holding = self.root_if_valid(HELLO)
        [child] = self.children.processes
        child.print(WELCOME)
        child.exit_delay = Deferred()
        holding.cancel()
        self.assertNoResult(holding)
        child.exit_delay.callback(None)
        self.failureResultOf(holding, CancelledError)

    # -- the end ----------------------------------------------------------------------

    def test_closure_is_released_once_by_the_end_of_its_servers_input(self) -> None:
        """A closure is released once, by the end of its server's input."""
        held = self.held()
        self.assertTrue(self.holder.release(held.realisation))
        self.assertTrue(self.children.processes[0].stdin_closed)
        self.assertFalse(self.holder.release(held.realisation))

    def test_server_that_ends_by_itself_protects_nothing_any_more(self) -> None:
        """A server that ends by itself protects nothing any more."""
        held = self.held()
        self.children.processes[0].exit()
        self.assertTrue(self.holder.root_expired(held.realisation))
        self.assertTrue(self.holder.release(held.realisation))
        self.assertFalse(self.holder.root_expired(held.realisation))

    def test_all_servers_end_at_stop(self) -> None:
        """All servers end: the spare one, those in use, and those that are asked."""
        self.held()
        asked = self.root_if_valid(HELLO)
        self.holder.prewarm()
        self.successResultOf(self.stop())
        self.assertIsNone(self.successResultOf(asked))
        for child in self.children.processes:
            self.assertTrue(child.stopped)
        self.assertEqual([], self.clock.getDelayedCalls())

    # -- a server ahead of its use ----------------------------------------------------

    def test_spare_server_is_used_once(self) -> None:
        """One that was started ahead is used, once."""
        self.holder.prewarm()
        self.holder.prewarm()
        self.assertEqual(1, len(self.children.processes))
        self.children.processes[0].print(WELCOME)
        self.held(self.answers()[1:])
        self.assertEqual(1, len(self.children.processes))
        self.held()
        self.assertEqual(2, len(self.children.processes))

    def test_idle_process_ends_after_some_time_without_use(self) -> None:
        """It does not wait for ever."""
        self.holder.prewarm()
        self.clock.advance(IDLE_SERVER_SECONDS)
        self.assertTrue(self.children.processes[0].stdin_closed)
        self.holder.prewarm()
        self.assertEqual(2, len(self.children.processes))

    def test_idle_process_that_has_died_is_not_used(self) -> None:
        """One that has died meanwhile is not asked."""
        self.holder.prewarm()
        self.children.processes[0].exit()
        self.held()
        self.assertEqual(2, len(self.children.processes))
        self.holder.prewarm()
        self.assertEqual(3, len(self.children.processes))


def graph(held: RootedClosure) -> dict[str, list[str]]:
    """The references of each path, whose hashes are checked on the way."""
    assert {info.nar_hash for info in held.graph.paths.values()} == {HEXADECIMAL}
    return {
        path.path: [each.path for each in info.references]
        for path, info in held.graph.paths.items()
    }
