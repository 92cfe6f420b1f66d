"""The words of what users read follow the glossary; docstrings say what a thing is or does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from nixery.tap import Options

CHECKOUT = Path(__file__).resolve().parents[2]
GLOSSARY = CHECKOUT / "web" / "docs" / "glossary.md"

READ = (
    "README.md",
    "nix/demo/README.md",
    "web/README.md",
    "web/docs/**/*.md",
    "web/templates/*.html",
    "web/static/*.js",
    "web/openapi.yaml",
    "nixery.service",
    "nix/systemd/**/*.*",
    "nix/kubernetes/**/*.*",
    "nix/container/Dockerfile",
    "nixery/**/*.py",
    "twisted/plugins/*.py",
    "nix/*.nix",
)
"""Files with texts that users read."""

_ROW = re.compile(r"^\| (.+?) \| .+? \|$", re.MULTILINE)


def phrases() -> list[str]:
    """The glossary's phrases to avoid."""
    _, _, table = GLOSSARY.read_text("utf-8").partition("| not | but |\n|---|---|\n")
    return _ROW.findall(table)


def texts() -> Iterator[tuple[str, str]]:
    """The texts that users read, and their files."""
    yield "--help", str(Options({}))
    for pattern in READ:
        for path in sorted(CHECKOUT.glob(pattern)):
            if path != GLOSSARY and path.is_file():
                yield str(path.relative_to(CHECKOUT)), path.read_text("utf-8")


_QUESTION = re.compile(r'"""\s*(?:Wh(?:at|en|ere|ether|ich|ose?|oever|y)|How)\b.*')
"""A docstring that opens with a question word."""


class DocstringTests(SynchronousTestCase):
    """The first words of docstrings."""

    def test_no_docstring_opens_with_a_question_word(self) -> None:
        """A docstring opens with the name of a thing or with a verb, not with a question word."""
        found = [
            f"{path.relative_to(CHECKOUT)}: {match[0].strip()}"
            for directory in ("nixery", "nix", "tests", "twisted")
            for path in sorted((CHECKOUT / directory).rglob("*.py"))
            for match in _QUESTION.finditer(path.read_text("utf-8"))
        ]
        self.assertEqual([], found)


class GlossaryTests(SynchronousTestCase):
    """The phrases that the glossary rules out."""

    def test_no_text_has_a_phrase_that_the_glossary_rules_out(self) -> None:
        """No text that users read has a phrase that the glossary rules out."""
        ruled_out = phrases()
        self.assertGreater(len(ruled_out), 10)
        pattern = re.compile(rf"\b({'|'.join(map(re.escape, ruled_out))})(?!\w)", re.IGNORECASE)
        found = [
            f"{name}: {match[0]}"
            for name, text in texts()
            for match in pattern.finditer(" ".join(text.split()))
        ]
        self.assertEqual([], found)

    def test_terms_are_in_the_order_of_the_alphabet(self) -> None:
        """The glossary's terms are in the order of the alphabet, each once."""
        terms = re.findall(r"^(.+)\n: ", GLOSSARY.read_text("utf-8"), re.MULTILINE)
        self.assertGreater(len(terms), 10)
        self.assertEqual(sorted(set(terms)), terms)
