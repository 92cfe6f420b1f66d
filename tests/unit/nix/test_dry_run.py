"""Tests for :mod:`nixery.nix.dry_run`; the texts were printed by these versions of Nix."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from nixery.errors import UnexpectedOutput
from nixery.image.packages import Output, Package
from nixery.nix.arguments import NixSettings, dry_run
from nixery.nix.context import NixContext
from nixery.nix.dry_run import DryRun, DryRunner, parse_dry_run
from nixery.process.errors import CommandOutput, ProcessFailed
from nixery.process.spawner import Command, ProcessResult
from nixery.testing.fakes import InlineWorkers

A = "/nix/store/q6hcxilcncimi0nqv420sq6jxhfx9s2v-a-1"
B = "/nix/store/34g2y6i9qlpww98mmmjak4j262ih6vim-b-1"
C = "/nix/store/ybzn87dwyi74hfb95wk0gljsk5ahln2f-c-1"
D = "/nix/store/i022hs3qr72wgi8ixwjn6hnkn3a7sxh4-d-1.drv"
E = "/nix/store/ahl13xb0j77a1q4srqqziqh4z2fxivyg-e-1.drv"
GONE = "/nix/store/00000000000000000000000000000000-x.drv"

MIB = 2**20

NIX_2_8 = f"""\
warning: the group 'nixbld' specified in 'build-users-group' does not exist
these 2 derivations will be built:
  {D}
  {E}
these 3 paths will be fetched (5.06 MiB download, 5.07 MiB unpacked):
  {B}
  {A}
  {C}
"""
"""Nix 2.26 prints the same, in another order."""

NIX_2_34 = f"""\
this derivation will be built:
  {D}
these 2 paths will be fetched (293.8 KiB download, 5.1 MiB unpacked):
  {A}
  {B}
"""

ONE_PATH = {
    "2.8": f"this path will be fetched (0.29 MiB download, 0.00 MiB unpacked):\n  {A}\n",
    "2.34": f"this path will be fetched (297.0 KiB download, 0.6 KiB unpacked):\n  {A}\n",
}

UNAVAILABLE = f"""\
this derivation will be built:
  {D}
don't know how to build these paths:
  {GONE}
"""

UNREACHABLE = {
    "2.8": f"""\
warning: error: unable to download 'http://127.0.0.1:9/nix-cache-info': Couldn't connect to server \
(7); retrying in 2405 ms
warning: unable to download 'http://127.0.0.1:9/nix-cache-info': Couldn't connect to server (7)
this derivation will be built:
  {D}
""",
    "2.34": f"""\
warning: unable to download 'http://127.0.0.1:9/nix-cache-info': Could not connect to server (7) \
Failed to connect to 127.0.0.1:9 after 14 ms: Could not connect to server; retrying in 2647 ms \
(attempt 4/5)
warning: unable to download 'http://127.0.0.1:9/nix-cache-info': Could not connect to server (7) \
Failed to connect to 127.0.0.1:9 after 17 ms: Could not connect to server
this derivation will be built:
  {D}
""",
}


DISABLED = f"""\
warning: unable to download 'http://127.0.0.1:9/34g2.narinfo': HTTP error 503; retrying in 269 ms \
(attempt 1/2)
disabling binary cache 'http://127.0.0.1:9' for 60 seconds
error: unable to download 'http://127.0.0.1:9/34g2.narinfo': HTTP error 503
this derivation will be built:
  {D}
"""
"""Nix 2.34 with the option ``fallback``; without it, it exits with 1."""


def parse(text: str) -> DryRun:
    return parse_dry_run(text.splitlines())


class ParserTests(SynchronousTestCase):
    """Tests for :func:`parse_dry_run`."""

    def test_builds_and_downloads_are_listed_with_their_sizes(self) -> None:
        """Derivations, store paths and sizes are read from what Nix 2.8 and 2.26 print."""
        self.assertEqual(
            DryRun(
                builds=(D, E),
                fetches=(B, A, C),
                download_size=int(5.06 * MIB),
                unpacked_size=int(5.07 * MIB),
            ),
            parse(NIX_2_8),
        )

    def test_sizes_have_units(self) -> None:
        """Each size is read with its unit, as Nix 2.34 prints them."""
        self.assertEqual(
            DryRun(
                builds=(D,),
                fetches=(A, B),
                download_size=int(293.8 * 1024),
                unpacked_size=int(5.1 * MIB),
            ),
            parse(NIX_2_34),
        )
        text = NIX_2_34.replace("5.1 MiB", "2.5 GiB").replace("293.8 KiB", "12.0 B")
        self.assertEqual(
            (12, int(2.5 * 2**30)), (parse(text).download_size, parse(text).unpacked_size)
        )

    def test_one_path_and_nothing_are_told(self) -> None:
        """One path has a wording of its own; nothing at all is printed if all is valid."""
        for text in ONE_PATH.values():
            self.assertEqual((A,), parse(text).fetches)
        self.assertEqual(int(297.0 * 1024), parse(ONE_PATH["2.34"]).download_size)
        self.assertEqual(DryRun(), parse(""))

    def test_paths_that_nix_cannot_get_are_told(self) -> None:
        """Paths that can be neither built nor downloaded are told apart from builds."""
        found = parse(UNAVAILABLE)
        self.assertEqual(((D,), (GONE,)), (found.builds, found.unavailable))

    def test_caches_that_do_not_answer_are_told_once(self) -> None:
        """A cache that Nix gave up is told; one that it tried again is not."""
        for text in (*UNREACHABLE.values(), DISABLED):
            self.assertEqual(("http://127.0.0.1:9",), parse(text).unreachable)
            self.assertEqual((D,), parse(text).builds)
            retried = [line for line in text.splitlines() if "ms" in line or "/nix/" in line]
            self.assertEqual((), parse_dry_run([retried[0]]).unreachable)

    def test_what_is_not_understood_is_refused(self) -> None:
        """A line or a size of an unknown form is no answer: nothing is guessed."""
        for text in (
            NIX_2_8.replace("will be built", "may be built"),
            NIX_2_8.replace("5.06 MiB download", "5.06 XiB download"),
            NIX_2_8.replace("5.06 MiB download", "5.0.6 MiB download"),
            NIX_2_8.replace(" (5.06 MiB download, 5.07 MiB unpacked)", ""),
            NIX_2_8 + "these 2 paths will be copied:\n",
            NIX_2_8.replace(A, "/nix/store/a"),
            f"  {A}\n",
        ):
            with self.assertRaises(UnexpectedOutput):
                parse(text)

    @given(st.lists(st.one_of(st.text(max_size=80), st.sampled_from(NIX_2_8.splitlines()))))
    def test_any_text_is_read_or_refused(self, lines: list[str]) -> None:
        """Any text gives a dry run or :exc:`UnexpectedOutput`."""
        try:
            found = parse_dry_run(lines)
        except UnexpectedOutput:
            return
        self.assertEqual(lines.count(f"  {D}"), found.builds.count(D) + found.fetches.count(D))


PACKAGE = Package(
    requested=("d",),
    attribute="d",
    name="d-1",
    pname="d",
    version="1",
    description="",
    priority=5,
    derivation=D,
    outputs=(Output(name="bin", path=A), Output(name="out", path=B)),
)


class CommandTests(SynchronousTestCase):
    """Tests for the command."""

    def test_outputs_are_chosen_as_a_build_chooses_them(self) -> None:
        """Each chosen output of a derivation is an argument."""
        self.assertEqual(
            ("nix-store", "--realise", "--dry-run", f"{D}!bin", f"{D}!out"), dry_run([PACKAGE])
        )

    def test_caches_that_made_nix_give_up_are_told(self) -> None:
        """If Nix fails for want of a cache, the cache is told, and no number."""
        unreachable = "error: unable to download 'https://a.example/x.narinfo': HTTP error 503"
        found = self.successResultOf(self.fail_with(unreachable))
        self.assertEqual(DryRun(known=False, unreachable=("https://a.example",)), found)
        self.failureResultOf(self.fail_with("error: something else"), UnexpectedOutput)

    def fail_with(self, line: str) -> Deferred[DryRun]:
        """Run a command that prints a line and fails."""
        output = CommandOutput(argv=("nix-store",), status=1, stderr=line)

        class FailingSpawner:
            async def run(self, command: Command) -> ProcessResult:
                assert command.on_stderr_line is not None
                command.on_stderr_line(line.encode())
                raise ProcessFailed(output=output)

        context = NixContext(
            spawner=FailingSpawner(),
            clock=Clock(),
            workers=InlineWorkers(),
            settings=NixSettings(state_directory=Path("/s"), home=Path("/h")),
            environ={},
        )
        return Deferred.fromCoroutine(DryRunner(context).dry_run([PACKAGE]))

    def test_nothing_is_asked_for_nothing(self) -> None:
        """Without a package no command is run, for Nix would refuse it."""
        runner = DryRunner(None)  # type: ignore[arg-type]  # it is not used
        answer = Deferred.fromCoroutine(runner.dry_run(()))
        self.assertEqual(DryRun(), self.successResultOf(answer))
