"""
Tests for ``demoset.recipes``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from demoset.debian import Record
from demoset.errors import DemoFailed
from demoset.package_set import SOURCE
from demoset.recipes import Recipe, Recipes, Unit, parse_recipes, resolve


def record(
    name: str, *depends: str, section: str = "libs", recommends: Sequence[str] = ()
) -> Record:
    """A package that depends on these; alternatives are written ``a|b``."""
    return Record(
        name=name,
        version="1.0-1",
        section=section,
        depends=tuple(tuple(item.split("|")) for item in depends),
        description=f"about {name}",
        homepage="",
        size=1,
        sha256="00",
        recommends=tuple(tuple(item.split("|")) for item in recommends),
    )


class Archive:
    """An archive in memory that counts how often it is asked."""

    def __init__(self, *records: Record) -> None:
        self._records = {item.name: item for item in records}
        self.asked: list[str] = []

    def __call__(self, name: str) -> Record | None:
        self.asked.append(name)
        return self._records.get(name)


def depends(units: Mapping[str, Unit]) -> dict[str, tuple[str, ...]]:
    return {name: unit.depends for name, unit in units.items()}


class ResolveTests(SynchronousTestCase):
    def resolve(
        self, archive: Archive, ignore: Sequence[str] = (), **recipes: Recipe
    ) -> dict[str, Unit]:
        return resolve(Recipes(units=recipes, ignore=tuple(ignore)), archive)

    def test_libraries_are_followed_through_libraries(self) -> None:
        """Libraries are followed through libraries, and become units of their own."""
        archive = Archive(
            record("hello", "liba", "debconf", section="devel"),
            record("liba", "libb"),
            record("libb"),
            record("debconf", "libnever", section="admin"),
            record("libnever"),
        )
        units = self.resolve(archive, hello=Recipe(debs=("hello",)))
        self.assertEqual(depends(units), {"hello": ("liba",), "liba": ("libb",), "libb": ()})

    def test_modules_of_language_are_followed_from_modules_of_same_language(self) -> None:
        """Modules of a language are followed from modules of the same language."""
        archive = Archive(
            record("python3-a", "python3-b", "libc", "liberror-perl", section="python"),
            record("python3-b", section="python"),
            record("liberror-perl", section="perl"),
            record("libc"),
            record("tool", "python3-b", section="utils"),
        )
        units = self.resolve(archive, a=Recipe(debs=("python3-a",)), tool=Recipe(debs=("tool",)))
        self.assertEqual(units["a"].depends, ("libc", "python3-b"))
        self.assertEqual(units["tool"].depends, ())

    def test_patterns_gather_packages_that_depend_on_each_other_into_one_unit(self) -> None:
        """Patterns gather packages that depend on each other into one unit."""
        archive = Archive(
            record("python3", "python3.11", "libpython3-stdlib", section="python"),
            record("python3.11", "python3.11-minimal", "libssl", section="python"),
            record("python3.11-minimal", "libz", section="python"),
            record("libpython3-stdlib", section="python"),
            record("libssl"),
            record("libz"),
        )
        units = self.resolve(archive, python3=Recipe(debs=("python3", "python3.*")))
        self.assertEqual(
            [deb.name for deb in units["python3"].debs],
            ["python3", "python3.11", "python3.11-minimal"],
        )
        self.assertEqual(units["python3"].depends, ("libssl", "libz"))

    def test_unit_may_take_its_version_from_a_pattern(self) -> None:
        """A unit may take its version from a package whose name only a pattern tells."""
        archive = Archive(
            record("default-jdk", "openjdk-17-jdk", section="java"),
            record("openjdk-17-jdk", section="java"),
        )
        recipe = Recipe(debs=("default-jdk", "openjdk-*"), main="openjdk-*-jdk")
        self.assertEqual(self.resolve(archive, jdk=recipe)["jdk"].main.name, "openjdk-17-jdk")

    def test_package_that_belongs_to_another_unit_leads_there(self) -> None:
        """A package that belongs to another unit leads there, whatever its section."""
        archive = Archive(
            record("tool", "libperl5.36", section="utils"),
            record("perl", "libperl5.36", section="perl"),
            record("libperl5.36"),
        )
        units = self.resolve(
            archive, perl=Recipe(debs=("perl", "libperl*")), tool=Recipe(debs=("tool",))
        )
        self.assertEqual(depends(units), {"perl": (), "tool": ("perl",)})

    def test_needs_are_units_packages_and_patterns_for_names_among_dependencies(self) -> None:
        """Needs are units, packages, and patterns for names among the dependencies."""
        archive = Archive(
            record("git", "liberror-perl", "git-man", section="vcs"),
            record("liberror-perl", section="perl"),
            record("git-man", section="doc"),
            record("tdb", section="misc"),
            record("extra", "libz", section="misc"),
            record("libz"),
        )
        units = self.resolve(
            archive,
            tdb=Recipe(debs=("tdb",)),
            git=Recipe(debs=("git",), needs=("tdb", "extra", "lib*-perl")),
        )
        self.assertEqual(units["git"].depends, ("extra", "liberror-perl", "tdb"))
        self.assertEqual(units["extra"].depends, ("libz",))

    def test_leaf_needs_nothing_whatever_its_dependencies_say(self) -> None:
        """A leaf needs nothing, whatever its dependencies say."""
        archive = Archive(record("libc6", "libcrypt1"), record("libcrypt1", "libc6"))
        units = self.resolve(archive, glibc=Recipe(debs=("libc6",), leaf=True))
        self.assertEqual(depends(units), {"glibc": ()})

    def test_names_that_match_a_pattern_of_ignored_ones_are_never_followed(self) -> None:
        """Names that match a pattern of ignored ones are never followed."""
        archive = Archive(
            record("hello", "gcc-12-base", "libc", section="devel"),
            record("gcc-12-base"),
            record("libc"),
        )
        units = self.resolve(archive, ["gcc-*-base"], hello=Recipe(debs=("hello",)))
        self.assertEqual(units["hello"].depends, ("libc",))

    def test_first_alternative_that_exists_is_taken(self) -> None:
        """One alternative is taken: one that is there already, else the first that exists."""
        archive = Archive(
            record("a", "virtual|libone|libtwo", section="x"),
            record("b", "libone|libtwo", section="x"),
            record("libone"),
            record("libtwo"),
        )
        units = self.resolve(archive, a=Recipe(debs=("a",)))
        self.assertEqual(units["a"].depends, ("libone",))
        units = self.resolve(archive, b=Recipe(debs=("b",)), two=Recipe(debs=("libtwo",)))
        self.assertEqual(units["b"].depends, ("two",))

    def test_recommended_shared_libraries_are_there_for_the_build(self) -> None:
        """Recommended shared libraries are there for the build, with what they need."""
        recommends = ["libcups2t64", "libx11-6|libx11-7", "libglib2.0-data", "libz1", "less2"]
        archive = Archive(
            record("jdk", "libc6", section="java", recommends=recommends),
            record("libc6"),
            record("libcups2t64", "libgnutls30"),
            record("libgnutls30", recommends=["liball1"]),
            record("liball1"),
            record("libx11-6"),
            record("libx11-7"),
            # Data of a library, another section, and a program: none of them is followed.
            record("libglib2.0-data"),
            record("libz1", section="utils"),
            record("less2", section="libs"),
        )
        units = self.resolve(archive, jdk=Recipe(debs=("jdk",)))
        self.assertEqual(units["jdk"].depends, ("libc6", "libcups2t64", "libx11-6"))
        self.assertEqual(units["libgnutls30"].depends, ("liball1",))
        leaf = self.resolve(archive, jdk=Recipe(debs=("jdk",), leaf=True))
        self.assertEqual(depends(leaf), {"jdk": ()})
        units = self.resolve(archive, ["libcups*"], jdk=Recipe(debs=("jdk",)))
        self.assertEqual(units["jdk"].depends, ("libc6", "libx11-6"))

    def test_recommended_in_a_circle(self) -> None:
        """A recommendation never takes the place of a dependency."""
        archive = Archive(
            record("a", "liba1", section="x"),
            record("liba1", recommends=["libb1"]),
            record("libb1", "liba1", recommends=["libc1"]),
            record("libc1", recommends=["libb1"]),
        )
        units = self.resolve(archive, a=Recipe(debs=("a",)))
        self.assertEqual(
            depends(units),
            {"a": ("liba1",), "liba1": (), "libb1": ("liba1", "libc1"), "libc1": ()},
        )

    def test_of_packages_that_unit_may_be_made_of_first_that_there_is_is_taken(self) -> None:
        """Of the packages that a unit may be made of, the first that there is is taken."""
        recipe = Recipe(debs=("7zip-standalone | 7zip",))
        both = Archive(record("7zip", section="utils"), record("7zip-standalone", section="utils"))
        self.assertEqual(self.resolve(both, zz=recipe)["zz"].main.name, "7zip-standalone")
        old = Archive(record("7zip", section="utils"))
        self.assertEqual(self.resolve(old, zz=recipe)["zz"].main.name, "7zip")
        error = self.assertRaises(DemoFailed, self.resolve, Archive(), zz=recipe)
        self.assertIn("no package 7zip-standalone or 7zip, which zz is made of", error.message)

    def test_package_that_is_missing_is_named_with_its_unit(self) -> None:
        """A package that the archive has not got is an error that names it and its unit."""
        archive = Archive(record("hello", section="devel"))
        for recipe, missing in (
            (Recipe(debs=("helo",)), "helo"),
            (Recipe(debs=("hello",), needs=("perl",)), "perl"),
            (Recipe(debs=("hello",), main="openjdk-*"), "openjdk-*"),
        ):
            error = self.assertRaises(DemoFailed, self.resolve, archive, unit=recipe)
            self.assertIn(missing, error.message)
            self.assertIn("packages.json", error.message)

    def test_archive_is_never_asked_twice_for_a_name(self) -> None:
        """The archive is never asked twice for a name."""
        chain = [record(f"lib{n}", f"lib{n + 1}", f"libx{n}") for n in range(5)]
        others = [record(f"libx{n}", "lib0") for n in range(5)]
        archive = Archive(record("a", "lib0", section="x"), *chain, *others, record("lib5"))
        self.resolve(archive, a=Recipe(debs=("a",)))
        self.assertEqual(len(archive.asked), len(set(archive.asked)))

    @settings(max_examples=100)
    @given(
        st.dictionaries(
            st.integers(0, 9), st.lists(st.integers(0, 9), max_size=4), min_size=1, max_size=10
        ),
        st.dictionaries(st.integers(0, 9), st.lists(st.integers(0, 9), max_size=4)),
    )
    def test_unit_never_depends_on_itself(
        self, edges: dict[int, list[int]], recommended: dict[int, list[int]]
    ) -> None:
        """With any dependencies, a unit never depends on itself through others."""
        records = [
            record(
                f"lib{name}",
                *(f"lib{other}" for other in others),
                recommends=[f"lib{other}" for other in recommended.get(name, [])],
            )
            for name, others in edges.items()
        ]
        root = record("root", *(f"lib{name}" for name in edges), section="x")
        recipes = Recipes(units={"root": Recipe(debs=("root",))})
        units = resolve(recipes, Archive(root, *records))
        self.assertEqual(set(units), {"root"} | {f"lib{name}" for name in edges})
        placed: set[str] = set()
        while len(placed) < len(units):
            ready = {
                name for name, unit in units.items() if placed.issuperset(unit.depends)
            } - placed
            self.assertTrue(ready, "what is left depends on itself")
            placed |= ready
        self.assertEqual(units, resolve(recipes, Archive(root, *reversed(records))))


class RecipesTests(SynchronousTestCase):
    def test_file_that_goes_with_the_program_is_in_order(self) -> None:
        """The file that goes with the program is in order."""
        recipes = parse_recipes(json.loads((SOURCE / "packages.json").read_text("utf-8")))
        self.assertIn("git", recipes.units)
        self.assertTrue(recipes.units["glibc"].leaf)

    def test_each_mistake_is_reported_with_its_place(self) -> None:
        """Each mistake is reported with where it is."""
        for data, where in (
            ({}, "units"),
            ({"units": {"a": {}}}, "a has no list"),
            ({"units": {"a": {"debs": "hello"}}}, "debs of a"),
            ({"units": {"a": {"debs": ["hello"], "need": []}}}, "'need'"),
            ({"units": {}, "ignore": "x"}, "ignore"),
        ):
            error = self.assertRaises(DemoFailed, parse_recipes, data)
            self.assertIn(where, error.message)
