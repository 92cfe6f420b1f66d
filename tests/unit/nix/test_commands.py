"""The order of Nix commands, and what is cleaned up."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrs import define, evolve, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.logger import LogLevel, capturedLogs, formatEvent
from twisted.trial.unittest import SynchronousTestCase

from nixery.image.closure import RuntimeGraph
from nixery.image.names import PackageRequest
from nixery.image.packages import Evaluation, Output, Package
from nixery.nix import arguments
from nixery.nix.arguments import NixSettings
from nixery.nix.commands import NixCommands
from nixery.nix.context import NixContext
from nixery.nix.errors import (
    BuildFailed,
    BuildTimedOut,
    MissingDerivations,
    NixMisconfigured,
    NixUnusable,
)
from nixery.nix.interface import Nix, Realisation
from nixery.process.errors import (
    CommandMissing,
    CommandOutput,
    OutputTooLarge,
    ProcessFailed,
    ProcessTimedOut,
)
from nixery.process.spawner import Command, ProcessResult
from nixery.sources.source import PackageSet, path_revision
from nixery.testing.fakes import InlineWorkers, store_path
from tests.unit.nix.test_internal_json import Recorder

PATHS = [store_path(f"p{number}").path for number in range(3000)]
PACKAGE = Package(
    requested=("a",),
    attribute="a",
    name="a",
    pname="a",
    version="",
    description="",
    priority=5,
    derivation="/nix/store/a.drv",
    outputs=(Output(name="out", path=PATHS[0]), Output(name="dev", path=PATHS[1])),
)
PROBED = store_path("nixery-probe").path
OUTPUT = CommandOutput(argv=("nix-x",), status=1, stderr="error: surprise")


@define(eq=False)
class Script:
    """
    A :class:`nixery.process.spawner.Spawner` that plays a script.

    :param play: what a command prints; it may raise.
    """

    play: Callable[[Command], str | Deferred[str]]
    commands: list[Command] = field(factory=list)
    stderr: str = ""

    async def run(self, command: Command) -> ProcessResult:
        self.commands.append(command)
        printed = self.play(command)
        text = await printed if isinstance(printed, Deferred) else printed
        return ProcessResult(stdout=text.encode(), stderr=self.stderr)


class NixTests(SynchronousTestCase):
    """Commands by a spawner that plays Nix."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.clock = Clock()
        self.script = Script(lambda _: "")
        self.settings = NixSettings(state_directory=self.directory, home=self.directory / "home")
        self.nix = NixCommands(
            NixContext(
                spawner=self.script,
                clock=self.clock,
                workers=InlineWorkers(),
                settings=self.settings,
                environ={"PATH": "/bin"},
            ),
            resolve=Path("/resolve.nix"),
            has_content=lambda path, content: self.holds(path, content),  # noqa: PLW0108  # set below
        )
        self.holds: Callable[[str, bytes], bool] = lambda path, content: True

    def run_nix(self, method: str, *arguments: Any) -> Deferred[Any]:
        return Deferred.fromCoroutine(getattr(self.nix, method)(*arguments))

    def roots(self) -> list[str]:
        return sorted(path.name for path in self.settings.roots.glob("*"))

    def raising(self, error: Exception) -> Callable[[Command], str]:
        def play(_: Command) -> str:
            raise error

        return play

    def test_commands_are_the_nix_side_of_the_daemon(self) -> None:
        """It is the Nix side that the rest of the daemon knows."""
        nix: Nix = self.nix
        self.assertIs(nix, self.nix)

    # -- check ------------------------------------------------------------------

    def checked(
        self, version: str, probe: str = arguments.STORE_PROBE, invalid: str = ""
    ) -> Deferred[Any]:
        """:param invalid: what Nix says when it is asked about the file that it has stored."""

        def play(command: Command) -> str:
            if "--version" in command.argv:
                return version
            if command.argv == arguments.probe_store():
                return probe
            return f'"{PROBED}"' if "nix-instantiate" in command.argv else invalid

        self.script.play = play
        return self.run_nix("check")

    def test_versions_are_read_as_several_implementations_print_them(self) -> None:
        """Versions are read as several implementations print them."""
        for printed, version in (
            ("nix-store (Nix) 2.8.0\n", "2.8.0"),
            ("nix-store (Nix) 2.34.8pre20260101_abcdef1\n", "2.34.8pre20260101_abcdef1"),
            ("nix-store (Lix, like Nix) 2.91.1\n", "2.91.1"),
        ):
            self.assertEqual(self.successResultOf(self.checked(printed)), version)

    def test_store_with_files_elsewhere_is_refused_with_their_place(self) -> None:
        """A store whose files are not where its paths say is refused, and said where it is."""
        self.holds = lambda path, content: False
        self.script.stderr = f"locking path '/x/root{PROBED}'\nlock acquired"
        error = self.failureResultOf(self.checked("nix-store (Nix) 2.8.0"), NixMisconfigured).value
        self.assertIn("in /x/root/nix/store", error.message)

    def test_file_that_collection_has_removed_says_nothing_about_where_store_is(self) -> None:
        """A file that a collection has removed says nothing about where the store is."""
        answers = iter((False, True))
        looked: list[bytes] = []

        def holds(path: str, content: bytes) -> bool:
            self.assertEqual(PROBED, path)
            looked.append(content)
            return next(answers)

        self.holds = holds
        self.successResultOf(self.checked("nix-store (Nix) 2.8.0", invalid=PROBED))
        # Nothing that was ever stored is looked for: it may be in another store, too.
        self.assertEqual(2, len(set(looked)))

    def test_check_ignored_settings(self) -> None:
        """Settings that Nix's daemon ignores are named, each once, for any version of Nix."""
        self.script.stderr = (
            "acquiring a lock\n"
            "ignoring the client-specified setting 'builders', because it is a restricted setting"
            " and you are not a trusted user\n"
            "warning: ignoring the user-specified setting 'sandbox', because it is a restricted"
            " setting and you are not a trusted user\n"
            "warning: ignoring untrusted substituter 'http://cache', you are not a trusted user.\n"
            "warning: ignoring untrusted substituter 'http://cache', you are not a trusted user.\n"
            "warning: unknown setting 'colour'\n"
        )
        with capturedLogs() as events:
            self.successResultOf(self.checked("nix-store (Nix) 2.8.0"))
        ignored, other = [
            formatEvent(event) for event in events if event["log_level"] is LogLevel.warn
        ]
        self.assertIn("ignores builders, sandbox, http://cache: set that in its", ignored)
        self.assertEqual(other, "Nix says: warning: unknown setting 'colour'")

    def test_missing_group_for_builds_is_told_with_what_to_do(self) -> None:
        """Root without Nix's daemon and without users for builds is told what to do, once."""
        self.script.stderr = (
            "warning: the group 'nixbld' specified in 'build-users-group' does not exist\n"
        )
        with capturedLogs() as events:
            self.successResultOf(self.checked("nix-store (Nix) 2.8.0"))
        [warned] = [formatEvent(event) for event in events if event["log_level"] is LogLevel.warn]
        self.assertIn("the group nixbld does not exist. Install the daemon", warned)
        self.assertIn('set nix_options to {build-users-group: ""}', warned)

    def test_unusable_nix_is_reported(self) -> None:
        """An unusable Nix is reported."""
        self.failureResultOf(self.checked("nix-store (Nix) 2.2.2"), NixUnusable)
        self.failureResultOf(self.checked("hello"), NixUnusable)
        self.failureResultOf(self.checked("nix-store (Nix) 2.8.0", probe=""), NixUnusable)
        for error in (
            CommandMissing(command="nix-store"),
            ProcessFailed(output=OUTPUT),
            ProcessTimedOut(output=OUTPUT, seconds=300),
            OutputTooLarge(output=OUTPUT, limit=10),
        ):
            self.script.play = self.raising(error)
            self.failureResultOf(self.run_nix("check"), NixUnusable)

    # -- realise ----------------------------------------------------------------

    def test_outputs_are_those_of_the_packages(self) -> None:
        """Outputs are those of the packages, and each realisation has a root of its own."""
        self.script.play = lambda _: f"{PATHS[1]}\n{PATHS[0]}\n"
        results = [
            self.successResultOf(self.run_nix("realise", [PACKAGE, PACKAGE], Recorder()))
            for _ in range(2)
        ]
        for result in results:
            self.assertEqual(result.outputs, tuple(sorted(PATHS[:2])))
        self.assertEqual(self.roots(), sorted(result.root for result in results))
        self.assertIn(
            str(self.settings.roots / results[0].root / "r"), self.script.commands[0].argv
        )
        self.successResultOf(self.run_nix("release", results[0]))
        self.assertEqual(self.roots(), [results[1].root])

    def test_nothing_is_built_of_nothing(self) -> None:
        """Nothing is built of nothing: Nix would build what lies in the directory."""
        for packages in ([], [evolve(PACKAGE, outputs=())]):
            result = self.successResultOf(self.run_nix("realise", packages, Recorder()))
            self.assertEqual(result.outputs, ())
            self.successResultOf(self.run_nix("release", result))
        self.assertEqual(self.script.commands, [])

    def test_failed_build_leaves_no_root_and_has_reported_progress(self) -> None:
        """However a build fails, no root is left, and progress was told until then."""
        build_failed = CommandOutput(argv=("nix-build",), status=100, stderr="")
        for error, expected in (
            (ProcessFailed(output=build_failed), BuildFailed),
            (ProcessFailed(output=OUTPUT), NixUnusable),
            (ProcessTimedOut(output=OUTPUT, seconds=1), BuildTimedOut),
            (CommandMissing(command="nix-build"), NixUnusable),
            (ZeroDivisionError(), ZeroDivisionError),
        ):
            self.script.play = self.raising(error)
            result = self.run_nix("realise", [PACKAGE], Recorder())
            self.failureResultOf(result, expected)
            self.assertEqual(self.roots(), [])

    def test_outputs_that_are_others_than_those_evaluated_are_not_taken(self) -> None:
        """Outputs that are others than those evaluated are not taken."""
        self.script.play = lambda _: f"{PATHS[0]}\n{PATHS[2]}\n"
        result = self.run_nix("realise", [PACKAGE], Recorder())
        failure = self.failureResultOf(result, BuildFailed).value
        self.assertIn(PATHS[2], failure.message)
        self.assertEqual(self.roots(), [])

    def anew(self) -> Deferred[Any]:
        evaluation = Evaluation(packages=(PACKAGE,), missing_optional=(), system="x86_64-linux")
        path = Path("/set")
        package_set = PackageSet(revision=path_revision(path, ()), path=path)
        requests = [PackageRequest(name="a")]
        return self.run_nix("reevaluate_and_realise", package_set, requests, evaluation, Recorder())

    def test_one_command_evaluates_builds_and_roots_anew(self) -> None:
        """One command evaluates, builds and roots; none runs before it."""
        self.script.play = lambda _: f"{PATHS[1]}\n{PATHS[0]}\n{PATHS[1]}\n"
        realisation = self.successResultOf(self.anew())
        self.assertEqual(realisation.outputs, tuple(sorted(PATHS[:2])))
        [command] = self.script.commands
        self.assertEqual(command.argv[0], "nix-build")
        self.assertIn(str(self.settings.roots / realisation.root / "r"), command.argv)
        self.assertNotIn(f"{PACKAGE.derivation}!out", command.argv)
        self.assertEqual(command.timeout, self.settings.build_deadline)

    def test_realise_others_anew(self) -> None:
        """An evaluation of a package set that was changed meanwhile is refused."""
        self.script.play = lambda _: f"{PATHS[0]}\n{PATHS[2]}\n"
        self.failureResultOf(self.anew(), MissingDerivations)
        self.assertEqual(self.roots(), [])

    def test_not_evaluated_together(self) -> None:
        """Packages that can be evaluated in parts only are built as they were evaluated."""

        def play(command: Command) -> str:
            if "-A" in command.argv:
                raise ProcessFailed(output=OUTPUT)
            return f"{PATHS[0]}\n{PATHS[1]}\n"

        self.script.play = play
        realisation = self.successResultOf(self.anew())
        self.assertEqual(self.roots(), [realisation.root])
        self.assertIn(f"{PACKAGE.derivation}!out", self.script.commands[-1].argv)

    def test_build_that_is_cancelled_leaves_no_root(self) -> None:
        """A build that is cancelled leaves no root."""
        self.script.play = lambda _: Deferred()
        result = self.run_nix("realise", [PACKAGE], Recorder())
        self.assertEqual(len(self.roots()), 1)
        result.cancel()
        self.failureResultOf(result, CancelledError)
        self.assertEqual(self.roots(), [])

    def test_progress_that_nix_reports_during_a_build_is_passed_on(self) -> None:
        """Progress that Nix reports during a build is passed on."""
        recorder = Recorder()

        def play(command: Command) -> str:
            assert command.on_stderr_line is not None
            command.on_stderr_line(b'@nix {"action":"start","id":1,"type":105,"fields":["/a.drv"]}')
            return "\n".join(PATHS[:2])

        self.script.play = play
        self.successResultOf(self.run_nix("realise", [PACKAGE], recorder))
        self.assertIn(("derivation", "/a.drv"), recorder.calls)

    # -- closure ----------------------------------------------------------------

    def dump(self, command: Command) -> str:
        if "--requisites" in command.argv:
            return "\n".join(PATHS)
        paths = command.argv[2:]
        self.assertTrue(paths, "without paths Nix dumps its whole database")
        return "".join(f"{path}\n{'0' * 64}\n100\n\n0\n" for path in paths)

    def test_large_closure_is_asked_for_in_pieces_and_is_whole(self) -> None:
        """A large closure is asked for in pieces, and is whole."""
        self.script.play = self.dump
        graph: RuntimeGraph = self.successResultOf(self.run_nix("closure", PATHS[:2]))
        self.assertEqual({path.path for path in graph.paths}, set(PATHS))
        self.assertGreater(len(self.script.commands), 2)
        for command in self.script.commands:
            self.assertLess(sum(len(part) + 1 for part in command.argv), 128 * 1024)

    def test_closure_of_no_paths_is_empty_and_runs_no_command(self) -> None:
        """The closure of no paths is empty, and runs no command."""
        graph = self.successResultOf(self.run_nix("closure", ()))
        self.assertEqual((len(graph.paths), self.script.commands), (0, []))

    def test_query_that_fails_is_a_fault_of_nix(self) -> None:
        """A query that fails is a fault of Nix."""
        self.script.play = self.raising(ProcessFailed(output=OUTPUT))
        self.failureResultOf(self.run_nix("closure", PATHS[:2]), NixUnusable)

    # -- evaluators -------------------------------------------------------------

    def test_process_waits_for_what_is_expected_if_that_is_wanted_until_the_end(self) -> None:
        """A process waits for what is expected, if that is wanted, until the end."""
        path = Path("/set")
        package_set = PackageSet(revision=path_revision(path, ()), path=path)
        self.nix.prepare_evaluation(package_set, "x86_64-linux")
        self.assertEqual(self.clock.getDelayedCalls(), [])
        waiting: Deferred[str] = Deferred()
        self.script.play = lambda _: waiting
        self.nix.keep_evaluators()
        self.nix.prepare_evaluation(package_set, "x86_64-linux")
        self.clock.advance(0)
        [command] = self.script.commands
        self.assertEqual(command.argv[:2], ("nix", "repl"))
        self.assertEqual(command.environment["HOME"], str(self.settings.home))
        self.successResultOf(self.run_nix("stop"))
        self.assertTrue(waiting.called)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    # -- roots ------------------------------------------------------------------

    def test_roots_that_an_earlier_run_left_are_removed_with_their_links(self) -> None:
        """Roots that an earlier run left are removed with their links; the targets stay."""
        target = self.directory / "target"
        target.mkdir(parents=True)
        for name in ("one", "two"):
            (self.settings.roots / name).mkdir(parents=True)
            (self.settings.roots / name / "r").symlink_to(target)
        self.successResultOf(self.run_nix("sweep"))
        self.assertEqual(self.roots(), [])
        self.assertTrue(target.is_dir())
        self.successResultOf(self.run_nix("sweep"))

    def test_cleaning_never_fails(self) -> None:
        """A root that cannot be removed is logged, and raises nothing."""
        self.settings.roots.mkdir(parents=True)
        (self.settings.roots / "file").write_text("")
        self.successResultOf(self.run_nix("sweep"))
        self.successResultOf(self.run_nix("release", Realisation(root="file", outputs=())))
        self.assertEqual(len(self.flushLoggedErrors(NotADirectoryError)), 2)
