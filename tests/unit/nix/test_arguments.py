"""Tests of the command lines of Nix."""

from __future__ import annotations

from pathlib import Path

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from nixery.image.packages import Output, Package
from nixery.nix import arguments
from nixery.nix.arguments import NixSettings

SETTINGS = NixSettings(state_directory=Path("/state"), home=Path("/home/x"))


class EnvironmentTests(SynchronousTestCase):
    """The environment of the commands."""

    def test_environment_is_ours_but_for_home_path_and_memory(self) -> None:
        """It is ours, but for the home, the search path, the limit of memory and our settings."""
        inherited = {
            "PATH": "/bin",
            "HOME": "/root",
            "NIX_PATH": "nixpkgs=/x",
            "NIX_REMOTE": "daemon",
            "NIXERY_PKGS_REPO": "https://user:password@git.example/pkgs",
        }
        self.assertEqual(
            arguments.environment(inherited, evolve(SETTINGS, max_eval_memory=1000)),
            {
                "PATH": "/bin",
                "NIX_REMOTE": "daemon",
                "HOME": "/home/x",
                "XDG_CACHE_HOME": "/home/x/.cache",
                "GC_MAXIMUM_HEAP_SIZE": "1000",
            },
        )
        self.assertIn("NIX_PATH", inherited)

    def test_options_are_lines_of_nix_config_after_those_that_are_there(self) -> None:
        """Options are lines of NIX_CONFIG, after those that are there; none is two lines."""
        options = {"cores": "2", "access-tokens": "a=b\nsandbox = false"}
        changed = evolve(SETTINGS, options=options)
        environment = arguments.environment({"NIX_CONFIG": "x = y"}, changed)
        self.assertEqual(
            environment["NIX_CONFIG"], "x = y\naccess-tokens = a=b sandbox = false\ncores = 2"
        )
        self.assertNotIn("a=b", repr(changed))

    def test_file_of_options_is_included_before_the_options_that_are_named(self) -> None:
        """So an option that is named wins over the file, and the file over the environment."""
        changed = evolve(SETTINGS, options={"cores": "2"}, options_file=Path("/run/x/nix.conf"))
        environment = arguments.environment({"NIX_CONFIG": "cores = 1"}, changed)
        self.assertEqual(environment["NIX_CONFIG"], "cores = 1\ninclude /run/x/nix.conf\ncores = 2")


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

    def test_each_output_is_one_sorted_argument(self) -> None:
        """Each output is an argument, each once, sorted; the limits are passed on."""
        packages = [self.package("/b.drv", "out", "dev"), self.package("/a.drv", "out")]
        packages.append(packages[0])
        changed = evolve(SETTINGS, timeout=11, max_silent=7)
        self.assertEqual(
            arguments.build(changed, packages=packages, out_link=Path("/r")),
            (
                *("nix-build", "--log-format", "internal-json", "--out-link", "/r"),
                *("--timeout", "11", "--max-silent-time", "7"),
                *("/a.drv!out", "/b.drv!dev", "/b.drv!out"),
            ),
        )

    def test_substitute_only_builds_run_with_max_jobs_0(self) -> None:
        """Substitute-only builds run with ``--max-jobs 0``."""
        argv = arguments.build(
            evolve(SETTINGS, substitute_only=True),
            packages=[self.package("/a.drv", "out")],
            out_link=Path("/r"),
        )
        self.assertIn("--max-jobs 0", " ".join(argv))


class ChunkTests(SynchronousTestCase):
    """Long argument lists are split."""

    @settings(max_examples=100)
    @given(st.lists(st.text(min_size=1, max_size=20), max_size=50), st.integers(1, 100))
    def test_chunks_are_neither_lost_nor_empty_nor_too_large(
        self, paths: list[str], size: int
    ) -> None:
        """Nothing is lost or moved, no piece is empty, and none too large without need."""
        chunks = list(arguments.chunks(paths, size))
        self.assertEqual([path for chunk in chunks for path in chunk], paths)
        for chunk in chunks:
            self.assertTrue(chunk)
            length = sum(len(path.encode()) + 1 for path in chunk)
            self.assertTrue(length <= size or len(chunk) == 1)
