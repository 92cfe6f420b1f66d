"""
A package set of 20,000 packages with the shape of nixpkgs, to be evaluated and never built.

``large_set_template/`` has what is written by hand: a library and the packages as fixed points that
overlays extend, ``callPackage``, a check of each package's ``meta``, and a standard environment of
some hundred derivations that each package depends on.  The packages are generated here, the same
always: most have a file each, others share one; some throw, are broken, unfree or for other
systems; a few end an evaluation; and there are nested sets.
"""

from __future__ import annotations

import hashlib
import random
import shutil
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

from attrs import frozen

from tests.end_to_end.processes import private_directory

__all__ = ["SIZE", "LargeSet", "large_set"]

SIZE = 20_000
"""The attributes at the top of the set."""

NESTED_SETS = 4
"""Sets of packages within the set, each of an 80th of the size."""

FAMILY = 40
"""The packages that share one file."""

_TEMPLATE = Path(__file__).with_name("large_set_template")

_SYLLABLES = [f"{first}{second}" for first in "bdgklmnprst" for second in "aeiou"]

_ENDINGS = ["", "", "", "", "-cli", "-tools", "-utils", "d", "2", "3", "-unwrapped", "lib", "_1"]

_WORDS = [
    *("a", "fast", "simple", "small", "portable", "modern", "command-line", "library", "tool"),
    *("server", "client", "daemon", "compiler", "for", "of", "with", "and", "that", "manages"),
    *("parses", "displays", "converts", "images", "files", "networks", "terminals", "databases"),
    *("music", "video", "fonts", "archives", "XML", "JSON", "Unicode", "Gödel", "naïve", "written"),
    *("in", "C", "Rust", "Go", "Python"),
]

_LICENSES = [
    *("asl20", "bsd2", "bsd3", "gpl2Only", "gpl2Plus", "gpl3Only", "gpl3Plus", "isc"),
    *("lgpl21Plus", "mit", "mit", "mpl20", "zlib"),
]


@frozen(kw_only=True)
class LargeSet:
    """
    A generated package set.

    :param path: its directory.
    :param names: the attributes at its top.
    :param packages: those of them that can be instantiated.
    """

    path: Path
    names: Sequence[str]
    packages: Sequence[str]


@cache
def large_set(size: int = SIZE) -> LargeSet:
    """Generate a package set with so many attributes at its top."""
    directory = private_directory("large-set") / "set"
    shutil.copytree(_TEMPLATE, directory)
    return _Generator(directory, size).generate()


class _Generator:
    """
    Writes the files of one set.

    :param directory: has a copy of ``large_set_template/``.
    """

    def __init__(self, directory: Path, size: int) -> None:
        self._pkgs = directory / "pkgs"
        self._directory = directory
        self._size = size
        self._random = random.Random(size)
        self._drawn: set[str] = set()
        self._usable: list[str] = []

    def generate(self) -> LargeSet:
        """Write all files."""
        self._write_maintainers()
        own_file = self._add_files("by-name", self._size // 2)
        listed = self._add_files("misc", self._size // 5)
        families, in_family = self._add_families(self._size * 11 // 40)
        ending = self._names(max(1, self._size // 4000))
        renamed = self._names(self._size // 200)
        count = self._size - sum(map(len, (own_file, listed, in_family, ending, renamed)))
        removed = self._names(count)
        sets = {
            f"{name}Packages": self._names(self._size // 80) for name in self._names(NESTED_SETS)
        }
        self._write_nested(sets)
        lines = [
            "final: prev:",
            "let",
            "  inherit (final) lib;",
            *(
                f"  family{at} = final.callPackages ./families/{at}.nix {{ }};"
                for at in range(len(families))
            ),
            "in",
            "{",
            *(
                f"  {name} = final.callPackage ./misc/{name[:2]}/{name}.nix {{ }};"
                for name in listed
            ),
            *(
                f"  inherit (family{at}) {name};"
                for at, family in enumerate(families)
                for name in family
            ),
            *(
                f"  {name} = lib.recurseIntoAttrs (final.callPackages ./sets/{name}.nix {{ }});"
                for name in sets
            ),
            # What Nix does not catch.
            *(
                f"  {name} = final.stdenv.mkDerivation {{ inherit (final.lib) {name}; }};"
                for name in ending[::2]
            ),
            *(f'  {name} = abort "{name} has no maintainer";' for name in ending[1::2]),
            "}",
        ]
        _write(self._pkgs / "all-packages.nix", lines)
        targets = self._random.choices(self._usable, k=len(renamed))
        _write(
            self._pkgs / "aliases.nix",
            [
                "final: prev: {",
                *(f"  {old} = final.{new};" for old, new in zip(renamed, targets, strict=True)),
                *(
                    f'  {name} = throw "{name} has been removed, because nobody maintains it";'
                    for name in removed
                ),
                "}",
            ],
        )
        return LargeSet(
            path=self._directory,
            names=[*own_file, *listed, *in_family, *ending, *renamed, *removed],
            packages=tuple(self._usable),
        )

    def _names(self, count: int) -> list[str]:
        names: list[str] = []
        while len(names) < count:
            stem = "".join(self._random.choices(_SYLLABLES, k=self._random.randint(2, 5)))
            name = stem + self._random.choice(_ENDINGS)
            if name not in self._drawn:
                self._drawn.add(name)
                names.append(name)
        return names

    def _add_files(self, group: str, count: int) -> list[str]:
        """Write a file for each of so many packages."""
        names = self._names(count)
        for name in names:
            arguments, body = self._package(name)
            _write(
                self._pkgs / group / name[:2] / f"{name}.nix",
                [f"{{ {', '.join(['lib', 'stdenv', 'fetchurl', *arguments])} }}:", "", *body],
            )
        return names

    def _add_families(self, count: int) -> tuple[list[list[str]], list[str]]:
        """Write files for so many packages that share theirs with others."""
        names = self._names(count)
        families = [names[start : start + FAMILY] for start in range(0, count, FAMILY)]
        for at, family in enumerate(families):
            _write(self._pkgs / "families" / f"{at}.nix", self._family(family))
        return families, names

    def _write_nested(self, sets: dict[str, list[str]]) -> None:
        for name, members in sets.items():
            _write(self._pkgs / "sets" / f"{name}.nix", self._family(members, usable=False))

    def _family(self, members: Sequence[str], *, usable: bool = True) -> Iterator[str]:
        bodies = [self._package(name, usable=usable) for name in members]
        arguments = dict.fromkeys(name for names, _ in bodies for name in names)
        yield f"{{ {', '.join(['lib', 'stdenv', 'fetchurl', *arguments])} }}:"
        yield "{"
        for name, (_, body) in zip(members, bodies, strict=True):
            yield f"  {name} ="
            yield from (f"    {line}" for line in body[:-1])
            yield f"    {body[-1]};"
        yield "}"

    def _package(self, name: str, *, usable: bool = True) -> tuple[list[str], list[str]]:
        """
        Draw a package.

        :param usable: whether later ones may depend on it, where it can be instantiated.
        :return: the packages that it depends on, and the lines of its expression.
        """
        drawn = self._random
        inputs = self._draw_inputs()
        half = len(inputs) // 2
        version = f"{drawn.randint(0, 9)}.{drawn.randint(0, 30)}.{drawn.randint(0, 30)}"
        fate = drawn.random()
        sha256 = hashlib.sha256(name.encode()).hexdigest()
        license_name = "unfree" if fate < 0.01 else drawn.choice(_LICENSES)
        platforms = "windows" if 0.02 <= fate < 0.04 else drawn.choice(["unix", "linux", "all"])
        description = " ".join(drawn.choices(_WORDS, k=drawn.randint(4, 10))).capitalize()
        maintainer = drawn.randrange(self._maintainers)
        body = [
            "stdenv.mkDerivation (final: {",
            f'  pname = "{name}";',
            f'  version = "{version}";',
            "  src = fetchurl {",
            '    url = "https://example.org/${final.pname}-${final.version}.tar.gz";',
            f'    sha256 = "{sha256}";',
            "  };",
            f"  nativeBuildInputs = [ {' '.join(inputs[:half])} ];",
            f"  buildInputs = [ {' '.join(inputs[half:])} ];",
            f'  configureFlags = [ "--prefix=${{placeholder "out"}}" "--with-{name}" ];',
            "  postPatch = ''",
            '    substituteInPlace Makefile --replace-fail "/usr/local" "$out"',
            "  '';",
            f'  outputs = [ "out" {drawn.choice(["", "", chr(34) + "dev" + chr(34)])} ];',
            "  meta = {",
            f'    description = "{description}";',
            f'    homepage = "https://example.org/{name}";',
            f"    license = lib.licenses.{license_name};",
            f"    maintainers = [ lib.maintainers.person{maintainer} ];",
            f"    platforms = lib.platforms.{platforms};",
            f'    mainProgram = "{name}";',
            *(["    broken = true;"] if 0.01 <= fate < 0.02 else []),
            "  };",
            "})",
        ]
        if usable and fate >= 0.04:
            self._usable.append(name)
        return inputs, body

    def _draw_inputs(self) -> list[str]:
        """Draw dependencies: mostly of the packages that many others depend on, too."""
        drawn = self._random
        if not self._usable:
            return []
        core = self._usable[: max(1, self._size // 50)]
        count = drawn.choice([0, 1, 1, 2, 2, 3, 4, 6, 8])
        chosen = (
            drawn.choice(core if drawn.random() < 0.8 else self._usable) for _ in range(count)
        )
        return list(dict.fromkeys(chosen))

    @property
    def _maintainers(self) -> int:
        return max(1, self._size // 5)

    def _write_maintainers(self) -> None:
        _write(
            self._directory / "lib" / "maintainers.nix",
            [
                "{",
                *(
                    f'  person{number} = {{ name = "Person {number}"; github = "person{number}";'
                    f' email = "person{number}@example.org"; githubId = {number}; }};'
                    for number in range(self._maintainers)
                ),
                "}",
            ],
        )


def _write(file: Path, lines: Sequence[str] | Iterator[str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(lines) + "\n", "utf-8")
