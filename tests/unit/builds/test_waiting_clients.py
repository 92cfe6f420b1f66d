"""Tests for :mod:`nixery.builds.waiting_clients`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from nixery.builds.waiting_clients import MAX_SPELLINGS, RETRY_GRACE_SECONDS, WaitingClients
from nixery.image.names import ImageName, Tag, parse_image_name
from nixery.limits.build_quota import current_client

LATEST = Tag("latest")


def named(repository: str) -> ImageName:
    return parse_image_name(repository, "x86_64-linux")


@contextmanager
def client(*keys: str) -> Iterator[None]:
    token = current_client.set(keys)
    try:
        yield
    finally:
        current_client.reset(token)


class WaitingClientsTests(SynchronousTestCase):
    """Tests of the count of clients that wait for an image."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.changes: list[str] = []
        self.clients = WaitingClients(
            clock=self.clock, on_change=lambda name, _tag: self.changes.append(name.repository)
        )
        self.name = named("git/htop")

    def count(self) -> int:
        return self.clients.count([(self.name, LATEST)])

    def pull_and_be_told_to_retry(self, seconds: float) -> None:
        with self.clients.waiting(self.name, LATEST):
            self.clients.expect_retry(self.name, LATEST, seconds)

    def test_clients_count_while_their_requests_are_held(self) -> None:
        """Each held request counts, in whatever order it has the names; other tags do not."""
        with self.clients.waiting(self.name, LATEST):
            with self.clients.waiting(named("htop/git"), LATEST):
                self.assertEqual(2, self.count())
                self.assertEqual(0, self.clients.count([(self.name, Tag("v1"))]))
                spellings = self.clients.spellings(self.name, LATEST)
                self.assertEqual(["git/htop", "htop/git"], [each.repository for each in spellings])
            self.assertEqual(1, self.count())
        self.assertEqual(0, self.count())
        self.assertEqual(["git/htop", "htop/git", "htop/git", "git/htop"], self.changes)
        self.assertEqual(0, len(self.clients))

    def test_client_that_was_told_to_retry_counts_once_until_it_has_the_image(self) -> None:
        """It counts while it is away, and not twice when it is back."""
        for _ in range(3):
            with client("10.0.0.1"):
                self.pull_and_be_told_to_retry(30)
            self.assertEqual(1, self.count())
            self.clock.advance(30)
        with client("10.0.0.1"), self.clients.waiting(self.name, LATEST):
            self.assertEqual(1, self.count())
        self.assertEqual(0, self.count())
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_clients_of_one_address_are_told_apart_by_their_number(self) -> None:
        """Two clients of one address, as behind a proxy, are two, also while they are away."""
        with client("10.0.0.1"):
            self.pull_and_be_told_to_retry(60)
            with self.clients.waiting(self.name, LATEST):
                self.assertEqual(1, self.count())
                with self.clients.waiting(self.name, LATEST):
                    self.assertEqual(2, self.count())
                    self.clients.expect_retry(self.name, LATEST, 60)
                    self.clients.expect_retry(self.name, LATEST, 5)
            self.assertEqual(2, self.count())
        with client("10.0.0.2"), self.clients.waiting(self.name, LATEST):
            self.assertEqual(3, self.count())
        self.clock.advance(5 + RETRY_GRACE_SECONDS)
        self.assertEqual(1, self.count())
        self.clock.advance(55)
        self.assertEqual(0, self.count())
        self.assertEqual(0, len(self.clients))

    def test_client_that_does_not_retry_in_time_is_given_up(self) -> None:
        """A client that has left counts until shortly after the time of its retry."""
        self.pull_and_be_told_to_retry(30)
        self.clock.advance(30 + RETRY_GRACE_SECONDS - 1)
        self.assertEqual(1, self.count())
        del self.changes[:]
        self.clock.advance(1)
        self.assertEqual((0, ["git/htop"]), (self.count(), self.changes))

    def test_no_retry_is_expected_once_the_build_has_ended(self) -> None:
        """An ended build leaves no timers; held requests count until they are answered."""
        self.pull_and_be_told_to_retry(30)
        self.pull_and_be_told_to_retry(30)
        with self.clients.waiting(self.name, LATEST):
            self.clients.expect_retry(self.name, LATEST, 30)
            self.clients.forget_absent(self.name, LATEST)
            self.assertEqual(1, self.count())
        self.clients.forget_absent(self.name, LATEST)
        self.assertEqual((0, []), (len(self.clients), self.clock.getDelayedCalls()))

    def test_spellings_of_one_image_are_bounded(self) -> None:
        """However a name can be written, few of its spellings are kept."""
        names = [named("/".join(["git"] * count + ["htop"])) for count in range(1, 40)]
        with self.clients.waiting(self.name, LATEST):
            for name in names:
                with self.clients.waiting(name, LATEST):
                    pass
            self.assertEqual(MAX_SPELLINGS, len(self.clients.spellings(self.name, LATEST)))
