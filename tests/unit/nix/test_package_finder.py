"""Tests for :mod:`nixery.nix.package_finder`."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from nixery.nix.package_finder import MAX_MATCHES, PackageFinder
from nixery.nix.package_index import IndexEntry, PackageIndex


def entry(
    attribute: str, description: str = "", *, pname: str | None = None, served: bool = True
) -> IndexEntry:
    return IndexEntry(
        attribute=attribute,
        pname=attribute.rpartition(".")[2] if pname is None else pname,
        version="1",
        description=description,
        served=served,
    )


def finder(*entries: IndexEntry) -> PackageFinder:
    names = tuple(each.attribute for each in entries if "." not in each.attribute)
    return PackageFinder(PackageIndex(names=names, entries=entries))


PACKAGES = finder(
    entry("gitui", "Terminal interface for git"),
    entry("legit", "Helpers"),
    entry("git", "Distributed version control system"),
    entry("git-lfs", "Large files"),
    entry("mercurial", "Another version control system, not git"),
    entry("python3Packages.git", "Bindings"),
    entry("gitFull", "Distributed version control system", pname="git"),
    entry("oldgit", "Unmaintained", served=False),
)


class PackageFinderTests(SynchronousTestCase):
    """Searches among few packages, and among very many."""

    def found(
        self, query: str, packages: PackageFinder = PACKAGES, *, limit: int = 20, offset: int = 0
    ) -> list[str]:
        findings = packages.find(query, limit=limit, offset=offset)
        return [each.attribute for each in findings.entries]

    def test_best_matches_are_exact_then_beginnings_then_parts_then_descriptions(self) -> None:
        """Exact names come first, then beginnings, then parts of names, then descriptions."""
        self.assertEqual(
            [
                *("git", "gitFull", "python3Packages.git"),
                *("gitui", "git-lfs"),
                *("legit", "oldgit"),
                "mercurial",
            ],
            self.found("git"),
        )

    def test_case_does_not_matter_and_all_words_have_to_match(self) -> None:
        """Case does not matter; all words have to match, in name or description."""
        self.assertEqual(["gitui"], self.found("TERMINAL git"))
        self.assertEqual(["git", "gitFull"], self.found("distributed version"))
        self.assertEqual([], self.found("version nothing"))
        self.assertEqual([], self.found("   "))

    def test_misspelt_name_finds_names_near_it(self) -> None:
        """A misspelt name finds the names near it."""
        self.assertIn("mercurial", self.found("mercurail"))

    def test_results_are_paged_and_counted(self) -> None:
        """Results are paged, and all of them are counted."""
        every = self.found("git")
        self.assertEqual(every[2:4], self.found("git", limit=2, offset=2))
        self.assertEqual(8, PACKAGES.find("git", limit=1).total)

    def test_packages_that_are_not_accepted_are_not_found(self) -> None:
        """Packages that are not accepted are neither found nor counted."""
        findings = PACKAGES.find("git", limit=20, accept=lambda each: "." not in each.attribute)
        self.assertEqual(7, findings.total)
        self.assertNotIn("python3Packages.git", [each.attribute for each in findings.entries])

    def test_exact_name_is_found_among_more_matches_than_are_ranked(self) -> None:
        """An exact name and beginnings are found among more matches than are ranked."""
        many = finder(
            *(entry(f"x{number}lib", "a lib") for number in range(2 * MAX_MATCHES)),
            entry("libfoo"),
            entry("lib"),
        )
        found = self.found("lib", many)
        self.assertEqual(["lib", "libfoo"], found[:2])
        self.assertEqual(MAX_MATCHES, many.find("lib", limit=1).total)

    def test_top_of_the_set_is_found_among_more_nested_names_than_are_ranked(self) -> None:
        """Names at the top of the set are found where nested ones would fill the list."""
        many = finder(
            entry("python"),
            *(entry(f"python2Packages.x{number}") for number in range(2 * MAX_MATCHES)),
            entry("python3"),
            entry("python3old", served=False),
        )
        self.assertEqual(["python", "python3"], self.found("python", many)[:2])
        self.assertEqual("python2Packages.x0", self.found("python", many)[2])

    def test_misspelt_name_finds_nested_packages_that_are_called_nearly_so(self) -> None:
        """A misspelt name finds packages of nested sets, which are called nearly so there."""
        nested = finder(
            entry("python3Packages.requests"), entry("perlPackages.Requests"), entry("request-log")
        )
        expected = ["perlPackages.Requests", "python3Packages.requests"]
        self.assertEqual(expected, self.found("reqeusts", nested))
        self.assertEqual(expected[1:], self.found("reqeusts", nested, offset=1))

    @given(
        st.lists(st.text(st.sampled_from("ab."), min_size=1), unique=True),
        st.text(st.sampled_from("ab"), min_size=1),
    )
    def test_every_name_with_the_word_is_found(self, names: list[str], word: str) -> None:
        """Every package whose name has the word is found, whatever the others are called."""
        found = finder(*map(entry, names)).find(word, limit=1000)
        expected = {name for name in names if word in name}
        if expected:
            self.assertEqual(expected, {each.attribute for each in found.entries})
