"""Tests for :mod:`nixery.builds.demand`."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from nixery.builds.demand import ASKED_SECONDS, Demand
from nixery.limits.build_quota import current_client


class DemandTests(SynchronousTestCase):
    """Tests of who is taken to ask for an image."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.demand = Demand(seconds=self.clock.seconds)

    def come(self, *keys: str) -> None:
        """Another client is the current one."""
        token = current_client.set(keys)
        self.addCleanup(current_client.reset, token)

    def test_client_asks_while_its_request_waits_and_for_a_minute_more(self) -> None:
        """However long a request waits, its client has a minute to send the next one."""
        self.come("10.0.0.1")
        with self.demand.asking("git"):
            self.clock.advance(10 * ASKED_SECONDS)
            self.assertEqual(self.demand.clients(["git"]), ("10.0.0.1",))
        self.clock.advance(ASKED_SECONDS - 1)
        self.assertEqual(self.demand.clients(["git"]), ("10.0.0.1",))
        with self.demand.asking("git"):
            pass
        self.clock.advance(ASKED_SECONDS - 1)
        self.assertEqual(self.demand.clients(["git"]), ("10.0.0.1",))
        self.clock.advance(1)
        self.assertEqual(self.demand.clients(["git"]), ())

    def test_user_counts_before_its_address(self) -> None:
        """A user who comes from several addresses is one client; the daemon itself is another."""
        self.assertEqual(self.demand.note("git"), "")
        for address in ("10.0.0.1", "10.0.0.2"):
            self.come(address, "user alice")
            self.demand.note("git")
        self.assertEqual(self.demand.clients(["git"]), ("", "user alice"))

    def test_clients_of_several_requests(self) -> None:
        """A build that two requests joined is asked for by the clients of both, each once."""
        for client, key in (("a", "git"), ("b", "git/git"), ("a", "git/git")):
            self.come(client)
            self.demand.note(key)
        self.assertEqual(self.demand.clients(["git", "git/git"]), ("a", "b"))
        self.assertEqual(self.demand.clients(["htop"]), ())

    def test_request_for_several_images(self) -> None:
        """A client that asks for an index asks for the images of its platforms, for as long."""
        self.come("a")
        with self.demand.asking("index", "amd64", "arm64"):
            self.clock.advance(10 * ASKED_SECONDS)
            for key in ("index", "amd64", "arm64"):
                self.assertEqual(self.demand.clients([key]), ("a",))
        self.clock.advance(ASKED_SECONDS)
        self.assertEqual(self.demand.clients(["index", "amd64", "arm64"]), ())
        self.assertEqual(len(self.demand), 0)

    def test_nothing_is_kept_of_old_requests(self) -> None:
        """Images that are not asked for any more take no memory; others stay."""
        self.come("a")
        with self.demand.asking("kept"):
            for number in range(100):
                self.demand.note(str(number))
            self.assertEqual(len(self.demand), 101)
            self.clock.advance(ASKED_SECONDS)
            self.assertEqual(len(self.demand), 1)
        self.clock.advance(ASKED_SECONDS)
        self.assertEqual(len(self.demand), 0)
