"""Tags become revisions, and revisions package sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from attrs import define, evolve, field
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from nixery.errors import ShuttingDown
from nixery.image.names import Tag
from nixery.sources.errors import CommitMissing, SourceMissing, SourceUnavailable, UnknownRevision
from nixery.sources.interface import Sources
from nixery.sources.readable_paths import readable_paths
from nixery.sources.ref_cache import RefCache
from nixery.sources.ref_file import RefFile
from nixery.sources.resolver import Resolver, ResolverSettings
from nixery.sources.search_path import PinnedArchive, SearchPath
from nixery.sources.source import (
    ChannelSource,
    FlakeSource,
    GitSource,
    PackageSet,
    PathSource,
    ResolvedRef,
    Revision,
    Source,
    SourceTree,
)
from nixery.sources.tag_policy import ChannelName, GitCommit, GitRefs, TagPolicy
from nixery.testing.fakes import FakeWallClock, InlineWorkers
from tests.support.workers import CountingWorkers
from tests.unit.sources.test_ref_cache import FakeUpstream

P = ParamSpec("P")
T = TypeVar("T")

A, B, C = (letter * 40 for letter in "abc")
GIT = GitSource(url="https://u:secret@h/p")
OVERLAY = GitSource(url="/o", base=ChannelSource(channel="nixos-unstable"))
CHANNEL = ChannelSource(channel="nixos-unstable")


@define(eq=False)
class FakeFetcher:
    """Implements :class:`nixery.sources.interface.TreeFetcher`."""

    gate: Deferred[None] | None = None
    failure: Exception | None = None
    fetched: list[SourceTree] = field(factory=list)

    async def fetch(self, tree: SourceTree) -> Path:
        self.fetched.append(tree)
        if self.gate is not None:
            await self.gate
        if self.failure is not None:
            raise self.failure
        return Path("/nix/store") / tree.name


class ResolverCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.clock = Clock()
        self.directory = Path(self.mktemp()).resolve()
        self.directory.mkdir()
        self.git = FakeUpstream(
            {
                GitRefs(names=("HEAD",)): ResolvedRef(commit=A, ref="refs/heads/main"),
                GitRefs(names=("refs/heads/v1", "refs/tags/v1")): ResolvedRef(
                    commit=B, ref="refs/tags/v1"
                ),
                GitCommit(commit=A): ResolvedRef(commit=A, ref="refs/heads/main"),
            }
        )
        self.channels = FakeUpstream(
            {
                ChannelName(name="nixos-unstable"): ResolvedRef(commit=C),
                ChannelName(name="nixos-25.05"): ResolvedRef(commit=B),
            }
        )
        self.fetcher = FakeFetcher()

    def make(self, source: Source, **settings: Any) -> Resolver:
        def cache(upstream: FakeUpstream) -> RefCache:
            return RefCache(
                upstream,
                name="upstream",
                ttl=900,
                max_lookups=2,
                ref_file=RefFile(self.directory / "known.json"),
                workers=InlineWorkers(),
                clock=self.clock,
            )

        resolver = Resolver(
            ResolverSettings(source=source, **settings),
            git=cache(self.git) if isinstance(source, GitSource) else None,
            channels=cache(self.channels),
            fetcher=self.fetcher,
            workers=InlineWorkers(),
            wall_clock=FakeWallClock(self.clock),
        )
        # mypy holds it against the protocol here.
        self.checked: Sources = resolver
        return resolver

    def resolve(self, resolver: Resolver, tag: str = "latest") -> Deferred[Revision]:
        return Deferred.fromCoroutine(resolver.resolve(Tag(tag)))

    def revision(self, resolver: Resolver, tag: str = "latest") -> Revision:
        return self.successResultOf(self.resolve(resolver, tag))

    def fetch(self, resolver: Resolver, revision: Revision) -> Deferred[PackageSet]:
        return Deferred.fromCoroutine(resolver.fetch(revision))


class ResolveTests(ResolverCase):
    def test_tag_of_repository_is_commit_pinned_with_ref_that_it_is_fetched_by(self) -> None:
        """A tag of a repository is a commit, pinned, with the ref that it is fetched by."""
        resolver = self.make(GIT)
        latest, tagged = self.revision(resolver), self.revision(resolver, "v1")
        self.assertEqual(latest.identity, {"kind": "git", "url": "https://h/p", "commit": A})
        self.assertEqual((latest.ref, latest.label), ("refs/heads/main", "HEAD at aaaaaaaaaaaa"))
        self.assertEqual((tagged.identity["commit"], tagged.ref), (B, "refs/tags/v1"))
        self.assertTrue(latest.pinned)
        # However it is spelled, a commit is one revision.
        self.assertEqual(self.revision(resolver, A), latest)

    def test_tag_of_a_channel_is_a_commit_of_nixpkgs(self) -> None:
        """A tag of a channel is a commit of nixpkgs."""
        resolver = self.make(CHANNEL)
        self.assertEqual(self.revision(resolver).identity["commit"], C)
        self.assertEqual(self.revision(resolver, "nixos-unstable").identity["commit"], C)
        self.assertEqual(len(self.channels.asked), 1)
        self.assertEqual(self.revision(resolver, "nixos-25.05").identity["commit"], B)

    def test_channels_are_named_after_years_that_have_begun(self) -> None:
        """A channel of a later year is not looked up, until that year has begun."""
        resolver = self.make(CHANNEL)
        self.channels.refs[ChannelName(name="nixos-28.05")] = ResolvedRef(commit=B)
        self.failureResultOf(self.resolve(resolver, "nixos-28.05"), UnknownRevision)
        self.assertEqual(self.channels.asked, [])
        self.clock.advance(366 * 86400)
        self.assertEqual(self.revision(resolver, "nixos-28.05").identity["commit"], B)

    def test_configured_commit_resolves_to_itself_without_a_lookup(self) -> None:
        """A configured commit resolves to itself without a lookup."""
        revision = self.revision(self.make(ChannelSource(channel=A)))
        self.assertEqual(revision.identity["commit"], A)
        self.assertEqual(self.channels.asked, [])

    def test_any_commit_may_be_asked_for_only_if_the_tag_policy_allows_it(self) -> None:
        """Any commit may be asked for only if the tag policy allows it."""
        self.failureResultOf(self.resolve(self.make(CHANNEL), A), UnknownRevision)
        allowed = self.make(CHANNEL, tag_policy=TagPolicy(any_commit=True))
        self.assertEqual(self.revision(allowed, A).identity["commit"], A)

    def test_overlay_has_two_commits(self) -> None:
        """An overlay has two commits, and another one of either is another revision."""
        resolver = self.make(OVERLAY)
        revision = self.revision(resolver)
        self.assertEqual((revision.identity["commit"], revision.identity["base"]), (A, C))
        self.channels.refs[ChannelName(name="nixos-unstable")] = ResolvedRef(commit=B)
        self.clock.advance(900)
        self.assertNotEqual(self.revision(resolver), revision)

    def test_error_for_unknown_tag_names_what_is_allowed_and_nothing_is_fetched(self) -> None:
        """The error for an unknown tag names what is allowed, and nothing is fetched."""
        error = self.failureResultOf(self.resolve(self.make(GIT), "nope"), UnknownRevision).value
        self.assertEqual(error.tag, "nope")
        self.assertIn("branches", error.allowed)
        self.assertNotIn("secret", error.message)
        self.assertEqual(self.fetcher.fetched, [])

    def test_refused_without_a_question(self) -> None:
        """The upstream is not asked about tags that may not be served."""
        tag_policy = TagPolicy(patterns=("latest",))
        for source in (GIT, CHANNEL):
            for tag in ("v1", "nixos-25.05", A, "sha256-" + "0" * 64, f"sha256-{'0' * 64}.sig"):
                resolver = self.make(source, tag_policy=tag_policy)
                self.failureResultOf(self.resolve(resolver, tag), UnknownRevision)
        self.failureResultOf(self.resolve(self.make(GIT), "sha256-" + "0" * 64), UnknownRevision)
        self.assertEqual(self.git.asked + self.channels.asked, [])

    def test_configured_and_missing(self) -> None:
        """A missing configured ref is reported as the operator's error, not the client's."""
        self.git.refs.clear()
        error = self.failureResultOf(self.resolve(self.make(GIT)), SourceUnavailable).value
        self.assertIn("operator", error.message)

    def test_tags_of_the_configuration_are_listed(self) -> None:
        """The tags of the configuration are listed."""
        tags = Deferred.fromCoroutine(self.make(CHANNEL).tags())
        self.assertEqual(self.successResultOf(tags), ("latest", "nixos-unstable"))


class PathTests(ResolverCase):
    def test_path_is_evaluated_where_it_is_and_is_nothing_to_rely_on_later(self) -> None:
        """A path is evaluated where it is, and is nothing to rely on later."""
        resolver = self.make(PathSource(path=self.directory))
        revision = self.revision(resolver)
        self.assertFalse(revision.pinned)
        fetched = self.successResultOf(self.fetch(resolver, revision))
        self.assertEqual(fetched, PackageSet(revision=revision, path=self.directory))
        self.failureResultOf(self.resolve(resolver, "v1"), UnknownRevision)
        self.assertEqual(self.fetcher.fetched, [])

    def test_symlinks_are_followed_each_time(self) -> None:
        """Symlinks are followed, each time: restricted evaluation refuses them."""
        link = self.directory / "link"
        resolver = self.make(PathSource(path=link))
        for name in ("one", "two"):
            (self.directory / name).mkdir()
            link.unlink(missing_ok=True)
            link.symlink_to(name)
            self.assertEqual(self.revision(resolver).identity["path"], str(self.directory / name))

    def test_path_that_is_not_there_or_goes_in_circles_is_said_to_be_so(self) -> None:
        """A path that is not there, or goes in circles, is said to be so."""
        loop = self.directory / "loop"
        loop.symlink_to("loop")
        for path in (loop, self.directory / "none", loop / "x"):
            resolver = self.make(PathSource(path=path))
            error = self.failureResultOf(self.resolve(resolver), SourceMissing).value
            self.assertEqual(error.path, str(path))
            self.assertIn("pkgs_path", error.message)
            self.failureResultOf(Deferred.fromCoroutine(resolver.start()), SourceMissing)

    def test_directory_is_package_set_if_it_has_default_nix_file_if_it_is_there(self) -> None:
        """A directory is a package set if it has a default.nix, a file if it is there."""
        file = self.directory / "default.nix"
        for path in (self.directory, file):
            starting = Deferred.fromCoroutine(self.make(PathSource(path=path)).start())
            error = self.failureResultOf(starting, SourceMissing).value
            self.assertTrue(error.path.endswith("default.nix"))
        file.touch()
        for path in (self.directory, file):
            resolver = self.make(PathSource(path=path))
            self.assertIsNone(self.successResultOf(Deferred.fromCoroutine(resolver.start())))

    def test_overlays_belong_to_every_revision(self) -> None:
        """Overlays belong to every revision, by their real paths and in their order."""
        for name in ("a", "b"):
            (self.directory / name).touch()
        (self.directory / "link").symlink_to("a")
        overlays = (self.directory / "b", self.directory / "link")
        real = (self.directory / "b", self.directory / "a")
        for source in (PathSource(path=self.directory), GIT, CHANNEL):
            resolver = self.make(source, overlays=overlays)
            revision = self.revision(resolver)
            self.assertFalse(revision.pinned)
            fetched = self.successResultOf(self.fetch(resolver, revision))
            self.assertEqual(fetched.overlays, real)

    def test_overlay_that_is_not_there_is_named_as_one_at_start_and_later(self) -> None:
        """An overlay that is not there is named as one, at start and later."""
        resolver = self.make(GIT, overlays=(self.directory / "none",))
        for asked in (self.resolve(resolver), Deferred.fromCoroutine(resolver.start())):
            error = self.failureResultOf(asked, SourceMissing).value
            self.assertIn("the overlay at", error.message)
            self.assertIn("overlays says", error.message)

    def test_search_path_belongs_to_every_revision(self) -> None:
        """The search path belongs to every revision, by real paths; its archives are fetched."""
        (self.directory / "link").symlink_to("real")
        (self.directory / "real").mkdir()
        archive = PinnedArchive(url="https://h/a", sha256="0" * 64)
        search_path = SearchPath(
            entries={"a": self.directory / "link", "b": archive},
            extra_paths=(self.directory / "link",),
        )
        real = self.directory / "real"
        for source in (PathSource(path=self.directory), GIT, OVERLAY, CHANNEL):
            resolver = self.make(source, search_path=search_path)
            revision = self.revision(resolver)
            self.assertFalse(revision.pinned)
            self.assertNotEqual(revision, self.revision(self.make(source)))
            fetched = self.successResultOf(self.fetch(resolver, revision))
            self.assertEqual(
                fetched.search_path,
                (
                    ("a", real),
                    ("b", Path("/nix/store") / archive.tree.name),
                    ("nixery-extra-0", real),
                ),
            )
            self.assertTrue(
                self.revision(
                    self.make(source, search_path=SearchPath(entries={"b": archive}))
                ).pinned
                is not isinstance(source, PathSource)
            )

    def test_path_of_the_search_path_that_is_not_there(self) -> None:
        """A path of the search path that is not there is named with its settings."""
        search_path = SearchPath(extra_paths=(self.directory / "none",))
        resolver = self.make(GIT, search_path=search_path)
        for asked in (self.resolve(resolver), Deferred.fromCoroutine(resolver.start())):
            error = self.failureResultOf(asked, SourceMissing).value
            self.assertIn("nix_path or extra_paths says", error.message)

    def test_nothing_is_pinned_if_evaluations_may_fetch_what_changes(self) -> None:
        """No revision stands for its packages if evaluations may fetch what changes."""
        for source in (GIT, CHANNEL):
            revision = self.revision(self.make(source, unpinned_fetches=True))
            self.assertFalse(revision.pinned)
            self.assertEqual(revision.identity, self.revision(self.make(source)).identity)


class WatchedTests(ResolverCase):
    """Paths that are watched."""

    def setUp(self) -> None:
        super().setUp()
        self.version: str | None = "1"
        self.workers = CountingWorkers()

    def watched(self, source: Source, **settings: Any) -> Resolver:
        resolver = self.make(source, **settings)
        resolver._watch = self  # type: ignore[assignment]  # this test plays it
        resolver._workers = self.workers
        return resolver

    async def settled_version(self) -> str | None:
        return self.version

    def test_unchanged(self) -> None:
        """An unchanged path is not looked at, and is the same revision."""
        resolver = self.watched(PathSource(path=self.directory))
        first = self.revision(resolver)
        self.assertEqual((first.version, first.pinned), ("1", False))
        self.assertEqual(self.revision(resolver), first)
        self.assertEqual(self.workers.calls, 1)

    def test_changed(self) -> None:
        """After a change it is looked up anew, and so it is while changes may go unseen."""
        link = self.directory / "link"
        resolver = self.watched(PathSource(path=link))
        for version, name in (("1", "a"), ("2", "b"), (None, "c"), (None, "d")):
            (self.directory / name).mkdir()
            link.unlink(missing_ok=True)
            link.symlink_to(name)
            self.version = version
            revision = self.revision(resolver)
            self.assertEqual(revision.identity["path"], str(self.directory / name))
            self.assertEqual(revision.version, version)

    def test_commit_with_a_search_path(self) -> None:
        """A commit has the version of the paths that evaluations may read besides."""
        search_path = SearchPath(entries={"a": self.directory}, extra_paths=(Path("/nix/store"),))
        resolver = self.watched(GIT, search_path=search_path)
        first = self.revision(resolver)
        self.assertEqual((first.version, first.pinned), ("1", False))
        self.assertEqual(self.revision(resolver), first)
        self.assertEqual(self.workers.calls, 2)
        self.version = "2"
        self.assertNotEqual(self.revision(resolver), first)

    def test_commit_with_an_overlay(self) -> None:
        """A commit has the version of the overlays on it."""
        (self.directory / "a").touch()
        resolver = self.watched(GIT, overlays=(self.directory / "a",))
        first = self.revision(resolver)
        self.assertEqual((first.version, first.pinned), ("1", False))
        self.version = "2"
        self.assertNotEqual(self.revision(resolver), first)

    def test_flake_at_a_path(self) -> None:
        """A flake at a path has a version, unless its inputs move."""
        source = FlakeSource(kind="path", location=str(self.directory))
        first = self.revision(self.watched(source))
        self.assertEqual((first.version, first.is_fixed), ("1", True))
        self.assertEqual(len(readable_paths(source)), 1)
        self.assertEqual(readable_paths(evolve(source, allow_unlocked=True)), ())

    def test_flake_that_is_copied_while_it_changes(self) -> None:
        """A copy that was begun before a change is not that of the version after it."""
        resolver = self.watched(FlakeSource(kind="path", location=str(self.directory)))
        self.fetcher.gate = Deferred()
        for version in ("1", "1", "2"):
            self.version = version
            self.fetch(resolver, self.revision(resolver)).addErrback(lambda _: None)
        self.assertEqual(len(self.fetcher.fetched), 2)


class FetchTests(ResolverCase):
    def test_overlay_is_evaluated_as_one(self) -> None:
        """An overlay is evaluated as one: nixpkgs, then its own, then the operator's."""
        (self.directory / "mine.nix").touch()
        resolver = self.make(OVERLAY, overlays=(self.directory / "mine.nix",))
        revision = self.revision(resolver)
        fetched = self.successResultOf(self.fetch(resolver, revision))
        self.assertEqual([tree.kind for tree in self.fetcher.fetched], ["archive", "git"])
        nixpkgs, overlay = (Path("/nix/store") / tree.name for tree in self.fetcher.fetched)
        self.assertEqual(fetched.path, nixpkgs)
        self.assertEqual(fetched.overlays, (overlay, self.directory / "mine.nix"))

    def test_commit_is_fetched_once_for_all_who_need_it_whatever_they_call_it(self) -> None:
        """A commit is fetched once for all who need it, whatever they call it."""
        resolver = self.make(GIT)
        revisions = [self.revision(resolver), self.revision(resolver, A)]
        gate: Deferred[None] = Deferred()
        self.fetcher.gate = gate
        asked = [self.fetch(resolver, revisions[n % 2]) for n in range(20)]
        asked[0].cancel()
        self.failureResultOf(asked[0])
        gate.callback(None)
        self.assertEqual(len({self.successResultOf(each).path for each in asked[1:]}), 1)
        self.assertEqual(len(self.fetcher.fetched), 1)

    def test_no_such_commit(self) -> None:
        """A commit that is nowhere is an unknown revision."""
        resolver = self.make(CHANNEL, tag_policy=TagPolicy(any_commit=True))
        revision = self.revision(resolver, A)
        self.fetcher.failure = CommitMissing(url="u", commit=A)
        error = self.failureResultOf(self.fetch(resolver, revision), UnknownRevision).value
        self.assertEqual(error.tag, A)

    def test_branch_rewritten_before_its_fetch_is_looked_up_again(self) -> None:
        """A branch that was rewritten between look-up and fetch is looked up again."""
        resolver = self.make(GIT)
        revision = self.revision(resolver)
        self.fetcher.failure = SourceUnavailable(source="s", what=A, reason="not there")
        self.failureResultOf(self.fetch(resolver, revision), SourceUnavailable)
        self.git.refs[GitRefs(names=("HEAD",))] = ResolvedRef(commit=B)
        self.assertEqual(self.revision(resolver).identity["commit"], B)

    def test_fetch_is_ended_by_the_end_of_the_daemon_and_none_is_begun_after_it(self) -> None:
        """A fetch is ended by the end of the daemon, and none is begun after it."""
        resolver = self.make(GIT)
        revision = self.revision(resolver)
        self.fetcher.gate = Deferred()
        asked = self.fetch(resolver, revision)
        self.successResultOf(Deferred.fromCoroutine(resolver.stop()))
        self.failureResultOf(asked, ShuttingDown)
        self.failureResultOf(self.fetch(resolver, revision), ShuttingDown)
        # And it can start again.
        self.successResultOf(Deferred.fromCoroutine(resolver.start()))
        self.fetcher.gate = None
        self.successResultOf(self.fetch(resolver, revision))
