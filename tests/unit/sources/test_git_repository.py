"""The order of git commands, and what their failures mean; git itself is elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from nixery.process.errors import CommandMissing, CommandOutput, ProcessFailed
from nixery.process.spawner import Command, ProcessResult
from nixery.sources.errors import SourceUnavailable
from nixery.sources.git_repository import GitRepository
from nixery.sources.interface import LookUp, RefSource
from nixery.sources.ref_listing import LISTING_SECONDS
from nixery.sources.source import GitSource, ResolvedRef
from nixery.sources.tag_policy import ChannelName, GitCommit, GitRefs, Reference
from nixery.testing.fakes import InlineWorkers

A, B = "a" * 40, "b" * 40
MAIN = GitRefs(names=("refs/heads/main", "refs/tags/main"))
DOWN = "fatal: unable to access 'https://h/p': Could not resolve host: h\n"


def failed(stderr: str, status: int = 128) -> ProcessFailed:
    return ProcessFailed(output=CommandOutput(argv=("git",), status=status, stderr=stderr))


@define(eq=False)
class FakeGit:
    """A :class:`nixery.process.spawner.Spawner` that answers by subcommand."""

    answers: dict[str, Callable[[], str | Deferred[str]]]
    commands: list[Command] = field(factory=list)

    async def run(self, command: Command) -> ProcessResult:
        self.commands.append(command)
        answer = self.answers[self.verb(command)]()
        text = await answer if isinstance(answer, Deferred) else answer
        return ProcessResult(stdout=text.encode(), stderr="")

    @staticmethod
    def verb(command: Command) -> str:
        verbs = ("ls-remote", "init", "fetch", "cat-file", "for-each-ref", "--version", "version")
        return next(part for part in command.argv if part in verbs)

    def verbs(self) -> list[str]:
        return [self.verb(command) for command in self.commands]


class GitRepositoryTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.turns = 0
        self.git = FakeGit(
            {
                "--version": lambda: "git version 2.39.5",
                "ls-remote": lambda: f"{A}\trefs/heads/main\n",
                "init": lambda: "",
                "fetch": lambda: "",
                "cat-file": lambda: "commit\n",
                "for-each-ref": lambda: "refs/heads/main\n",
            }
        )
        self.mirrors = Path(self.mktemp())
        self.repository: RefSource = self.make()

    def make(self, *, lfs: bool = False) -> GitRepository:
        return GitRepository(
            GitSource(url="https://u:secret@h/p", lfs=lfs),
            spawner=self.git,
            clock=self.clock,
            workers=InlineWorkers(),
            mirror_directory=self.mirrors,
            lookup_timeout=20,
            fetch_timeout=100,
            environ={"PATH": "/bin"},
        )

    def find(
        self, reference: Reference, *, configured: bool = False
    ) -> Deferred[ResolvedRef | None]:
        in_turn = None if configured else self.in_turn
        return Deferred.fromCoroutine(self.repository.find(reference, in_turn))

    async def in_turn(self, look_up: LookUp) -> ResolvedRef | None:
        self.turns += 1
        return await look_up()

    def raising(self, *errors: Exception | None, then: str = "") -> Callable[[], str]:
        """Raises one after the other, and answers where there is none."""
        left = list(errors)

        def answer() -> str:
            error = left.pop(0) if left else None
            if error is not None:
                raise error
            return then

        return answer

    def test_branch_is_looked_up_by_one_command_and_no_mirror_is_made(self) -> None:
        """A branch is looked up by one command, and no mirror is made."""
        found = self.successResultOf(self.find(MAIN))
        self.assertEqual(found, ResolvedRef(commit=A, ref="refs/heads/main"))
        self.assertEqual(self.git.verbs(), ["ls-remote"])
        [command] = self.git.commands
        self.assertNotIn("secret", " ".join(command.argv))
        self.assertEqual(command.timeout, 10)

    def test_no_such_ref_is_an_answer_like_any_other(self) -> None:
        """No such ref is an answer like any other."""
        reference = GitRefs(names=("refs/heads/x",))
        self.assertIsNone(self.successResultOf(self.find(reference)))
        self.assertIsNone(self.successResultOf(self.find(ChannelName(name="x"))))

    def test_failure_is_tried_again_and_told_in_gits_words_in_the_end(self) -> None:
        """A failure is tried again, and told in git's words in the end."""
        self.git.answers["ls-remote"] = self.raising(*[failed(DOWN)] * 3)
        result = self.find(MAIN, configured=True)
        self.clock.pump([0.5, 2])
        error = self.failureResultOf(result, SourceUnavailable).value
        self.assertIn("Could not resolve host", error.message)
        self.assertIn("main", error.message)
        self.assertNotIn("secret", error.message)
        self.assertEqual(error.output.stderr, DOWN)
        self.assertEqual(len(self.git.commands), 3)

    def test_answer_that_cannot_be_parsed_is_a_failure_of_the_upstream(self) -> None:
        """An answer that cannot be parsed is a failure of the upstream."""
        self.git.answers["ls-remote"] = lambda: "<html>"
        self.failureResultOf(self.find(MAIN), SourceUnavailable)

    def test_machine_without_git_is_told_apart_from_a_repository_that_is_away(self) -> None:
        """A machine without git is told apart from a repository that is away."""
        self.git.answers["--version"] = self.raising(CommandMissing(command="git"))
        checked = Deferred.fromCoroutine(self.repository.check())
        self.failureResultOf(checked, CommandMissing)

    def test_git_lfs_is_missed_where_it_is_asked_for(self) -> None:
        """git-lfs is missed at the start, and only where the repository's files need it."""
        self.git.answers["version"] = self.raising(*[CommandMissing(command="git-lfs")] * 2)
        self.successResultOf(Deferred.fromCoroutine(self.repository.check()))
        self.repository = self.make(lfs=True)
        checked = Deferred.fromCoroutine(self.repository.check())
        self.assertEqual(self.failureResultOf(checked, CommandMissing).value.command, "git-lfs")

    def test_host_that_refuses_is_asked_once_and_told_what_it_wants(self) -> None:
        """A host that refuses is asked once, and the error says what it wants."""
        refusal = "fatal: Authentication failed for 'https://h/p/'\n"
        self.git.answers["ls-remote"] = self.raising(failed(refusal))
        error = self.failureResultOf(self.find(MAIN), SourceUnavailable).value
        self.assertIn("SSH key", error.advice)
        self.assertEqual(len(self.git.commands), 1)

    def test_a_commit_at_a_tip(self) -> None:
        """A commit at the tip of a branch is found without fetching history."""
        found = self.successResultOf(self.find(GitCommit(commit=A)))
        self.assertEqual(found, ResolvedRef(commit=A, ref="refs/heads/main"))
        self.assertEqual(self.git.verbs(), ["ls-remote"])

    def test_a_commit_below(self) -> None:
        """Any other commit is searched in the history, without the network."""
        found = self.successResultOf(self.find(GitCommit(commit=B)))
        self.assertEqual(found, ResolvedRef(commit=B, ref="refs/heads/main"))
        self.assertEqual(
            self.git.verbs(), ["ls-remote", "init", "fetch", "cat-file", "for-each-ref"]
        )
        for command in self.git.commands[3:]:
            self.assertEqual(command.environment["GIT_ALLOW_PROTOCOL"], "none")

    def test_a_foreign_commit(self) -> None:
        """A commit that no ref leads to is none, even if the mirror has it."""
        self.git.answers["for-each-ref"] = lambda: ""
        self.assertIsNone(self.successResultOf(self.find(GitCommit(commit=B))))
        trusted = GitCommit(commit=B, trusted=True)
        self.assertEqual(self.successResultOf(self.find(trusted)), ResolvedRef(commit=B))

    def test_hash_of_a_tag_a_tree_or_a_file_or_of_nothing_is_no_commit(self) -> None:
        """The hash of a tag, a tree or a file, or of nothing, is no commit."""
        for answer in (lambda: "tag\n", lambda: "tree\n", self.raising(failed("Not a valid"))):
            self.git.answers["cat-file"] = answer
            self.assertIsNone(self.successResultOf(self.find(GitCommit(commit=B))))

    def test_history_that_cannot_be_read(self) -> None:
        """A failure is no proof that there is no such commit, and costs the mirror."""
        self.git.answers["for-each-ref"] = self.raising(failed("fatal: missing object"))
        self.failureResultOf(self.find(GitCommit(commit=B)), SourceUnavailable)

    def test_a_damaged_mirror(self) -> None:
        """A mirror damaged by a kill is removed and fetched anew, once."""
        lock = failed("error: Unable to create '/m/packed-refs.lock': File exists.")
        self.git.answers["fetch"] = self.raising(lock)
        self.successResultOf(self.find(GitCommit(commit=B)))
        mirror = Path(self.git.commands[1].argv[-1])
        mirror.mkdir()
        (mirror / "packed-refs.lock").touch()
        self.git.answers["fetch"] = self.raising(lock)
        self.assertIsNotNone(self.successResultOf(self.find(GitCommit(commit=A[:39] + "0"))))
        self.assertEqual(self.git.verbs().count("fetch"), 4)
        self.assertFalse(mirror.exists())
        self.git.answers["fetch"] = self.raising(lock, lock)
        self.failureResultOf(self.find(GitCommit(commit="c" * 40)), SourceUnavailable)

    def test_one_history_for_all(self) -> None:
        """All requests made during a fetch of the history share the next fetch."""
        gates: list[Deferred[str]] = []

        def fetch() -> Deferred[str]:
            gates.append(Deferred())
            return gates[-1]

        self.git.answers["fetch"] = fetch
        first = self.find(GitCommit(commit=B))
        later = [self.find(GitCommit(commit=f"{n:040x}")) for n in range(3)]
        self.assertEqual(len(gates), 1)
        gates[0].callback("")
        self.assertIsNotNone(self.successResultOf(first))
        self.assertEqual(len(gates), 2)
        gates[1].callback("")
        for each in later:
            self.assertIsNotNone(self.successResultOf(each))
        self.assertEqual(len(gates), 2)

    def test_a_fetch_that_fails_is_not_counted(self) -> None:
        """A fetch of the history that failed answers no later request."""
        self.git.answers["fetch"] = self.raising(failed(DOWN))
        self.failureResultOf(self.find(GitCommit(commit=B)), SourceUnavailable)
        self.assertIsNotNone(self.successResultOf(self.find(GitCommit(commit=B))))

    def test_made_up_tags_share_a_listing_and_the_configured_branch_is_asked_for_at_once(
        self,
    ) -> None:
        """Any number of requests for made-up tags waits for one listing; the branch does not."""
        gates: list[Deferred[str]] = []

        def listing() -> Deferred[str]:
            gates.append(Deferred())
            return gates[-1]

        self.git.answers["ls-remote"] = listing
        first, *later = [
            self.find(GitRefs(names=(f"refs/heads/{number}",))) for number in range(300)
        ]
        self.assertEqual(len(gates), 1)
        self.assertIn("--heads", self.git.commands[0].argv)
        latest = self.find(MAIN, configured=True)
        gates[1].callback(f"{A}\trefs/heads/main\n")
        self.assertIsNotNone(self.successResultOf(latest))
        gates[0].callback("")
        self.assertIsNone(self.successResultOf(first))
        self.clock.advance(LISTING_SECONDS)
        gates[2].callback("")
        for each in later:
            self.assertIsNone(self.successResultOf(each))
        self.assertEqual((len(gates), self.turns), (3, 0))

    def test_only_the_search_of_a_history_needs_a_turn(self) -> None:
        """A commit at a tip needs no turn in the queue, one below needs one."""
        self.successResultOf(self.find(GitCommit(commit=A)))
        self.assertEqual(self.turns, 0)
        self.successResultOf(self.find(GitCommit(commit=B)))
        self.assertEqual(self.turns, 1)
        self.successResultOf(self.find(GitCommit(commit="c" * 40), configured=True))
        self.assertEqual(self.turns, 1)
