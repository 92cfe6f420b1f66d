"""Real Nix: every rule of looking packages up, and every way in which they fail."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, cast
from uuid import uuid4

from attrs import define, field
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import SkipTest, TestCase

from nixery.image.errors import PackageProblem, PackagesRefused, ProblemKind
from nixery.image.names import PackageRequest, parse_image_name
from nixery.image.packages import Evaluation, Package
from nixery.nix.arguments import NixSettings, environment
from nixery.nix.commands import NixCommands
from nixery.nix.errors import (
    BuildFailed,
    BuildTimedOut,
    EvaluationFailed,
    EvaluationTimedOut,
    MissingDerivations,
    NixDiskFull,
    NixMisconfigured,
    NixUnusable,
    NotSubstitutable,
    WrongSystem,
)
from nixery.nix.progress import Phase
from nixery.process.protocol import ChildProtocol
from tests.integration.nixenv import (
    ODD,
    daemon_listens,
    make_nix,
    nix_environment,
    nix_missing,
    path_set,
    try_to_delete,
)

SYSTEM = "x86_64-linux" if os.uname().machine == "x86_64" else f"{os.uname().machine}-linux"
FOREIGN = "x86_64-linux" if SYSTEM == "aarch64-linux" else "aarch64-linux"


@define(kw_only=True, eq=False)
class Recorder:
    """Implements :class:`nixery.nix.progress.Progress`."""

    phases: list[Phase] = field(factory=list)
    counts: list[tuple[Phase, int, int, str]] = field(factory=list)
    derivations: list[str] = field(factory=list)
    builder_phases: list[tuple[str, str]] = field(factory=list)
    ended: list[tuple[str, bool]] = field(factory=list)
    lines: list[str] = field(factory=list)
    first_line: Deferred[str] = field(factory=Deferred)

    def phase(self, phase: Phase, /) -> None:
        self.phases.append(phase)

    def count(self, phase: Phase, done: int, expected: int, unit: str, /) -> None:
        self.counts.append((phase, done, expected, unit))

    def derivation(self, derivation: str, /) -> None:
        self.derivations.append(derivation)

    def derivation_phase(self, derivation: str, phase: str, /) -> None:
        self.builder_phases.append((derivation, phase))

    def derivation_ended(self, derivation: str, succeeded: bool, /) -> None:
        self.ended.append((derivation, succeeded))

    def log(self, line: str, derivation: str, /) -> None:
        self.lines.append(line)
        if not self.first_line.called:
            self.first_line.callback(line)


@define(eq=False)
class SpyReactor:
    """
    The real reactor, but for remembering which children it has spawned.

    :ivar repls: those of the children that are asked many questions.
    """

    pids: list[int] = field(factory=list)
    children: list[ChildProtocol] = field(factory=list)
    repls: list[ChildProtocol] = field(factory=list)

    def spawnProcess(
        self, child: ChildProtocol, executable: str, argv: Sequence[str], *args: Any, **kwargs: Any
    ) -> Any:
        transport = cast(Any, reactor).spawnProcess(child, executable, argv, *args, **kwargs)
        if "repl" in argv:
            self.repls.append(child)
        self.pids.append(transport.pid)
        self.children.append(child)
        return transport

    def __getattr__(self, name: str) -> Any:
        return getattr(reactor, name)


class NixTestCase(TestCase):
    """A Nix side on the odd package set, with derivations of this test's own."""

    timeout = 120
    skip = nix_missing()

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.salt = uuid4().hex
        self.nix = self.make()
        self.odd = path_set(ODD)

    def make(self, **settings: Any) -> NixCommands:
        settings["config"] = {"salt": self.salt, **settings.get("config", {})}
        return make_nix(self.directory, **settings)

    async def evaluate(
        self, *names: str, exact: bool = False, nix: NixCommands | None = None, **other: Any
    ) -> Evaluation:
        requests = [PackageRequest(name=name, exact=exact) for name in names]
        return await (nix or self.nix).evaluate(
            other.get("package_set", self.odd), other.get("system", SYSTEM), requests
        )

    async def package(self, name: str, *, exact: bool = False) -> Package:
        evaluation = await self.evaluate(name, exact=exact)
        self.assertEqual(len(evaluation.packages), 1)
        return evaluation.packages[0]

    async def problems(self, *names: str, **other: Any) -> Sequence[PackageProblem]:
        with self.assertRaises(PackagesRefused) as caught:
            await self.evaluate(*names, **other)
        refused: PackagesRefused = caught.exception
        return refused.problems

    async def problem(self, name: str, **other: Any) -> PackageProblem:
        problems = await self.problems(name, **other)
        self.assertEqual([problem.name for problem in problems], [name])
        return problems[0]

    def roots(self) -> list[Path]:
        return sorted((self.directory / "state" / "gcroots").iterdir())


class NameTests(NixTestCase):
    """Tests of finding the package of a name."""

    async def test_exactly_then_with_before_a_digit_then_in_any_case_at_every_level(self) -> None:
        """Exactly, then with `_` before a digit, then in any case, at every level."""
        for name, attribute in {
            "plain": "plain",
            "uppercase": "UpperCase",
            "7digits": "_7digits",
            "9lives": "_9lives",
            "exactly": "exactly",
            "nested.inner": "nested.inner",
            "NESTED.INNER": "nested.inner",
            "nested.deep.package": "nested.Deep.Package",
            "nested2.x": "Nested2.x",
        }.items():
            package = await self.package(name)
            self.assertEqual((package.attribute, package.requested), (attribute, (name,)))

    async def test_exact_name_is_taken_as_it_stands_whatever_characters_it_has(self) -> None:
        """An exact name is taken as it stands, whatever characters it has."""
        for name in ("Exactly", "Twin", "tWIN", "_9Lives", "libodd++", 'quote"${dollar}'):
            self.assertEqual((await self.package(name, exact=True)).attribute, name)
        for name in ("uppercase", "7digits", "nested.deep.package"):
            problem = await self.problem(name, exact=True)
            self.assertIs(problem.kind, ProblemKind.NOT_FOUND)

    async def test_several_candidates_are_error_that_lists_them_as_they_can_be_written(
        self,
    ) -> None:
        """Several candidates are an error that lists them as they can be written."""
        problem = await self.problem("twin")
        self.assertIs(problem.kind, ProblemKind.AMBIGUOUS)
        for candidate, attribute in zip(problem.candidates, ("Twin", "tWIN"), strict=True):
            self.assertIn(f"{attribute} (write {candidate})", problem.message)
            name = parse_image_name(candidate, SYSTEM)
            evaluation = await self.nix.evaluate(self.odd, SYSTEM, name.package_requests)
            self.assertEqual([item.attribute for item in evaluation.packages], [attribute])

    async def test_all_missing_names_are_told_with_suggestions_of_their_level(self) -> None:
        """All names that are missing are told, each with names of its level near it."""
        problems = await self.problems(
            "plian", "nested.iner", "plain", "text.x", "x.y", "uppercsae"
        )
        self.assertEqual(
            [
                (problem.name, tuple(problem.find_candidates(lambda: False)))
                if problem.find_candidates is not None
                else (problem.name, ())
                for problem in problems
            ],
            [
                ("plian", ("plain",)),
                ("nested.iner", ("nested.inner",)),
                ("text.x", ()),
                ("x.y", ()),
                ("uppercsae", ("uppercase",)),
            ],
        )
        self.assertEqual({problem.kind for problem in problems}, {ProblemKind.NOT_FOUND})

    async def test_names_of_the_same_derivation_are_one_package(self) -> None:
        """Names of the same derivation are one package."""
        evaluation = await self.evaluate("PLAIN", "plain", "again", "aardvark")
        (package,) = evaluation.packages
        self.assertEqual(package.attribute, "aardvark")
        self.assertEqual(package.requested, ("PLAIN", "aardvark", "again", "plain"))

    async def test_optional_packages_that_are_missing_or_are_no_packages_are_left_out(self) -> None:
        """Optional packages that are missing, or are no packages, are left out."""
        requests = [
            PackageRequest(name=name, exact=True, optional=True)
            for name in ("cacert", "function", "nothing", "plain")
        ]
        evaluation = await self.nix.evaluate(self.odd, SYSTEM, requests)
        self.assertEqual(evaluation.missing_optional, ("cacert", "function", "nothing"))
        self.assertEqual([package.attribute for package in evaluation.packages], ["plain"])

    async def test_image_of_no_packages_is_one_of_nothing(self) -> None:
        """An image of no packages is one of nothing."""
        evaluation = await self.evaluate()
        self.assertEqual(evaluation, Evaluation(packages=(), missing_optional=(), system=SYSTEM))
        realisation = await self.nix.realise(evaluation.packages, Recorder())
        self.assertEqual(realisation.outputs, ())
        self.assertEqual(dict((await self.nix.closure(())).paths), {})
        await self.nix.release(realisation)

    async def test_name_version_description_and_priority_are_read_with_their_defaults(self) -> None:
        """Name, version, description and priority are read, with their defaults."""
        plain = await self.package("plain")
        self.assertEqual(
            (plain.name, plain.pname, plain.version, plain.description, plain.priority),
            ("plain-1.2", "plain", "1.2", "An ordinary package.", 7),
        )
        named = await self.package("named")
        self.assertEqual(
            (named.name, named.pname, named.version), ("whatever", "other", "2024-01-01")
        )
        bare = await self.package("versionless")
        self.assertEqual((bare.pname, bare.version, bare.priority), ("versionless", "", 5))
        for name in ("metathrows", "metaless"):
            self.assertEqual((await self.package(name)).description, "")

    async def test_packages_are_those_of_the_images_system(self) -> None:
        """Packages are those of the image's system."""
        evaluation = await self.evaluate("own", system=FOREIGN)
        self.assertEqual(evaluation.packages[0].name, f"own-{FOREIGN}")
        self.assertEqual(evaluation.system, FOREIGN)

    async def test_paths_through_other_package_sets_and_tests_never_reach_nix(self) -> None:
        """Paths through other package sets and tests never reach Nix."""
        nix = make_nix(self.directory, environ={"PATH": "/nowhere"})
        problems = await self.problems("pkgscross.riscv64.hello", "hello.TESTS.x", "plain", nix=nix)
        self.assertEqual({problem.kind for problem in problems}, {ProblemKind.REFUSED})
        self.assertEqual([p.name for p in problems], ["pkgscross.riscv64.hello", "hello.TESTS.x"])


class OutputTests(NixTestCase):
    """Tests of the choice of a package's outputs."""

    async def test_outputs_to_install_come_without_documentation(self) -> None:
        """Those to install without documentation, else `out`, else the first; or as asked."""
        for name, outputs in {
            "multi": ["bin"],
            "multi.dev": ["dev"],
            "multi.man": ["man"],
            "MULTI.Dev": ["dev"],
            "multidev": ["dev"],
            "unmarked": ["out"],
            "outless": ["lib"],
        }.items():
            package = await self.package(name)
            self.assertEqual([output.name for output in package.outputs], outputs)

    async def test_package_and_an_output_of_it_are_one_package_with_both(self) -> None:
        """A package and an output of it are one package with both."""
        (package,) = (await self.evaluate("multi", "multi.dev")).packages
        self.assertEqual(package.attribute, "multi")
        self.assertEqual([output.name for output in package.outputs], ["bin", "dev"])

    async def test_output_that_is_not_there_is_an_error_with_those_that_are(self) -> None:
        """An output that is not there is an error with those that are."""
        problem = await self.problem("multi.doc")
        self.assertIs(problem.kind, ProblemKind.NO_SUCH_OUTPUT)
        self.assertEqual(problem.candidates, ("multi.bin", "multi.dev", "multi.man", "multi.out"))


class UseTests(NixTestCase):
    """Values that are no packages, and packages that are not to be used."""

    async def test_attribute_that_is_no_package_is_reported_with_its_type(self) -> None:
        """An attribute that is no package is reported, with its type."""
        for name, what in {
            "function": "a function",
            "functor": "a function",
            "text": "a string",
            "nothing": "null",
            "nested": "a set of packages",
        }.items():
            problem = await self.problem(name)
            self.assertIs(problem.kind, ProblemKind.NOT_A_PACKAGE)
            self.assertIn(what, problem.message)

    async def test_unfree_broken_insecure_and_unsupported_packages_are_told_apart(self) -> None:
        """Unfree, broken, insecure and unsupported packages are told apart."""
        expected = {
            "unfree": ProblemKind.UNFREE,
            "unfreeoftwo": ProblemKind.UNFREE,
            "unfreethrowing": ProblemKind.UNFREE,
            "broken": ProblemKind.BROKEN,
            "brokenaborting": ProblemKind.BROKEN,
            "insecure": ProblemKind.INSECURE,
            "unsupported": ProblemKind.UNSUPPORTED,
            "unsupportedhere": ProblemKind.UNSUPPORTED,
        }
        problems = await self.problems(*expected, "plain")
        self.assertEqual({problem.name: problem.kind for problem in problems}, expected)
        insecure = next(problem for problem in problems if problem.name == "insecure")
        self.assertIn("CVE-2024-1; CVE-2024-2", insecure.message)

    async def test_package_sets_configuration_allows_them_and_so_does_the_set_itself(self) -> None:
        """The package set's configuration allows them, and so does the set itself."""
        self.assertEqual((await self.package("unfreeandallowed")).name, "unfree-4")
        for name, config in {
            "unfree": {"allowUnfree": True},
            "broken": {"allowBroken": True},
            "insecure": {"permittedInsecurePackages": ["insecure-1"]},
            "unsupported": {"allowUnsupportedSystem": True},
        }.items():
            await self.evaluate(name, nix=self.make(config=config))

    async def test_packages_throw_is_reported_in_its_own_words(self) -> None:
        """A package's throw is reported in its own words; the others are not affected."""
        problems = await self.problems("throwing", "plain", "throwinglater", "asserting")
        self.assertEqual(
            [problem.name for problem in problems], ["throwing", "throwinglater", "asserting"]
        )
        self.assertEqual({problem.kind for problem in problems}, {ProblemKind.EVALUATION})
        for problem, text in zip(
            problems, ("removed in 2024; use plain", "thrown\nin two lines", "assert"), strict=True
        ):
            self.assertIn(text, problem.message)

    async def test_words_of_a_package_blame_neither_nix_nor_memory(self) -> None:
        """A package's words are told whole, and blame neither Nix nor a limit."""
        expected = {
            "throwingmemory": "this release ran out of memory-safe maintainers",
            "throwingdisk": "No space left on device is what upstream says",
            "throwingsocket": "cannot connect to socket at '/nix/var/nix/daemon-socket/socket'",
            "throwingerror": "first line\nerror: second line",
            "tracing": "what was thrown",
        }
        problems = await self.problems("plain", *expected)
        self.assertEqual(
            [(problem.name, problem.message) for problem in problems],
            [
                (name, f"the package {name} does not evaluate: {text}")
                for name, text in expected.items()
            ],
        )
        problem = await self.problem("abortingdisk")
        self.assertIn("error message: 'No space left on device'", problem.message)

    async def test_syntax_error_is_told_with_its_file_and_line(self) -> None:
        """A syntax error is told with its file and line, relative to the package set."""
        problem = await self.problem("syntaxerror")
        self.assertRegex(problem.message, r"syntax error, .*, at broken\.nix:2:7$")

    async def test_derivation_that_is_not_in_the_store_is_refused_before_a_build(self) -> None:
        """A set whose derivation is not in the store is refused, by name, before a build."""
        problems = await self.problems("plain", "handwritten")
        self.assertEqual([problem.name for problem in problems], ["handwritten"])
        self.assertIn("0-handwritten-1.drv", problems[0].message)

    async def test_content_addressed_packages_are_refused_before_a_build(self) -> None:
        """Content-addressed packages, and those that need one, are refused before a build."""
        environ = nix_environment()
        environ["NIX_CONFIG"] += "\nexperimental-features = ca-derivations"
        nix = self.make(environ=environ)
        problems = await self.problems("plain", "contentaddressed", "needsaddressed", nix=nix)
        self.assertEqual(
            [problem.kind for problem in problems], [ProblemKind.CONTENT_ADDRESSED] * 2
        )

    async def test_packages_that_end_an_evaluation_are_found_by_name(self) -> None:
        """All packages that end a whole evaluation are found by name, with Nix's text."""
        expected = {
            "aborting": "aborted on purpose",
            "attributemissing": "attribute 'nowhere' missing",
            "typeerror": "integer",
            "stackoverflow": "stack overflow",
            "throwing": "removed in 2024",
            "nowhere": "there is no package nowhere",
        }
        problems = await self.problems("plain", *expected, "multi")
        self.assertEqual([problem.name for problem in problems], list(expected))
        for problem in problems:
            self.assertIn(expected[problem.name], problem.message)
            # The daemon's own files are not disclosed.
            self.assertNotIn("resolve.nix", problem.message)

    async def test_evaluation_reads_nothing_of_the_machine_and_builds_nothing(self) -> None:
        """An evaluation reads nothing of the machine, and builds nothing."""
        for name, text in {
            "readshost": "forbidden in restricted mode",
            "looksup": "nixpkgs",
            "importsbuilt": "allow-import-from-derivation",
        }.items():
            problem = await self.problem(name)
            self.assertIs(problem.kind, ProblemKind.EVALUATION)
            self.assertIn(text, problem.message)
        self.assertEqual((await self.package("environment")).name, "environment-")

    async def test_evaluation_that_needs_too_much_memory_is_told_by_name_with_limit(self) -> None:
        """An evaluation that needs too much memory is told by name, with the limit."""
        problem = await self.problem("hungry", nix=self.make(max_eval_memory=200 * 1024**2))
        self.assertIn("needs more than 200 MiB", problem.message)

    async def test_evaluation_that_takes_too_long_is_stopped(self) -> None:
        """An evaluation that takes too long is stopped."""
        with self.assertRaises(EvaluationTimedOut) as caught:
            await self.evaluate(
                "hungry", nix=self.make(eval_timeout=0.5, max_eval_memory=2 * 1024**3)
            )
        self.assertEqual(caught.exception.names, ("hungry",))
        self.assertIn("eval_timeout", caught.exception.message)


class SetTests(NixTestCase):
    """Tests of the kinds of package sets."""

    def write(self, text: str, path: str = "set/default.nix") -> Path:
        file = self.directory / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    async def names(self, path: Path, *names: str, **other: Any) -> list[str]:
        evaluation = await self.evaluate(*names, package_set=path_set(path), **other)
        return [package.name for package in evaluation.packages]

    async def test_set_is_called_with_what_it_names_among_our_arguments(self) -> None:
        """A set is called with what it names among our arguments, or with all of them."""
        called = "{ x = derivation { name = checked; inherit system; builder = ''b''; }; }"
        for head, condition in {
            "{ system }:": "true",
            "{ system, config }:": "config ? salt",
            "{ system, overlays ? 1, more ? 2 }:": "overlays == [ ] && more == 2",
            "{ system, ... }@given:": "builtins.attrNames given == [ ''system'' ]",
            "given: let inherit (given) system; in": "given ? config && given.overlays == [ ]",
        }.items():
            text = f"{head} let checked = assert {condition}; ''x''; in {called}"
            self.assertEqual(await self.names(self.write(text).parent, "x"), ["x"])
        text = f"let checked = ''plain-set''; system = ''{SYSTEM}''; in {called}"
        self.assertEqual(await self.names(self.write(text).parent, "x"), ["plain-set"])

    async def test_set_may_be_a_file_and_import_what_lies_beside_it(self) -> None:
        """A set may be a file, and import what lies beside it."""
        file = self.write("args: import ./other.nix args", "a file/my set.nix")
        self.write(
            '{ system, ... }: { x = derivation { name = "x"; inherit system; builder = "b"; }; }',
            "a file/other.nix",
        )
        self.assertEqual(await self.names(file, "x"), ["x"])

    async def test_blanks_quotes_and_equals_signs_in_a_path_and_symlinks_do_no_harm(self) -> None:
        """Blanks, quotes and equals signs in a path, and symlinks, do no harm."""
        self.write(
            '{ system, ... }: { x = derivation { name = "x"; inherit system; builder = "b"; }; }',
            "a b'=\"${c}/default.nix",
        )
        link = self.directory / "link"
        link.symlink_to("a b'=\"${c}")
        evaluation = await self.evaluate("x", package_set=path_set(link))
        self.assertEqual(evaluation.packages[0].name, "x")

    async def test_overlays_are_read_from_their_files(self) -> None:
        """Overlays are read from their files."""
        overlay = self.write(
            'final: previous: { added = previous.plain // { name = "added"; }; }', "an overlay.nix"
        )
        extended = path_set(ODD, overlay.resolve())
        evaluation = await self.evaluate("added", package_set=extended)
        self.assertEqual(evaluation.packages[0].name, "added")

    async def test_overlays_of_a_set_that_takes_none(self) -> None:
        """A set that is given no overlays is extended by them, or says that it cannot be."""
        overlay = self.write(
            'final: previous: { added = previous.plain // { name = "added"; }; }', "overlay.nix"
        ).resolve()
        plain = f'plain = derivation {{ name = "p"; system = "{SYSTEM}"; builder = "b"; }}'
        extensible = self.write(
            f"let make = self: self // {{ extend = f: make (self // f self self); }};"
            f" in make {{ {plain}; }}",
            "extensible/default.nix",
        ).parent
        evaluation = await self.evaluate("added", package_set=path_set(extensible, overlay))
        self.assertEqual(evaluation.packages[0].name, "added")
        closed = self.write(f"{{ system }}: {{ {plain}; }}").parent
        with self.assertRaises(EvaluationFailed) as caught:
            await self.evaluate("plain", package_set=path_set(closed, overlay))
        self.assertIn("takes no overlays", caught.exception.message)

    async def test_set_that_does_not_evaluate_is_told_apart_from_its_packages(self) -> None:
        """A set that does not evaluate is told apart from its packages."""
        for text, reason in {
            "{ system }: throw ''not here''": "not here",
            "{ ": "syntax error",
            "[ 1 ]": "the package set is a list",
            "{ unknown }: { }": "unknown",
            "abort ''at once''": "at once",
        }.items():
            with self.assertRaises(EvaluationFailed) as caught:
                await self.names(self.write(text).parent, "x")
            self.assertIn(reason, caught.exception.message)
        (self.directory / "empty").mkdir()
        with self.assertRaises(EvaluationFailed) as caught:
            await self.names(self.directory / "empty", "x")
        self.assertIn("default.nix", caught.exception.message)

    async def test_nixpkgs_that_refuses_this_nix_is_a_fault_of_this_nix(self) -> None:
        """nixpkgs that refuses this Nix is a fault of this Nix."""
        text = """abort ''

          This version of Nixpkgs requires an implementation of Nix with the following features:
          - `builtins.nixVersion` reports at least 2.18
        ''"""
        with self.assertRaises(NixUnusable) as caught:
            await self.names(self.write(text).parent, "x")
        self.assertIn("too old", caught.exception.message)
        self.assertIn("install Nix 2.18", caught.exception.message)


class BuildTests(NixTestCase):
    """Realisation, closure and roots."""

    async def test_outputs_are_built_rooted_and_described(self) -> None:
        """Outputs are built, told about, rooted until released, and their closure is known."""
        evaluation = await self.evaluate("dependent", "multi", "multi.dev")
        recorder = Recorder()
        realisation = await self.nix.realise(evaluation.packages, recorder)
        outputs = sorted(o.path for package in evaluation.packages for o in package.outputs)
        self.assertEqual(list(realisation.outputs), outputs)
        self.assertEqual(recorder.phases, [Phase.BUILDING])
        self.assertEqual(len(recorder.derivations), 3)
        self.assertEqual(recorder.counts[-1], (Phase.BUILDING, 3, 3, "builds"))

        (root,) = self.roots()
        self.assertEqual(root.name, realisation.root)
        self.assertEqual(sorted(str(link.resolve()) for link in root.iterdir()), outputs)
        for output in outputs:
            self.assertEqual(try_to_delete(output), 1, f"{output} is not protected")

        graph = await self.nix.closure(realisation.outputs)
        names = sorted(path.name for path in graph.paths)
        self.assertEqual(names, ["dependent-1", "multi-1-bin", "multi-1-dev", "plain-1.2"])
        dependent = next(info for path, info in graph.paths.items() if path.name == "dependent-1")
        self.assertEqual([path.name for path in dependent.references], ["plain-1.2"])

        await self.nix.release(realisation)
        self.assertEqual(self.roots(), [])
        await self.nix.release(realisation)
        for output in outputs:
            self.assertEqual(try_to_delete(output), 0)

    async def test_valid_outputs_are_protected_and_described_without_a_build(self) -> None:
        """Valid outputs are protected and described without a build."""
        spy = SpyReactor()
        nix = self.nix = make_nix(self.directory, reactor=spy, config={"salt": self.salt})
        evaluation = await self.evaluate("dependent", "multi", "multi.dev")
        outputs = sorted(o.path for package in evaluation.packages for o in package.outputs)
        self.assertIsNone(await nix.root_if_valid(outputs))
        realisation = await nix.realise(evaluation.packages, Recorder())
        graph = await nix.closure(realisation.outputs)

        for prepared in (False, True):
            if prepared:
                nix.prewarm()
            held = await nix.root_if_valid(outputs)
            assert held is not None
            self.assertEqual(held.realisation.outputs, tuple(outputs))
            # Hash for hash.
            self.assertEqual(held.graph, graph)
            await nix.release(realisation)
            self.assertEqual(self.roots(), [])
            self.assertFalse(nix.root_expired(held.realisation))
            for output in outputs:
                self.assertEqual(try_to_delete(output), 1, f"{output} is not protected")
            realisation = held.realisation

        os.kill(spy.pids[-1], signal.SIGKILL)
        while not nix.root_expired(realisation):
            await deferLater(cast(Any, reactor), 0.01)
        await nix.release(realisation)
        await nix.stop()
        for pid in spy.pids:
            self.assertRaises(ProcessLookupError, os.kill, pid, 0)
        for output in outputs:
            self.assertEqual(try_to_delete(output), 0)
        self.assertIsNone(await nix.root_if_valid(outputs))
        await nix.stop()

    async def test_valid_outputs_are_rooted_again_by_a_root_of_their_own(self) -> None:
        """Valid outputs are rooted again, by a root of their own."""
        evaluation = await self.evaluate("plain")
        first = await self.nix.realise(evaluation.packages, Recorder())
        recorder = Recorder()
        second = await self.nix.realise(evaluation.packages, recorder)
        self.assertEqual((recorder.phases, recorder.derivations), ([], []))
        self.assertEqual(first.outputs, second.outputs)
        self.assertEqual(len(self.roots()), 2)
        await self.nix.release(first)
        self.assertEqual(try_to_delete(second.outputs[0]), 1)

    async def test_every_line_of_a_builds_log_arrives(self) -> None:
        """Every line of a build's log arrives, and so do the phase and the end of the build."""
        evaluation = await self.evaluate("chatty")
        recorder = Recorder()
        await self.nix.realise(evaluation.packages, recorder)
        (derivation,) = recorder.derivations
        self.assertEqual(recorder.builder_phases, [(derivation, "buildPhase")])
        self.assertEqual(set(recorder.ended), {(derivation, True)})
        self.assertEqual(recorder.lines, [f"line {number}" for number in range(1, 3001)])

    async def test_derivations_that_a_garbage_collection_took_can_be_evaluated_again(self) -> None:
        """Derivations that a garbage collection took can be evaluated again."""
        evaluation = await self.evaluate("dependent")
        derivation = evaluation.packages[0].derivation
        self.assertEqual(try_to_delete(derivation), 0)
        with self.assertRaises(MissingDerivations):
            await self.nix.realise(evaluation.packages, Recorder())
        self.assertEqual(self.roots(), [])
        again = await self.evaluate("dependent")
        self.assertEqual(again, evaluation)
        await self.nix.realise(again.packages, Recorder())

    async def test_evaluated_and_built(self) -> None:
        """Evaluating and building in one needs no derivations, and roots the same outputs."""
        names = ("dependent", "multi", "multi.dev")
        evaluation = await self.evaluate(*names)
        for package in evaluation.packages:
            self.assertEqual(try_to_delete(package.derivation), 0)
        requests = [PackageRequest(name=name) for name in names]
        recorder = Recorder()
        realisation = await self.nix.reevaluate_and_realise(
            self.odd, requests, evaluation, recorder
        )
        self.assertEqual(len(recorder.derivations), 3)
        [root] = self.roots()
        self.assertEqual(
            sorted(str(link.resolve()) for link in root.iterdir()), list(realisation.outputs)
        )
        for output in realisation.outputs:
            self.assertEqual(try_to_delete(output), 1, f"{output} is not protected")
        await self.nix.release(realisation)
        other = await self.evaluate("plain")
        with self.assertRaises(MissingDerivations):
            await self.nix.reevaluate_and_realise(self.odd, requests, other, recorder)
        self.assertEqual(self.roots(), [])

    async def test_cancellation_leaves_neither_a_process_nor_a_root(self) -> None:
        """A cancellation leaves neither a process nor a root."""
        spy = SpyReactor()
        nix = self.make(reactor=spy)
        evaluation = await self.evaluate("slow", nix=nix)
        recorder = Recorder()
        running = Deferred.fromCoroutine(nix.realise(evaluation.packages, recorder))
        builder = int((await recorder.first_line).removeprefix("pid "))
        self.assertEqual(len(self.roots()), 1)
        running.cancel()
        with self.assertRaises(CancelledError):
            await running
        self.assertEqual(self.roots(), [])
        for pid in spy.pids:
            with self.assertRaises(ProcessLookupError):
                os.killpg(pid, 0)
        # Under a daemon it has another number here, and stops a moment later.
        if not daemon_listens():
            with self.assertRaises(ProcessLookupError):
                os.kill(builder, 0)

    async def test_evaluation_that_is_cancelled_ends(self) -> None:
        """An evaluation that is cancelled ends."""
        spy = SpyReactor()
        nix = self.make(reactor=spy, max_eval_memory=2 * 1024**3)
        running = Deferred.fromCoroutine(self.evaluate("hungry", nix=nix))
        await deferLater(cast(Any, reactor), 0.3)
        running.cancel()
        with self.assertRaises(CancelledError):
            await running
        for pid in spy.pids:
            with self.assertRaises(ProcessLookupError):
                os.killpg(pid, 0)

    async def test_roots_of_an_earlier_run_are_removed_at_the_start_and_only_then(self) -> None:
        """Roots of an earlier run are removed at the start, and only then."""
        await self.nix.sweep()
        evaluation = await self.evaluate("plain")
        await self.nix.realise(evaluation.packages, Recorder())
        await self.nix.realise(evaluation.packages, Recorder())
        self.assertEqual(len(self.roots()), 2)
        await self.make().sweep()
        self.assertEqual(self.roots(), [])


class BuildFailureTests(NixTestCase):
    """Failing builds."""

    async def realise_failing(self, error: type[Any], name: str, **settings: Any) -> Any:
        nix = self.make(**settings)
        evaluation = await self.evaluate(name, nix=nix)
        recorder = Recorder()
        with self.assertRaises(error) as caught:
            await nix.realise(evaluation.packages, recorder)
        self.assertEqual(self.roots(), [])
        return caught.exception

    async def test_build_that_fails_is_told_with_its_derivation_and_its_last_lines(self) -> None:
        """A build that fails is told with its derivation and its last lines."""
        error = await self.realise_failing(BuildFailed, "numbered")
        self.assertTrue(error.derivation.endswith("-numbered-1.drv"), error.derivation)
        self.assertEqual(error.log, tuple(f"line {number}" for number in range(11, 31)))
        self.assertEqual(error.reason, "builder failed with exit code 3")
        self.assertIn("failed", error.output.stderr)

    async def test_derivation_that_failed_is_named_and_not_the_one_that_was_asked_for(self) -> None:
        """The derivation that failed is named, and not the one that was asked for."""
        error = await self.realise_failing(BuildFailed, "dependsonfailing")
        self.assertTrue(error.derivation.endswith("-numbered-1.drv"), error.derivation)
        self.assertEqual(error.log[-1], "line 30")

    async def test_of_several_derivations_one_that_has_failed_is_named(self) -> None:
        """Of several derivations one that has failed is named."""
        evaluation = await self.evaluate("plain", "numbered", "escaping", "multi")
        with self.assertRaises(BuildFailed) as caught:
            await self.nix.realise(evaluation.packages, Recorder())
        self.assertRegex(caught.exception.derivation, "-(numbered|escaping)-1.drv$")
        self.assertTrue(caught.exception.log)

    async def test_escape_sequences_are_removed_from_a_log(self) -> None:
        """Escape sequences are removed from a log."""
        error = await self.realise_failing(BuildFailed, "escaping")
        self.assertEqual(error.log, ("ared b",))

    async def test_builder_that_makes_nothing_has_failed(self) -> None:
        """A builder that makes nothing has failed."""
        error = await self.realise_failing(BuildFailed, "outputless")
        self.assertTrue(error.derivation.endswith("-outputless-1.drv"), error.derivation)

    async def test_hash_that_does_not_match_is_told_with_both_hashes(self) -> None:
        """A hash that does not match is told with both hashes."""
        error = await self.realise_failing(BuildFailed, "mismatched")
        self.assertTrue(error.derivation.endswith("-mismatched-1.drv"), error.derivation)
        self.assertIn("sha256-AAAA", error.message)
        self.assertIn("got:", error.message)

    async def test_build_that_takes_too_long_is_told_with_the_limit_and_the_setting(self) -> None:
        """A build that takes too long is told with the limit and the setting."""
        error = await self.realise_failing(BuildTimedOut, "slow", timeout=1)
        self.assertTrue(error.derivation.endswith("-slow-1.drv"), error.derivation)
        self.assertEqual((error.seconds, error.setting, error.silent), (1, "NIX_TIMEOUT", False))
        self.assertRegex(error.log[-1], "^pid ")

    async def test_build_that_prints_nothing_for_too_long_is_told_apart(self) -> None:
        """A build that prints nothing for too long is told apart."""
        error = await self.realise_failing(BuildTimedOut, "silent", max_silent=1)
        self.assertEqual((error.seconds, error.silent), (1, True))
        self.assertEqual("half of NIX_TIMEOUT", error.setting)

    async def test_deadline_of_all_builds_together_ends_them(self) -> None:
        """The deadline of all builds together ends them."""
        error = await self.realise_failing(BuildTimedOut, "slow", build_deadline=1.0)
        self.assertTrue(error.derivation.endswith("-slow-1.drv"), error.derivation)
        self.assertEqual((error.seconds, error.setting), (1.0, "build_deadline"))

    async def test_derivation_of_another_system_is_told_with_what_would_help(self) -> None:
        """A derivation of another system is told with what would help."""
        error = await self.realise_failing(WrongSystem, "foreign")
        self.assertTrue(error.derivation.endswith("-foreign-1.drv"), error.derivation)
        self.assertEqual((error.required, error.available), (FOREIGN, SYSTEM))
        self.assertIn("binfmt", error.message)

    async def test_missing_feature_is_told_with_what_would_help(self) -> None:
        """So is one that wants what this machine does not have."""
        error = await self.realise_failing(WrongSystem, "demanding")
        self.assertIn("unobtainium", error.required)
        self.assertIn("system feature unobtainium", error.message)
        self.assertNotIn("emulator", error.message)

    async def test_builder_that_prints_errors_of_nix_has_failed(self) -> None:
        """A builder that prints what Nix says of other failures has failed, and no more."""
        for name, failed in {
            "talksoftimeout": "talks-1",
            "talksofcollection": "talks-2",
            "talksofdisk": "talks-3",
            "forging": "forging-1",
            "dependsontalk": "talks-2",
            "dependsonforging": "forging-1",
        }.items():
            error = await self.realise_failing(BuildFailed, name)
            self.assertTrue(error.derivation.endswith(f"-{failed}.drv"), error.derivation)
            self.assertEqual(error.reason, "builder failed with exit code 1")

    async def test_failure_that_names_no_derivation_is_one_of_the_build(self) -> None:
        """A failure whose text names no derivation is told with derivation, reason and log."""
        for name, reason in {
            "forbidding": "is not allowed to refer to the following paths",
            "cyclic": "cycle detected",
            "killed": "signal 9 (Killed)",
        }.items():
            error = await self.realise_failing(BuildFailed, name)
            self.assertTrue(error.derivation.endswith(f"-{name}-1.drv"), error.derivation)
            self.assertIn(reason, error.reason)
            self.assertEqual(error.log, ("compiling",))

    async def test_dependency_that_takes_too_long_is_told_with_the_limit(self) -> None:
        """A dependency that takes too long is told with the limit."""
        error = await self.realise_failing(BuildTimedOut, "dependsonslow", timeout=1)
        self.assertTrue(error.derivation.endswith("-slow-1.drv"), error.derivation)
        self.assertEqual((error.seconds, error.setting), (1, "NIX_TIMEOUT"))

    async def test_other_output_paths_than_those_that_are_built_are_an_error(self) -> None:
        """A package that says another output path than its derivation's fails with both."""
        error = await self.realise_failing(BuildFailed, "misplaced")
        self.assertIn("-plain-1.2", error.message)

    async def test_download_that_fails_is_told_with_the_address_and_the_reason(self) -> None:
        """A download that fails is told with the address and the reason."""

        class NotFound(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_error(404)

            def log_message(self, *args: object) -> None:
                pass

        with HTTPServer(("127.0.0.1", 0), NotFound) as server:
            thread = Thread(target=server.serve_forever)
            thread.start()
            try:
                url = f"http://127.0.0.1:{server.server_port}/file.deb"
                error = await self.realise_failing(BuildFailed, "downloaded", config={"url": url})
            finally:
                server.shutdown()
                thread.join()
        self.assertTrue(error.derivation.endswith("-downloaded-1.drv"), error.derivation)
        self.assertIn(f"unable to download '{url}': HTTP error 404", error.message)

    async def test_if_nothing_may_be_built_the_error_names_the_paths_that_no_cache_has(
        self,
    ) -> None:
        """If nothing may be built, the error names the paths that no cache has."""
        error = await self.realise_failing(NotSubstitutable, "plain", substitute_only=True)
        self.assertIn("no binary cache has plain-1.2,", error.message)


class DaemonFailureTests(BuildFailureTests):
    """The same behind a daemon of Nix's, which passes events on and quotes logs."""

    def setUp(self) -> None:
        if daemon_listens():
            raise SkipTest("the other tests have a daemon already")
        # The path of a socket may have 107 bytes.
        directory = Path(tempfile.mkdtemp(prefix="nixery-"))
        self.addCleanup(shutil.rmtree, directory)
        socket = directory / "socket"
        self.environ = nix_environment() | {"NIX_DAEMON_SOCKET_PATH": str(socket)}
        daemon = subprocess.Popen(
            ["nix-daemon"],
            env=self.environ,
            start_new_session=True,
            stderr=subprocess.DEVNULL,
        )
        self.addCleanup(daemon.wait)
        self.addCleanup(os.killpg, daemon.pid, signal.SIGTERM)
        while not socket.exists():
            self.assertIsNone(daemon.poll(), "nix-daemon has ended")
            time.sleep(0.01)
        self.environ["NIX_REMOTE"] = "daemon"
        super().setUp()

    def make(self, **settings: Any) -> NixCommands:
        return super().make(environ=self.environ, **settings)


class FullDiskTests(NixTestCase):
    """A disk without room for the roots of a build: a file system of so many files."""

    def setUp(self) -> None:
        super().setUp()
        if os.geteuid() != 0:
            raise SkipTest("only root can mount a file system")
        self.disk = Path(tempfile.mkdtemp(prefix="nixery-"))
        self.addCleanup(self.disk.rmdir)
        mount = ["mount", "-t", "tmpfs", "-o", "size=4m,nr_inodes=64", "tmpfs", str(self.disk)]
        subprocess.run(mount, check=True)
        self.addCleanup(subprocess.run, ["umount", str(self.disk)], check=True)
        state = self.disk / "state"
        (state / "gcroots").mkdir(parents=True)
        self.nix = self.make(state_directory=state)

    def fill(self) -> list[Path]:
        made: list[Path] = []
        try:
            while True:
                path = self.disk / f"{len(made)}"
                path.touch(exist_ok=False)
                made.append(path)
        except OSError as error:
            self.assertEqual(errno.ENOSPC, error.errno)
        return made

    async def full(self, evaluation: Evaluation) -> str:
        with self.assertRaises(NixDiskFull) as caught:
            await self.nix.realise(evaluation.packages, Recorder())
        return str(caught.exception)

    async def test_full_disk_is_told(self) -> None:
        """The error says that the disk is full, both if this daemon and if Nix finds it so."""
        evaluation = await self.evaluate("plain")
        ballast = self.fill()
        message = await self.full(evaluation)
        self.assertIn("the disk is full", message)
        self.assertIn(f"{self.disk}/state/gcroots/", message)
        # Now there is room for a directory, and for no link in it.
        ballast.pop().unlink()
        message = await self.full(evaluation)
        self.assertIn("the disk is full", message)
        self.assertIn("No space left on device", message)
        for path in ballast:
            path.unlink()
        await self.nix.release(await self.nix.realise(evaluation.packages, Recorder()))


class CheckTests(NixTestCase):
    """Tests of the check that Nix can be used."""

    async def test_version_is_told_and_the_directories_are_made(self) -> None:
        """The version is told, and the directories are made."""
        self.assertRegex(await self.nix.check(), r"^\d+\.\d+")
        self.assertTrue((self.directory / "home").is_dir())
        self.assertEqual(self.roots(), [])

    async def test_without_nix_on_path_it_is_told_what_to_install(self) -> None:
        """Without Nix on PATH it is told what to install."""
        nix = make_nix(self.directory, environ={**nix_environment(), "PATH": "/nowhere"})
        with self.assertRaises(NixUnusable) as caught:
            await nix.check()
        self.assertIn("install", caught.exception.message)

    async def test_store_that_cannot_be_opened_is_told_with_nixs_text(self) -> None:
        """A store that cannot be opened is told with Nix's text."""
        environ = {**nix_environment(), "NIX_REMOTE": "unix:///nowhere/socket"}
        nix = make_nix(self.directory, environ=environ)
        with self.assertRaises(NixUnusable) as caught:
            await nix.check()
        self.assertIn("/nowhere/socket", caught.exception.message)
        with self.assertRaises(NixUnusable):
            await self.evaluate("plain", nix=nix)

    async def test_store_that_is_not_where_its_paths_say_is_refused(self) -> None:
        """A store that is not where its paths say is refused, however Nix was told of it."""
        place = str(self.directory / "elsewhere")
        config = nix_environment()["NIX_CONFIG"]
        for environ, words in (
            ({"NIX_REMOTE": f"local?root={place}"}, f"is in {place}/nix/store: NIX_REMOTE is "),
            ({"NIX_REMOTE": place}, f"is in {place}/nix/store: NIX_REMOTE is "),
            ({"NIX_CONFIG": f"{config}\nstore = {place}"}, "remove the setting 'store'"),
            ({"NIX_STORE_DIR": place}, f"is in {place}: unset NIX_STORE_DIR"),
        ):
            nix = make_nix(self.directory, environ={**nix_environment(), **environ})
            with self.assertRaises(NixMisconfigured) as caught:
                await nix.check()
            self.assertIn("its store has to be in /nix/store", caught.exception.message)
            self.assertIn(words, caught.exception.message)

    async def test_state_directory_that_cannot_be_made_is_told(self) -> None:
        """A state directory that cannot be made is told."""
        (self.directory / "file").write_text("")
        nix = make_nix(self.directory / "file")
        with self.assertRaises(NixUnusable) as caught:
            await nix.check()
        self.assertIn("gcroots", caught.exception.message)


class OptionsFileTests(TestCase):
    """The file of options that the operator names, as Nix itself reads it."""

    def test_options_of_the_file_hold_unless_they_are_named_elsewhere(self) -> None:
        """Nix takes them, secrets included, and what ``nix_options`` names comes first."""
        directory = Path(self.mktemp()).absolute()
        directory.mkdir()
        file = directory / "nix.conf"
        file.write_text("access-tokens = forge.example=hush\ncores = 7\nmax-jobs = 5\n")
        settings = NixSettings(
            state_directory=directory, home=directory, options={"cores": "3"}, options_file=file
        )
        command = ["nix", "--extra-experimental-features", "nix-command", "show-config"]
        shown = subprocess.run(
            command,
            env=environment(nix_environment(), settings),
            check=True,
            capture_output=True,
            text=True,
        )
        # Newer Nix shows a set with a blank before each of its members.
        options = {
            name.strip(): value.strip()
            for name, _, value in (line.partition("=") for line in shown.stdout.splitlines())
        }
        self.assertEqual(
            ("forge.example=hush", "3", "5"),
            (options["access-tokens"], options["cores"], options["max-jobs"]),
        )
