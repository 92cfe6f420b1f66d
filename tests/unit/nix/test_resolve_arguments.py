"""Tests of the arguments and questions that ask Nix for packages."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from nixery.image.names import PackageRequest
from nixery.nix import arguments as nix_arguments
from nixery.nix import resolve_arguments
from nixery.nix.arguments import NixSettings
from nixery.nix.resolve_arguments import Fetches, Lookup
from nixery.runtime.data_files import nix_directory
from nixery.sources.source import PackageSet, path_revision
from tests.support.nix import literals

SETTINGS = NixSettings(state_directory=Path("/state"), home=Path("/home/x"))

# What has a meaning of its own in Nix, and what has none.
TEXTS = st.text(st.sampled_from("\\\"'${}\r\n\t .a;"), max_size=12) | st.text(max_size=12)

# What a system calls a file: bytes, but for two of them.
FILES = (TEXTS.map(str.encode) | st.binary(max_size=12)).map(
    lambda name: Path("/", name.replace(b"\0", b"").decode(errors="surrogateescape"))
)


def lookup(source: str | Path, *overlays: str | Path) -> Lookup:
    path = Path(source)
    return Lookup(
        settings=SETTINGS,
        resolve=Path("/share/resolve.nix"),
        package_set=PackageSet(
            revision=path_revision(path), path=path, overlays=tuple(map(Path, overlays))
        ),
        system="x86_64-linux",
    )


def requirements(*names: str) -> Sequence[PackageRequest]:
    return [PackageRequest(name=name, exact=name == "X") for name in names]


def evaluate(source: str, *names: str) -> tuple[str, ...]:
    return resolve_arguments.evaluate(lookup(source), requirements(*names))


def argument(argv: tuple[str, ...], name: str) -> str:
    return argv[argv.index(name, argv.index("--argstr")) + 1]


def arguments(argv: tuple[str, ...]) -> dict[str, str]:
    return {
        name: value
        for option, name, value in zip(argv, argv[1:], argv[2:], strict=False)
        if option == "--argstr"
    }


def search_path(argv: tuple[str, ...]) -> list[str]:
    return [argv[at + 1] for at, part in enumerate(argv) if part == "-I"]


class EvaluateTests(SynchronousTestCase):
    """The command that evaluates."""

    def test_evaluation_is_restricted_to_the_package_set_and_our_expression(self) -> None:
        """Evaluation is restricted to the package set and our expression."""
        argv = evaluate("/pkgs")
        joined = " ".join(argv)
        self.assertIn("--option restrict-eval true", joined)
        self.assertIn("--option allow-import-from-derivation false", joined)
        self.assertIn("--read-write-mode", argv)
        self.assertEqual(
            search_path(argv),
            ["nixery-src=/pkgs", "nixery-nix=/share"],
        )
        self.assertEqual(argv[-1], "/share/resolve.nix")

    def test_import_from_derivation(self) -> None:
        """An operator may allow import from derivation."""
        allowing = evolve(
            lookup("/pkgs"), settings=evolve(SETTINGS, allow_import_from_derivation=True)
        )
        for argv in (
            resolve_arguments.evaluate(allowing, ()),
            resolve_arguments.repl(allowing),
        ):
            self.assertIn("--option allow-import-from-derivation true", " ".join(argv))

    def test_fetches(self) -> None:
        """The URLs that may be fetched are allowed only where fetches are, and never of files."""
        for fetches in Fetches:
            argv = resolve_arguments.evaluate(evolve(lookup("/pkgs"), fetches=fetches), ())
            self.assertEqual(argument(argv, "fetches"), fetches.value)
            if fetches is Fetches.FORBIDDEN:
                self.assertNotIn("extra-allowed-uris", argv)
                continue
            allowed = argv[argv.index("extra-allowed-uris") + 1].split()
            self.assertIn("https://", allowed)
            self.assertEqual([each for each in allowed if each in "file:///etc/passwd"], [])

    def test_search_path_of_the_machine_is_emptied(self) -> None:
        """The search path of the machine's nix.conf is emptied."""
        argv = evaluate("/pkgs")
        self.assertEqual(argv[argv.index("nix-path") + 1], "")

    def test_set_that_is_a_file_may_read_its_neighbours(self) -> None:
        """A set that is a file may read its neighbours."""
        argv = evaluate("/a b/set.nix")
        self.assertEqual(search_path(argv)[0], "nixery-src=/a b")
        self.assertEqual(argument(argv, "src"), "/a b/set.nix")

    @settings(max_examples=50)
    @given(st.lists(st.text(min_size=1, max_size=10), max_size=4))
    def test_names_travel_as_json_in_one_argument_whatever_is_in_them(
        self, names: list[str]
    ) -> None:
        """Names travel as JSON in one argument, whatever is in them."""
        argv = evaluate("/pkgs", *names)
        self.assertEqual(len(argv), len(evaluate("/pkgs")))
        self.assertEqual(
            [(item["name"], item["path"]) for item in json.loads(argument(argv, "names"))],
            [(name, name.split(".")) for name in names],
        )

    def test_exactness_configuration_overlays_and_the_guard_are_passed_on(self) -> None:
        """Exactness, configuration, overlays and the guard are passed on."""
        configured = evolve(
            lookup("/pkgs", "/o 1"), settings=evolve(SETTINGS, config={"allowUnfree": True})
        )
        argv = resolve_arguments.evaluate(configured, requirements("X", "y"))
        self.assertEqual(
            [item["exact"] for item in json.loads(argument(argv, "names"))], [True, False]
        )
        self.assertEqual(json.loads(argument(argv, "config")), {"allowUnfree": True})
        self.assertEqual(json.loads(argument(argv, "overlays")), ["/o 1"])
        self.assertIn("nixery-overlay-0=/o 1", search_path(argv))
        self.assertEqual(argument(argv, "guard"), "true")
        unguarded = resolve_arguments.evaluate(configured, requirements("X", "y"), guard=False)
        self.assertEqual(argument(unguarded, "guard"), "false")

    def test_evaluate_and_build(self) -> None:
        """Both at once has the options of either, and asks for what is to be built."""
        argv = resolve_arguments.evaluate_and_build(lookup("/pkgs"), requirements("x"), Path("/r"))
        building = nix_arguments.build(SETTINGS, packages=[], out_link=Path("/r"))
        evaluating = evaluate("/pkgs", "x")
        shared = evaluating[evaluating.index("restrict-eval") - 1 :]
        self.assertEqual(argv, (*building, "-A", "outputs", *shared))


class FlakeTests(SynchronousTestCase):
    """The commands for a flake."""

    def setUp(self) -> None:
        self.resolve = Path(self.mktemp())
        self.resolve.write_text("{ }: text")
        self.lookup = evolve(
            lookup("/nix/store/x"),
            package_set=evolve(lookup("/nix/store/x").package_set, flake="path:/nix/store/x?a=b"),
            resolve=self.resolve,
        )

    def test_evaluation_is_pure_and_reads_no_file_of_ours(self) -> None:
        """A flake is evaluated purely, by an expression that is an argument."""
        argv = resolve_arguments.evaluate(self.lookup, requirements("x"))
        joined = " ".join(argv)
        for option in (
            "pure-eval true",
            "restrict-eval false",
            "use-registries false",
            "allow-import-from-derivation false",
        ):
            self.assertIn(f"--option {option}", joined)
        self.assertEqual(search_path(argv), [])
        self.assertEqual(argv[-2:], ("--expr", "{ }: text"))
        self.assertEqual(argument(argv, "flake"), "path:/nix/store/x?a=b")
        self.assertNotIn("src", arguments(argv))

    def test_text_of_an_expression_has_those_that_it_imports(self) -> None:
        """All files are put into one text, from the directory of the first."""
        directory = Path(self.mktemp())
        directory.mkdir(parents=True)
        for name, text in (
            ("a.nix", "# import ./none.nix\nimport ./b.nix { x = import ./c.nix; }"),
            ("b.nix", "{ x }: import ./c.nix + x"),
            ("c.nix", "  # one\n1"),
        ):
            (directory / name).write_text(text)
        self.assertEqual(
            resolve_arguments.inline(directory / "a.nix"), "({ x }: (1) + x) { x = (1); }"
        )

    def test_text_of_ours_imports_nothing(self) -> None:
        """Nothing of the real expression is left in another file."""
        self.assertNotIn("import ./", resolve_arguments.inline(nix_directory() / "resolve.nix"))


class ReplTests(SynchronousTestCase):
    """The command that answers questions."""

    def test_repl_is_restricted_as_an_evaluation(self) -> None:
        """It may do what an evaluation may, in the same way."""
        for source, *overlays in (["/pkgs"], ["/a b/set.nix"], ["/pkgs", "/o 1", "/o2"]):
            asked = lookup(source, *overlays)
            evaluating = resolve_arguments.evaluate(asked, requirements("x"))
            restrictions = evaluating[evaluating.index("restrict-eval") - 1 :]
            restrictions = restrictions[: restrictions.index("--argstr")]
            argv = resolve_arguments.repl(asked)
            self.assertEqual(argv[:2], ("nix", "repl"))
            self.assertEqual(argv[-len(restrictions) :], restrictions)

    def test_for_every_question(self) -> None:
        """A process that waits for a package set can be asked for each system."""
        asked = lookup("/pkgs")
        argv = resolve_arguments.repl(asked)
        self.assertEqual(argv, resolve_arguments.repl(evolve(asked, system="aarch64-linux")))
        self.assertNotIn("--argstr", argv)
        self.assertNotIn("x86_64-linux", " ".join(argv))
        self.assertNotEqual(argv, resolve_arguments.repl(lookup("/other")))


class QuestionTests(SynchronousTestCase):
    """Tests of what a repl is told."""

    def parsed(self, asked: Lookup, names: Sequence[str]) -> tuple[str, dict[str, str]]:
        """Return the directory of the expressions and their arguments, as Nix reads them."""
        binding = resolve_arguments.binding(asked)
        question = resolve_arguments.question(requirements(*names))
        around, (look_up, *shared, package_set, src, system, config, overlays, fetches) = literals(
            binding
        )
        asking, [wanted, guard] = literals(question)
        # Nothing is there but what was written here, on one line.
        self.assertEqual(
            around,
            'lookup = import (/. + "") ({ system = ""; config = ""; } // { packages ='
            ' import (/. + "") { src = ""; system = ""; config = ""; overlays = ""; fetches = "";'
            " }; })",
        )
        self.assertEqual(asking, '(lookup { names = ""; guard = ""; }).found')
        self.assertNotIn("\n", binding + question)
        self.assertEqual(shared, [system, config])
        directory = look_up.removesuffix("/lookup.nix")
        self.assertEqual(package_set.removesuffix("/package_set.nix"), directory)
        values = {"src": src, "system": system, "config": config}
        values |= {"overlays": overlays, "fetches": fetches}
        return directory, values | {"names": wanted, "guard": guard}

    @settings(max_examples=200)
    @given(
        names=st.lists(TEXTS.filter(bool), max_size=4),
        source=FILES,
        overlays=st.lists(FILES, max_size=2),
        resolve=FILES,
        texts=st.tuples(TEXTS, TEXTS),
    )
    def test_same_as_a_command(
        self,
        names: Sequence[str],
        source: Path,
        overlays: Sequence[Path],
        resolve: Path,
        texts: tuple[str, str],
    ) -> None:
        """It gives what the arguments of the other command give, whatever is in them."""
        asked = evolve(
            lookup(source, *overlays),
            settings=evolve(SETTINGS, config={texts[0]: texts[1]}),
            resolve=resolve,
            system=texts[1],
        )
        argv = resolve_arguments.evaluate(asked, requirements(*names))
        directory = str(resolve.parent).removesuffix("/")
        self.assertEqual(self.parsed(asked, names), (directory, arguments(argv)))

    def test_text_that_would_end_a_string_stands_for_itself(self) -> None:
        """Text that would end a string, or be evaluated in one, stands for itself in it."""
        names = ['"; x = "', "${abort}", "$${x}", "\\", '\\"', "\\${x}", "a\r\nb\rc", "''${x}"]
        for name in names:
            source = Path("/") / name
            _, given = self.parsed(evolve(lookup(source), system=name), [name])
            self.assertEqual((given["src"], given["system"]), (str(source), name))
            self.assertEqual([item["name"] for item in json.loads(given["names"])], [name])
