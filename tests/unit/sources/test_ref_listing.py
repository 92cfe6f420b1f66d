"""Tests of the listing of refs that all clients share."""

from __future__ import annotations

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from nixery.sources.errors import SourceUnavailable
from nixery.sources.git_arguments import RefList
from nixery.sources.ref_listing import LISTING_SECONDS, RefListing
from nixery.sources.source import ResolvedRef

A, B = "a" * 40, "b" * 40
MAIN = "refs/heads/main"
NEW = "refs/heads/new"


class RefListingTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.refs = {MAIN: A}
        self.running: list[Deferred[RefList]] = []
        self.listing = RefListing(self.list_refs, self.clock)

    async def list_refs(self) -> RefList:
        self.running.append(Deferred())
        return await self.running[-1]

    def answer(self, number: int = -1) -> None:
        """End a listing, with the refs that there are now."""
        self.running[number].callback(RefList(commits=dict(self.refs)))

    def find(self, name: str) -> Deferred[ResolvedRef | None]:
        return Deferred.fromCoroutine(self.listing.find([name]))

    def test_one_listing_for_all(self) -> None:
        """However many ask for however many refs, there is one listing."""
        made_up = [self.find(f"refs/heads/made-up-{number}") for number in range(300)]
        found = self.find(MAIN)
        self.answer()
        self.assertEqual(self.successResultOf(found), ResolvedRef(commit=A, ref=MAIN))
        for each in made_up[:1]:
            self.assertIsNone(self.successResultOf(each))
        # The others came after it had begun.
        self.assertEqual(len(self.running), 1)
        self.clock.advance(LISTING_SECONDS)
        self.answer()
        for each in made_up[1:]:
            self.assertIsNone(self.successResultOf(each))
        self.assertEqual(len(self.running), 2)

    def test_ref_that_is_listed_is_found_without_a_request_for_some_seconds(self) -> None:
        """A ref that was listed some seconds ago is found without a request, and then anew."""
        self.find("refs/heads/made-up")
        self.answer()
        self.clock.advance(LISTING_SECONDS - 0.1)
        self.assertIsNotNone(self.successResultOf(self.find(MAIN)))
        self.assertEqual(len(self.running), 1)
        self.clock.advance(0.1)
        self.refs[MAIN] = B
        found = self.find(MAIN)
        self.answer()
        self.assertEqual(self.successResultOf(found), ResolvedRef(commit=B, ref=MAIN))

    def test_ref_that_was_just_pushed_is_found(self) -> None:
        """A ref that was pushed after a listing is found by the next, which begins in time."""
        self.find("refs/heads/made-up")
        self.answer()
        self.refs[NEW] = B
        found = self.find(NEW)
        self.clock.advance(LISTING_SECONDS - 0.1)
        self.assertEqual(len(self.running), 1)
        self.clock.advance(0.1)
        self.answer()
        self.assertEqual(self.successResultOf(found), ResolvedRef(commit=B, ref=NEW))

    def test_running_listing_suffices_for_what_it_has(self) -> None:
        """A listing that runs already answers for the refs that it has."""
        self.find("refs/heads/made-up")
        found = self.find(MAIN)
        self.answer()
        self.assertIsNotNone(self.successResultOf(found))

    def test_commit_at_a_tip(self) -> None:
        """A commit at a tip is found in a listing of some seconds ago, which is not waited for."""
        tip = Deferred.fromCoroutine(self.listing.find_tip(A))
        self.answer()
        self.assertEqual(self.successResultOf(tip), ResolvedRef(commit=A, ref=MAIN))
        self.find("refs/heads/made-up")
        below = Deferred.fromCoroutine(self.listing.find_tip(B))
        self.assertIsNone(self.successResultOf(below))
        self.assertEqual(len(self.running), 1)

    def test_next_listing_is_not_made_for_nobody(self) -> None:
        """A listing that has not begun is dropped if all who waited for it have left."""
        self.find("refs/heads/made-up")
        self.answer()
        for _ in range(3):
            left = self.find("refs/heads/other")
            left.cancel()
            self.failureResultOf(left, CancelledError)
        self.clock.advance(LISTING_SECONDS)
        self.assertEqual(len(self.running), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_failure_reaches_all_and_those_who_ask_next_wait_for_another_listing(self) -> None:
        """A host that refuses is asked no more often than one that answers."""
        asked = [self.find(MAIN) for _ in range(3)]
        error = SourceUnavailable(source="s", what="w", reason="r")
        self.running[0].errback(error)
        for each in asked:
            self.assertIs(self.failureResultOf(each, SourceUnavailable).value, error)
        found = self.find(MAIN)
        self.clock.advance(LISTING_SECONDS - 0.1)
        self.assertEqual(len(self.running), 1)
        self.clock.advance(0.1)
        self.answer()
        self.assertIsNotNone(self.successResultOf(found))

    def test_stop(self) -> None:
        """The end of the daemon ends a listing."""
        asked = self.find(MAIN)
        self.successResultOf(Deferred.fromCoroutine(self.listing.stop()))
        self.failureResultOf(asked, CancelledError)
