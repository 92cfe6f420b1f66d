"""Tests of the parsing of the expression's output, and of its error messages."""

from __future__ import annotations

import json
from typing import Any

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from nixery.builds.candidates import find_candidates
from nixery.errors import UnexpectedOutput
from nixery.image.declarations import License
from nixery.image.errors import PackageProblem, ProblemKind
from nixery.image.names import PackageRequest, escape_attribute
from nixery.image.packages import LookupResult, Output, Package
from nixery.nix.resolve_output import parse_results, thrown, with_reason
from nixery.nix.suggestions import NameIndexes

RECORD = {
    "path": ["python3", "pkgs", "six"],
    "name": "python3-six-1.16",
    "pname": "six",
    "version": "1.16",
    "description": "Two\n  lines ",
    "priority": -1,
    "derivation": "/nix/store/x.drv",
    "outputs": [{"name": "out", "path": "/nix/store/o"}, {"name": "dev", "path": "/nix/store/d"}],
    "otherOutputs": [{"name": "man", "path": "/nix/store/m"}],
    "licenses": [{"spdx": "mit", "name": "The MIT License"}],
    "cpe": "cpe:2.3:a:benjamin:six:1.16:*:*:*:*:*:*:*",
}


def parse(
    name: str, record: dict[str, Any], levels: dict[str, list[str]] | None = None
) -> LookupResult:
    printed = json.dumps({"answers": [record], "levels": levels or {}}).encode()
    (answer,) = parse_results(printed, [PackageRequest(name=name)], NameIndexes())
    if isinstance(answer.result, PackageProblem):
        [problem] = find_candidates([answer.result], lambda: 0.0)
        return evolve(answer, result=problem)
    return answer


class AnswerTests(SynchronousTestCase):
    """One answer at a time."""

    def problem(
        self, name: str, record: dict[str, Any], levels: dict[str, list[str]] | None = None
    ) -> PackageProblem:
        result = parse(name, record, levels).result
        assert isinstance(result, PackageProblem)
        self.assertEqual((result.name, result.kind.value), (name, record["error"]))
        return result

    def test_package_is_read_its_description_in_one_line_its_outputs_sorted(self) -> None:
        """A package is read, its description in one line, its outputs sorted."""
        self.assertEqual(
            parse("python3.pkgs.six", RECORD).result,
            Package(
                requested=("python3.pkgs.six",),
                attribute="python3.pkgs.six",
                name="python3-six-1.16",
                pname="six",
                version="1.16",
                description="Two lines",
                priority=-1,
                derivation="/nix/store/x.drv",
                outputs=(
                    Output(name="dev", path="/nix/store/d"),
                    Output(name="out", path="/nix/store/o"),
                ),
                other_outputs=(Output(name="man", path="/nix/store/m"),),
                licenses=(License(text="MIT", is_spdx=True),),
                cpe="cpe:2.3:a:benjamin:six:1.16:*:*:*:*:*:*:*",
            ),
        )

    def test_package_whose_store_path_is_not_known_yet_is_refused(self) -> None:
        """A content-addressed package is refused before it is built, and so is an odd output."""
        for path, kind, text in (
            ("/1lgvibp9fnq6pw2dxlswv5qxhhxg2ci0jlyb6pwsmrkj0936ki63", "content-addressed", "after"),
            ("/etc/passwd", "not-a-package", "/etc/passwd is not in /nix/store"),
        ):
            record = RECORD | {"outputs": [{"name": "out", "path": path}]}
            result = parse("python3.pkgs.six", record).result
            assert isinstance(result, PackageProblem)
            self.assertEqual(result.kind.value, kind)
            self.assertIn(text, result.message)

    def test_near_names_are_those_of_level_where_path_ends_as_they_can_be_typed(self) -> None:
        """Near names are those of the level where the path ends, as they can be typed."""
        levels = {
            "[]": ["bashInteractive", "_7zz", "libsigc++", "tWin", "Twin"],
            '["pyPackages"]': ["Requests"],
        }
        missing: dict[str, Any] = {"error": "not-found", "path": []}
        for name, candidate in {
            "bashinteractve": "bashinteractive",
            "libsigc+": escape_attribute("libsigc++"),
            "twn": "twin",
            "7zzz": "7zz",
        }.items():
            found = self.problem(name, {**missing, "rest": [name]}, levels)
            self.assertIn(candidate, found.candidates)
            self.assertEqual(len(set(found.candidates)), len(found.candidates))
        within = self.problem(
            "pypackages.request",
            {"error": "not-found", "path": ["pyPackages"], "rest": ["request"]},
            levels,
        )
        self.assertEqual(within.candidates, ("pypackages.requests",))
        self.assertIn("pyPackages has no request", within.message)

    def test_not_found_behind_a_value(self) -> None:
        """A path through something that is no set has no near names."""
        found = self.problem("text.x", {"error": "not-found", "path": ["text"], "rest": ["x"]})
        self.assertEqual(found.candidates, ())

    def test_refused_name_is_never_suggested(self) -> None:
        """A name that is refused is never among the names that may be meant."""
        # The Kelvin sign is a letter whose lower case is a letter of ASCII.
        for level in (["\u212a"], ["a.b"], ["attr--6b"]):
            for name in ("k", "a.b", "attr--6b"):
                record = {"error": "not-found", "path": [], "rest": name.split(".")}
                self.assertNotIn(name, self.problem(name, record, {"[]": level}).candidates)
        record = {"error": "not-found", "path": [], "rest": ["k"]}
        self.assertEqual(
            self.problem("k", record, {"[]": ["\u212a"]}).candidates,
            (escape_attribute("\u212a"),),
        )

    def test_near_names_may_have_dots(self) -> None:
        """A name with a dot is near to one of one attribute, and to one of nested ones."""
        record = {"error": "not-found", "path": [], "rest": ["node", "sj"]}
        found = self.problem("node.sj", record, {"[]": ["node.js", "nodejs", "nod"]})
        self.assertEqual(found.candidates, ("node.js", "nod", "nodejs"))

    def test_bytes_that_are_no_text_and_halves_of_characters_are_replaced(self) -> None:
        """Bytes that are no text, and halves of surrogate pairs, are replaced wherever they are."""
        text = json.dumps({"answers": [RECORD], "levels": {}}).encode()
        for bad in (b"\xff", b"\xed\xa0\x80", rb"\ud800"):
            for field in (b"lines", b"1.16", b"six", b"pkgs"):
                (answer,) = parse_results(
                    text.replace(field, field + bad), [PackageRequest(name="x")], NameIndexes()
                )
                package = answer.result
                assert isinstance(package, Package)
                texts = (package.description, package.version, package.pname, package.attribute)
                self.assertTrue(any(map(str.encode, texts)))

    def test_candidates_are_told_in_the_same_order(self) -> None:
        """Candidates are told as attributes and as what to write, in the same order."""
        found = self.problem(
            "twin", {"error": "ambiguous", "path": [], "candidates": [["tWin"], ["Twin"]]}
        )
        self.assertEqual(found.candidates, (escape_attribute("Twin"), escape_attribute("tWin")))
        self.assertRegex(found.message, r"Twin \(write .*\) or tWin \(write ")

    def test_not_a_package(self) -> None:
        """The message tells the kind of a value that is not a package."""
        for kind, what in (("lambda", "a function"), ("list", "a list"), ("set", "as in x.name")):
            found = self.problem("x", {"error": "not-a-package", "path": ["x"], "type": kind})
            self.assertIn(what, found.message)

    def test_every_other_kind_has_its_own_sentence_which_names_the_package(self) -> None:
        """Every other kind has its own sentence, which names the package."""
        messages = set()
        for kind in (
            ProblemKind.UNFREE,
            ProblemKind.BROKEN,
            ProblemKind.INSECURE,
            ProblemKind.UNSUPPORTED,
            ProblemKind.EVALUATION,
        ):
            record = {"error": kind.value, "path": ["pkg"], "reasons": ["CVE-1"]}
            messages.add(self.problem("pkg", record).message)
        self.assertEqual(len(messages), 5)
        self.assertTrue(all("the package pkg " in message for message in messages))
        self.assertTrue(any("CVE-1" in message for message in messages))

    def test_no_such_output(self) -> None:
        """The outputs that there are can be typed."""
        record = {
            "error": "no-such-output",
            "path": ["Curl"],
            "output": "doc",
            "outputs": ["out", "dev"],
        }
        self.assertEqual(self.problem("curl.doc", record).candidates, ("curl.dev", "curl.out"))

    def test_anything_else_is_an_error_of_its_own_kind(self) -> None:
        """Anything else is an error of its own kind."""
        for printed in (
            b"",
            b"\xff",
            b"[]",
            b"{}",
            b'{"answers":[],"levels":{}}',
            b'{"answers":[{"error":"unheard-of","path":[]}],"levels":{}}',
            b'{"answers":[{"error":"not-found","path":["a","b"]}],"levels":{}}',
            b'{"answers":[{"path":["x"]}],"levels":{}}',
            b'{"answers":["x"],"levels":[]}',
        ):
            with self.assertRaises(UnexpectedOutput):
                parse_results(printed, [PackageRequest(name="x")], NameIndexes())

    def test_nixs_text_is_added_to_a_problem_and_to_nothing_else(self) -> None:
        """Nix's text is added to a problem, and to nothing else."""
        bare = thrown(PackageRequest(name="x"))
        self.assertEqual(with_reason(bare, ""), bare)
        self.assertEqual(with_reason(bare, "why"), thrown(PackageRequest(name="x"), "why"))
        self.assertIn("does not evaluate: why", str(with_reason(bare, "why").result))
        package = parse("x", RECORD)
        self.assertEqual(with_reason(package, "why"), package)

    @settings(max_examples=100)
    @given(st.lists(st.text(min_size=1, max_size=6), min_size=1, max_size=5))
    def test_missing_name_gets_suggestions_from_any_names(self, names: list[str]) -> None:
        """A missing name gets suggestions from a package set with any attribute names."""
        record = {"error": "not-found", "path": [], "rest": ["somename"]}
        answer = parse("somename", record, {"[]": [*names, "someName+"]})
        assert isinstance(answer.result, PackageProblem)
        self.assertIn(escape_attribute("someName+"), answer.result.candidates)
