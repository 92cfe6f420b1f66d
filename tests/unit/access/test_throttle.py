"""Tests of the throttling of failed logins."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from nixery.access import throttle
from nixery.access.throttle import (
    FREE_FAILURES_PER_ADDRESS,
    FREE_FAILURES_PER_USER,
    MAX_DELAY_SECONDS,
    REMEMBER_LOGIN_SECONDS,
    LoginThrottle,
)


class ThrottleTests(SynchronousTestCase):
    """By a clock that stands still."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.throttle = LoginThrottle(self.clock.seconds)

    def failures(self, times: int, address: str = "192.0.2.1", user: str = "alice") -> float:
        wait = 0.0
        for _ in range(times):
            wait = self.throttle.record_failure(address, user)
        return wait

    def test_some_failures_cost_nothing(self) -> None:
        """Some failures cost nothing; then each doubles the time, up to a limit."""
        self.assertEqual(self.failures(FREE_FAILURES_PER_USER), 0)
        self.assertEqual([self.failures(1) for _ in range(4)], [1, 2, 4, 8])
        self.assertEqual(self.failures(20), MAX_DELAY_SECONDS)
        self.assertEqual(self.failures(5000), MAX_DELAY_SECONDS)

    def test_login_may_be_tried_after_the_wait(self) -> None:
        """A login may be tried after the wait; all failures are forgotten 15 minutes later."""
        self.failures(FREE_FAILURES_PER_USER + 3)
        self.clock.advance(3.5)
        self.assertAlmostEqual(self.throttle.seconds_until_allowed("192.0.2.1", "alice"), 0.5)
        self.clock.advance(1)
        self.assertEqual(self.throttle.seconds_until_allowed("192.0.2.1", "alice"), 0)
        self.assertEqual(self.failures(1), 8)
        self.clock.advance(901)
        self.assertEqual(self.failures(FREE_FAILURES_PER_USER), 0)

    def test_users_elsewhere_are_not_locked_out_nor_other_users_from_there(self) -> None:
        """Users elsewhere are not locked out, nor other users from there."""
        self.failures(FREE_FAILURES_PER_USER + 5)
        self.assertEqual(self.throttle.seconds_until_allowed("192.0.2.2", "alice"), 0)
        self.assertEqual(self.throttle.seconds_until_allowed("192.0.2.1", "bob"), 0)

    def test_names_that_are_made_up_count_together(self) -> None:
        """Names that are made up count together."""
        for number in range(FREE_FAILURES_PER_ADDRESS + 1):
            self.failures(1, user=f"user{number}")
        self.assertGreater(self.throttle.seconds_until_allowed("192.0.2.1", "bob"), 0)
        self.assertEqual(self.throttle.seconds_until_allowed("192.0.2.2", "bob"), 0)

    def test_user_who_has_logged_in_there_is_not_kept_out_by_others_of_that_address(self) -> None:
        """For a week, the user's own failures count, and no made-up names."""
        self.throttle.record_success("192.0.2.1", "alice")
        for number in range(FREE_FAILURES_PER_ADDRESS + 8):
            self.failures(1, user=f"user{number}")
        self.assertEqual(self.throttle.seconds_until_allowed("192.0.2.1", "alice"), 0)
        self.assertGreater(self.throttle.seconds_until_allowed("192.0.2.1", "bob"), 0)
        self.failures(FREE_FAILURES_PER_USER + 1)
        self.assertEqual(self.throttle.seconds_until_allowed("192.0.2.1", "alice"), 1)
        self.throttle.record_success("192.0.2.1", "alice")
        self.clock.advance(REMEMBER_LOGIN_SECONDS)
        for number in range(FREE_FAILURES_PER_ADDRESS + 8):
            self.failures(1, user=f"user{number}")
        self.assertGreater(self.throttle.seconds_until_allowed("192.0.2.1", "alice"), 0)

    def test_addresses_of_an_ipv6_network_are_throttled_together(self) -> None:
        """All addresses of an IPv6 /64 network are throttled together."""
        self.failures(FREE_FAILURES_PER_USER + 1, address="2001:db8::1")
        self.assertGreater(self.throttle.seconds_until_allowed("2001:db8::ffff:2", "alice"), 0)
        self.assertEqual(self.throttle.seconds_until_allowed("2001:db8:0:1::1", "alice"), 0)
        self.failures(FREE_FAILURES_PER_USER + 1, address="::ffff:192.0.2.9")
        self.assertGreater(self.throttle.seconds_until_allowed("192.0.2.9", "alice"), 0)
        self.failures(FREE_FAILURES_PER_USER + 1, address="local")
        self.assertGreater(self.throttle.seconds_until_allowed("local", "alice"), 0)

    def test_password_that_is_right_ends_the_count(self) -> None:
        """A password that is right ends the count."""
        self.failures(FREE_FAILURES_PER_USER)
        self.throttle.record_success("192.0.2.1", "alice")
        self.assertEqual(self.failures(FREE_FAILURES_PER_USER), 0)

    def test_name_that_is_empty_is_not_mistaken_for_all_of_an_address(self) -> None:
        """A name that is empty is not mistaken for all of an address."""
        self.failures(FREE_FAILURES_PER_USER + 1, user="")
        self.assertEqual(self.throttle.seconds_until_allowed("192.0.2.1", "alice"), 0)

    def test_however_many_try_the_table_does_not_grow_without_end(self) -> None:
        """However many try, the table does not grow without end."""
        self.patch(throttle, "MAX_TRACKED_KEYS", 8)
        self.throttle = LoginThrottle(self.clock.seconds)
        self.assertGreater(self.failures(FREE_FAILURES_PER_USER + 1), 0)
        for number in range(4):
            self.failures(1, f"198.51.100.{number}")
        self.assertEqual(self.throttle.seconds_until_allowed("192.0.2.1", "alice"), 0)
