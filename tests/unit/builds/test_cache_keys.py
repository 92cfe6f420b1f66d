"""
Tests for ``nixery.builds.cache_keys``.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from types import MappingProxyType

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from nixery.builds.cache_keys import image_key, layer_key, request_key
from nixery.image.canonical_json import Json, canonical_json, sha256_hex
from nixery.image.closure import StorePath
from nixery.image.names import parse_image_name
from nixery.image.packages import Evaluation, Package
from nixery.sources.source import Revision, path_revision
from tests.support.strategies import evaluations, json_values, packages, store_paths


def shuffled(value: Json) -> Json:
    """An equal value, the keys of whose mappings were inserted in another order."""
    if isinstance(value, dict):
        items = list(value.items())
        random.Random(0).shuffle(items)
        return MappingProxyType({key: shuffled(item) for key, item in reversed(items)})
    if isinstance(value, list):
        return tuple(shuffled(item) for item in value)
    return value


class CanonicalJsonTests(SynchronousTestCase):
    """Tests for :func:`canonical_json`."""

    def test_keys_are_sorted_nothing_is_padded_text_is_utf_8(self) -> None:
        """Keys are sorted, nothing is padded, text is UTF-8."""
        self.assertEqual(
            canonical_json({"b": [1, True, None], "a": "é\n", "A": {}}),
            '{"A":{},"a":"é\\n","b":[1,true,null]}'.encode(),
        )

    @settings(max_examples=100)
    @given(json_values)
    def test_canonical_json_is_read_as_the_same_value(self, value: Json) -> None:
        """It is JSON: reading it gives the value back."""
        self.assertEqual(json.loads(canonical_json(value)), value)

    @settings(max_examples=100)
    @given(json_values)
    def test_order_of_keys_and_the_type_of_mappings_and_sequences_do_not_matter(
        self, value: Json
    ) -> None:
        """The order of keys and the type of mappings and sequences do not matter."""
        self.assertEqual(canonical_json(shuffled(value)), canonical_json(value))

    @settings(max_examples=100)
    @given(json_values, json_values)
    def test_two_values_share_spelling_only_if_they_are_same_true_not_being_1(
        self, one: Json, other: Json
    ) -> None:
        """Two values share a spelling only if they are the same, True not being 1."""
        same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
        self.assertEqual(canonical_json(one) == canonical_json(other), same)

    def test_value_without_a_canonical_json_spelling_is_refused_at_any_depth(self) -> None:
        """A value without a canonical JSON spelling is refused at any depth."""
        for value in (1.5, float("nan"), {1: "a"}, {None: 1}, {"a": [b"bytes"]}, {"a", "b"}):
            self.assertRaises(TypeError, canonical_json, value)

    def test_string_that_is_no_text_is_refused(self) -> None:
        """A string that is no text is refused."""
        self.assertRaises(UnicodeEncodeError, canonical_json, ["\ud800"])


class LayerKeyTests(SynchronousTestCase):
    """Tests for :func:`layer_key`."""

    @settings(max_examples=50)
    @given(st.lists(store_paths), st.data())
    def test_neither_order_nor_repetition_nor_type_matters(
        self, paths: list[StorePath], data: st.DataObject
    ) -> None:
        """Neither order nor repetition matters, nor whether paths are text."""
        others = [str(path) for path in data.draw(st.permutations([*paths, *paths]))]
        self.assertEqual(layer_key(paths, "gzip-1", 1), layer_key(others, "gzip-1", 1))

    @settings(max_examples=50)
    @given(st.sets(store_paths), st.sets(store_paths))
    def test_other_paths_have_another_key(self, one: set[StorePath], other: set[StorePath]) -> None:
        """Other paths have another key."""
        self.assertEqual(layer_key(one, "gzip-1", 1) == layer_key(other, "gzip-1", 1), one == other)

    def test_compression_and_format_take_part_in_the_key(self) -> None:
        """Compression and format take part in the key."""
        keys = {
            layer_key([], compression, version)
            for compression in ("gzip-1", "gzip-11", "gzip")
            for version in (1, 2, 11)
        }
        self.assertEqual(len(keys), 9)
        for key in keys:
            self.assertRegex(key, r"\A[0-9a-f]{64}\Z")


class ImageKeyTests(SynchronousTestCase):
    """Tests for :func:`image_key`."""

    @settings(max_examples=30)
    @given(evaluations(), st.data())
    def test_requested_names_derivations_and_the_order_of_packages_do_not_matter(
        self, evaluation: Evaluation, data: st.DataObject
    ) -> None:
        """Requested names, derivations and the order of packages do not matter."""
        other = evolve(
            evaluation,
            missing_optional=("cacert",),
            packages=tuple(
                evolve(package, requested=("other",), derivation="/nix/store/other.drv")
                for package in data.draw(st.permutations(evaluation.packages))
            ),
        )
        self.assertEqual(image_key(evaluation, {}), image_key(other, {}))

    @settings(max_examples=30)
    @given(packages())
    def test_all_that_an_images_bytes_depend_on_takes_part_in_the_key(
        self, package: Package
    ) -> None:
        """All that an image's bytes depend on takes part in the key."""
        evaluation = Evaluation(packages=(package,), missing_optional=(), system="x86_64-linux")
        [only] = evaluation.packages
        others = [
            evolve(evaluation, system="aarch64-linux"),
            evolve(evaluation, packages=()),
            *(
                evolve(evaluation, packages=(evolve(only, **change),))
                for change in (
                    {"attribute": only.attribute + "x"},
                    {"description": only.description + "x"},
                    {"name": only.name + "x"},
                    {"pname": only.pname + "x"},
                    {"version": only.version + "x"},
                    {"priority": only.priority + 1},
                    {"outputs": ()},
                )
            ),
        ]
        keys = [image_key(each, {"budget": 94}) for each in (evaluation, *others)]
        keys.append(image_key(evaluation, {"budget": 95}))
        self.assertEqual(len(set(keys)), len(keys))


class RequestKeyTests(SynchronousTestCase):
    """Tests for :func:`request_key`."""

    def key(self, repository: str, system: str = "x86_64-linux", identity: str = "a") -> str:
        revision = Revision(identity={"path": identity}, pinned=False, label="x")
        return request_key(parse_image_name(repository, system), revision, {})

    def test_names_that_ask_for_the_same_share_a_key(self) -> None:
        """Names that ask for the same share a key."""
        self.assertEqual(self.key("git/htop"), self.key("htop/git/git"))
        self.assertEqual(self.key("arm64/git"), self.key("git", system="aarch64-linux"))

    def test_observed_versions_have_other_keys(self) -> None:
        """An observed version has a key of its own, and not that of what is not observed."""
        name = parse_image_name("git", "x86_64-linux")
        keys = [
            request_key(name, path_revision(Path("/set"), version=version), {})
            for version in (None, "1", "2")
        ]
        self.assertEqual(len(set(keys)), 3)

    def test_other_packages_systems_and_revisions_have_other_keys(self) -> None:
        """Other packages, systems and revisions have other keys, and other kinds too."""
        keys = [
            self.key("git"),
            self.key("git/htop"),
            self.key("attr--676974"),
            self.key("arm64/git"),
            self.key("git", identity="b"),
            layer_key([], "", 0),
            image_key(Evaluation(packages=(), missing_optional=(), system=""), {}),
            sha256_hex({}),
        ]
        self.assertEqual(len(set(keys)), len(keys))
