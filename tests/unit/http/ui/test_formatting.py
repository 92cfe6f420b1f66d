"""Tests of the formatting of texts and numbers on pages."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from nixery.http.ui.formatting import (
    duration,
    escape_invisible,
    full_time,
    relative_time,
    replace_term,
    time_element,
)
from nixery.runtime.clocks import WallTime


class FilterTests(SynchronousTestCase):
    """Tests of the filters of templates."""

    def test_visible_text_stays_as_it_is(self) -> None:
        """Visible text stays as it is; control and direction characters are escaped."""
        self.assertEqual("naïve\n\tאבג 👩\u200d💻", escape_invisible("naïve\n\tאבג 👩\u200d💻"))
        self.assertEqual("a\\u202eb\\x1b\\x85", escape_invisible("a\u202eb\x1b\x85"))

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

    def test_relative_time_names_the_largest_unit_that_has_passed(self) -> None:
        """A relative time names the largest unit that has passed, or is to pass."""
        for seconds, text in (
            (0, "just now"),
            (9, "just now"),
            (10, "10 seconds ago"),
            (60, "1 minute ago"),
            (3 * 3600 + 3599, "3 hours ago"),
            (86400, "1 day ago"),
            (60 * 86400, "2 months ago"),
            (800 * 86400, "2 years ago"),
            (-7200, "in 2 hours"),
        ):
            self.assertEqual(text, relative_time(WallTime(1e9), WallTime(1e9 + seconds)))

    def test_element_of_a_time_has_the_exact_one_for_people_and_programs(self) -> None:
        """The element of a time has the exact one for people and for programs."""
        self.assertEqual(
            '<time datetime="2023-11-14T22:13:20+00:00" title="2023-11-14 22:13:20 UTC">'
            "1 hour ago</time>",
            time_element(WallTime(1_700_000_000), WallTime(1_700_003_700)),
        )
