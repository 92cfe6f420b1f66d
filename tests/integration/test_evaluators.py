"""Real Nix: package sets that are kept in memory, and processes that end in between."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from attrs import evolve
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from nixery.image.errors import PackageProblem, ProblemKind
from nixery.image.names import PackageRequest
from nixery.image.packages import LookupResult, Package
from nixery.nix.commands import NixCommands
from nixery.nix.errors import EvaluationFailed, EvaluationTimedOut
from nixery.process.protocol import ChildProtocol, Exit
from nixery.runtime.deferreds import gather
from nixery.sources.source import PackageSet
from tests.integration.nixenv import nix_environment, path_set, try_to_delete
from tests.integration.test_nix import FOREIGN, SYSTEM, NixTestCase, SpyReactor

MEMORY = 300 * 1024**2
"""Bytes of memory for evaluations that are to have too little."""

KILLS = 15
"""The moments at which a process is killed."""

# Of every kind of package and problem, except those that take long.
NAMES = (
    *("plain", "PLAIN", "again", "aardvark", "7digits", "exactly", "twin", "9lives"),
    *("nested.inner", "NESTED.deep.package", "nested.iner", "nested", "nested2.x.y"),
    *("multi", "multi.dev", "multi.doc", "multi.nowhere", "unmarked", "multidev"),
    *("unfree", "unfreethrowing", "broken", "brokenaborting", "insecure", "unsupported"),
    *("metathrows", "metaless", "function", "functor", "text", "nothing", "environment"),
    *("throwing", "throwinglater", "asserting", "tracing", "handwritten", "misplaced"),
    *("aborting", "attributemissing", "typeerror", "stackoverflow", "readshost", "syntaxerror"),
    *("contentaddressed", "needsaddressed", "nowhere", "pkgscross.x", "dependent"),
)


def is_running(pid: int) -> bool:
    """True if a process has not ended, whether or not anybody has asked for its status."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def constant(package_set: PackageSet) -> PackageSet:
    """Return a package set that is known not to change, as those of commits are."""
    return evolve(package_set, revision=evolve(package_set.revision, pinned=True))


class EvaluatorTestCase(NixTestCase):
    """A Nix side that keeps package sets, and one that does not."""

    def setUp(self) -> None:
        super().setUp()
        # As awkward as what the sets are asked for.
        self.salt = "s\"a'l${t}\\\r\n" + self.salt
        self.nix = self.make()
        self.kept = constant(self.odd)
        self.spy = SpyReactor()
        self.resident = self.make_resident()

    def make_resident(self, **settings: Any) -> NixCommands:
        """Make a Nix side that keeps package sets; its processes are those of the spy."""
        nix = self.make(reactor=self.spy, **settings)
        nix.keep_evaluators()
        self.addCleanup(lambda: Deferred.fromCoroutine(nix.stop()))
        return nix

    async def ask(
        self, *names: str, package_set: PackageSet | None = None, nix: NixCommands | None = None
    ) -> Sequence[LookupResult]:
        return await (nix or self.resident).look_up(
            package_set or self.kept, SYSTEM, [PackageRequest(name=name) for name in names]
        )

    async def ask_ordinarily(
        self, name: str, package_set: PackageSet | None = None
    ) -> LookupResult:
        [result] = await self.ask(name, package_set=package_set, nix=self.nix)
        return result


class KeptSetTests(EvaluatorTestCase):
    """Tests of package sets that do not change."""

    async def test_answers_depend_on_names_and_not_on_what_was_asked_before(self) -> None:
        """
        An answer depends on its name, and not on what was asked before: it is that of a new
        process, with the same derivation and the same text, in whatever order and company.
        """
        chance = random.Random(22)  # not for secrets
        names = [*chance.sample(NAMES, len(NAMES)), *chance.choices(NAMES, k=len(NAMES))]
        expected = {name: await self.ask_ordinarily(name) for name in NAMES}
        while names:
            group, names = names[: (size := chance.choice((1, 1, 2, 5)))], names[size:]
            group = list(dict.fromkeys(group))
            results = await self.ask(*group)
            self.assertEqual(list(results), [expected[name] for name in group], group)
        kinds = {
            result.result.kind if isinstance(result.result, PackageProblem) else None
            for result in expected.values()
        }
        # Without an experimental feature, what is content-addressed does not evaluate.
        self.assertEqual(kinds, {None, *ProblemKind} - {ProblemKind.CONTENT_ADDRESSED})

    async def test_one_process_answers_what_can_be_answered(self) -> None:
        """One process answers all that can be answered, and no other is started."""
        for name in ("plain", "multi", "throwing", "nowhere", "unfree", "twin", "nested"):
            await self.ask(name)
        self.assertEqual(len(self.spy.repls), 1)
        # What was thrown is found out by another one.
        self.assertEqual(len(self.spy.children), 2)

    async def test_quotes_backslashes_dollars_and_line_ends_are_themselves(self) -> None:
        """Quotes, backslashes, dollars and ends of lines are themselves, in names and paths."""
        package_set, names = self.odd_set()
        requests = [PackageRequest(name=name, exact=True) for name in names]
        expected = await self.nix.look_up(package_set, SYSTEM, requests)
        for each in (package_set, constant(package_set)):
            self.spy.children.clear()
            self.assertEqual(await self.resident.look_up(each, SYSTEM, requests), expected)
            self.assertEqual(len(self.spy.children), 1)
        *found, missing = [answer.result for answer in expected]
        self.assertEqual(
            [(item.attribute, item.name) for item in found if isinstance(item, Package)],
            [(name, f"p{names.index(name) if name != 'added' else 0}") for name in names[:-1]],
        )
        assert isinstance(missing, PackageProblem)
        self.assertIs(missing.kind, ProblemKind.NOT_FOUND)

    def odd_set(self) -> tuple[PackageSet, list[str]]:
        """A package set, and an overlay, with all that may be misread in names and paths."""
        names = ["a\"b'c", "${abort 1}", "$${x}", "a\\", '\\"', "\\${x}", "''${x}", "a\r\nb\rc\n\t"]
        directory = self.directory / "a b'=\"$${c}\\${d}\\"
        directory.mkdir()
        (directory / "names.json").write_text(json.dumps(names))
        (directory / "default.nix").write_text(
            """
            { system, config, overlays }:
            let
              package = at: derivation {
                name = "p${toString at}";
                inherit system;
                inherit (config) salt;
                builder = "b";
              };
              names = builtins.fromJSON (builtins.readFile ./names.json);
              set = builtins.listToAttrs (
                builtins.genList
                  (at: { name = builtins.elemAt names at; value = package at; })
                  (builtins.length names)
              );
            in
            builtins.foldl' (before: overlay: before // overlay before before) set overlays
            """
        )
        overlay = self.directory / 'o"$v${er}\\lay.nix'
        overlay.write_text("""final: before: { added = before."a\\"b'c"; }""")
        return path_set(directory, overlay.resolve()), [*names, "added", 'no"${ne}\\']

    async def test_each_system_has_a_process(self) -> None:
        """Each system has its own packages."""
        for system in (SYSTEM, FOREIGN, SYSTEM):
            [answer] = await self.resident.look_up(self.kept, system, [PackageRequest(name="own")])
            assert isinstance(answer.result, Package)
            self.assertEqual(answer.result.name, f"own-{system}")
        self.assertEqual(len(self.spy.children), 2)

    async def test_derivations_are_protected_while_the_process_runs(self) -> None:
        """Derivations are in the store, and no collection takes them while the process runs."""
        [answer] = await self.ask("dependent")
        assert isinstance(answer.result, Package)
        derivation = answer.result.derivation
        self.assertEqual(try_to_delete(derivation), 1)
        await self.resident.stop()
        self.assertEqual(try_to_delete(derivation), 0)

    async def test_process_that_is_killed_at_any_moment_costs_time_only(self) -> None:
        """A process that is killed at any moment costs time, and changes no answer."""
        chance = random.Random(9)  # not for secrets
        names = ("plain", "multi", "throwing", "nowhere", "dependent", "aborting")
        expected = {name: await self.ask_ordinarily(name) for name in names}

        async def kill() -> None:
            await deferLater(cast(Any, reactor), chance.random() * 0.1)
            for child in self.spy.repls:
                child.signal(signal.SIGKILL)

        for _ in range(KILLS):
            name = chance.choice(names)
            results = await gather([self.ask_one(name), kill()])
            self.assertEqual(results[0], expected[name])
        # Nothing is held against any of them.
        self.assertEqual(await self.ask_one("plain"), expected["plain"])

    async def ask_one(self, name: str) -> LookupResult | None:
        [result] = await self.ask(name)
        return result

    async def test_package_that_needs_too_much_memory_is_told_as_ever(self) -> None:
        """A package that needs too much memory is told as ever, and others are answered."""
        nix = self.make_resident(max_eval_memory=MEMORY)
        for _ in range(3):
            [hungry] = await self.ask("hungry", nix=nix)
            assert isinstance(hungry.result, PackageProblem)
            self.assertIn(f"needs more than {MEMORY // 1024**2} MiB", hungry.result.message)
            [plain] = await self.ask("plain", nix=nix)
            self.assertIsInstance(plain.result, Package)
        # Two have died of it, and the third one was not asked.
        self.assertEqual(len(self.spy.repls), 3)

    async def test_package_that_takes_too_long_is_told_as_ever(self) -> None:
        """A package that takes too long is told as ever, and its process is stopped."""
        nix = self.make_resident(eval_timeout=0.5, max_eval_memory=2 * 1024**3)
        with self.assertRaises(EvaluationTimedOut) as caught:
            await self.ask("hungry", nix=nix)
        self.assertIn("after 0.5 s", caught.exception.message)
        for child in self.spy.repls:
            self.assertNotEqual(await child.wait_until_exited(), Exit(status=0))

    async def test_set_that_does_not_evaluate_is_told_as_ever(self) -> None:
        """A package set that does not evaluate is told as ever."""
        directory = self.directory / "set"
        directory.mkdir()
        (directory / "default.nix").write_text("{ ")
        for package_set in (path_set(directory), constant(path_set(directory))):
            with self.assertRaises(EvaluationFailed) as caught:
                await self.ask("x", package_set=package_set)
            self.assertIn("syntax error", caught.exception.message)

    async def test_nothing_survives_the_daemon(self) -> None:
        """No evaluator survives a daemon that is killed, whether it waits or evaluates."""
        for name in ("plain", "hungry"):
            pid = await deferToThread(self.start_and_kill_daemon, name)
            while is_running(pid):
                await deferLater(cast(Any, reactor), 0.01)

    def start_and_kill_daemon(self, name: str) -> int:
        """Return the process that had been asked for a package when its daemon was killed."""
        with subprocess.Popen(
            [sys.executable, "-c", DAEMON, str(self.directory), name],
            env=nix_environment() | {"PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE,
            text=True,
        ) as daemon:
            assert daemon.stdout is not None
            try:
                pid = int(daemon.stdout.readline())
                self.assertTrue(is_running(pid))
            finally:
                daemon.kill()
        return pid


# Asks for a package, and tells the process that was asked: at once, or after the answer.
DAEMON = """
import sys
from pathlib import Path
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from nixery.image.names import PackageRequest
from tests.integration.nixenv import ODD, make_nix, path_set
from tests.integration.test_evaluators import SYSTEM, SpyReactor, constant

spy = SpyReactor()
nix = make_nix(Path(sys.argv[1]), reactor=spy)
nix.keep_evaluators()
request = PackageRequest(name=sys.argv[2])

def tell(_=None):
    print(spy.pids[0], flush=True)

answer = Deferred.fromCoroutine(nix.look_up(constant(path_set(ODD)), SYSTEM, [request]))
answer.addCallback(tell) if request.name == "plain" else tell()
reactor.run()
"""


class ChangingSetTests(EvaluatorTestCase):
    """Tests of package sets that may change, each question having a process of its own."""

    async def prepare(self, package_set: PackageSet) -> ChildProtocol:
        """Have a process wait for a package set."""
        count = len(self.spy.children)
        self.resident.prepare_evaluation(package_set, SYSTEM)
        while len(self.spy.children) == count:
            await deferLater(cast(Any, reactor), 0)
        return self.spy.children[-1]

    async def test_process_that_waits_answers_for_any_system(self) -> None:
        """The process that waits answers a question about any system, and ends."""
        child = await self.prepare(self.odd)
        [answer] = await self.resident.look_up(self.odd, FOREIGN, [PackageRequest(name="own")])
        assert isinstance(answer.result, Package)
        self.assertEqual(answer.result.name, f"own-{FOREIGN}")
        self.assertEqual(await child.wait_until_exited(), Exit(status=0))
        self.assertEqual(self.spy.children, [child])

    async def test_nothing_is_read_before_the_question(self) -> None:
        """It has read nothing before it is asked: what was changed meanwhile is seen."""
        directory = self.directory / "set"
        directory.mkdir()
        text = '{ system }: { x = derivation { name = "NAME"; inherit system; builder = "b"; }; }'
        (directory / "default.nix").write_text(text.replace("NAME", "before"))
        child = await self.prepare(path_set(directory))
        # For what it might do by now.
        await deferLater(cast(Any, reactor), 0.3)
        for name in ("after", "later"):
            (directory / "default.nix").write_text(text.replace("NAME", name))
            [answer] = await self.ask("x", package_set=path_set(directory))
            assert isinstance(answer.result, Package)
            self.assertEqual(answer.result.name, name)
        self.assertEqual(await child.wait_until_exited(), Exit(status=0))

    async def test_process_that_is_not_needed_ends_by_itself(self) -> None:
        """A process that is not needed any more ends by itself, and well."""
        first = await self.prepare(self.odd)
        (self.directory / "other").mkdir()
        second = await self.prepare(path_set(self.directory / "other"))
        self.assertEqual(await first.wait_until_exited(), Exit(status=0))
        await self.resident.stop()
        await second.wait_until_exited()
        for pid in self.spy.pids:
            self.assertRaises(ProcessLookupError, os.kill, pid, 0)
