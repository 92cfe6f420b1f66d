"""Parses the command line of ``nix/demo/start``."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bootstrap.addresses import loopback

__all__ = ["HELP", "Arguments", "UsageError", "parse_arguments"]

HELP = """\
Usage: nix/demo/start [--prepare-only] [--refresh] [options of the registry]

Installs what is missing (Nix, Python packages), makes the demo package set ready, and
starts the registry in the foreground, on http://localhost:8080. Ctrl-C ends it.

  --port N          listen on port N of 127.0.0.1, which this machine alone reaches
                    (the variable PORT does the same)
  --listen TEXT     listen elsewhere: a Twisted endpoint string, as tcp:8080 for every
                    interface
  --config FILE     a configuration file
  --directory DIR   where the package set is, in place of the state directory
  --refresh         make the set anew, of the packages that the Debian mirror has now
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
    :param directory: where the package set is made; ``None`` for the usual place.
    :param refresh: whether to make the set anew.
    :param prepare_only: true if the registry is not to be started.
    :param help: whether to print :data:`HELP` and nothing else.
    :param version: whether to print the version and nothing else.
    """

    registry: tuple[str, ...] = ()
    endpoints: tuple[str, ...] | None = None
    directory: str | None = None
    refresh: bool = False
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
    flags = dict.fromkeys(("--refresh", "--prepare-only", "--help", "--version"), False)
    values: dict[str, list[str]] = {
        name: [] for name in ("--port", "--listen", "--config", "--directory")
    }
    remaining = list(argv)
    while remaining:
        argument = remaining.pop(0)
        name, equals, value = argument.partition("=")
        name = {"-h": "--help", "-c": "--config"}.get(name, name)
        if argument in flags or name == "--help":
            flags[name] = True
        elif name in values:
            if not equals:
                if not remaining:
                    raise UsageError(f"{name} lacks its value: see --help")
                value = remaining.pop(0)
            values[name].append(value)
        else:
            rest.append(argument)
    ports = [_port("--port", value) for value in values["--port"]]
    listen = values["--listen"]
    if ports and listen:
        raise UsageError("--port and --listen contradict each other: give one of them")
    for variable in ("NIXERY_PORT", "PORT"):
        text = environ.get(variable, "")
        # Kubernetes sets NIXERY_PORT to a URL for a service called nixery.
        if text and "://" not in text and not ports and not listen:
            ports.append(_port(f"the variable {variable}", text))
    listen += [loopback(int(port)) for port in ports[-1:]]
    configured = bool(values["--config"]) or any(
        environ.get(name) for name in ("NIXERY_CONFIG", "NIXERY_LISTEN", "LISTEN_FDS")
    )
    endpoints: tuple[str, ...] | None = tuple(listen)
    if not listen:
        endpoints = None if configured else (loopback(_DEFAULT_PORT),)
    options = [("--config", os.path.abspath(file)) for file in values["--config"]]
    options += [("--listen", endpoint) for endpoint in listen]
    directories = [os.path.abspath(directory) for directory in values["--directory"]]
    return Arguments(
        registry=(*rest, *itertools.chain(*options)),
        endpoints=endpoints,
        directory=directories[-1] if directories else None,
        refresh=flags["--refresh"],
        prepare_only=flags["--prepare-only"],
        help=flags["--help"],
        version=flags["--version"],
    )


def _port(name: str, text: str) -> str:
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise UsageError(f"{name} is {text!r}: give the number of a port, 1 to 65535")
    return text
