"""Tests of the refs that tags stand for, and of the tags that are served."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from nixery.image.names import Tag, is_commit
from nixery.sources.errors import UnknownRevision
from nixery.sources.git_urls import is_ref_name
from nixery.sources.source import ChannelSource, FlakeSource, GitSource, PathSource, Source
from nixery.sources.tag_policy import (
    ChannelName,
    GitCommit,
    GitRefs,
    NixpkgsCommit,
    TagPolicy,
    configured_tags,
    git_refs,
    references,
)
from tests.support.strategies import tags

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CHANNEL = ChannelSource(channel="nixos-unstable")
GIT = GitSource(url="https://example.org/p.git")
PATH = PathSource(path=Path("/p"))
DEFAULT = TagPolicy()
ANY = TagPolicy(any_commit=True)


class ReferenceCase(SynchronousTestCase):
    def refused(self, source: Source, tag: str, rules: TagPolicy = DEFAULT) -> UnknownRevision:
        error: UnknownRevision = self.assertRaises(
            UnknownRevision, references, source, rules, Tag(tag)
        )
        return error


class ChannelTests(ReferenceCase):
    """Tags of a channel."""

    def test_tag_latest_is_the_configured_channel_or_the_configured_commit(self) -> None:
        """The tag ``latest`` is the configured channel, or the configured commit."""
        latest = Tag("latest")
        self.assertEqual(
            references(CHANNEL, DEFAULT, latest), (ChannelName(name="nixos-unstable"),)
        )
        source = ChannelSource(channel=COMMIT)
        self.assertEqual(references(source, DEFAULT, latest), (NixpkgsCommit(commit=COMMIT),))

    def test_official_channels_and_the_configured_one_are_served(self) -> None:
        """Other official channels are served, and the configured one whatever its name."""
        for name in (
            "nixos-25.05",
            "nixos-25.05-small",
            "nixos-unstable",
            "nixos-unstable-small",
            "nixpkgs-unstable",
            "nixpkgs-25.05-darwin",
            "nixos-20.03-aarch64",
        ):
            self.assertEqual(references(CHANNEL, DEFAULT, Tag(name)), (ChannelName(name=name),))
        # The first releases were in other months.
        for name in ("nixos-13.10", "nixos-14.12", "nixos-16.03-small", "nixos-21.11"):
            self.assertEqual(references(CHANNEL, DEFAULT, Tag(name)), (ChannelName(name=name),))
        own = ChannelSource(channel="company")
        self.assertEqual(references(own, DEFAULT, Tag("company")), (ChannelName(name="company"),))

    def test_nothing_else_is_a_channel_and_the_error_says_what_is(self) -> None:
        """Nothing else is a channel, and the error says what is."""
        for tag in (
            "nixos-5.05", "nixos", "main", "nixos-unstable.x", "NIXOS-unstable", "...",
            # No release was made in such a month, or will have been made this year.
            "nixos-25.06", "nixos-25.03", "nixos-20.05", "nixos-00.05", "nixos-27.05-small",
            "nixos-99.11", "nixpkgs-27.05-darwin", "nixos-13.05-aarch64",
        ):  # fmt: skip
            error = self.refused(CHANNEL, tag)
            self.assertIn("nixos-unstable", error.allowed)
            self.assertIn("nixos-25.05", error.message)

    def test_channels_of_later_years_exist_when_the_year_has_come(self) -> None:
        """A release of a later year is a channel when that year has begun."""
        name = ChannelName(name="nixos-31.05")
        tag = Tag(name.name)
        self.refused(CHANNEL, tag)
        self.assertEqual(references(CHANNEL, DEFAULT, tag, year=31), (name,))

    def test_commit_proves_nothing_of_where_it_comes_from(self) -> None:
        """A commit proves nothing of where it comes from: the operator has to opt in."""
        error = self.refused(CHANNEL, COMMIT)
        self.assertNotIn("commit", error.message)
        self.assertEqual(references(CHANNEL, ANY, Tag(COMMIT)), (NixpkgsCommit(commit=COMMIT),))
        self.assertIn("commit", self.refused(CHANNEL, "main", ANY).message)
        # The one that is configured is known to be good.
        source = ChannelSource(channel=COMMIT)
        self.assertEqual(references(source, DEFAULT, Tag(COMMIT)), (NixpkgsCommit(commit=COMMIT),))
        self.refused(source, "f" * 40)


class GitTests(ReferenceCase):
    """Tags of a repository."""

    def test_tag_latest_is_the_default_branch_or_what_is_configured(self) -> None:
        """The tag ``latest`` is the default branch, or what is configured."""
        for ref, expected in (
            (None, GitRefs(names=("HEAD",))),
            ("feature/x", GitRefs(names=("refs/heads/feature/x", "refs/tags/feature/x"))),
            (COMMIT, GitCommit(commit=COMMIT, trusted=True)),
        ):
            source = GitSource(url="/r", ref=ref)
            self.assertEqual(references(source, DEFAULT, Tag("latest")), (expected,))

    def test_branch_comes_before_a_tag(self) -> None:
        """A branch comes before a tag, and both before what the name means with slashes."""
        self.assertEqual(git_refs("v1"), ("refs/heads/v1", "refs/tags/v1"))
        self.assertEqual(
            git_refs("feature--x--y"),
            (
                "refs/heads/feature--x--y",
                "refs/tags/feature--x--y",
                "refs/heads/feature/x/y",
                "refs/tags/feature/x/y",
            ),
        )
        self.assertEqual(git_refs("a..b"), ())
        self.assertEqual(git_refs("a----b"), ("refs/heads/a----b", "refs/tags/a----b"))

    def test_commit_has_to_be_in_the_history_unless_the_operator_opted_in(self) -> None:
        """A commit has to be in the history, unless the operator opted in."""
        self.assertEqual(references(GIT, DEFAULT, Tag(COMMIT)), (GitCommit(commit=COMMIT),))
        trusted = GitCommit(commit=COMMIT, trusted=True)
        self.assertEqual(references(GIT, ANY, Tag(COMMIT)), (trusted,))
        # Half a commit, or one in capitals, is a name like any other.
        for tag in (COMMIT[:39], COMMIT.upper(), COMMIT + "0"):
            [reference] = references(GIT, DEFAULT, Tag(tag))
            self.assertIsInstance(reference, GitRefs)

    def test_tag_that_no_branch_can_be_named_is_refused_without_a_lookup(self) -> None:
        """A tag that no branch can be named is refused without a lookup."""
        for tag in ("a..b", "a.lock", "a."):
            self.assertIn("branches", self.refused(GIT, tag).allowed)

    def test_overlay_stands_on_the_configured_nixpkgs_whatever_its_own_tag(self) -> None:
        """An overlay stands on the configured nixpkgs, whatever its own tag."""
        for base, below in (
            (CHANNEL, ChannelName(name="nixos-unstable")),
            (ChannelSource(channel=COMMIT), NixpkgsCommit(commit=COMMIT)),
        ):
            source = GitSource(url="/r", base=base)
            for tag in ("latest", "v1"):
                self.assertEqual(references(source, DEFAULT, Tag(tag))[1], below)
        self.refused(GitSource(url="/r", base=CHANNEL), "a..b")

    @settings(max_examples=200)
    @given(tags)
    def test_git_is_asked_only_for_full_names_of_refs_or_for_full_commits(self, tag: str) -> None:
        """Git is asked only for full names of refs, or for full commits."""
        try:
            [reference] = references(GIT, DEFAULT, Tag(tag))
        except UnknownRevision:
            return
        if isinstance(reference, GitRefs):
            for name in reference.names:
                if name != "HEAD":
                    _, kind, rest = name.split("/", 2)
                    self.assertIn(kind, ("heads", "tags"))
                    self.assertTrue(is_ref_name(rest))
        else:
            assert isinstance(reference, GitCommit)
            self.assertTrue(is_commit(reference.commit))


class RulesTests(ReferenceCase):
    """Tests of the tags that the configuration allows."""

    @settings(max_examples=50)
    @given(tags.filter(lambda tag: tag != "latest"))
    def test_path_has_one_revision_and_the_error_says_so(self, tag: str) -> None:
        """A path has one revision, and the error says so."""
        self.assertEqual(self.refused(PATH, tag).allowed, ("latest",))

    @settings(max_examples=50)
    @given(tags)
    def test_flake_has_the_tags_of_its_repository(self, tag: str) -> None:
        """The tags of a flake mean what they mean in its repository; an archive has none."""
        flake = FlakeSource(kind="github", location="o/n", host="github.com", ref="main")
        repository = flake.repository
        assert repository is not None
        try:
            expected = references(repository, DEFAULT, Tag(tag))
        except UnknownRevision as error:
            self.assertEqual(self.refused(flake, tag).allowed, error.allowed)
        else:
            self.assertEqual(references(flake, DEFAULT, Tag(tag)), expected)
        archive = FlakeSource(kind="tarball", location="https://h/x.tar")
        self.assertEqual(self.refused(archive, tag).allowed, ("latest",))

    @settings(max_examples=50)
    @given(tags.filter(lambda tag: tag != "latest"))
    def test_narrowed_to_latest_nothing_else_is_looked_up(self, tag: str) -> None:
        """Narrowed to ``latest``, nothing else is looked up."""
        rules = TagPolicy(patterns=("latest",), any_commit=True)
        for source in (CHANNEL, GIT):
            self.assertEqual(self.refused(source, tag, rules).allowed, ("latest",))
            self.assertTrue(references(source, rules, Tag("latest")))

    def test_patterns_narrow_what_the_source_serves_and_never_widen_it(self) -> None:
        """Patterns narrow what the source serves, and never widen it."""
        rules = TagPolicy(patterns=("v1.*", "nixos-2?.05"))
        references(GIT, rules, Tag("v1.2"))
        references(CHANNEL, rules, Tag("nixos-25.05"))
        self.refused(CHANNEL, "v1.2", rules)
        for tag in ("v2.0", "V1.2", "nixos-unstable", COMMIT):
            error = self.refused(CHANNEL, tag, rules)
            self.assertEqual(error.allowed, ("latest", "v1.*", "nixos-2?.05"))
        # Always: it is what the operator named.
        references(GIT, rules, Tag("latest"))

    @settings(max_examples=50)
    @given(
        st.from_regex(r"\Asha256-[0-9a-f]{64}(\.(sig|att|sbom))?\Z"),
        st.sampled_from([CHANNEL, GIT, ChannelSource(channel="sha256-" + "0" * 64)]),
    )
    def test_look_up_of_a_signature_is_no_revision_whatever_is_allowed(
        self, tag: str, source: Source
    ) -> None:
        """A look-up of a signature is no revision, whatever is allowed."""
        for rules in (DEFAULT, ANY, TagPolicy(patterns=(tag,))):
            self.refused(source, tag, rules)

    def test_tags_that_are_listed_are_those_that_the_configuration_names(self) -> None:
        """The tags that are listed are those that the configuration names."""
        exact = TagPolicy(patterns=("v1", "v2.*", "nixos-25.05"))
        for source, rules, expected in (
            (PATH, exact, ("latest",)),
            (CHANNEL, DEFAULT, ("latest", "nixos-unstable")),
            (ChannelSource(channel=COMMIT), DEFAULT, (COMMIT, "latest")),
            (CHANNEL, TagPolicy(patterns=("latest",)), ("latest",)),
            (CHANNEL, exact, ("latest", "nixos-25.05")),
            (GIT, DEFAULT, ("latest",)),
            (GitSource(url="/r", ref="stable"), DEFAULT, ("latest", "stable")),
            (GitSource(url="/r", ref="feature/x"), DEFAULT, ("latest",)),
            (GIT, exact, ("latest", "nixos-25.05", "v1")),
            (
                FlakeSource(kind="git", location="/r", ref="v3"),
                exact,
                ("latest", "nixos-25.05", "v1"),
            ),
            (FlakeSource(kind="git", location="/r", ref="v3"), DEFAULT, ("latest", "v3")),
            (FlakeSource(kind="path", location="/f"), exact, ("latest",)),
        ):
            self.assertEqual(configured_tags(source, rules), expected)
