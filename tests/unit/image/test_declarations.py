"""Licences and CPE names, as package sets declare them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from packaging.licenses import canonicalize_license_expression
from twisted.trial.unittest import SynchronousTestCase

from nixery.image.declarations import License, parse_cpe, parse_licenses


def leaf(spdx: str, name: str = "") -> dict[str, Any]:
    return {"spdx": spdx, "name": name or spdx}


def joined(operator: str, *licenses: object) -> dict[str, Any]:
    return {"operator": operator, "licenses": [*licenses]}


trees = st.recursive(
    st.builds(
        leaf,
        st.sampled_from(
            ["MIT", "gpl-2.0-only", "LLVM-exception", "", "no id", "(", "LicenseRef-x"]
        ),
        st.text(max_size=8),
    ),
    lambda parts: st.builds(
        lambda operator, licenses: joined(operator, *licenses),
        st.sampled_from(["AND", "OR", "WITH", "+", "MIT", "("]),
        st.lists(parts, max_size=3),
    ),
    max_leaves=6,
)


class LicenseTests(SynchronousTestCase):
    """Tests of licences against the SPDX list."""

    def check(self, values: Sequence[object], *expected: tuple[str, bool]) -> None:
        self.assertEqual(
            parse_licenses([*values]),
            tuple(License(text=text, is_spdx=is_spdx) for text, is_spdx in expected),
        )

    def test_ids_are_spelled_as_on_the_list(self) -> None:
        """Ids are recognised in any case, spelled as SPDX does, sorted, and listed once."""
        self.check(
            [leaf("mit"), leaf("apache-2.0"), leaf("MIT")], ("Apache-2.0", True), ("MIT", True)
        )

    def test_what_is_not_on_the_list_is_a_name(self) -> None:
        """A licence without an id, or with one that SPDX does not have, is known by its name."""
        self.check([leaf("", "Unfree \n licence")], ("Unfree licence", False))
        self.check([leaf("GPLv2", "GNU GPL v2")], ("GNU GPL v2", False))
        self.check([leaf("LicenseRef-ours", "Ours")], ("Ours", False))

    def test_compound_licences_are_expressions(self) -> None:
        """Operators are joined to SPDX expressions, with parentheses where they are needed."""
        self.check(
            [joined("OR", leaf("mit"), joined("AND", leaf("isc"), leaf("bsd-3-clause")))],
            ("MIT OR (ISC AND BSD-3-Clause)", True),
        )
        self.check(
            [joined("WITH", joined("+", leaf("apache-1.0")), leaf("llvm-exception"))],
            ("Apache-1.0+ WITH LLVM-exception", True),
        )
        self.check([leaf("mit or apache-2.0")], ("MIT OR Apache-2.0", True))

    def test_a_compound_licence_with_an_unknown_part_is_a_name(self) -> None:
        """If a part has no id, the names of all parts are joined."""
        self.check(
            [joined("OR", leaf("MIT", "MIT License"), leaf("", "Ours"))],
            ("MIT License OR Ours", False),
        )

    def test_a_list_with_an_unreadable_licence_says_nothing(self) -> None:
        """Of several licences none is declared if one of them cannot be read."""
        self.check([leaf("MIT"), {"spdx": "", "name": ""}])
        self.check([leaf("MIT"), joined("AND")])

    def test_only_a_single_id_is_an_id(self) -> None:
        """An expression, and an id with a plus, are no ids."""
        for text, is_id in (("MIT", True), ("MIT OR ISC", False), ("EUPL-1.1+", False)):
            self.assertEqual(License(text=text, is_spdx=True).is_spdx_id, is_id, text)
        self.assertFalse(License(text="MIT", is_spdx=False).is_spdx_id)

    def test_deep_nesting_is_no_expression(self) -> None:
        """A text that would take a parser much memory is a name, as it is no expression."""
        for text in ("(" * 300, "MIT OR (" * 100, "(" * 2000):
            (only,) = parse_licenses([leaf(text)])
            self.assertFalse(only.is_spdx)

    def test_what_is_no_licence_is_an_error_of_a_promised_type(self) -> None:
        """Another form raises a TypeError or a KeyError, which the parser of answers expects."""
        values: tuple[object, ...] = (
            None,
            {},
            "MIT",
            [None],
            [{"spdx": 1, "name": ""}],
            [joined("AND", 1)],
        )
        for value in values:
            self.assertRaises((TypeError, KeyError), parse_licenses, value)

    @given(values=st.lists(trees, max_size=3))
    @settings(deadline=None)
    def test_an_expression_is_always_in_its_canonical_spelling(self, values: list[object]) -> None:
        """Any declared SPDX licence is an expression of the list, as it is spelled there."""
        for each in parse_licenses(values):
            self.assertTrue(each.text.strip())
            if each.is_spdx:
                self.assertEqual(canonicalize_license_expression(each.text), each.text)


class CPETests(SynchronousTestCase):
    """Tests of names of the CPE dictionary."""

    def test_formatted_names_of_version_23_are_taken(self) -> None:
        """A formatted string of version 2.3 is taken, with escapes and wildcards."""
        for text in (
            "cpe:2.3:a:gnu:hello:2.12.1:*:*:*:*:*:*:*",
            r"cpe:2.3:a:gnu:libstdc\+\+:2.12:-:*:en-us:*:*:*:*",
            "cpe:2.3:o:*:linux_kernel:??6*:*:*:*:*:*:*:*",
        ):
            self.assertEqual(parse_cpe(text), text)

    def test_anything_else_is_none(self) -> None:
        """Other versions, too few parts, and characters without their escapes are no names."""
        for text in (
            "",
            "cpe:/a:gnu:hello:2.12.1",
            "cpe:2.3:a:gnu:hello:2.12.1",
            "cpe:2.3:a:gnu:lib+c:1:*:*:*:*:*:*:*",
            "cpe:2.3:a:gnu:hello:1:*:*:*:*:*:*:*\n",
            "cpe:2.3:a:" + "?" * 5000 + ":!",
        ):
            self.assertEqual(parse_cpe(text), "", text)
