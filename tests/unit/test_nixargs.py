"""How Nix is called."""

from __future__ import annotations

import json
from pathlib import Path

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from nixery.names import Requirement
from nixery.nixside import nixargs
from nixery.nixside.nixargs import NixSettings
from nixery.packages import Output, Package
from nixery.sources import PackageSet, path_revision

SETTINGS = NixSettings(state_directory=Path("/state"), home=Path("/home/x"))


def evaluate(settings: NixSettings, source: str, *names: str) -> tuple[str, ...]:
    return nixargs.evaluate(
        settings,
        resolve=Path("/share/resolve.nix"),
        package_set=package_set(source),
        system="x86_64-linux",
        requirements=[Requirement(name=name, exact=name == "X") for name in names],
    )


def package_set(source: str, *overlays: str) -> PackageSet:
    path = Path(source)
    return PackageSet(revision=path_revision(path), path=path, overlays=tuple(map(Path, overlays)))


def argument(argv: tuple[str, ...], name: str) -> str:
    return argv[argv.index(name, argv.index("--argstr")) + 1]


def search_path(argv: tuple[str, ...]) -> list[str]:
    return [argv[at + 1] for at, part in enumerate(argv) if part == "-I"]


class EnvironmentTests(SynchronousTestCase):
    """The environment of the commands."""

    def test_environment(self) -> None:
        """It is ours, but for the home, the search path and the limit of memory."""
        inherited = {
            "PATH": "/bin",
            "HOME": "/root",
            "NIX_PATH": "nixpkgs=/x",
            "NIX_REMOTE": "daemon",
        }
        self.assertEqual(
            nixargs.environment(inherited, evolve(SETTINGS, eval_memory=1000)),
            {
                "PATH": "/bin",
                "NIX_REMOTE": "daemon",
                "HOME": "/home/x",
                "XDG_CACHE_HOME": "/home/x/.cache",
                "GC_MAXIMUM_HEAP_SIZE": "1000",
            },
        )
        self.assertIn("NIX_PATH", inherited)

    def test_options(self) -> None:
        """Options are lines of NIX_CONFIG, after those that are there; none is two lines."""
        options = {"cores": "2", "access-tokens": "a=b\nsandbox = false"}
        changed = evolve(SETTINGS, options=options)
        environment = nixargs.environment({"NIX_CONFIG": "x = y"}, changed)
        self.assertEqual(
            environment["NIX_CONFIG"], "x = y\naccess-tokens = a=b sandbox = false\ncores = 2"
        )
        self.assertNotIn("a=b", repr(changed))


class EvaluateTests(SynchronousTestCase):
    """The command that evaluates."""

    def test_restricted(self) -> None:
        """Evaluation is restricted to the package set and our expression."""
        argv = evaluate(SETTINGS, "/pkgs")
        joined = " ".join(argv)
        self.assertIn("--option restrict-eval true", joined)
        self.assertIn("--option allow-import-from-derivation false", joined)
        self.assertIn("--read-write-mode", argv)
        self.assertEqual(
            search_path(argv), ["nixery-src=/pkgs", "nixery-resolve=/share/resolve.nix"]
        )
        self.assertEqual(argv[-1], "/share/resolve.nix")

    def test_import_from_derivation(self) -> None:
        """An operator may allow import from derivation."""
        argv = evaluate(evolve(SETTINGS, allow_import_from_derivation=True), "/pkgs")
        self.assertIn("--option allow-import-from-derivation true", " ".join(argv))

    def test_file(self) -> None:
        """A set that is a file may read its neighbours."""
        argv = evaluate(SETTINGS, "/a b/set.nix")
        self.assertEqual(search_path(argv)[0], "nixery-src=/a b")
        self.assertEqual(argument(argv, "src"), "/a b/set.nix")

    @settings(deadline=None, max_examples=50)
    @given(st.lists(st.text(min_size=1, max_size=10), max_size=4))
    def test_names(self, names: list[str]) -> None:
        """Names travel as JSON in one argument, whatever is in them."""
        argv = evaluate(SETTINGS, "/pkgs", *names)
        self.assertEqual(len(argv), len(evaluate(SETTINGS, "/pkgs")))
        self.assertEqual(
            [(item["name"], item["path"]) for item in json.loads(argument(argv, "names"))],
            [(name, name.split(".")) for name in names],
        )

    def test_arguments(self) -> None:
        """Exactness, configuration, overlays and the guard are passed on."""
        argv = nixargs.evaluate(
            evolve(SETTINGS, config={"allowUnfree": True}),
            resolve=Path("/share/resolve.nix"),
            package_set=package_set("/pkgs", "/o 1"),
            system="x86_64-linux",
            requirements=[Requirement(name="X", exact=True), Requirement(name="y")],
        )
        self.assertEqual(
            [item["exact"] for item in json.loads(argument(argv, "names"))], [True, False]
        )
        self.assertEqual(json.loads(argument(argv, "config")), {"allowUnfree": True})
        self.assertEqual(json.loads(argument(argv, "overlays")), ["/o 1"])
        self.assertIn("nixery-overlay-0=/o 1", search_path(argv))
        self.assertEqual(argument(argv, "guard"), "true")


class BuildTests(SynchronousTestCase):
    """The command that builds."""

    def package(self, derivation: str, *outputs: str) -> Package:
        return Package(
            requested=("x",),
            attribute="x",
            name="x",
            pname="x",
            version="",
            description="",
            priority=5,
            derivation=derivation,
            outputs=tuple(Output(name=output, path=f"/{output}") for output in outputs),
        )

    def test_build(self) -> None:
        """Each output is an argument, each once, sorted; the limits are passed on."""
        packages = [self.package("/b.drv", "out", "dev"), self.package("/a.drv", "out")]
        packages.append(packages[0])
        changed = evolve(SETTINGS, timeout=11, max_silent=7)
        self.assertEqual(
            nixargs.build(changed, packages=packages, out_link=Path("/r")),
            (
                *("nix-build", "--log-format", "internal-json", "--out-link", "/r"),
                *("--timeout", "11", "--max-silent-time", "7"),
                *("/a.drv!out", "/b.drv!dev", "/b.drv!out"),
            ),
        )

    def test_evaluate_and_build(self) -> None:
        """Both at once has the options of either, and asks for what is to be built."""
        argv = nixargs.evaluate_and_build(
            SETTINGS,
            resolve=Path("/share/resolve.nix"),
            package_set=package_set("/pkgs"),
            system="x86_64-linux",
            requirements=[Requirement(name="x")],
            out_link=Path("/r"),
        )
        building = nixargs.build(SETTINGS, packages=[], out_link=Path("/r"))
        evaluating = evaluate(SETTINGS, "/pkgs", "x")
        shared = evaluating[evaluating.index("restrict-eval") - 1 :]
        self.assertEqual(argv, (*building, "-A", "outputs", *shared))

    def test_substitute_only(self) -> None:
        """Where nothing may be built, there are no jobs."""
        argv = nixargs.build(
            evolve(SETTINGS, substitute_only=True),
            packages=[self.package("/a.drv", "out")],
            out_link=Path("/r"),
        )
        self.assertIn("--max-jobs 0", " ".join(argv))


class ChunkTests(SynchronousTestCase):
    """Long argument lists are split."""

    @settings(deadline=None, max_examples=100)
    @given(st.lists(st.text(min_size=1, max_size=20), max_size=50), st.integers(1, 100))
    def test_chunks(self, paths: list[str], size: int) -> None:
        """Nothing is lost or moved, no piece is empty, and none too large without need."""
        chunks = list(nixargs.chunks(paths, size))
        self.assertEqual([path for chunk in chunks for path in chunk], paths)
        for chunk in chunks:
            self.assertTrue(chunk)
            length = sum(len(path.encode()) + 1 for path in chunk)
            self.assertTrue(length <= size or len(chunk) == 1)
