"""Tests of the materials of images in their provenance."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from nixery.artifacts.provenance import Material
from nixery.builds.materials import flake_materials, source_materials
from nixery.sources.flake_urls import parse_flake_url
from nixery.sources.flakes import flake_revision
from nixery.sources.search_path import PinnedArchive, SearchPath
from nixery.sources.source import (
    ChannelSource,
    GitSource,
    PackageSet,
    ResolvedRef,
    path_revision,
    revision_of,
)

COMMIT = "0123456789" * 4


class MaterialTests(SynchronousTestCase):
    """Tests of the sources of an image in its provenance."""

    def test_commits_are_named_by_their_hashes(self) -> None:
        """Channels, repositories and overlays on nixpkgs have URIs and commits, no secrets."""
        url = "https://user:secret@git.example/set"
        archive = Material(
            uri=f"https://github.com/NixOS/nixpkgs/archive/{COMMIT}.tar.gz",
            digest={"gitCommit": COMMIT},
        )
        repository = Material(uri="git+https://git.example/set", digest={"gitCommit": "f" * 40})
        nixpkgs, ours = ResolvedRef(commit=COMMIT), ResolvedRef(commit="f" * 40)
        channel = ChannelSource(channel="nixos-unstable")
        for revision, expected in (
            (revision_of(channel, "nixos-unstable", nixpkgs), (archive,)),
            (revision_of(GitSource(url=url), "main", ours), (repository,)),
            (
                revision_of(GitSource(url=url, base=channel), "main", ours, base=nixpkgs),
                (archive, repository),
            ),
        ):
            self.assertEqual(source_materials(revision), expected)

    def test_flakes_are_named_by_their_urls(self) -> None:
        """A flake has its URL, and its commit if it has one."""
        commit = ResolvedRef(commit=COMMIT)
        for url, found, expected in (
            (
                "git+https://user:secret@git.example/set?dir=d",
                commit,
                Material(uri="git+https://git.example/set", digest={"gitCommit": COMMIT}),
            ),
            ("github:o/n", commit, Material(uri="github:o/n", digest={"gitCommit": COMMIT})),
            ("https://h/x.tar.gz", None, Material(uri="https://h/x.tar.gz")),
        ):
            revision = flake_revision(parse_flake_url(url), "main", found)
            self.assertEqual(source_materials(revision), (expected,))
        path = flake_revision(parse_flake_url("path:/f"), "latest", None, path=Path("/my f"))
        self.assertEqual(source_materials(path), (Material(uri="file:///my%20f"),))

    def test_paths_have_uris(self) -> None:
        """A path is a file URI, or that of a store path, which is immutable."""
        revision = path_revision(Path("/srv/my set"), [Path("/nix/store/x-overlay")])
        self.assertEqual(
            source_materials(revision),
            (Material(uri="file:///srv/my%20set"), Material(uri="nix:/nix/store/x-overlay")),
        )

    def test_search_path_follows(self) -> None:
        """Entries of the search path and further paths come last, archives with their hashes."""
        search_path = SearchPath(
            entries={
                "nixpkgs": PinnedArchive(url="https://host/a.tar.gz", sha256="0" * 64),
                "local": Path("/srv/local"),
            },
            extra_paths=(Path("/srv/extra"),),
        )
        _, *rest = source_materials(search_path.extend(path_revision(Path("/srv/set"))))
        self.assertEqual(
            rest,
            [
                Material(uri="https://host/a.tar.gz", digest={"sha256": "0" * 64}),
                Material(uri="file:///srv/local"),
                Material(uri="file:///srv/extra"),
            ],
        )


class FlakeTests(SynchronousTestCase):
    """Tests of flakes and their inputs."""

    def setUp(self) -> None:
        self.tree = Path(self.mktemp()).absolute()
        (self.tree / "sub").mkdir(parents=True)
        revision = path_revision(self.tree)
        identity = {"kind": "flake", "url": "git+https://git.example/flake", "commit": COMMIT}
        self.revision = evolve(revision, identity=identity)
        self.package_set = PackageSet(
            revision=self.revision,
            path=self.tree,
            flake=json.dumps({"directory": "sub", "tree": {"path": str(self.tree)}}),
        )

    def lock(self, **nodes: Any) -> None:
        text = json.dumps({"nodes": {"root": {"inputs": {}}, **nodes}, "root": "root"})
        (self.tree / "sub" / "flake.lock").write_text(text)

    def test_inputs_of_every_kind(self) -> None:
        """Each locked input is named once, by its commit or the hash of its files."""
        rev = {"rev": "a" * 40, "narHash": "sha256-AAAA"}
        nar_hash = {"narHash": "sha256-/////w=="}
        self.lock(
            a={"locked": {"type": "github", "owner": "NixOS", "repo": "nixpkgs", **rev}},
            again={"locked": {"type": "github", "owner": "NixOS", "repo": "nixpkgs", **rev}},
            b={"locked": {"type": "gitlab", "host": "our.host", "owner": "o", "repo": "r", **rev}},
            c={"locked": {"type": "git", "url": "https://user:secret@host/r", **rev}},
            d={"locked": {"type": "tarball", "url": "https://host/t.tar.gz", **nar_hash}},
            e={"locked": {"type": "path", "path": "./inner"}},
        )
        self.assertEqual(
            [(each.uri, each.digest) for each in flake_materials(self.package_set)],
            [
                ("git+https://host/r", {"gitCommit": "a" * 40}),
                ("github:NixOS/nixpkgs", {"gitCommit": "a" * 40}),
                ("gitlab:o/r?host=our.host", {"gitCommit": "a" * 40}),
                ("https://host/t.tar.gz", {"sha256": "ffffffff"}),
                ("path:./inner", {}),
            ],
        )

    def test_flake_without_a_lock_file_has_no_inputs(self) -> None:
        """A flake that needs no lock file has no inputs."""
        self.assertEqual(flake_materials(self.package_set), ())

    def test_what_cannot_be_read_is_left_out(self) -> None:
        """An odd input is left out, and an odd file has none."""
        good = {"locked": {"type": "path", "path": "./inner"}}
        for node in ({"locked": None}, {"locked": {"type": "github"}}, 5, {"locked": {"url": 1}}):
            self.lock(odd=node, good=good)
            self.assertEqual(flake_materials(self.package_set), (Material(uri="path:./inner"),))
        for text in ("{", "[]", '{"nodes": 1}'):
            (self.tree / "sub" / "flake.lock").write_text(text)
            self.assertEqual(flake_materials(self.package_set), ())
