"""Tests of the formatting of texts and numbers on pages."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from nixery.http.ui.formatting import duration, escape_invisible, full_time, replace_term, size
from nixery.runtime.clocks import WallTime


class FilterTests(SynchronousTestCase):
    """Tests of the filters of templates."""

    def test_visible_text_stays_as_it_is(self) -> None:
        """Visible text stays as it is; control and direction characters are escaped."""
        self.assertEqual("naïve\n\tאבג 👩\u200d💻", escape_invisible("naïve\n\tאבג 👩\u200d💻"))
        self.assertEqual("a\\u202eb\\x1b\\x85", escape_invisible("a\u202eb\x1b\x85"))

    def test_three_digits_whatever_the_unit(self) -> None:
        """Three digits, whatever the unit."""
        for count, text in (
            (0, "0 B"),
            (999, "999 B"),
            (999_500, "1.00 MB"),
            (12_345, "12.3 kB"),
            (123_456_789, "123 MB"),
            (9_996, "10.0 kB"),
        ):
            self.assertEqual(text, size(count))

    def test_durations_read_as_people_say_them(self) -> None:
        """As people say it."""
        for seconds, text in (
            (0.421, "0.42 s"),
            (3.21, "3.2 s"),
            (59.7, "1 min 00 s"),
            (185, "3 min 05 s"),
            (7500, "2 h 05 min"),
        ):
            self.assertEqual(text, duration(seconds))

    def test_one_name_takes_the_place_of_another(self) -> None:
        """One name takes another's place in the query."""
        self.assertEqual("git+htop+a%26b", replace_term("git/htp a&b", "htp", "htop"))

    def test_time_is_written_for_people_in_utc(self) -> None:
        """A time is written for people, in UTC."""
        self.assertEqual("2023-11-14 22:13:20", full_time(WallTime(1_700_000_000.9)))
