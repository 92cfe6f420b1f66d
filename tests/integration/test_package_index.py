"""The index of a package set, made by the real Nix."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from attrs import evolve
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase

from nixery.builds.package_catalog import PackageCatalog
from nixery.image.names import parse_image_name
from nixery.nix import indexer as module
from nixery.nix.package_index import IndexEntry, PackageIndex
from nixery.nix.package_indexes import PackageIndexes
from nixery.sources.source import PackageSet, Revision
from nixery.testing.fakes import FakeSources
from tests.integration.nixenv import (
    make_nix,
    make_nix_context,
    nix_environment,
    nix_missing,
    path_set,
)

SYSTEM = f"{os.uname().machine}-linux"

SET = b"""
{ system, config, ... }:
let
  make = name: derivation { inherit name system; builder = "/bin/sh"; };
  nest = depth: make "level-${toString depth}" // {
    recurseForDerivations = true;
  };
  plain = make "plain-1.2" // { meta.description = "A  plain\\n package"; };
in
rec {
  inherit plain;
  named = make "x" // { pname = "right"; version = "3"; name = "wrong-4"; };
  alias = plain;
  "dotted.name" = make "dotted-1";
  configured = make "configured-${config.flavour}";

  # What is caught.
  throws = throw "thrown";
  asserts = assert false; plain;
  throwsName = plain // { name = throw "thrown"; };
  throwsMeta = plain // { meta = throw "thrown"; };
  throwsDescription = plain // { meta.description = throw "thrown"; };
  throwsType = plain // { type = throw "thrown"; };
  oddTypes = plain // { name = 1; pname = [ ]; version = { }; meta = "no set"; };
  oddMeta = plain // { meta = { description = 1; available = 1; }; };
  unavailable = plain // { meta.available = false; };
  throwsAvailable = plain // { meta.available = throw "thrown"; };

  # What ends an evaluation.
  aborts = abort "aborted";
  lacks = plain // { name = plain.noSuchAttribute; };
  recurses = let x = x; in x;
  deep = plain // { name = let f = n: "a" + f (n + 1); in f 0; };

  # What is not UTF-8.
  latin = plain // { meta.description = "Caf\xe9"; version = "1\xff"; };
  utf = plain // { meta.description = "Caf\xc3\xa9 \xf0\x9f\x98\x80"; };
  "bad\xff" = plain;

  # Sets in the set.
  nested = {
    recurseForDerivations = true;
    inner = plain;
    throws = throw "thrown";
    deeper = { recurseForDerivations = true; leaf = plain; "bad\xff" = plain; };
  };
  hidden = { inner = plain; };
  endless = { recurseForDerivations = true; again = endless; here = plain; };
  function = { }: plain;
  number = 1;
  tests = { recurseForDerivations = true; one = plain; };
}
"""

PLAIN = IndexEntry(
    attribute="plain", pname="plain", version="1.2", description="A plain package", served=True
)


class PackageIndexTests(TestCase):
    """Tests of the entries of a list, and of questions that are asked meanwhile."""

    timeout = 300
    skip = nix_missing()

    def setUp(self) -> None:
        self.patch(module, "START_DELAY_SECONDS", 0.0)
        self.directory = Path(self.mktemp()).absolute()
        (self.directory / "set").mkdir(parents=True)
        (self.directory / "set" / "default.nix").write_bytes(SET)
        self.nix = make_nix(self.directory, config={"flavour": "sweet"})
        self.addCleanup(lambda: Deferred.fromCoroutine(self.nix.stop()))
        context = make_nix_context(self.directory, config={"flavour": "sweet"})
        self.indexes = PackageIndexes(
            self.directory / "indexes", context.workers, self.nix.evaluation_identity()
        )
        self.nix.enable_indexing(self.indexes, lambda: False)

    def stored_set(self) -> PackageSet:
        """The package set in the Nix store, where it cannot change."""
        added = subprocess.run(
            ["nix-store", "--add", str(self.directory / "set")],
            env=nix_environment(),
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        return path_set(Path(added.stdout.strip()))

    async def listed(self, package_set: PackageSet) -> PackageIndex:
        """The index of a set, made when the set was used."""
        name = parse_image_name("plain", SYSTEM)
        await self.nix.evaluate(package_set, SYSTEM, name.package_requests)
        return await self.made(package_set)

    async def made(self, package_set: PackageSet) -> PackageIndex:
        while (index := await self.indexes.get(package_set.revision, SYSTEM)) is None:
            await deferLater(reactor, 0.05)
        return index

    async def test_packages_are_listed_whatever_others_do(self) -> None:
        """All packages are listed, whatever others throw, abort, lack, recurse or are called."""
        index = await self.listed(self.stored_set())
        entries = {entry.attribute: entry for entry in index.entries}

        def like_plain(attribute: str, **others: Any) -> IndexEntry:
            return evolve(PLAIN, attribute=attribute, **others)

        expected = [
            PLAIN,
            like_plain("named", pname="right", version="3", description=""),
            like_plain("alias"),
            like_plain("dotted.name", pname="dotted", version="1", description=""),
            like_plain("configured", pname="configured-sweet", version="", description=""),
            like_plain("throwsName", pname="", version=""),
            like_plain("throwsMeta", description=""),
            like_plain("throwsDescription", description=""),
            like_plain("oddTypes", pname="", version="", description=""),
            like_plain("oddMeta", description=""),
            like_plain("unavailable", description="", served=False),
            like_plain("throwsAvailable", description=""),
            like_plain("latin", version="1\ufffd", description="Caf\ufffd"),
            like_plain("utf", description="Café 😀"),
            like_plain("nested.inner"),
            like_plain("nested.deeper.leaf"),
            *(like_plain("endless." + "again." * depth + "here") for depth in range(3)),
        ]
        self.assertEqual({entry.attribute: entry for entry in expected}, entries)
        self.assertEqual(4, index.skipped)
        self.assertIn("throws", index.names)
        self.assertIn("function", index.names)
        self.assertNotIn("tests", index.names)

    async def test_misspelt_name_is_answered_without_nix(self) -> None:
        """A misspelt name is answered without Nix after a restart, with names that are near."""
        package_set = self.stored_set()
        await self.listed(package_set)
        environ = nix_environment() | {"PATH": ""}
        other = make_nix(self.directory, environ=environ, config={"flavour": "sweet"})
        self.addCleanup(lambda: Deferred.fromCoroutine(other.stop()))
        other.enable_indexing(self.indexes, lambda: True)
        await other.recall_names(package_set, SYSTEM)
        # They are in memory then.
        shutil.rmtree(self.directory / "indexes")
        [request] = [
            each
            for each in parse_image_name("plaim", SYSTEM).package_requests
            if each.name == "plaim"
        ]
        [result] = await other.look_up(package_set, SYSTEM, [request])
        problem = result.result
        self.assertEqual("there is no package plaim", getattr(problem, "message", problem))
        find = getattr(problem, "find_candidates", None)
        assert find is not None
        self.assertEqual("plain", find(lambda: False)[0])

    async def test_searches_read_the_list_before_until_nix_has_made_the_next(self) -> None:
        """A new revision is searched in the list of the one before until Nix has listed it."""
        first = self.stored_set()
        await self.listed(first)
        file = self.directory / "set" / "default.nix"
        file.write_bytes(SET.replace(b"plain-1.2", b"plain-1.3"))
        second = self.stored_set()
        workers = make_nix_context(self.directory).workers
        catalog = PackageCatalog(
            sources=FakeSources.at_path(first.path),
            indexes=self.indexes,
            workers=workers,
            system=SYSTEM,
        )

        async def found(package_set: PackageSet) -> tuple[str, Revision, Revision | None]:
            catalog.sources = FakeSources.at_path(package_set.path)
            result = await catalog.search("client", "plain", limit=1)
            assert result.findings is not None
            return result.findings.entries[0].version, result.revision, result.next_revision

        self.assertEqual(("1.2", first.revision, None), await found(first))
        self.assertEqual(("1.2", first.revision, second.revision), await found(second))
        await self.listed(second)
        self.assertEqual(("1.3", second.revision, None), await found(second))

    async def test_question_is_answered_between_slices(self) -> None:
        """A question that comes during a pass is answered before the pass goes on."""
        self.patch(module, "SLICE", 1)
        package_set = path_set(self.directory / "set")
        self.nix.prepare_evaluation(package_set, SYSTEM)
        name = parse_image_name("named", SYSTEM)
        for _ in range(3):
            evaluation = await self.nix.evaluate(package_set, SYSTEM, name.package_requests)
            self.assertIn("named", [package.attribute for package in evaluation.packages])
            self.assertIsNone(await self.indexes.get(package_set.revision, SYSTEM))
        self.assertEqual(4, (await self.made(package_set)).skipped)

    async def test_pass_is_stopped_in_a_slice(self) -> None:
        """A pass that is stopped leaves no process and no file."""
        package_set = self.stored_set()
        self.nix.prepare_evaluation(package_set, SYSTEM)
        await deferLater(reactor, 0.1)
        await self.nix.stop()
        self.assertIsNone(await self.indexes.get(package_set.revision, SYSTEM))
