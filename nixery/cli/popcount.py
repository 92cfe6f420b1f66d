"""
``nixery-popcount``: counts how popular the packages of a set are.

Popularity data make a daemon cut images into layers that are shared
(``nixery.layers.affinity``).  They come from one of three places::

    nixery-popcount channel nixos-unstable    a channel's list of store paths, and what
                                              its binary cache says of each
    nixery-popcount store [PATH...]           this machine's Nix store, or the closures
                                              of some store paths
    nixery-popcount set --path DIRECTORY      all packages of a package set, as far as
                                              what they need is known

What a package refers to is known when it has been built, and not before. So counting a package set
means building it, or asking a binary cache; packages that are neither in the store nor built
(``--realise``) nor in a cache (``--cache``) are left out, and the command prints their number.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from nixery.cli.admin.arguments import count_argument
from nixery.cli.common import Command
from nixery.cli.console import print_note
from nixery.cli.errors import CommandRefused
from nixery.cli.parser import CommandParser
from nixery.cli.reference_sources import CACHE, ReferenceCollector
from nixery.config.config import Config
from nixery.layers.popularity_file import encode_popularity
from nixery.popularity.binary_cache import MAX_CONNECTIONS
from nixery.popularity.count import count_popularity
from nixery.runtime.reactor_time import run_reactor
from nixery.runtime.workers import Workers

__all__ = ["popcount"]

_COMMAND = Command(name="nixery-popcount")


def popcount(arguments: Sequence[str] | None = None) -> None:
    """
    Run the command ``nixery-popcount``; ends the process.

    Exits with 0, with 1 and a message if there is nothing to be counted, with 2 if it
    was called wrongly.
    """
    options = _parse_options(arguments)

    def run() -> None:
        config = _load_config(options, os.environ)
        _check_output(options.output)
        run_reactor(lambda reactor: _COMMAND.run(reactor, partial(_work, reactor, config, options)))

    _COMMAND.main(run)


# Any: the global reactor has no type.
async def _work(
    reactor: Any, config: Config, options: argparse.Namespace, workers: Workers
) -> None:
    collector = ReferenceCollector(
        config=config,
        reactor=reactor,
        workers=workers,
        environ=os.environ,
        connections=options.connections,
    )
    await _count(collector, workers, options)


def _parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = CommandParser(
        prog=_COMMAND.name,
        description="Counts how popular the packages of a set are, for NIX_POPULARITY_URL.",
        parents=[_common_options()],
        examples=["nixery-popcount store > popularity.json", "nixery-popcount set --help"],
    )
    # The command must not replace an option that is given before it by its own default.
    common = _common_options(argument_default=argparse.SUPPRESS)
    commands = parser.add_subparsers(dest="command", metavar="channel|store|set", required=True)
    channel = commands.add_parser(
        "channel",
        parents=[common],
        help="all store paths that a channel lists",
        examples=["nixery-popcount channel nixos-unstable --output popularity.json"],
    )
    channel.add_argument(
        "channel",
        help="its name (nixos-unstable), or the URL of its store-paths.xz",
    )
    channel.add_argument("--cache", help=f"the URL of its binary cache (default: {CACHE})")
    store = commands.add_parser(
        "store",
        parents=[common],
        help="this machine's Nix store",
        examples=["nixery-popcount store > popularity.json"],
    )
    store.add_argument(
        "paths", metavar="PATH", nargs="*", help="only what these store paths need (default: all)"
    )
    package_set = commands.add_parser(
        "set",
        parents=[common],
        help="all packages of a package set",
        examples=["nixery-popcount set --path /srv/packages --realise --output popularity.json"],
    )
    package_set.add_argument("--path", help="the package set (default: $NIXERY_PKGS_PATH)")
    package_set.add_argument("--system", help="the Nix system (default: x86_64-linux)")
    package_set.add_argument(
        "--exclude",
        metavar="NAME",
        action="append",
        default=[],
        help="leave this attribute path, or all of this pattern, out; may be repeated",
    )
    method = package_set.add_mutually_exclusive_group()
    method.add_argument("--realise", action="store_true", help="build what is not in the store")
    method.add_argument("--cache", help="ask this binary cache, and not the store")
    return parser.parse_args(arguments)


def _common_options(**details: Any) -> CommandParser:
    """Make the options that are accepted before and after the command."""
    common = CommandParser(add_help=False, **details)
    common.add_argument(
        "-o", "--output", type=Path, help="file for the data (default: standard output)"
    )
    common.add_argument("--source", help="text in the data that says where they are from")
    common.add_argument("--config", help="configuration file (default: $NIXERY_CONFIG)")
    common.add_argument(
        "--connections",
        type=count_argument,
        default=details.get("argument_default", MAX_CONNECTIONS),
        help=f"concurrent requests to a binary cache (default: {MAX_CONNECTIONS})",
    )
    return common


def _check_output(output: Path | None) -> None:
    """
    Check, before hours of work, that there is a directory for the data.

    :raises CommandRefused: there is none.
    """
    if output is not None and not output.absolute().parent.is_dir():
        raise CommandRefused(reason=f"cannot write {output}: its directory does not exist")


def _load_config(options: argparse.Namespace, environ: Mapping[str, str]) -> Config:
    """:raises ConfigError: the configuration cannot be used."""
    overrides = {
        "pkgs_path": getattr(options, "path", None),
        "system": getattr(options, "system", None),
        "config": options.config,
    }
    return _COMMAND.load_config(overrides, environ)


async def _count(
    collector: ReferenceCollector, workers: Workers, options: argparse.Namespace
) -> None:
    """:raises NixeryError: the references could not be found, or the data not be written."""
    match options.command:
        case "channel":
            references, source = await collector.from_channel(options.channel, options.cache)
        case "store":
            references, source = await collector.from_store(options.paths)
        case _:
            references, source = await collector.from_package_set(
                options.exclude, realise=options.realise, cache=options.cache
            )
    print_note(f"counting {len(references)} store paths")
    popularity = await workers.run(
        count_popularity, references, source if options.source is None else options.source
    )
    data = await workers.run(encode_popularity, popularity)
    await workers.run(_write, options.output, data)
    print_note(f"done: {popularity.setsize} store paths, {len(popularity.transitive)} packages")


def _write(output: Path | None, data: bytes) -> None:
    """Blocks.  :raises CommandRefused: it cannot be written."""
    if output is None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    try:
        output.write_bytes(data)
    except OSError as error:
        raise CommandRefused(reason=f"cannot write {output}: {error.strerror or error}") from error
