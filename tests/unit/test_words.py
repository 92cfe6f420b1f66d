"""The words of what users read follow the glossary; docstrings say what a thing is or does."""

from __future__ import annotations

import ast
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


SPELLED_LIKE_SETTINGS = (
    "nixery/config/",
    "nixery/cli/admin/parser.py",
    "nixery/cli/admin/arguments.py",
    "nixery/nix/error_parsing.py",
    "nixery/runtime/sizes.py",
    "nixery/tap.py",
)
"""The modules that parse or show values of settings, which may be given in powers of 1024."""

_BINARY_UNIT = re.compile(r"\b[KMGT]iB\b|\b[0-9.]+ ?KB\b")

_CODE = re.compile(r"```.*?```|`[^`\n]+`", re.DOTALL)


def prose() -> Iterator[tuple[str, str]]:
    """The texts that users read, without code and the values of settings, and their files."""
    for name, text in texts():
        if name.endswith(".md"):
            yield name, _CODE.sub("", text)
        elif name.endswith((".html", ".js")):
            yield name, text
        elif name.endswith(".py") and not name.startswith(SPELLED_LIKE_SETTINGS):
            tree = ast.parse(text)
            docs = {
                id(each.value)
                for node in ast.walk(tree)
                if isinstance(
                    node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
                )
                for each in node.body
                if isinstance(each, ast.Expr)
            }
            for node in ast.walk(tree):
                if (
                    isinstance(node, ast.Constant)
                    and isinstance(node.value, str)
                    and id(node) not in docs
                ):
                    yield name, node.value


class UnitTests(SynchronousTestCase):
    """The units of sizes."""

    def test_sizes_are_in_powers_of_1000(self) -> None:
        """Pages, messages and documentation give sizes in kB, MB and GB, never in MiB."""
        found = [
            f"{name}: {match[0]}" for name, text in prose() for match in _BINARY_UNIT.finditer(text)
        ]
        self.assertEqual([], found)
        self.assertEqual(
            ["MiB", "16 KB"], _BINARY_UNIT.findall("a MiB, kB, MB, GB, and 16 KB of it")
        )


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
