"""
Parse what packages declare of themselves: their licences, and their names in the CPE dictionary.

Licences are checked against the SPDX list of :mod:`packaging.licenses`, which also parses and
spells expressions.  CPE: NIST Interagency Report 7695, "Naming Specification", version 2.3.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from attrs import frozen
from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

__all__ = ["License", "conjunction", "parse_cpe", "parse_license", "parse_licenses"]

MAX_EXPRESSION_CHARACTERS = 1000
"""The longest text that is read as an expression: deep nesting takes much memory to parse."""

# An attribute of a name: a string of letters, digits and escaped characters, with wildcards at its
# ends; or "any", or "not applicable".
_ATTRIBUTE = r"""(?:\?*\*?(?:[A-Za-z0-9._\-]|\\[!-/:-@\[-`{-~])+\?*\*?|[*\-])"""
_LANGUAGE = r"(?:[A-Za-z]{2,3}(?:-(?:[A-Za-z]{2}|[0-9]{3}))?|[*\-])"
_CPE = re.compile(
    rf"cpe:2\.3:[aho*\-](?::{_ATTRIBUTE}){{5}}:{_LANGUAGE}(?::{_ATTRIBUTE}){{4}}", re.ASCII
)

_PREFIX_OF_CUSTOM_LICENSES = "LicenseRef-"


@frozen(kw_only=True, order=True)
class License:
    """
    A licence as a package set declares it.

    :param text: an SPDX expression in its canonical spelling, or the licence's name.
    :param is_spdx: true if it is an SPDX expression, whose ids are all on the SPDX list.
    """

    text: str
    is_spdx: bool

    @property
    def is_spdx_id(self) -> bool:
        """True if it is a single id of the SPDX list."""
        return self.is_spdx and " " not in self.text and not self.text.endswith("+")


def parse_licenses(values: object) -> tuple[License, ...]:
    """
    Parse the licences of a package, sorted and without duplicates.

    :param values: a list, as :func:`parse_license` takes its items.
    :return: none if one of them cannot be read: the others alone would say something else.
    :raises TypeError: it is not a list of licences.
    """
    if not isinstance(values, list):
        raise TypeError(f"no list of licences: {values!r:.40}")
    licenses = {parse_license(value) for value in values}
    return tuple(sorted(licenses)) if all(each.text for each in licenses) else ()


def conjunction(terms: Sequence[str]) -> str:
    """
    Return one expression for all of several.

    A list in a package set means that parts of the package have different licences (nixpkgs'
    manual, "Meta-attributes"), all of which have to be followed.
    """
    if len(terms) == 1:
        return terms[0]
    return " AND ".join(f"({term})" if " OR " in term else term for term in terms)


def parse_cpe(text: str) -> str:
    """Return a name of the CPE dictionary, version 2.3; empty if ``text`` is none."""
    return text if _CPE.fullmatch(text) else ""


def parse_license(value: object) -> License:
    """
    Parse one licence.

    :param value: ``{"spdx": ID, "name": NAME}`` or ``{"operator": OPERATOR, "licenses": [...]}``
        as ``nix/lookup.nix`` returns it; the operators are ``AND``, ``OR``, ``WITH`` and ``+``.
    :raises TypeError: it has another form.
    """
    expression = _join(value, "spdx")
    canonical = _canonical(expression) if expression else ""
    if canonical:
        return License(text=canonical, is_spdx=True)
    return License(text=_join(value, "name"), is_spdx=False)


def _join(value: object, key: str) -> str:
    """Return the licence as one text, of its SPDX ids or of its names; empty if one is missing."""
    if not isinstance(value, Mapping):
        raise TypeError(f"no licence: {value!r:.40}")
    if "operator" not in value:
        return _text(value[key])
    parts: Sequence[object] = value["licenses"]
    texts = [
        f"({text})" if " " in text and isinstance(part, Mapping) and "operator" in part else text
        for part in parts
        for text in [_join(part, key)]
    ]
    if not texts or not all(texts):
        return ""
    if value["operator"] == "+":
        return f"{texts[0]}+"
    return f" {_text(value['operator'])} ".join(texts)


def _canonical(expression: str) -> str:
    """Return the canonical spelling of an SPDX expression; empty if it is none."""
    if len(expression) > MAX_EXPRESSION_CHARACTERS:
        return ""
    try:
        canonical = str(canonicalize_license_expression(expression))
    except (InvalidLicenseExpression, RecursionError, MemoryError):
        return ""
    # Anybody may have made up a reference, and nothing says what it means.
    return "" if _PREFIX_OF_CUSTOM_LICENSES in canonical else canonical


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"no text: {value!r:.40}")
    # JSON can hold half of a surrogate pair, which is no character and cannot be encoded.
    return " ".join(value.encode("utf-8", "replace").decode("utf-8").split())
