"""Tests of the packages a user may have, however an image's name spells them."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

from hypothesis import assume, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from nixery.image.errors import InvalidName
from nixery.image.names import (
    DEFAULT_PACKAGES,
    SHELL,
    ImageName,
    escape_attribute,
    parse_image_name,
)
from nixery.image.patterns import parse_patterns

SYSTEM = "x86_64-linux"

PARTS = st.text("abgitABGIT07_+-", min_size=1, max_size=4)
PATHS = st.lists(PARTS, min_size=1, max_size=3).map(".".join)


def name(text: str) -> ImageName:
    return parse_image_name(text, SYSTEM)


@st.composite
def spellings(draw: st.DrawFn, path: str) -> str:
    """A component that asks for a path, in one of the ways that there are."""
    letters = (draw(st.sampled_from([each.lower(), each.upper()])) for each in path)
    # What Nix's grammar wants before a digit is not written in a name.
    plain = re.sub(r"(^|\.)_(?=[0-9])", r"\1", path.lower())
    component = draw(
        st.sampled_from([plain, escape_attribute(path), escape_attribute("".join(letters))])
    )
    try:
        name(component)
    except InvalidName:
        component = escape_attribute(path)
    return component


class PatternTests(SynchronousTestCase):
    """Patterns and names."""

    def allows(self, patterns: list[str], image: str) -> bool:
        return parse_patterns(patterns).allows(name(image))

    @settings(max_examples=300)
    @given(st.data(), PATHS)
    def test_no_spelling_gets_through(self, data: st.DataObject, path: str) -> None:
        """A package that no pattern allows is refused in every spelling and every company."""
        allowed = ["shell", "git", "a*", "b.*", "7zz"]
        folded = re.sub(r"(^|\.)_(?=[0-9])", r"\1", path.lower()).split(".")
        assume(
            not (
                len(folded) == 1
                and any(fnmatchcase(folded[0], each) for each in ("git", "a*", "7zz", "shell"))
            )
            and not (len(folded) == 2 and folded[0] == "b")
            and path not in DEFAULT_PACKAGES
        )
        components = [data.draw(spellings(path))]
        others = data.draw(
            st.lists(st.sampled_from(["git", "shell", "arm64", "abc", "git"]), max_size=4)
        )
        for other in others:
            components.insert(data.draw(st.integers(0, len(components))), other)
        self.assertFalse(self.allows(allowed, "/".join(components)), components)

    @settings(max_examples=200)
    @given(st.data(), PATHS)
    def test_path_is_a_pattern_that_allows_it_in_every_spelling(
        self, data: st.DataObject, path: str
    ) -> None:
        """A path is a pattern that allows it, in every spelling."""
        assume("." not in path or all(path.split(".")))
        self.assertTrue(self.allows([path], data.draw(spellings(path))))

    def test_image_is_allowed_if_all_its_packages_are(self) -> None:
        """An image is allowed if all its packages are, in any order and however often."""
        for image in ("git", "shell/git", "shell/arm64/git", "arm64/git/git", "git/curl"):
            self.assertTrue(self.allows(["git", "shell", "curl"], image), image)
        refused = parse_patterns(["git"]).denied_packages(name("git/htop/curl"))
        self.assertEqual(refused, ("curl", "htop"))

    def test_pattern_for_the_meta_package_is_one_for_what_it_stands_for(self) -> None:
        """A pattern for the meta-package is one for what it stands for."""
        for package in ("shell", *(each.lower() for each in SHELL)):
            self.assertTrue(self.allows(["shell"], package))
        self.assertFalse(self.allows(["git"], "shell/git"))

    def test_packages_that_every_image_contains_are_allowed_to_every_user(self) -> None:
        """The packages that every image contains are allowed to every user."""
        self.assertTrue(self.allows([], "cacert"))

    def test_stars_end_at_dots(self) -> None:
        """A star does not reach into sets of packages, from which paths lead anywhere."""
        self.assertTrue(self.allows(["python3Packages.*"], "python3packages.requests"))
        self.assertFalse(self.allows(["python3Packages.*"], "python3packages.pkgs.htop"))
        self.assertFalse(self.allows(["python3*"], "python3.pkgs"))
        self.assertFalse(self.allows(["git"], "git.doc"))
        self.assertTrue(self.allows(["*"], "python3.pkgs.htop"))

    def test_characters_of_regular_expressions(self) -> None:
        """Nothing but star and question mark stands for anything else."""
        self.assertTrue(self.allows(["libsigc++"], escape_attribute("libsigc++")))
        self.assertFalse(self.allows(["libsigc++"], "libsigccc"))
        self.assertTrue(self.allows(["gi?"], "git"))
        self.assertFalse(self.allows(["gi?"], "gi"))

    def test_letters_of_other_scripts(self) -> None:
        """A letter that only Unicode takes for one of ASCII is another one."""
        self.assertFalse(self.allows(["kit"], escape_attribute("\u212ait")))

    def test_what_is_no_pattern(self) -> None:
        """A pattern that would not mean what it seems to is refused, with what to write."""
        for text, word in (
            ("shell/*", "write shell, git"),
            (escape_attribute("libsigc++"), "escape"),
            ("[ab]", "with *"),
            ("!git", "with *"),
            ("", "with *"),
            ("a..b", "with *"),
            ("a b", "with *"),
            ("a\n", "with *"),
            ("a" * 201, "with *"),
        ):
            with self.assertRaises(ValueError) as raised:
                parse_patterns([text])
            self.assertIn(word, str(raised.exception))
