"""
The package as it is installed: the plugin, the commands, and the files that are no
Python, used from a directory that is not the checkout.
"""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from functools import cache
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

CHECKOUT = Path(__file__).resolve().parent.parent.parent


class InstallationTests(SynchronousTestCase):
    """A wheel in a virtual environment of its own."""

    def setUp(self) -> None:
        self.directory, self.python = installation()

    def run_python(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the environment's Python, far from the checkout."""
        return run(self.directory, str(self.python), *arguments)

    def test_modules_come_from_the_installation(self) -> None:
        """These tests test the wheel, and not the checkout."""
        done = self.run_python("-c", "import nixery; print(nixery.__file__)")
        self.assertIn(str(self.directory), done.stdout, done.stderr)

    def test_every_file_is_installed(self) -> None:
        """All modules are in the wheel, and all files of nix and web."""
        script = "import nixery, pathlib; print(pathlib.Path(nixery.__file__).parent)"
        installed = Path(self.run_python("-c", script).stdout.strip())
        for source, target in (("nixery", "."), ("nix", "_nix"), ("web", "_web")):
            for path in (CHECKOUT / source).rglob("*"):
                relative = path.relative_to(CHECKOUT / source)
                # The documentation is installed as it was built.
                if source == "web" and relative.parts[0] == "docs":
                    continue
                # The demo set is made from a checkout.
                if source == "nix" and relative.parts[0] == "demo":
                    self.assertFalse((installed / target / relative).exists(), relative)
                    continue
                if path.is_file() and path.suffix != ".pyc":
                    self.assertTrue(
                        (installed / target / relative).is_file(), f"{source}/{relative}"
                    )

    def test_installed_package_finds_its_own_files(self) -> None:
        """The installed package finds its own files."""
        script = "from nixery.runtime.data_files import *; print(nix_directory(), web_directory())"
        done = self.run_python("-c", script)
        nix, web = map(Path, done.stdout.split())
        self.assertEqual(("_nix", "_web"), (nix.name, web.name))
        self.assertTrue((nix / "resolve.nix").is_file())
        self.assertFalse((nix / "demo").exists())

    def test_documentation_comes_along_built_and_not_its_sources(self) -> None:
        """The documentation comes along, built, and not its sources."""
        script = "from nixery.runtime.data_files import *; print(docs_directory(), web_directory())"
        done = self.run_python("-c", script)
        docs, web = map(Path, done.stdout.split())
        self.assertEqual("_docs", docs.name)
        self.assertTrue((docs / "tutorial" / "index.html").is_file())
        self.assertFalse((web / "docs").exists())

    def test_twisted_finds_the_plugin_and_the_plugin_its_options(self) -> None:
        """Twisted finds the plugin, and the plugin its options."""
        done = self.run_python("-m", "twisted", "--help")
        self.assertIn("nixery", done.stdout, done.stderr)
        done = self.run_python(str(self.python.parent / "twistd"), "nixery", "--help")
        self.assertEqual(0, done.returncode, done.stderr)
        self.assertIn("--pkgs-path=", done.stdout)

    def test_commands_are_where_path_would_find_them_and_run(self) -> None:
        """The commands are where PATH would find them, and run."""
        for command in ("nixery-layers", "nixery-prepare-image"):
            done = run(self.directory, str(self.python.parent / command), "--help")
            self.assertEqual(0, done.returncode, done.stderr)
            self.assertIn("usage:", done.stdout)


@cache
def installation() -> tuple[Path, Path]:
    """
    The directory of the installation, and its Python; made once for all tests,
    because trial knows nothing of a class's set-up.
    """
    directory = Path(tempfile.mkdtemp(prefix="nixery-install-"))
    atexit.register(shutil.rmtree, directory)
    return directory, install(wheel(directory), directory)


def wheel(directory: Path) -> Path:
    """The wheel: tox's, or one that is built of a copy of the checkout."""
    for name in ("TOX_PACKAGE", "NIXERY_TEST_WHEEL"):
        if os.environ.get(name, "").endswith(".whl"):
            return Path(os.environ[name])
    source = directory / "source"
    # A copy, because setuptools leaves its own files behind.
    shutil.copytree(
        CHECKOUT,
        source,
        ignore=shutil.ignore_patterns(".*", "_trial_temp*", "__pycache__", "build", "dist"),
    )
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    done = run(directory, *command, "--wheel-dir", str(directory), str(source))
    if done.returncode != 0:
        raise AssertionError(done.stdout + done.stderr)
    (built,) = directory.glob("nixery-*.whl")
    return built


def install(package: Path, directory: Path) -> Path:
    """
    Install a wheel into a new environment, without a network: what it depends on
    is there already, in the environment that runs these tests.

    :return: the new environment's Python.
    """
    environment = directory / "environment"
    venv.create(environment, symlinks=True, with_pip=False)
    python = environment / "bin" / "python"
    (packages,) = environment.glob("lib/python*/site-packages")
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    done = run(directory, *command, "--no-deps", "--no-index", str(package))
    if done.returncode != 0:
        raise AssertionError(done.stdout + done.stderr)
    # Behind the environment's own packages: what is installed there hides another
    # nixery here.
    ours = next(path for path in sys.path if path.endswith("site-packages"))
    (packages / "dependencies.pth").write_text(f"{ours}\n")
    shutil.copy(Path(sys.executable).parent / "twistd", python.parent / "twistd")
    return python


def run(directory: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a directory, without what would lead it to the checkout."""
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        command,
        cwd=directory,
        env=environ,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
