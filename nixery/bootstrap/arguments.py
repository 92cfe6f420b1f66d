"""Parses the command line of ``nix/demo/start``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nixery.bootstrap.addresses import loopback

__all__ = ["HELP", "Arguments", "UsageError", "parse_arguments"]

HELP = """\
Usage: nix/demo/start [--prepare-only] [options of the registry]

Installs what is missing (Nix, Python packages), makes the demo package set ready, and
starts the registry in the foreground, on http://localhost:8080. Ctrl-C ends it.

  --port N          listen on port N of 127.0.0.1, which this machine alone reaches
                    (the variable PORT does the same)
  --listen TEXT     listen elsewhere: a Twisted endpoint string, as tcp:8080 for every
                    interface
  --config FILE     a configuration file
  --prepare-only    start nothing, and print the directory of the package set
  --version         print the version
  --help            print this

Other options are those of `twistd nixery`: web/docs/configuration.md lists the settings.
"""

_DEFAULT_PORT = 8080


class UsageError(Exception):
    """
    The command line cannot be used.

    :param message: says why, and how to fix it.
    """


@dataclass(frozen=True)
class Arguments:
    """
    The parsed command line.

    :param registry: the options for ``twistd nixery``.
    :param endpoints: the endpoint strings that it will listen on; ``None`` if only the
        registry itself can tell, because it reads a configuration file or other variables.
    :param prepare_only: true if the registry is not to be started.
    :param help: whether to print :data:`HELP` and nothing else.
    :param version: whether to print the version and nothing else.
    """

    registry: tuple[str, ...] = ()
    endpoints: tuple[str, ...] | None = None
    prepare_only: bool = False
    help: bool = False
    version: bool = False


def parse_arguments(argv: Sequence[str], environ: Mapping[str, str]) -> Arguments:
    """
    Read the command line.

    A port alone means every interface to the registry, as containers want it.  Here it
    means this machine's loopback.

    :raises UsageError: an option lacks its value, or contradicts another.
    """
    rest: list[str] = []
    listen: list[str] = []
    ports: list[str] = []
    config = environ.get("NIXERY_CONFIG") or None
    flags = {"--prepare-only": False, "--help": False, "--version": False}
    remaining = list(argv)
    while remaining:
        argument = remaining.pop(0)
        name, equals, value = argument.partition("=")
        name = {"-h": "--help", "-c": "--config"}.get(name, name)
        if argument in flags or name == "--help":
            flags[name] = True
        elif name in {"--port", "--listen", "--config"}:
            if not equals:
                if not remaining:
                    raise UsageError(f"{name} lacks its value: see --help")
                value = remaining.pop(0)
            if name == "--port":
                ports.append(_port(name, value))
            elif name == "--listen":
                listen.append(value)
            else:
                config = os.path.abspath(value)
                rest += ["--config", config]
        else:
            rest.append(argument)
    if ports and listen:
        raise UsageError("--port and --listen contradict each other: give one of them")
    if not ports and not listen and environ.get("PORT"):
        ports.append(_port("the variable PORT", environ["PORT"]))
    listen += [loopback(int(port)) for port in ports[-1:]]
    endpoints: tuple[str, ...] | None = tuple(listen)
    if not listen:
        known = config is None and not any(
            environ.get(name) for name in ("NIXERY_LISTEN", "LISTEN_FDS")
        )
        endpoints = (loopback(_DEFAULT_PORT),) if known else None
    for endpoint in listen:
        rest += ["--listen", endpoint]
    return Arguments(
        registry=tuple(rest),
        endpoints=endpoints,
        prepare_only=flags["--prepare-only"],
        help=flags["--help"],
        version=flags["--version"],
    )


def _port(name: str, text: str) -> str:
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise UsageError(f"{name} is {text!r}: give the number of a port, 1 to 65535")
    return text
