"""The blocks of the documentation's pages, as a reader types them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from attrs import frozen

__all__ = ["DOCUMENTATION", "Block", "sections"]

DOCUMENTATION = Path(__file__).resolve().parents[2] / "web" / "docs"

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_HEADING = re.compile(r"^(#+) (.+)$", re.MULTILINE)


@frozen(kw_only=True)
class Block:
    """
    A fenced block.

    :param language: as ``console``.
    :param text: without the fences.
    """

    language: str
    text: str

    @property
    def title(self) -> str:
        """The comment in the first line: a file, or the command that edits one."""
        first = self.text.partition("\n")[0]
        return first.removeprefix("# ") if first.startswith("# ") else ""

    def commands(self) -> Iterator[str]:
        """The commands after the prompts of a user and of root, with their continuation lines."""
        lines = iter(self.text.splitlines())
        for line in lines:
            if not line.startswith(("$ ", "# ")):
                continue
            command = line[2:]
            while command.endswith("\\"):
                command += f"\n{next(lines)}"
            yield command


def sections(page: str) -> dict[str, list[Block]]:
    """
    Return the blocks of each section of a page, in order.

    :param page: its file below the documentation's directory.
    """
    text = (DOCUMENTATION / page).read_text("utf-8")
    # Within blocks, comments look like headings.
    prose = _FENCE.sub(lambda match: " " * len(match[0]), text)
    headings = [*_HEADING.finditer(prose)]
    ends = [*(heading.start() for heading in headings[1:]), len(text)]
    return {
        heading[2]: [
            Block(language=fence[1], text=fence[2])
            for fence in _FENCE.finditer(text, heading.end(), end)
        ]
        for heading, end in zip(headings, ends, strict=True)
    }
