"""Tests for :mod:`nixery.popularity.binary_cache`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from nixery.errors import UnexpectedOutput
from nixery.popularity import binary_cache
from nixery.popularity.binary_cache import LOG_BATCH_SIZE, Crawler, CrawlResult
from nixery.popularity.errors import CacheIncomplete
from nixery.popularity.reference_log import ReferenceLog
from nixery.runtime.errors import FetchFailed
from nixery.testing.fakes import InlineWorkers, store_path

CACHE = "https://cache.example.org"


def name(of: str) -> str:
    return store_path(f"{of}-1.0").path.rpartition("/")[2]


A, B, C, D = (name(each) for each in "abcd")


class Cache:
    """A binary cache, whose answers can be held back."""

    def __init__(self, references: Mapping[str, Iterable[str]]) -> None:
        self.references = {each[:32]: (each, used) for each, used in references.items()}
        self.asked: list[str] = []
        self.failures: dict[str, list[FetchFailed]] = {}
        self.texts: dict[str, bytes] = {}
        self.held: list[Deferred[None]] | None = None
        self.most_held = 0

    async def fetch(self, url: str, limit: int) -> bytes:
        prefix, _, file = url.rpartition("/")
        assert prefix == CACHE and file.endswith(".narinfo")
        hash_part = file.removesuffix(".narinfo")
        self.asked.append(hash_part)
        if self.held is not None:
            self.held.append(Deferred())
            self.most_held = max(self.most_held, sum(not each.called for each in self.held))
            await self.held[-1]
        if self.failures.get(hash_part):
            raise self.failures[hash_part].pop()
        if hash_part in self.texts:
            return self.texts[hash_part]
        if hash_part not in self.references:
            raise failure(404)
        own, used = self.references[hash_part]
        return f"StorePath: /nix/store/{own}\nReferences: {' '.join(used)}\n".encode()


def failure(status: int | None, retry_after: float | None = None) -> FetchFailed:
    return FetchFailed(url=CACHE, reason="x", status=status, retry_after=retry_after)


class CrawlTests(SynchronousTestCase):
    """Tests for :class:`Crawler`."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.directory = Path(self.mktemp())
        self.cache = Cache({A: [A, B, C], B: [D], C: [D], D: []})
        self.told: list[tuple[int, int]] = []

    def start(self, roots: Iterable[str], connections: int = 3) -> Deferred[CrawlResult]:
        async def crawl() -> CrawlResult:
            with ReferenceLog(self.directory, CACHE) as log:
                crawler = Crawler(
                    cache=CACHE + "/",
                    fetch=self.cache.fetch,
                    log=log,
                    workers=InlineWorkers(),
                    clock=self.clock,
                    progress=lambda done, expected: self.told.append((done, expected)),
                    connections=connections,
                )
                return await crawler.crawl(roots)

        return Deferred.fromCoroutine(crawl())

    def crawl(self, roots: Iterable[str]) -> CrawlResult:
        return self.successResultOf(self.start(roots))

    def test_all_that_the_roots_need_is_found_and_each_path_is_asked_for_once(self) -> None:
        """All that the roots need is found, and each path is asked for once."""
        found = self.crawl([A, B])
        expected = {A: {B, C}, B: {D}, C: {D}, D: set()}
        self.assertEqual(expected, {each: {*used} for each, used in found.references.items()})
        self.assertEqual(((), ()), (found.missing, found.unusable))
        self.assertEqual(4, len(self.cache.asked))
        self.assertEqual((4, 4), self.told[-1])

    def test_empty_set_is_empty(self) -> None:
        """An empty set is empty."""
        self.assertEqual({}, self.crawl([]).references)

    def test_references_that_are_known_already_are_not_requested_again(self) -> None:
        """References that are known already are not requested again."""
        first = self.crawl([A])
        self.cache.asked.clear()
        self.assertEqual(first, self.crawl([A]))
        self.assertEqual([], self.cache.asked)

    def test_side_by_side(self) -> None:
        """Many requests are under way at once, and no more than allowed."""
        many = [name(f"p{number}") for number in range(50)]
        self.cache = Cache({each: [] for each in many})
        self.cache.held = []
        task = self.start(many, connections=7)
        while self.cache.held and not task.called:
            for each in [each for each in self.cache.held if not each.called]:
                each.callback(None)
        self.assertEqual(50, len(self.successResultOf(task).references))
        self.assertEqual(7, self.cache.most_held)

    def test_one_leads_to_many(self) -> None:
        """Those who have nothing to do take up what another one finds."""
        many = [name(f"p{number}") for number in range(9)]
        self.cache = Cache({each: [] for each in many} | {A: many})
        self.cache.held = []
        task = self.start([A], connections=5)
        self.assertEqual(1, len(self.cache.held))
        self.cache.held[0].callback(None)
        self.assertEqual(1 + 5, len(self.cache.held))
        while not task.called:
            next(each for each in self.cache.held if not each.called).callback(None)
        self.assertEqual(10, len(self.successResultOf(task).references))

    def test_paths_that_the_cache_does_not_have_are_left_out(self) -> None:
        """Paths that the cache does not have are left out, and asked again next time."""
        for status in (403, 404, 410):
            self.cache.failures[C[:32]] = [failure(status)]
            found = self.crawl([A])
            self.assertEqual((C,), found.missing)
            self.assertEqual({A, B, D}, {*found.references})
        self.assertEqual((), self.crawl([A]).missing)

    def test_description_that_is_of_something_else_is_not_believed(self) -> None:
        """A description that is of something else is not believed."""
        self.cache.texts[C[:32]] = f"StorePath: /nix/store/{D}\nReferences:\n".encode()
        found = self.crawl([A])
        self.assertEqual((C,), found.unusable)
        self.assertNotIn(C, found.references)

    def test_cache_that_has_hardly_anything_of_the_set_is_an_error(self) -> None:
        """A cache that has hardly anything of the set is an error."""
        error = self.failureResultOf(self.start([name("x"), name("y"), D]), CacheIncomplete).value
        self.assertIn(CACHE, error.message)

    def test_request_that_fails_is_tried_again_after_a_pause(self) -> None:
        """A request that fails is tried again, after a pause, which the server may choose."""
        self.cache.failures[B[:32]] = [failure(503), failure(None), failure(429, 17.0)]
        task = self.start([A])
        for pause in (17.0, 2.0, 4.0):
            self.clock.advance(pause - 0.5)
            self.assertNoResult(task)
            [timer] = self.clock.getDelayedCalls()
            self.assertAlmostEqual(0.5, timer.getTime() - self.clock.seconds())
            self.clock.advance(0.5)
        self.assertEqual(4, len(self.successResultOf(task).references))

    def test_server_that_stays_down_ends_it(self) -> None:
        """A server that stays down ends it; the next run needs only the rest."""
        self.cache.failures[D[:32]] = [failure(500)] * 5
        task = self.start([A])
        while self.clock.getDelayedCalls():
            self.clock.advance(60)
        self.failureResultOf(task, FetchFailed)
        self.assertEqual(5, self.cache.asked.count(D[:32]))
        self.cache.asked.clear()
        self.assertEqual(4, len(self.crawl([A]).references))
        self.assertEqual([D[:32]], self.cache.asked)

    def test_interrupted_crawl_has_lost_nothing_and_the_log_is_free_again(self) -> None:
        """An interrupted crawl has lost nothing, and the log is free again."""
        self.cache.held = []
        task = self.start([A, B])
        while len(self.cache.asked) < 4:
            next(each for each in self.cache.held if not each.called).callback(None)
        done = len(self.told)
        task.cancel()
        self.failureResultOf(task, CancelledError)
        self.cache.held = None
        self.cache.asked.clear()
        self.assertEqual(4, len(self.crawl([A]).references))
        self.assertEqual(4 - done, len(self.cache.asked))

    def test_cache_that_makes_paths_up_without_end_is_not_followed_for_ever(self) -> None:
        """A cache that makes paths up without end is not followed for ever."""
        self.patch(binary_cache, "MAX_PATHS", 100)

        class Endless(Cache):
            async def fetch(self, url: str, limit: int) -> bytes:
                self.asked.append(url)
                own = name(str(len(self.asked) - 1))
                more = [name(str(len(self.asked)))]
                return f"StorePath: /nix/store/{own}\nReferences: {' '.join(more)}\n".encode()

        self.cache = Endless({})
        self.failureResultOf(self.start([name("0")], connections=1), UnexpectedOutput)
        self.assertEqual(100, len(self.cache.asked))

    def test_thousands_of_paths_in_any_order_logged_in_batches(self) -> None:
        """Thousands of paths, in any order, logged in batches."""
        many = [name(f"p{number}") for number in range(3 * LOG_BATCH_SIZE + 1)]
        links = {each: many[number + 1 : number + 4] for number, each in enumerate(many)}
        self.cache = Cache(links)
        self.assertEqual(len(many), len(self.crawl([many[0]]).references))
        self.assertEqual(len(many), len({*self.cache.asked}))
        self.cache.asked.clear()
        self.assertEqual({*many}, {*self.crawl([many[0]]).references})
        self.assertEqual([], self.cache.asked)

    @settings(max_examples=60)
    @given(
        st.lists(st.lists(st.integers(0, 19), max_size=5), min_size=1, max_size=20),
        st.integers(1, 5),
    )
    def test_exactly_what_can_be_reached_is_found_even_along_circles(
        self, uses: list[list[int]], connections: int
    ) -> None:
        """Exactly what can be reached is found, even along circles."""
        names = [name(f"p{number}") for number in range(20)]
        references = {
            names[number]: [names[each] for each in used if each < len(uses)]
            for number, used in enumerate(uses)
        }
        self.cache = Cache(references)
        self.directory = Path(self.mktemp())
        found = self.successResultOf(self.start([names[0]], connections))
        reached, waiting = set(), [names[0]]
        while waiting:
            each = waiting.pop()
            if each not in reached:
                reached.add(each)
                waiting += references[each]
        self.assertEqual(reached, {*found.references})
        for each in reached:
            self.assertEqual({*references[each]} - {each}, {*found.references[each]})
