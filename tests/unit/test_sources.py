"""
Tests for ``nixery.sources``.
"""

from __future__ import annotations

from pathlib import Path

from hypothesis import assume, given, settings
from twisted.trial.unittest import SynchronousTestCase

from nixery.errors import UnknownRevision
from nixery.names import Tag
from nixery.sources import ChannelSource, GitSource, PathSource, resolve_path
from tests.strategies import tags

LATEST = Tag("latest")


class ResolvePathTests(SynchronousTestCase):
    """Tests for :func:`resolve_path`."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).resolve()
        self.directory.mkdir(parents=True)

    def test_latest(self) -> None:
        """The tag ``latest`` is the package set as it is, and nothing to rely on later."""
        revision = resolve_path(PathSource(path=self.directory), LATEST)
        self.assertEqual(revision.path, self.directory)
        self.assertEqual(revision.identity, {"type": "path", "path": str(self.directory)})
        self.assertFalse(revision.pinned)

    @settings(deadline=None, max_examples=30)
    @given(tags)
    def test_other_tags(self, tag: str) -> None:
        """There is no other tag, and the error says which there is."""
        assume(tag != LATEST)
        source = PathSource(path=Path("/srv/packages"))
        error = self.assertRaises(UnknownRevision, resolve_path, source, Tag(tag))
        self.assertEqual(error.allowed, ("latest",))
        self.assertIn("/srv/packages", error.message)

    def test_symlinks(self) -> None:
        """Symlinks are followed: restricted evaluation refuses them."""
        link = self.directory / "link"
        target = self.directory / "a set"
        target.mkdir()
        link.symlink_to(target)
        revision = resolve_path(PathSource(path=link), LATEST)
        self.assertEqual(revision.path, target)
        self.assertEqual(revision, resolve_path(PathSource(path=target), LATEST))

    def test_relative(self) -> None:
        """A relative path is taken from the working directory, once and for all."""
        revision = resolve_path(PathSource(path=Path("packages")), LATEST)
        self.assertEqual(revision.path, Path.cwd() / "packages")

    def test_store(self) -> None:
        """A path in the Nix store never changes; the store itself and its likes do."""
        path = "/nix/store/00000000000000000000000000000000-source"
        for text, pinned in (
            (path, True),
            (f"{path}/nixpkgs", True),
            ("/nix/store", False),
            ("/nix/storeroom/set", False),
            (f"{path}/../../set", False),
        ):
            self.assertEqual(resolve_path(PathSource(path=Path(text)), LATEST).pinned, pinned)


class DescribeTests(SynchronousTestCase):
    """Tests for what sources are called in messages."""

    def test_names(self) -> None:
        """Each source says what was configured."""
        for source, part in (
            (ChannelSource(channel="nixos-unstable"), "nixos-unstable"),
            (GitSource(url="https://example.org/set"), "https://example.org/set"),
            (PathSource(path=Path("/srv/set")), "/srv/set"),
        ):
            self.assertIn(part, source.describe())
