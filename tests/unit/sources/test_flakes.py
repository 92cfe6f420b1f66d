"""Tests for :mod:`nixery.sources.flakes`."""

from __future__ import annotations

import json
from pathlib import Path

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from nixery.errors import UnexpectedOutput
from nixery.sources.flake_urls import parse_flake_url
from nixery.sources.flakes import (
    FetchedFlake,
    flake_fetch,
    flake_revision,
    flake_tree,
    lock_copy,
    locked_tree,
    read_flake,
)
from nixery.sources.source import FlakeInput, ResolvedRef

COMMIT = "a" * 40
FOUND = ResolvedRef(commit=COMMIT, ref="refs/heads/main")
HASH = "sha256-4TjdX0jHBGYiikVah4dfrKIyaTHeDq+oGXh4UPudjM4="
STORE_PATH = Path("/nix/store/00000000000000000000000000000000-source")


class RevisionTests(SynchronousTestCase):
    def test_another_commit_origin_or_directory_is_another_revision(self) -> None:
        """Another commit, origin, directory or part is another revision; a password is not."""
        urls = (
            *("github:o/n", "github:o/m", "github:o/n?host=h", "gitlab:o/n", "github:o/n?dir=d"),
            *("git+https://h/p", "git+https://h/p?submodules=1"),
        )
        identities = {
            json.dumps(flake_revision(parse_flake_url(url), "n", found).identity, sort_keys=True)
            for url in urls
            for found in (FOUND, ResolvedRef(commit="b" * 40))
        }
        self.assertEqual(len(identities), 2 * len(urls))
        plain, secret = (
            flake_revision(parse_flake_url(url), "n", FOUND)
            for url in ("git+https://h/p", "git+https://u:secret@h/p")
        )
        self.assertEqual(plain.identity, secret.identity)
        self.assertTrue(plain.pinned)

    def test_paths_and_archives_move_unless_something_fixes_them(self) -> None:
        """A path outside of the store and an archive without a hash may change."""
        path, archive = parse_flake_url("path:/f"), parse_flake_url("https://h/x.tar")
        self.assertFalse(flake_revision(path, "latest", None, path=Path("/real")).pinned)
        self.assertTrue(flake_revision(path, "latest", None, path=STORE_PATH).pinned)
        self.assertFalse(flake_revision(archive, "latest", None).pinned)
        fixed = flake_revision(evolve(archive, nar_hash=HASH), "latest", None)
        self.assertTrue(fixed.pinned)
        self.assertEqual(fixed.identity["nar_hash"], HASH)

    def test_flake_whose_inputs_may_move_is_not_pinned(self) -> None:
        """Nothing of a flake is fixed if its lock file need not be."""
        source = evolve(parse_flake_url("github:o/n"), allow_unlocked=True)
        revision = flake_revision(source, "n", FOUND)
        self.assertFalse(revision.pinned)
        self.assertFalse(flake_tree(source, revision).is_fixed)


class FetchTests(SynchronousTestCase):
    def fetch(self, url: str, found: ResolvedRef | None = FOUND) -> dict[str, object]:
        source = parse_flake_url(url)
        path = Path(source.location) if source.kind == "path" else None
        return flake_fetch(flake_tree(source, flake_revision(source, "n", found, path=path)))

    def test_trees_are_fetched_by_their_commits(self) -> None:
        """The argument of ``fetchTree`` has the commit, and no password."""
        self.assertEqual(
            self.fetch("github:o/n/main"),
            {"type": "github", "owner": "o", "repo": "n", "rev": COMMIT},
        )
        self.assertEqual(
            self.fetch("gitlab:g%2Fs/n?host=h"),
            {"type": "gitlab", "owner": "g%2Fs", "repo": "n", "host": "h", "rev": COMMIT},
        )
        self.assertEqual(
            self.fetch("git+https://u:secret@h/p?shallow=1"),
            {
                "type": "git",
                "url": "https://h/p",
                "rev": COMMIT,
                "ref": "refs/heads/main",
                "shallow": True,
            },
        )
        self.assertEqual(
            self.fetch("git+file:///p?submodules=1", ResolvedRef(commit=COMMIT)),
            {
                "type": "git",
                "url": "file:///p",
                "rev": COMMIT,
                "allRefs": True,
                "shallow": False,
                "submodules": True,
            },
        )
        self.assertEqual(self.fetch("path:/f?dir=d", None), {"type": "path", "path": "/f"})
        self.assertEqual(
            self.fetch(f"https://h/x.tar?narHash={HASH}", None),
            {"type": "tarball", "url": "https://h/x.tar", "narHash": HASH},
        )

    def test_roots_of_different_trees_have_different_names(self) -> None:
        """The names of roots tell commits, origins and directories apart."""
        names = set()
        urls = ("github:o/n", "github:o/m", "github:o/n?dir=d", "git+https://h/p", "path:/f")
        for url in urls:
            source = parse_flake_url(url)
            path = Path(source.location) if source.kind == "path" else None
            found = None if path else FOUND
            names.add(flake_tree(source, flake_revision(source, "n", found, path=path)).name)
        self.assertEqual(len(names), len(urls))


class FetchedTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.tree = self.directory / "tree"
        self.tree.mkdir(parents=True)
        self.source = parse_flake_url("github:o/n?dir=d e".replace(" ", "%20"))
        self.file = self.directory / "flake.json"

    def read(self, text: str) -> FetchedFlake:
        self.file.write_text(text)
        return read_flake(self.source, self.file)

    def test_url_is_that_of_the_tree_with_its_hash(self) -> None:
        """The URL for pure evaluation has the hash, and all that the flake sees of itself."""
        flake = self.read(
            json.dumps(
                {
                    "path": "/nix/store/x",
                    "info": {"narHash": HASH, "rev": COMMIT},
                    "inputs": [{"name": "dep", "rev": "", "path": "/nix/store/y"}],
                }
            )
        )
        self.assertEqual(
            flake.url,
            f"path:/nix/store/x?narHash={HASH.replace('+', '%2B').replace('=', '%3D')}"
            f"&rev={COMMIT}&dir=d%20e",
        )
        self.assertEqual(flake.inputs, (FlakeInput(name="dep", rev="", path=Path("/nix/store/y")),))
        self.assertEqual(flake.lock_file, Path("/nix/store/x/d e/flake.lock"))

    def test_other_files_are_refused(self) -> None:
        """Other files than descriptions of flakes are an error that shows them."""
        for text in ("", "[]", "{}", '{"path": 1}', '{"path": "/x", "info": 7}'):
            with self.assertRaises(UnexpectedOutput):
                self.read(text)

    def test_copy_has_the_lock_file_that_is_needed(self) -> None:
        """A tree is copied only if its lock file is another one, and one is needed."""
        flake = FetchedFlake(tree=self.tree, info={"narHash": HASH, "rev": COMMIT}, directory="")
        (self.tree / "flake.nix").write_text("{}")
        empty = {"locks": {"nodes": {"root": {}}, "root": "root"}}
        locks = {"locks": {"nodes": {"root": {}, "a": {}}, "root": "root"}}
        self.assertIsNone(lock_copy(flake, json.dumps(empty).encode(), self.directory))
        self.tree.chmod(0o555)
        copy = lock_copy(flake, json.dumps(locks).encode(), self.directory)
        assert copy is not None
        self.assertEqual(json.loads((copy / "flake.lock").read_text()), locks["locks"])
        self.assertEqual((copy / "flake.nix").read_text(), "{}")
        same = evolve(flake, tree=copy)
        self.assertIsNone(lock_copy(same, json.dumps(locks).encode(), self.directory))
        tree = locked_tree(self.source, flake, copy)
        self.assertEqual(tree.info, {"rev": COMMIT})
        self.assertEqual(flake_fetch(tree), {"type": "path", "path": str(copy)})
        with self.assertRaises(UnexpectedOutput):
            lock_copy(flake, b"{}", self.directory)
