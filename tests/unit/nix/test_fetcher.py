"""The order of the commands that fetch, and the roots they leave; Nix itself is elsewhere."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest.mock import patch

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from nixery.errors import UnexpectedOutput
from nixery.nix import fetch_commands
from nixery.nix.arguments import NixSettings
from nixery.nix.context import NixContext
from nixery.nix.errors import NixUnusable
from nixery.nix.fetcher import MAX_REFETCHES, MOVING_RETENTION_SECONDS, NixFetcher
from nixery.process.errors import CommandMissing, CommandOutput, ProcessFailed, ProcessTimedOut
from nixery.process.spawner import Command
from nixery.sources.errors import CommitMissing, SourceUnavailable
from nixery.sources.interface import TreeFetcher
from nixery.sources.source import FlakeSource, SourceTree
from nixery.testing.fakes import FakeWallClock, InlineWorkers
from tests.unit.nix.test_commands import Script
from tests.unit.sources.test_lfs import TEXT

TREE = SourceTree(kind="git", url="https://h/p", commit="a" * 40, ref="refs/heads/main")
ARCHIVE = SourceTree(kind="archive", url="https://h/a.tar.gz", commit="a" * 40)
HASHED = SourceTree(kind="hashed", url="https://h/a.tar.gz", commit="0" * 64)
NAME = "00000000000000000000000000000000-source"


def failed(stderr: str) -> ProcessFailed:
    return ProcessFailed(output=CommandOutput(argv=("nix-instantiate",), status=1, stderr=stderr))


class NixFetcherTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.wall_clock = FakeWallClock(self.clock)
        self.directory = Path(self.mktemp()).absolute()
        # The store of these tests is a directory of theirs.
        self.store = self.directory / "store"
        self.store.mkdir(parents=True)
        pattern = re.compile(f"{self.store}/{NAME}")
        patcher = patch.object(fetch_commands, "STORE_PATH", pattern)
        patcher.start()
        self.addCleanup(patcher.stop)
        self.script = Script(self.nix)
        self.fetches: list[Callable[[], str]] = []
        self.collections = 0
        self.settings = NixSettings(
            state_directory=self.directory / "state", home=self.directory / "home"
        )
        self.fetcher = self.make()

    def make(self) -> NixFetcher:
        fetcher = NixFetcher(
            NixContext(
                spawner=self.script,
                clock=self.clock,
                workers=InlineWorkers(),
                settings=self.settings,
                environ={"HOME": "/home/x", "PATH": "/bin"},
            ),
            wall_clock=self.wall_clock,
            fetch_nix=Path("/fetch.nix"),
            repository="https://u:secret@h/p",
        )
        self.checked: TreeFetcher = fetcher
        return fetcher

    def nix(self, command: Command) -> str:
        """Simulate Nix: fetching makes the path, rooting makes a link if it is there."""
        path = self.store / NAME
        if "holder" in command.argv:
            path.mkdir(exist_ok=True)
            held = Path(command.argv[command.argv.index("--add-root") + 1])
            held.unlink(missing_ok=True)
            held.symlink_to("/holder")
            return "/holder\n"
        if command.argv[0] == "nix-instantiate":
            if self.fetches:
                return self.fetches.pop(0)()
            path.mkdir(exist_ok=True)
            return f'"{path}"'
        if self.collections:
            self.collections -= 1
            path.rmdir()
        link = Path(command.argv[command.argv.index("--add-root") + 1])
        if not path.exists():
            raise failed(f"error: path '{path}' is not valid")
        link.unlink(missing_ok=True)
        link.symlink_to(path)
        os.utime(link, (self.wall_clock.now(),) * 2, follow_symlinks=False)
        return f"{link}\n"

    def fetch(self, tree: SourceTree = TREE) -> Deferred[Path]:
        return Deferred.fromCoroutine(self.fetcher.fetch(tree))

    def fetched(self, tree: SourceTree = TREE) -> Path:
        return self.successResultOf(self.fetch(tree))

    def programs(self) -> list[str]:
        return [command.argv[0] for command in self.script.commands]

    def roots(self) -> list[str]:
        return sorted(each.name for each in (self.directory / "state" / "src").iterdir())

    def raising(self, error: Exception) -> Callable[[], str]:
        def answer() -> str:
            raise error

        return answer

    def test_flake_without_revisions_is_fetched_at_each_call(self) -> None:
        """A flake at a path is fetched each time, and each of its states has a root."""
        tree = SourceTree(
            kind="flake",
            url="path:/f",
            commit="",
            flake=FlakeSource(kind="path", location="/f"),
        )
        self.assertEqual(self.fetched(tree), self.store / NAME)
        self.assertEqual(self.roots(), [f"moving-{tree.name}-{NAME[:12]}"])
        self.fetched(tree)
        self.assertEqual(self.programs(), ["nix-instantiate", "nix-store", "nix-instantiate"])
        [first, *_] = self.script.commands
        self.assertEqual(first.argv[-1], "/fetch_flake.nix")
        self.assertIn('{"path":"/f","type":"path"}', first.argv)

    def test_former_states_of_a_path_are_not_kept_as_long_as_commits(self) -> None:
        """A state of a path is dropped after an hour, when another one is fetched."""
        tree = SourceTree(
            kind="flake", url="path:/f", commit="", flake=FlakeSource(kind="path", location="/f")
        )
        self.fetched(tree)
        self.fetched()
        [root] = [name for name in self.roots() if name.startswith("moving-")]
        self.clock.advance(MOVING_RETENTION_SECONDS + 1)
        self.fetched(evolve(TREE, commit="b" * 40))
        self.assertNotIn(root, self.roots())
        self.assertIn(TREE.name, self.roots())
        # It is fetched again when it is needed.
        self.fetched(tree)
        self.assertIn(root, self.roots())

    def test_input_of_a_flake_that_cannot_be_fetched(self) -> None:
        """The error names the input, and what gives Nix and git their credentials."""
        tree = SourceTree(
            kind="flake",
            url="github:o/n",
            commit="a" * 40,
            flake=FlakeSource(kind="github", location="o/n", host="github.com"),
        )
        trace = "error: HTTP error 404\n … while fetching the input 'dep' of the flake\n"
        self.fetches = [self.raising(failed(trace))]
        error = self.failureResultOf(self.fetch(tree), SourceUnavailable).value
        self.assertNotIn("while fetching", error.message)
        for words in ("input dep", "access-tokens", "netrc-file", "github:o/n"):
            self.assertIn(words, error.message)

    def test_fetched_and_rooted(self) -> None:
        """A commit is fetched, rooted under its name, and not fetched again."""
        for _ in range(3):
            self.assertEqual(self.fetched(), self.store / NAME)
        self.assertEqual(self.programs(), ["nix-instantiate", "nix-store"])
        self.assertEqual(self.roots(), [TREE.name])

    def test_root_of_an_earlier_run_is_made_valid_again_and_nothing_is_fetched(self) -> None:
        """A root of an earlier run is made valid again, and nothing is fetched."""
        self.fetched()
        self.fetcher = self.make()
        self.assertEqual(self.fetched(), self.store / NAME)
        self.assertEqual(self.programs(), ["nix-instantiate", "nix-store", "nix-store"])

    def test_root_of_nothing(self) -> None:
        """A root whose path is gone, or is not one of ours, is made again."""
        self.fetched()
        link = self.directory / "state" / "src" / TREE.name
        for each in (self.fetcher, self.make()):
            self.fetcher = each
            (self.store / NAME).rmdir()
            self.assertEqual(self.fetched(), self.store / NAME)
            self.assertTrue(link.resolve().is_dir())
        link.unlink()
        link.symlink_to("/etc")
        self.assertEqual(self.fetched(), self.store / NAME)
        self.assertEqual(self.programs().count("nix-instantiate"), 4)

    def test_collected_before_it_was_rooted(self) -> None:
        """A source collected between fetch and root is held by the next fetch."""
        self.collections = 1
        self.fetched()
        self.assertEqual(
            self.programs(), ["nix-instantiate", "nix-store", *["nix-instantiate"] * 2, "nix-store"]
        )
        self.assertIn("holder", self.script.commands[2].argv)
        self.assertEqual(self.roots(), [TREE.name])

    def test_collected_again_and_again(self) -> None:
        """A source that vanishes all the time is given up, and not held any more."""
        self.collections = MAX_REFETCHES + 1
        error = self.failureResultOf(self.fetch(), SourceUnavailable).value
        self.assertIn("collection", error.reason)
        self.assertEqual((self.collections, self.roots()), (0, []))

    def test_git_gets_the_home_directory_of_ours_and_nix_a_cache_of_its_own(self) -> None:
        """Git gets the home directory of ours, and Nix a cache of its own; no password shows."""
        self.fetched()
        command = self.script.commands[0]
        self.assertEqual(command.environment["HOME"], "/home/x")
        self.assertEqual(
            command.environment["XDG_CACHE_HOME"], str(self.directory / "home" / ".cache" / "fetch")
        )
        self.assertEqual(command.environment["GIT_TERMINAL_PROMPT"], "0")
        self.assertNotIn("secret", " ".join(command.argv))
        self.assertIn("secret", command.environment.values())

    def test_pointers_are_left_out(self) -> None:
        """A tree with pointers of Git LFS is stored without them, also one of an earlier run."""
        lists = []

        def with_pointers() -> str:
            command = self.script.commands[-1]
            path = self.store / NAME
            path.mkdir(exist_ok=True)
            (path / "big").write_bytes(TEXT)
            if "without" in command.argv:
                place = Path(command.argv[command.argv.index("without") + 1])
                lists.append((place, place.read_text()))
                (path / "big").unlink()
            return f'"{path}"'

        self.fetches = [with_pointers] * 2
        self.assertEqual(self.fetched(), self.store / NAME)
        self.assertEqual([text for _, text in lists], ["big\n"])
        (self.store / NAME / "big").write_bytes(TEXT)
        self.fetcher = self.make()
        self.fetches = [with_pointers] * 2
        self.fetched()
        self.assertEqual([text for _, text in lists], ["big\n"] * 2)
        self.assertFalse((self.store / NAME / "big").exists())
        self.assertFalse(any(place.exists() for place, _ in lists))

    def test_repository_with_a_working_tree_is_fetched_as_any_other(self) -> None:
        """A repository of this machine with a working tree is fetched as any other."""
        tree = self.directory / "a b"
        (tree / ".git").mkdir(parents=True)
        for url, fetched in (
            (tree.as_uri(), f"{tree.as_uri()}/.git"),
            (f"{tree.as_uri()}/", f"{tree.as_uri()}/.git"),
            ((tree / ".git").as_uri(), (tree / ".git").as_uri()),
        ):
            self.fetched(evolve(TREE, url=url))
            argv = [each.argv for each in self.script.commands if "url" in each.argv][-1]
            self.assertEqual(argv[argv.index("url") + 1], fetched)
            self.assertEqual(
                self.script.commands[-1].environment["GIT_TEMPLATE_DIR"], "/git-template"
            )

    def test_fetch_that_failed_for_a_passing_reason_is_tried_again(self) -> None:
        """A fetch that failed for a passing reason is tried again."""
        self.fetches = [self.raising(failed("error: unable to download 'u': timeout"))] * 2
        asked = self.fetch()
        self.clock.pump([0.5, 2])
        self.successResultOf(asked)
        self.fetcher = self.make()
        self.fetches = [self.raising(failed("error: cannot find git revision"))] * 3
        (self.store / NAME).rmdir()
        asked = self.fetch()
        self.clock.pump([0.5, 2])
        error = self.failureResultOf(asked, SourceUnavailable).value
        self.assertEqual(error.reason, "cannot find git revision")
        self.assertEqual(error.what, TREE.commit)

    def test_history_is_fetched_where_it_cannot_be_left_out(self) -> None:
        """
        Of a server that cannot leave the history out, it is fetched too, at once and
        from then on; of others, and in other failures, it is not.
        """
        plain = failed("fatal: dumb http transport does not support shallow capabilities")
        self.fetches = [self.raising(plain)]
        self.fetched()
        other = evolve(TREE, commit="b" * 40)
        self.collections = 1
        self.fetched(other)
        fetches = [each.argv for each in self.script.commands if each.argv[0] != "nix-store"]
        self.assertEqual(
            ["whole" in argv for argv in fetches], [False, True, True, True, True], fetches
        )
        self.assertIn("holder", fetches[-2])
        elsewhere = evolve(TREE, url="https://h/q")
        self.fetches = [self.raising(failed("error: cannot find git revision"))] * 3
        asked = self.fetch(elsewhere)
        self.clock.pump([0.5, 2])
        self.failureResultOf(asked, SourceUnavailable)
        self.assertNotIn(
            "whole", [word for each in self.script.commands[-3:] for word in each.argv]
        )

    def test_each_kind_of_failure_is_distinguished_and_tried_once(self) -> None:
        """Each kind of failure is distinguished, and tried once."""
        for tree, raised, expected in (
            (ARCHIVE, failed("error: unable to download 'u': HTTP error 404"), CommitMissing),
            (TREE, failed("error: opening lock file 'x': Permission denied"), NixUnusable),
            (TREE, CommandMissing(command="nix-instantiate"), NixUnusable),
            (
                TREE,
                ProcessTimedOut(output=CommandOutput(argv=("nix-instantiate",)), seconds=1),
                SourceUnavailable,
            ),
            (
                HASHED,
                failed("error: hash mismatch in file downloaded from 'u':\n  specified: x"),
                SourceUnavailable,
            ),
        ):
            self.fetches = [self.raising(raised)]
            asked = self.fetch(tree)
            self.failureResultOf(asked, expected)
        for printed in ("", "null", '"/etc/passwd"', '"/nix/store/../../etc"'):
            self.fetches = [partial(str, printed)]
            self.failureResultOf(self.fetch(), UnexpectedOutput)
        self.assertEqual(self.programs().count("nix-store"), 0)

    def test_archive_with_a_hash(self) -> None:
        """The hash of an archive is given to Nix, and a wrong one is told with its setting."""
        self.successResultOf(self.fetch(HASHED))
        argv = self.script.commands[0].argv
        self.assertEqual(argv[argv.index("kind") + 1], "hashed")
        self.assertEqual(argv[argv.index("rev") + 1], "0" * 64)
        wrong = evolve(HASHED, commit="1" * 64)
        self.fetches = [self.raising(failed("error: hash mismatch in file downloaded from 'u':"))]
        failure = self.failureResultOf(self.fetch(wrong), SourceUnavailable).value
        self.assertIn("nix_path", failure.message)

    def test_source_that_was_unused_for_long_is_dropped_when_another_is_fetched(self) -> None:
        """A source that was unused for long is dropped when another is fetched."""
        self.settings = evolve(self.settings, source_retention=100.0)
        self.fetcher = self.make()
        used, unused, fresh = (evolve(TREE, commit=letter * 40) for letter in "abc")
        self.fetched(used)
        self.fetched(unused)
        self.clock.advance(60)
        self.fetched(used)
        self.clock.advance(60)
        self.fetched(fresh)
        self.assertEqual(self.roots(), sorted([used.name, fresh.name]))
        # It can come back.
        self.fetched(unused)
        self.assertEqual(len(self.roots()), 3)
