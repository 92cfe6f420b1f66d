"""
Tests for ``nixery.sources.source``.
"""

from __future__ import annotations

from pathlib import Path

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from nixery.sources.readable_paths import readable_paths
from nixery.sources.source import (
    ChannelSource,
    GitSource,
    PathSource,
    ResolvedRef,
    Revision,
    is_pinned_path,
    overlay_paths,
    path_revision,
    revision_of,
)
from nixery.sources.source_trees import source_trees

STORE_PATH = Path("/nix/store/00000000000000000000000000000000-source")
GIT = GitSource(url="https://u:secret@example.org/pkgs.git")
OVERLAY = GitSource(url="https://example.org/o.git", base=ChannelSource(channel="nixos-unstable"))
CHANNEL = ChannelSource(channel="nixos-unstable")

commits = st.text("0123456789abcdef", min_size=40, max_size=40)
found = st.builds(ResolvedRef, commit=commits, ref=st.sampled_from([None, "refs/heads/main"]))
overlays = st.lists(st.sampled_from([Path("/a"), Path("/b"), STORE_PATH / "o"]), max_size=3)
A, B = ResolvedRef(commit="a" * 40), ResolvedRef(commit="b" * 40)


class PathTests(SynchronousTestCase):
    """Package sets at a path."""

    def test_path_in_the_nix_store_never_changes(self) -> None:
        """A path in the Nix store never changes; the store itself and its likes do."""
        for path, pinned in (
            (STORE_PATH, True),
            (STORE_PATH / "nixpkgs", True),
            (Path("/nix/store"), False),
            (Path("/nix/storeroom/set"), False),
            (STORE_PATH / ".." / ".." / "set", False),
        ):
            self.assertEqual(is_pinned_path(path), pinned)
            self.assertEqual(path_revision(path).pinned, pinned)

    def test_what_is_read_besides_the_store(self) -> None:
        """An evaluation reads the package set's directory, and overlays themselves."""
        overlays = (Path("/etc/o.nix"), STORE_PATH / "o")
        source, overlay = Path("/etc/set/x.nix"), Path("/etc/o.nix")
        both = readable_paths(PathSource(path=source), overlays)
        self.assertEqual(
            {path.path: path.tree(path.path) for path in both},
            {source: source.parent, overlay: overlay},
        )
        self.assertEqual([path.path for path in readable_paths(CHANNEL, overlays)], [overlay])
        self.assertEqual(readable_paths(PathSource(path=STORE_PATH / "set")), ())

    def test_pinned_path_has_no_version(self) -> None:
        """A path that never changes has no version, for that is part of no stored key."""
        self.assertIsNone(path_revision(STORE_PATH / "set", version="1").version)
        self.assertEqual(path_revision(Path("/set"), version="1").version, "1")
        self.assertNotEqual(path_revision(Path("/set"), version="1"), path_revision(Path("/set")))

    def test_path_is_the_revision_and_there_is_nothing_to_fetch(self) -> None:
        """The path is the revision, and there is nothing to fetch."""
        revision = path_revision(Path("/p"))
        self.assertEqual(revision.identity, {"kind": "path", "path": "/p"})
        self.assertEqual(source_trees(revision), ())


class RevisionTests(SynchronousTestCase):
    """Tests of the identity of revisions."""

    def test_another_commit_another_origin_another_kind_another_overlay(self) -> None:
        """Another commit, another origin, another kind, another overlay: another revision."""
        revisions = [
            path_revision(Path("/p")),
            path_revision(Path("/q")),
            path_revision(Path("/p"), [Path("/o")]),
            path_revision(Path("/p"), [Path("/q"), Path("/o")]),
            path_revision(Path("/p"), [Path("/o"), Path("/q")]),
            revision_of(CHANNEL, "n", A),
            revision_of(CHANNEL, "n", A, nixpkgs_url="http://h/{commit}"),
            revision_of(CHANNEL, "n", B),
            revision_of(GIT, "n", A),
            revision_of(GitSource(url="https://example.org/other.git"), "n", A),
            revision_of(evolve(GIT, submodules=True), "n", A),
            revision_of(evolve(GIT, lfs=True), "n", A),
            revision_of(evolve(GIT, submodules=True, lfs=True), "n", A),
            revision_of(evolve(OVERLAY, lfs=True), "n", A, base=B),
            revision_of(OVERLAY, "n", A, base=B),
            revision_of(OVERLAY, "n", B, base=A),
            revision_of(OVERLAY, "n", A, base=B, nixpkgs_url="http://h/{commit}"),
            revision_of(OVERLAY, "n", A, base=B, overlays=[Path("/o")]),
        ]
        identities = {tuple(sorted(revision.identity.items())) for revision in revisions}
        self.assertEqual(len(identities), len(revisions))

    def test_tag_ref_and_password_make_no_other_revision(self) -> None:
        """Neither the tag, nor the ref, nor a password makes another revision."""
        first = revision_of(GIT, "main", ResolvedRef(commit=A.commit, ref="refs/heads/main"))
        plain = GitSource(url="https://example.org/pkgs.git")
        second = revision_of(plain, "v1", ResolvedRef(commit=A.commit, ref="refs/tags/v1"))
        self.assertEqual(first, second)
        self.assertNotIn("secret", str(first))

    @settings(max_examples=50)
    @given(found, overlays)
    def test_commit_is_pinned_unless_an_overlay_on_it_may_change(
        self, commit: ResolvedRef, paths: list[Path]
    ) -> None:
        """A commit is pinned, unless an overlay on it may change."""
        for source, base in ((GIT, None), (CHANNEL, None), (OVERLAY, A)):
            revision = revision_of(source, "n", commit, base=base, overlays=paths)
            self.assertEqual(revision.pinned, all(STORE_PATH in path.parents for path in paths))
            self.assertEqual(overlay_paths(revision), tuple(paths))

    def test_people_see_the_name_and_the_beginning_of_the_commit_or_that_alone(self) -> None:
        """People see the name and the beginning of the commit, or that alone."""
        self.assertEqual(revision_of(GIT, "main", A).label, "main at aaaaaaaaaaaa")
        self.assertEqual(revision_of(GIT, A.commit, A).label, "aaaaaaaaaaaa")

    def test_identity_is_text_by_text(self) -> None:
        """An identity is text by text: it goes into canonical JSON as it is."""
        revision = revision_of(OVERLAY, "n", A, base=B, overlays=[Path("/o")])
        for name, value in revision.identity.items():
            self.assertEqual((type(name), type(value)), (str, str))


class TreeTests(SynchronousTestCase):
    """Tests of the source trees that have to be fetched."""

    def trees(self, revision: Revision) -> list[tuple[str, str, str | None]]:
        return [(tree.kind, tree.url, tree.ref) for tree in source_trees(revision)]

    def test_channel_is_an_archive_a_repository_a_tree(self) -> None:
        """A channel is an archive, a repository a tree; an overlay has nixpkgs below it."""
        commit = ResolvedRef(commit="c" * 40, ref="refs/heads/main")
        repository = ("git", "https://example.org/pkgs.git", "refs/heads/main")
        self.assertEqual(self.trees(revision_of(GIT, "n", commit)), [repository])
        archive = f"https://github.com/NixOS/nixpkgs/archive/{A.commit}.tar.gz"
        self.assertEqual(self.trees(revision_of(CHANNEL, "n", A)), [("archive", archive, None)])
        self.assertEqual(
            self.trees(revision_of(OVERLAY, "n", commit, base=A)),
            [("archive", archive, None), ("git", "https://example.org/o.git", "refs/heads/main")],
        )

    def test_commit_has_a_name_of_its_own_for_each_origin(self) -> None:
        """A commit has a name of its own for each origin, and one whatever leads to it."""
        first, second = (
            revision_of(GIT, "n", ResolvedRef(commit=A.commit, ref=ref))
            for ref in ("refs/heads/a", None)
        )
        [one], [two] = source_trees(first), source_trees(second)
        self.assertEqual((one, one.name), (two, two.name))
        [other] = source_trees(revision_of(GitSource(url="https://example.org/x"), "n", A))
        self.assertNotEqual(one.name, other.name)
        self.assertTrue(one.name.startswith(A.commit))

    def test_parts_of_a_repository_are_fetched_where_its_identity_has_them(self) -> None:
        """Submodules and files in Git LFS make another tree; without them it is as it was."""
        names = set()
        for submodules in (False, True):
            for lfs in (False, True):
                source = evolve(GIT, submodules=submodules, lfs=lfs)
                [tree] = source_trees(revision_of(source, "n", A))
                self.assertEqual((tree.submodules, tree.lfs), (submodules, lfs))
                names.add(tree.name)
        self.assertEqual(len(names), 4)
        self.assertEqual(
            revision_of(GIT, "n", A).identity,
            {"kind": "git", "url": "https://example.org/pkgs.git", "commit": A.commit},
        )
        [plain] = source_trees(revision_of(GIT, "n", A))
        # Roots of former versions have this name.
        self.assertEqual(plain.name, f"{A.commit}-ea2ef59dbf95")


class DescribeTests(SynchronousTestCase):
    """Sources as messages tell of them."""

    def test_person_recognises_each_source_and_reads_no_password(self) -> None:
        """A person recognises each source, and reads no password."""
        for source, text in (
            (CHANNEL, "the channel nixos-unstable"),
            (ChannelSource(channel=A.commit), f"the nixpkgs commit {A.commit}"),
            (GIT, "the git repository https://example.org/pkgs.git"),
            (PathSource(path=Path("/srv/set")), "the package set at /srv/set"),
        ):
            self.assertEqual(source.describe(), text)
        self.assertNotIn("secret", repr(GIT))
