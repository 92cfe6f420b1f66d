"""Tests for :mod:`nixery.nix.repl`, against a repl that a test plays."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from nixery.errors import UnexpectedOutput
from nixery.nix import repl as repl_module
from nixery.nix.repl import Repl, parse_string
from nixery.process.errors import CommandMissing, CommandOutput, ProcessFailed
from nixery.process.spawner import Command
from tests.support.repl import FakeReplSpawner, printed_string

COMMAND = Command(argv=("nix", "repl"), environment={})


def ended() -> ProcessFailed:
    return ProcessFailed(output=CommandOutput(argv=("nix",), signal=9))


class StringTests(SynchronousTestCase):
    """Tests of strings as they are printed."""

    @given(st.text(st.sampled_from("\\\"${}'a\n\u00e9") | st.characters(codec="utf-8")))
    def test_json_is_read_as_it_was_printed_by_any_version(self, text: str) -> None:
        """JSON is read as it was before any version printed it."""
        encoded = json.dumps(text, ensure_ascii=False)
        for newer in (False, True):
            printed = printed_string(encoded, newer=newer).partition(b'"')[2]
            self.assertEqual(parse_string(printed), encoded.encode())

    def test_line_without_a_string_is_empty(self) -> None:
        """A line without the end of a string is an empty string, which is no JSON."""
        self.assertEqual(parse_string(b"abc"), b"")


class ReplTests(SynchronousTestCase):
    """Tests of questions and answers."""

    def setUp(self) -> None:
        self.spawner = FakeReplSpawner()
        self.repl = Repl(self.spawner, COMMAND)
        self.exits = 0
        self.repl.start(self.count_exit)
        [self.child] = self.spawner.repls

    def count_exit(self) -> None:
        self.exits += 1

    def ask(self, expression: str = "x") -> Deferred[bytes | None]:
        return Deferred.fromCoroutine(self.repl.ask(expression))

    def answer(self, expression: str, text: str | None) -> bytes | None:
        asked = self.ask(expression)
        self.assertNoResult(asked)
        self.child.answer(text)
        printed = self.successResultOf(asked)
        return None if printed is None else parse_string(printed)

    def test_questions_are_answered_one_after_the_other(self) -> None:
        """Questions are answered one after the other, by one process."""
        for text in ('{"a":"\\"b\\\\"}', "[]", '"${x}"'):
            self.assertEqual(self.answer("f 1", text), text.encode())
        self.assertEqual(self.child.asked, ["f 1"] * 3)
        self.assertEqual(len(self.spawner.repls), 1)

    def test_error_is_no_answer_and_the_next_question_is_answered(self) -> None:
        """An error is no answer, and the next question is answered."""
        self.assertIsNone(self.answer("throw 1", None))
        self.assertEqual(self.answer("1", "1"), b"1")

    def test_answer_may_come_in_pieces(self) -> None:
        """An answer may come in pieces, split anywhere."""
        for size in (1, 2, 7, 1000):
            self.child.piece_bytes = size
            self.assertEqual(self.answer("x", '{"a":"\\n"}'), b'{"a":"\\n"}')

    def test_what_is_printed_besides_is_ignored(self) -> None:
        """Output before a question, or beside its answer, is ignored."""
        self.child.print(b"Welcome\n", b'"x"\n')
        asked = self.ask()
        self.child.print(b"\x1b[H\x1b[2Jtrace: 1\n")
        self.child.answer("1")
        self.child.print(b"more\n")
        self.assertEqual(parse_string(self.successResultOf(asked) or b""), b"1")
        self.assertEqual(self.answer("2", "2"), b"2")

    def test_bound_names_are_told_before_the_questions(self) -> None:
        """A binding is a line of its own."""
        self.repl.bind("x = 1")
        self.assertEqual(self.child.bound, ["x = 1"])

    def test_repl_that_answers_as_it_should_passes_the_check(self) -> None:
        """A repl passes the check if its answer is understood, and not otherwise."""
        self.successResultOf(Deferred.fromCoroutine(self.repl.check()))
        self.child.understands = False
        self.failureResultOf(Deferred.fromCoroutine(self.repl.check()), UnexpectedOutput)

    def test_end_of_the_process_fails_the_question_and_all_later_ones(self) -> None:
        """The end of the process fails the question with its reason, and all later ones."""
        asked, error = self.ask(), ended()
        self.child.exit(error)
        self.assertIs(self.failureResultOf(asked, ProcessFailed).value, error)
        self.assertIs(self.failureResultOf(self.ask(), ProcessFailed).value, error)
        self.assertEqual(self.exits, 1)
        self.assertTrue(self.repl.has_exited)

    def test_end_without_a_failure_is_one_too(self) -> None:
        """A process that ends well before its answer has failed as well."""
        asked = self.ask()
        self.child.exit()
        self.failureResultOf(asked, UnexpectedOutput)

    def test_program_that_is_missing_fails_the_question(self) -> None:
        """A program that is missing fails the question."""
        self.spawner.failure = CommandMissing(command="nix")
        self.repl = Repl(self.spawner, COMMAND)
        self.repl.start(self.count_exit)
        self.failureResultOf(self.ask(), CommandMissing)

    def test_answer_that_is_too_long_fails_the_question(self) -> None:
        """An answer that is too long fails the question before it is complete."""
        self.patch(repl_module, "MAX_ANSWER_BYTES", 1000)
        asked = self.ask()
        self.child.print(b"x" * 500)
        self.assertNoResult(asked)
        self.child.print(b"x" * 600)
        self.failureResultOf(asked, UnexpectedOutput)

    def test_process_that_waits_ends_with_its_input_when_it_is_killed(self) -> None:
        """A process that waits ends with its input when it is killed; a busy one is stopped."""
        self.repl.kill()
        self.assertTrue(self.child.stdin_closed)
        self.assertFalse(self.child.killed)
        busy = Repl(self.spawner, COMMAND)
        busy.start(self.count_exit)
        asked = Deferred.fromCoroutine(busy.ask("1"))
        busy.kill()
        self.assertTrue(self.spawner.repls[1].killed)
        self.failureResultOf(asked, UnexpectedOutput)

    def test_memory_of_a_process_that_has_no_number_is_unknown(self) -> None:
        """The memory of a process is told, unless it has ended."""
        self.assertEqual(self.repl.memory, 0)
        for pid, expected in ((1, True), (2**22 + 1, False)):
            self.child.pid = pid
            self.assertEqual(self.repl.memory > 0, expected)
