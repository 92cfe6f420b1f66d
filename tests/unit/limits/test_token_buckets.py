"""Token buckets."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from nixery.limits.token_buckets import TokenBuckets


class BucketTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.buckets = TokenBuckets(rate=2, burst=3, seconds=self.clock.seconds, max_tracked=10)

    def test_burst_is_limited_until_a_token_has_come_back(self) -> None:
        """So many at once, and no more until one has come back."""
        self.assertEqual([0, 0, 0], [self.buckets.take("a") for _ in range(3)])
        self.assertAlmostEqual(0.5, self.buckets.take("a"))
        self.clock.advance(0.5)
        self.assertEqual(0, self.buckets.take("a"))
        self.assertGreater(self.buckets.take("a"), 0)

    def test_each_client_has_a_bucket_of_its_own(self) -> None:
        """Each client has a bucket of its own."""
        for _ in range(5):
            self.buckets.take("a")
        self.assertEqual(0, self.buckets.take("b"))

    def test_asking_for_the_wait_takes_no_token_and_returns_what_taking_would(self) -> None:
        """Asking for the wait takes no token, and returns what taking would."""
        for _ in range(3):
            self.assertEqual(0, self.buckets.seconds_until_token("a"))
            self.buckets.take("a")
        self.assertAlmostEqual(0.5, self.buckets.seconds_until_token("a"))
        self.assertAlmostEqual(0.5, self.buckets.seconds_until_token("a"))

    def test_token_that_is_given_back_can_be_taken_again(self) -> None:
        """A token that is given back can be taken again."""
        for _ in range(3):
            self.buckets.take("a")
        self.buckets.put_back("a")
        self.assertEqual(0, self.buckets.take("a"))
        self.assertGreater(self.buckets.take("a"), 0)

    def test_only_the_latest_clients_are_remembered(self) -> None:
        """So many clients are remembered, those that have come last."""
        for client in range(1000):
            self.buckets.take(client)
            for _ in range(3):
                self.buckets.take("busy")
        self.assertEqual(10, len(self.buckets))
        self.assertGreater(self.buckets.seconds_until_token("busy"), 0)

    @given(st.lists(st.floats(0, 3), max_size=60), st.integers(1, 20), st.floats(0.1, 50))
    @settings(max_examples=60)
    def test_client_never_gets_more_than_the_burst_and_the_tokens_refilled_since(
        self, pauses: list[float], burst: int, rate: float
    ) -> None:
        """A client never gets more than the burst and the tokens refilled since."""
        clock = Clock()
        buckets = TokenBuckets(rate=rate, burst=burst, seconds=clock.seconds)
        got = 0
        for pause in pauses:
            clock.advance(pause)
            got += buckets.take("a") == 0
        self.assertLessEqual(got, burst + rate * sum(pauses) + 1e-6)
        self.assertGreaterEqual(got, min(burst, len(pauses)))
