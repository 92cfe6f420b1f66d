"""Types the tutorial's commands, and compares what they print with what it shows."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from urllib.request import urlopen

from attrs import field, frozen

from tests.end_to_end.case import docker, podman
from tests.end_to_end.engines import Docker, Podman
from tests.support.documentation import sections

__all__ = ["type_tutorial"]

ADDRESS = "localhost:8080"
"""The registry's address in the tutorial."""

START = "nix/demo/start"
"""The command that has started the registry."""

_PROMPT = re.compile(r"bash-[0-9.]+# ")
"""The prompt of the shell in an image."""


@frozen(kw_only=True)
class _Command:
    """
    A command of the tutorial.

    :param shown: the lines that it prints, as the tutorial shows them.
    :param typed: what is typed into it.
    """

    line: str
    shown: list[str] = field(factory=list)
    typed: list[str] = field(factory=list)


def type_tutorial(address: str) -> None:
    """
    Type the commands of the tutorial, for a registry that was started.

    :param address: the registry's host and port.
    :raises AssertionError: one fails, or does not print what the tutorial shows.
    """
    for command in _commands():
        if command.line != START:
            _run(command, address)


def _commands() -> Iterator[_Command]:
    for blocks in sections("tutorial.md").values():
        for block in blocks:
            command: _Command | None = None
            for line in block.text.splitlines() if block.language == "console" else ():
                if line.startswith(("$ ", "# ")):
                    if command is not None:
                        yield command
                    command = _Command(line=line[2:])
                    continue
                assert command is not None, block.text
                prompt = _PROMPT.match(line)
                if prompt is None:
                    command.shown.append(line)
                else:
                    command.typed.append(line[prompt.end() :])
            if command is not None:
                yield command


def _run(command: _Command, address: str) -> None:
    program, *arguments = shlex.split(command.line.replace(ADDRESS, address))
    if program == "curl":
        # The events never end.
        with urlopen(arguments[-1], timeout=60) as answer:
            assert answer.readline(), "no event"
        return
    engine: Docker | Podman = docker() if program == "docker" else podman()
    # There is no terminal.
    arguments = ["-i" if each == "-it" else each for each in arguments]
    done = engine.type(arguments, "".join(f"{line}\n" for line in command.typed))
    expected = [line.replace(ADDRESS, address).removesuffix(" ...") for line in command.shown]
    refused = any("Error" in line for line in expected)
    assert (done.status != 0) == refused, done.describe()
    for line in expected:
        assert line in done.output, f"{line!r} is not printed:\n{done.describe()}"
