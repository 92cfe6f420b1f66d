"""
Every package of the demo set, on the release of Debian that the tests run on.

The two largest, some 200 store paths and 500 MB, are left out unless
``NIXERY_TEST_FULL`` is 1.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SkipTest

from nixery.image.closure import package_name
from nixery.layers.popularity_file import parse_popularity
from tests.integration.demokit import (
    SetTestCase,
    build,
    build_all,
    checked,
    demo_set,
    evaluate,
    run,
)
from tests.integration.nixenv import nix_environment

FULL = os.environ.get("NIXERY_TEST_FULL") == "1"

LARGE = frozenset({"ffmpeg", "jdk", "jdk_headless"})

STARTED = {
    "_7zz": (["7zz", "i"], "7-Zip"),
    "bash": (["bash", "-c", "echo $BASH_VERSION"], "5."),
    "bashInteractive": (["sh", "-c", "echo $((6*7))"], "42"),
    "coreutils": (["ls", "--version"], "GNU coreutils"),
    "curl": (["curl", "--version"], "libcurl"),
    "dash": (["dash", "-c", "echo $((6*7))"], "42"),
    "diffutils": (["diff", "--version"], "GNU diffutils"),
    "ffmpeg": (["ffmpeg", "-version"], "ffmpeg version"),
    "findutils": (["find", "--version"], "GNU findutils"),
    "gawk": (["awk", "BEGIN { print 6*7 }"], "42"),
    "git": (["git", "version"], "git version"),
    "glibc": (["ld.so", "--version"], "ld.so "),
    "gnugrep": (["grep", "--version"], "GNU grep"),
    "gnused": (["sed", "--version"], "GNU sed"),
    "gnutar": (["tar", "--version"], "GNU tar"),
    "gzip": (["gzip", "--version"], "gzip "),
    "hello": (["hello"], "Hello, world!"),
    "htop": (["htop", "--version"], "htop "),
    "jdk": (["java", "-Xshare:auto", "--version"], "OpenJDK"),
    "jdk_headless": (["javac", "--version"], "javac "),
    "jq": (["jq", "-n", "[1, 2] | add"], "3"),
    "less": (["pager", "--version"], "less "),
    "moreutils": (["errno", "ENOENT"], "No such file"),
    "nano": (["nano", "--version"], "GNU nano"),
    "openssl": (["openssl", "version"], "OpenSSL "),
    "patch": (["patch", "--version"], "GNU patch"),
    "perl": (["perl", "-e", "print 6*7"], "42"),
    "procps": (["ps", "--version"], "procps"),
    "python3": (["python3", "-c", "print(6*7)"], "42"),
    "sqlite": (["sqlite3", ":memory:", "select 6*7"], "42"),
    "tree": (["tree", "--version"], "tree v"),
    "vim": (["ex", "--version"], "Vi IMproved"),
    "which": (["which", "/bin/sh"], "/bin/sh"),
    "xz": (["xz", "--version"], "liblzma"),
}
"""A program of each package that has any, and what it prints."""

WITHOUT_PROGRAMS = frozenset(
    {"cacert", "iana-etc", "python3Packages.pyyaml", "python3Packages.requests"}
)

EMULATED = ("bash", "coreutils", "gawk")
"""Packages for the other architecture that are built even without the variable."""

KNOWN_TO_POPULARITY = 0.95
"""Of a release's packages: some are split and renamed while it is supported."""


def tested() -> tuple[str, ...]:
    return tuple(
        sorted(name for name in (*STARTED, *WITHOUT_PROGRAMS) if FULL or name not in LARGE)
    )


def packages_closure() -> list[Path]:
    """All store paths of the packages, and of what they need."""
    built = [path for outputs in build_all(tested()).values() for path in outputs]
    printed = checked("nix-store", "--query", "--requisites", *built, environ=nix_environment())
    return sorted({Path(line) for line in printed.split()})


def files(path: Path) -> Iterator[Path]:
    for directory, directories, names in os.walk(path):
        for name in (*directories, *names):
            yield Path(directory, name)


def is_elf(path: Path) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def is_library(path: Path) -> bool:
    return ".so" in path.suffixes


class EveryPackageTests(SetTestCase):
    def test_all_are_tested(self) -> None:
        """Every package of the set is in the tables here."""
        names = evaluate(
            'let s = set "x86_64-linux"; oddities = import '
            f"{demo_set()}/oddities.nix {{ package = x: x; }};"
            " plain = removeAttrs s (builtins.attrNames oddities); in"
            " builtins.concatMap (name: if plain.${name}.recurseForDerivations or false"
            ' then map (inner: "${name}.${inner}") (builtins.filter (inner: inner !='
            ' "recurseForDerivations") (builtins.attrNames plain.${name}))'
            " else [ name ]) (builtins.attrNames plain)"
        )
        self.assertEqual(names, sorted({*STARTED, *WITHOUT_PROGRAMS}))

    def test_program_of_each_package_starts_without_an_environment(self) -> None:
        """A program of each package starts, with no environment at all."""
        for name in tested():
            if name in WITHOUT_PROGRAMS:
                continue
            argv, expected = STARTED[name]
            with self.subTest(name):
                [program] = [
                    path / "bin" / argv[0]
                    for path in build_all(tested())[name]
                    if (path / "bin" / argv[0]).exists()
                ]
                self.assertIn(expected, checked(program, *argv[1:]))

    def test_programs_of_the_other_architecture_start_in_an_emulator(self) -> None:
        """Programs for arm64 start in an emulator, with libraries and a loader of their own."""
        if shutil.which("qemu-aarch64") is None:
            raise SkipTest("qemu-aarch64 is not installed")
        names = tuple(name for name in tested() if name in STARTED) if FULL else EMULATED
        built = build_all(names, "aarch64-linux")
        started = set()
        for name in names:
            argv, expected = STARTED[name]
            [program] = [
                (path / "bin" / argv[0]).resolve()
                for path in built[name]
                if (path / "bin" / argv[0]).exists()
            ]
            # Scripts name interpreters that the kernel cannot run here.
            if is_elf(program):
                with self.subTest(name):
                    emulated = checked("qemu-aarch64", "-0", argv[0], program, *argv[1:])
                    self.assertIn(expected, emulated)
                started.add(name)
        self.assertGreaterEqual(started, {*EMULATED})

    def test_no_link_in_any_store_path_leads_nowhere(self) -> None:
        """No link in any store path leads nowhere."""
        dangling = [
            f"{path} -> {os.readlink(path)}"
            for store_path in packages_closure()
            for path in files(store_path)
            if path.is_symlink() and not path.exists()
        ]
        self.assertEqual(dangling, [])

    def test_every_library_that_a_file_is_linked_to_is_found_and_in_the_store(self) -> None:
        """Every library that a file is linked to is found, and in the store."""
        [loader] = (build("glibc") / "lib").glob("*/ld-linux-*")
        wrong = []
        count = 0
        for store_path in packages_closure():
            for path in files(store_path):
                if not is_elf(path) or not (os.access(path, os.X_OK) or is_library(path)):
                    continue
                if path.name.startswith(("ld-linux-", "libc.so.")):
                    continue
                listed = list_libraries(loader, path)
                count += 1
                wrong += [
                    f"{path}: {line.strip()}"
                    for line in listed.splitlines()
                    if "not found" in line
                    or ("=>" in line and not line.split("=> ")[1].startswith("/nix/store/"))
                ]
        self.assertEqual(wrong, [])
        self.assertGreater(count, 300)

    def test_script_starts_an_interpreter_of_its_closure(self) -> None:
        """A script starts an interpreter of its closure, or one that an image has in /bin."""
        provided = {
            f"/bin/{program.name}"
            for outputs in build_all(tested()).values()
            for path in outputs
            if (path / "bin").is_dir()
            for program in (path / "bin").iterdir()
        }
        wrong = []
        for store_path in packages_closure():
            for path in (store_path / "bin").glob("*"):
                with path.open("rb") as file:
                    line = file.readline(300)
                if not line.startswith(b"#!"):
                    continue
                interpreter = line[2:].split()[0].decode()
                if interpreter not in provided and not (
                    interpreter.startswith("/nix/store/") and Path(interpreter).exists()
                ):
                    wrong.append(f"{path}: {interpreter}")
        self.assertEqual(wrong, [])

    def test_popularity_data_beside_the_lock_know_the_packages_of_this_release(self) -> None:
        """The popularity data beside the lock know the packages of this release."""
        known = parse_popularity((demo_set() / "popularity.json").read_bytes()).transitive
        names = {package_name(path.name[33:]) for path in packages_closure()}
        unknown = sorted(names - known.keys())
        self.assertLess(len(unknown), (1 - KNOWN_TO_POPULARITY) * len(names), unknown)

    def test_popularity_data_serve_both_architectures(self) -> None:
        """Both architectures are made of packages of the same names, which the data know."""
        systems = json.loads((demo_set() / "lock.json").read_bytes())["systems"]
        amd64, arm64 = (systems[f"{each}-linux"].keys() for each in ("x86_64", "aarch64"))
        own = sorted(arm64 - amd64)
        self.assertLess(len(own), (1 - KNOWN_TO_POPULARITY) * len(arm64), own)

    def test_lock_says_which_release_of_debian_it_was_made_on(self) -> None:
        """The lock says which release of Debian it was made on."""
        lock = json.loads((demo_set() / "lock.json").read_bytes())
        release = re.match(r"\d+", Path("/etc/debian_version").read_text(encoding="utf-8"))
        if release is not None:
            self.assertEqual(lock["release"], int(release.group()))


def list_libraries(loader: Path, path: Path) -> str:
    """List the libraries of a file by the loader; a static program has none."""
    done = run([loader, "--list", path])
    if done.returncode != 0 and "statically linked" not in done.stdout + done.stderr:
        return done.stdout + f"not found: {done.stderr}"
    return done.stdout
