"""
Tests for ``nixery.sources.git_checkout``: the order of commands; git itself is elsewhere.
"""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from nixery.errors import StorageError
from nixery.process.errors import CommandMissing, CommandOutput, ProcessFailed
from nixery.process.spawner import Command, ProcessResult
from nixery.sources.errors import SourceUnavailable
from nixery.sources.git_checkout import GitCheckout, without_working_tree
from nixery.sources.source import SourceTree
from nixery.testing.fakes import InlineWorkers
from tests.unit.sources.test_lfs import OID, TEXT

TREE = SourceTree(kind="git", url="https://h/p", commit="a" * 40, submodules=True, lfs=True)
VERBS = ("init", "remote", "fetch", "checkout", "submodule", "env")
SHALLOW = "fatal: dumb http transport does not support shallow capabilities\n"
DENIED = "fatal: Authentication failed for 'https://h/p'\n"
AWAY = "fatal: unable to access 'https://h/p': Could not resolve host: h\n"


def failed(stderr: str) -> ProcessFailed:
    return ProcessFailed(output=CommandOutput(argv=("git",), status=128, stderr=stderr))


class FakeGit:
    """
    Plays git as :class:`nixery.process.spawner.Spawner`: a commit with a file in Git LFS, and a
    submodule with another.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.commands: list[Command] = []
        self.failures: dict[str, list[ProcessFailed | CommandMissing]] = {}
        self.endpoint = "https://h/p/info/lfs"
        self.media = str(directory / "media")
        self.has_content = True

    async def run(self, command: Command) -> ProcessResult:
        self.commands.append(command)
        verb = self.verb(command)
        failures = self.failures.get(verb)
        if failures:
            raise failures.pop(0)
        files, media = self.directory / "checkout" / "source", Path(self.media)
        printed = ""
        match verb:
            case "init":
                files.mkdir()
                (files / ".git").touch()
            case "checkout":
                (files / "big").write_bytes(TEXT)
            case "submodule":
                (files / "sub").mkdir(exist_ok=True)
                (files / "sub" / ".git").touch()
                (files / "sub" / "big").write_bytes(TEXT)
            case "env":
                printed = f"Endpoint={self.endpoint} (auth=none)\nLocalMediaDir={media}\n"
            case "lfs" if self.has_content:
                content = media / OID[:2] / OID[2:4] / OID
                content.parent.mkdir(parents=True, exist_ok=True)
                content.write_text("hello\n")
        return ProcessResult(stdout=printed.encode(), stderr="")

    @staticmethod
    def verb(command: Command) -> str:
        if "lfs" in command.argv and "fetch" in command.argv:
            return "lfs"
        return next(part for part in command.argv if part in VERBS)

    def verbs(self) -> list[str]:
        return [self.verb(command) for command in self.commands]


class GitCheckoutTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.directory = Path(self.mktemp()).absolute()
        self.git = FakeGit(self.directory)
        self.checkout = self.make_checkout("https://u:secret@h/p")

    def make_checkout(self, url: str, **environ: str) -> GitCheckout:
        return GitCheckout(
            url,
            spawner=self.git,
            clock=self.clock,
            workers=InlineWorkers(),
            timeout=600,
            environ={"HOME": "/home/x", "PATH": "/bin", **environ},
            template=Path("/template"),
        )

    def make(self, tree: SourceTree = TREE) -> Deferred[Path]:
        directory = self.directory / "checkout"
        return Deferred.fromCoroutine(self.checkout.make(tree, directory))

    def unavailable(self, tree: SourceTree = TREE) -> SourceUnavailable:
        made = self.make(tree)
        self.clock.pump([0.5, 2])
        error: SourceUnavailable = self.failureResultOf(made, SourceUnavailable).value
        return error

    def test_parts_that_are_asked_for(self) -> None:
        """Submodules and content are fetched where they are asked for, and no repository stays."""
        whole = ["init", "remote", "fetch", "checkout", "submodule", *["env", "lfs"] * 2]
        for tree, verbs in (
            (TREE, whole),
            (evolve(TREE, lfs=False), whole[:5]),
            (evolve(TREE, submodules=False), [*whole[:4], "env", "lfs"]),
        ):
            self.git.commands.clear()
            files = self.successResultOf(self.make(tree))
            self.assertEqual(self.git.verbs(), verbs)
            self.assertEqual(list(files.rglob(".git")), [])
            text = "hello\n" if tree.lfs else TEXT.decode()
            self.assertEqual((files / "big").read_text(), text)
            self.assertEqual((files / "sub" / "big").exists(), tree.submodules)

    def test_passwords_and_templates(self) -> None:
        """No argument has the password, and all commands have the attributes of ours."""
        self.successResultOf(self.make())
        for command in self.git.commands:
            self.assertNotIn("secret", " ".join(command.argv))
            self.assertIn("secret", command.environment.values())
            self.assertEqual(command.environment["GIT_TEMPLATE_DIR"], "/template")

    def test_submodules_of_a_remote_repository_are_remote(self) -> None:
        """Other repositories of this machine are reached from one of this machine alone."""
        for url, environ, local in (
            ("https://h/p", {}, False),
            ("git@h:p", {}, False),
            ("/srv/p", {}, True),
            ("file:///srv/p", {}, True),
            ("https://h/p", {"GIT_ALLOW_PROTOCOL": "file:https"}, True),
        ):
            self.git.commands.clear()
            self.checkout = self.make_checkout(url, **environ)
            self.successResultOf(self.make())
            allowed = self.git.commands[0].environment["GIT_ALLOW_PROTOCOL"].split(":")
            self.assertEqual("file" in allowed, local, url)
            self.assertIn("https", allowed)

    def test_origin_is_where_relative_urls_begin(self) -> None:
        """A path of ssh stays relative to the home directory, and a password is left out."""
        for url, origin in (
            ("git@h:group/p", "git@h:group/p"),
            ("https://u:secret@h/p", "https://h/p"),
            ("/srv/p", "file:///srv/p"),
        ):
            self.git.commands.clear()
            self.checkout = self.make_checkout(url)
            self.successResultOf(self.make())
            self.assertEqual(self.git.commands[1].argv[-2:], ("origin", origin))

    def test_server_that_cannot_leave_the_history_out_is_asked_for_everything(self) -> None:
        """The history is fetched where a commit alone cannot be, of submodules too."""
        self.git.failures = {"fetch": [failed(SHALLOW)], "submodule": [failed(SHALLOW)]}
        self.successResultOf(self.make())
        depths = ["--depth=1" in each.argv for each in self.git.commands[2:4]]
        self.assertEqual(depths, [True, False])
        depths = [
            "--depth=1" in each.argv for each in self.git.commands if "submodule" in each.argv
        ]
        self.assertEqual(depths, [True, False])

    def test_refused_at_once_and_tried_again_when_it_may_pass(self) -> None:
        """A host that refuses is asked once, and one that is away three times."""
        for verb in ("fetch", "submodule", "lfs"):
            self.git.commands.clear()
            self.git.failures = {verb: [failed(DENIED)]}
            self.assertIn("SSH key", self.unavailable().advice)
            self.assertEqual(self.git.verbs().count(verb), 1)
            self.assertEqual(self.git.verbs().count("init"), 1)
        self.git.commands.clear()
        self.git.failures = {"fetch": [failed(AWAY)] * 6}
        error = self.unavailable()
        self.assertIn("Could not resolve host", error.reason)
        self.assertEqual(self.git.verbs().count("init"), 3)
        self.git.failures = {"fetch": [failed(AWAY)] * 2}
        made = self.make()
        self.clock.advance(0.5)
        self.successResultOf(made)

    def test_deadline_is_one_for_all_commands(self) -> None:
        """An attempt has half of the time that is left, whatever number of commands it has."""
        self.successResultOf(self.make())
        self.assertEqual({each.timeout for each in self.git.commands}, {300.0})

    def test_server_of_files_that_is_on_this_machine(self) -> None:
        """A commit of a remote repository names no directory of this machine for its content."""
        for endpoint in ("file:///srv/other", "/srv/other", "ext::sh", ""):
            self.git.endpoint = endpoint
            error = self.unavailable()
            self.assertIn(repr(endpoint), error.reason)
            self.assertIn(".lfsconfig", error.advice)
            self.assertNotIn("lfs", self.git.verbs())
        self.checkout = self.make_checkout("/srv/p")
        self.successResultOf(self.make())

    def test_content_that_does_not_come(self) -> None:
        """Content that git-lfs did not fetch is an error that names the file."""
        self.git.has_content = False
        error = self.unavailable(evolve(TREE, submodules=False))
        self.assertIn("big", error.reason)
        self.assertIn("git lfs push", error.advice)

    def test_git_lfs_that_is_not_understood(self) -> None:
        """Output of git-lfs that has another form is an error of the source."""
        with patch.object(self.git, "media", "relative"):
            self.assertIn("not understood", self.unavailable().reason)

    def test_machine_without_git(self) -> None:
        """A missing program is told as such."""
        self.git.failures = {"init": [CommandMissing(command="git")]}
        self.failureResultOf(self.make(), CommandMissing)

    def test_directory_that_cannot_be_made(self) -> None:
        """A full disk or a file in the way is an error of the storage."""
        self.directory.write_text("in the way")
        self.failureResultOf(self.make(), StorageError)


class WorkingTreeTests(SynchronousTestCase):
    def test_repository_with_a_working_tree_has_another_url(self) -> None:
        """Nix is given the repository in a working tree, and every other URL as it is."""
        tree = Path(self.mktemp()).absolute()
        (tree / ".git").mkdir(parents=True)
        self.assertEqual(without_working_tree(f"{tree.as_uri()}/"), f"{tree.as_uri()}/.git")
        for url in ((tree / ".git").as_uri(), "https://h/p"):
            self.assertEqual(without_working_tree(url), url)
