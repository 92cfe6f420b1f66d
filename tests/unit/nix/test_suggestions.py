"""Names near to one that does not exist."""

from __future__ import annotations

from collections.abc import Collection

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from nixery.nix.suggestions import NameIndex

NAMES = (
    "git",
    "gitMinimal",
    "gitea",
    "gtk",
    "curl",
    "htop",
    "hello",
    "python3",
    "Python3Full",
    "7zz",
)


def nearest(wanted: str, names: Collection[str], limit: int = 5) -> tuple[str, ...]:
    return NameIndex(names).suggest(wanted, limit)


class NearestTests(SynchronousTestCase):
    """Tests of the nearest names to a misspelt one."""

    def test_one_slip_of_the_finger_is_found(self) -> None:
        """One slip of the finger is found: swapped, missing, too much, wrong."""
        for wanted in ("gti", "gt", "giit", "gid", "GIT"):
            self.assertIn("git", nearest(wanted, NAMES))
        self.assertEqual(nearest("gti", NAMES)[0], "git")

    def test_beginnings_and_continuations_are_found(self) -> None:
        """So are names that go on, or that have ended before."""
        self.assertEqual(nearest("gitm", NAMES)[:2], ("git", "gitMinimal"))
        self.assertEqual(nearest("python3.11", NAMES), ("python3",))
        self.assertEqual(nearest("python", NAMES), ("python3", "Python3Full"))

    def test_longer_names_are_found_with_two_slips(self) -> None:
        """Longer names are found with two slips."""
        self.assertEqual(nearest("hrllp", NAMES), ("hello",))

    def test_swapped_letters_come_first(self) -> None:
        """Swapped letters come first, then missing and excess, wrong, and more slips."""
        names = ("hlelo", "hell", "helloo", "hexlo", "hello-world", "hexlp", "jelxo")
        self.assertEqual(
            nearest("hello", names, 10),
            ("hlelo", "hell", "helloo", "hexlo", "hello-world", "hexlp"),
        )
        self.assertEqual(nearest("HELLO", ("Hello", "hlelo")), ("Hello", "hlelo"))

    def test_nothing_is_guessed_where_nothing_is_near_or_the_name_is_no_word(self) -> None:
        """Nothing is guessed where nothing is near, or the name is no word."""
        self.assertEqual(nearest("zzzz", NAMES), ())
        self.assertEqual(nearest("x", ("yyy",)), ())
        self.assertEqual(nearest("g" * 1000, ("g" * 999,)), ())
        self.assertEqual(nearest("git", ()), ())

    def test_best_are_kept_in_an_order_that_depends_on_nothing_else(self) -> None:
        """The best are kept, in an order that depends on nothing else."""
        names = [f"hell{letter}" for letter in "abcdefgh"]
        self.assertEqual(nearest("hello", names, 3), ("hella", "hellb", "hellc"))
        self.assertEqual(nearest("hello", names[::-1], 3), ("hella", "hellb", "hellc"))

    @settings(max_examples=100)
    @given(
        st.text(alphabet="abcAB-_1", min_size=1, max_size=8),
        st.sets(st.text(alphabet="abcAB-_1", min_size=1, max_size=8), max_size=20),
    )
    def test_only_names_that_exist_are_told_each_once(self, wanted: str, names: set[str]) -> None:
        """Only names that exist are told, each once; the same name in another case is."""
        found = nearest(wanted, names, limit=100)
        self.assertEqual(len(found), len(set(found)))
        self.assertLessEqual(set(found), names)
        folded = {name for name in names if name.lower() == wanted.lower() and len(name) > 1}
        self.assertLessEqual(folded, set(found))
