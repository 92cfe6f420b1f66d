"""Attributes whose names have dots, and package sets with bytes that are not UTF-8; real Nix."""

from __future__ import annotations

import json
import os
from pathlib import Path

from twisted.trial.unittest import TestCase

from nixery.image.errors import PackageProblem, PackagesRefused, ProblemKind
from nixery.image.names import PackageRequest, parse_image_name
from nixery.image.packages import Evaluation, Package
from nixery.nix.enumeration import StoreListing
from nixery.runtime.data_files import nix_directory
from tests.integration.nixenv import make_nix, make_nix_context, nix_missing, path_set

SYSTEM = f"{os.uname().machine}-linux"

SET = b"""
{ system, ... }:
let
  make = name: derivation { inherit name system; builder = "/bin/sh"; };
  set = {
    "node.js" = make "dotted";
    nodejs = make "undotted";
    "Read.Me.first" = make "read-me";
    "7z.x" = make "digit";
    "_8z.x" = make "underscore";
    "twin.A" = make "twin-1";
    "Twin.a" = make "twin-2";
    curl = make "curl" // { dev = make "curl-dev"; };
    a.b.c = make "nested";
    "a.b" = { d = make "mixed"; "e.f" = make "mixed-dotted"; };
    sub = {
      "x.y" = make "sub-dotted";
      x.z = make "sub-nested";
      recurseForDerivations = true;
    };
    aliased = make "aliased";

    described = make "described" // {
      pname = "d\xe9crit";
      version = "1\xff";
      meta.description = "Caf\xe9 \xed\xa0\x80";
    };
    named = make "named" // { name = "named\xc0\xaf"; };
    accented = make "accented" // { meta.description = "Caf\xc3\xa9 \xf0\x9f\x98\x80"; };
    insecure = make "insecure" // { meta.knownVulnerabilities = [ "CVE-\xfe" ]; };
    outputs = make "outputs" // { outputs = [ "out" "d\xe9v" ]; };
    likeness = {
      type = "derivation";
      name = "likeness";
      drvPath = "/nix/store/\xff";
      outPath = "/nix/store/\xfe";
      outputs = [ "\xfd" ];
    };
    "bad\xff" = make "bad";
    "b\xc3\xa9b\xc3\xa9" = make "good";
  };
in
set
"""


class AttributeCase(TestCase):
    timeout = 120
    skip = nix_missing()

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        (self.directory / "default.nix").write_bytes(SET)
        self.package_set = path_set(self.directory)
        self.nix = make_nix(self.directory)

    async def evaluate(self, repository: str) -> Evaluation:
        name = parse_image_name(repository, SYSTEM)
        return await self.nix.evaluate(self.package_set, SYSTEM, name.package_requests)

    async def name(self, repository: str) -> str:
        [package] = (await self.evaluate(repository)).packages
        return package.name

    async def problem(self, repository: str) -> PackageProblem:
        with self.assertRaises(PackagesRefused) as caught:
            await self.evaluate(repository)
        refused: PackagesRefused = caught.exception
        [problem] = refused.problems
        return problem


class DotTests(AttributeCase):
    """Names of attributes that have dots."""

    async def test_longest_name_that_exists_wins_at_every_level(self) -> None:
        """The longest name that exists wins, in any case and at every level."""
        for repository, name in {
            "node.js": "dotted",
            "nodejs": "undotted",
            "read.me.first": "read-me",
            "7z.x": "digit",
            "8z.x": "underscore",
            "curl.dev": "curl-dev",
            "a.b.d": "mixed",
            "a.b.e.f": "mixed-dotted",
            "sub.x.y": "sub-dotted",
            "sub.x.z": "sub-nested",
            "attr--" + b"node.js".hex(): "dotted",
            "attr--" + b"twin.A".hex(): "twin-1",
        }.items():
            self.assertEqual(await self.name(repository), name, repository)

    async def test_other_names_are_refused_with_names_that_can_be_pulled(self) -> None:
        """Names near to a missing one can be pulled, and are never the refused name."""
        for repository, kind in {
            "nodejs.js": ProblemKind.NO_SUCH_OUTPUT,
            "node.sj": ProblemKind.NOT_FOUND,
            "sub.x.yy": ProblemKind.NOT_FOUND,
            "a.b.c": ProblemKind.NOT_FOUND,
            "twin.a": ProblemKind.AMBIGUOUS,
            "attr--" + b"Node.js".hex(): ProblemKind.NOT_FOUND,
        }.items():
            problem = await self.problem(repository)
            self.assertIs(problem.kind, kind, repository)
            if problem.find_candidates is not None:
                candidates = problem.find_candidates(lambda: False)
                self.assertNotIn(repository, candidates)
                for candidate in candidates:
                    await self.evaluate(candidate)
        problem = await self.problem("node.sj")
        assert problem.find_candidates is not None
        self.assertEqual(problem.find_candidates(lambda: False)[0], "node.js")

    async def test_packages_with_dots_are_counted(self) -> None:
        """A listing of the set has packages whose names have dots, and none that is no text."""
        listing = StoreListing(
            make_nix_context(self.directory), expression=nix_directory() / "attributes.nix"
        )
        names = await listing.attributes(self.package_set, SYSTEM, ())
        self.assertTrue({"node.js", "sub.x.y", "described", "b\xe9b\xe9"} <= {*names}, names)
        self.assertFalse([name for name in names if name.startswith("bad")])
        for name in ("node.js", "sub.x.y"):
            await self.name("attr--" + name.encode().hex())


class TextTests(AttributeCase):
    """Strings of packages that are not UTF-8."""

    async def test_descriptions_and_versions_are_replaced(self) -> None:
        """Other bytes in a package's texts are replaced, and the package is served."""
        [package] = (await self.evaluate("described")).packages
        self.assertEqual(
            (package.pname, package.version, package.description),
            ("d\ufffdcrit", "1\ufffd", "Caf\ufffd \ufffd\ufffd\ufffd"),
        )
        self.assertTrue((await self.name("named")).startswith("named\ufffd"))
        self.assertEqual(
            (await self.evaluate("accented")).packages[0].description, "Caf\xe9 \U0001f600"
        )

    async def test_problems_are_told_in_text(self) -> None:
        """Problems of packages with such strings are told as those of others."""
        self.assertIn("CVE-\ufffd", (await self.problem("insecure")).message)
        self.assertEqual((await self.problem("outputs.dev")).candidates, ("outputs.out",))

    async def test_set_that_is_like_a_package_spoils_no_other(self) -> None:
        """Paths and outputs that are no text spoil no other package of the image."""
        requests = [PackageRequest(name=name) for name in ("likeness", "aliased")]
        _, aliased = await self.nix.look_up(self.package_set, SYSTEM, requests)
        self.assertIsInstance(aliased.result, Package)

    async def test_attribute_that_is_no_text_spoils_no_other(self) -> None:
        """An attribute whose name is no text spoils neither other packages nor near names."""
        self.assertEqual(await self.name("aliased"), "aliased")
        problem = await self.problem("alaised")
        assert problem.find_candidates is not None
        self.assertEqual(problem.find_candidates(lambda: False), ("aliased",))
        problem = await self.problem("badd")
        assert problem.find_candidates is not None
        self.assertEqual(problem.find_candidates(lambda: False), ())
        json.dumps(problem.message).encode("ascii")
