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
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred

from nixery.cli.common import USAGE, Command, print_error
from nixery.cli.parser import CommandParser
from nixery.cli.reference_sources import CACHE, ReferenceCollector
from nixery.config.config import Config
from nixery.config.errors import ConfigError
from nixery.errors import StorageError
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
    try:
        config = _load_config(options, os.environ)
    except ConfigError as error:
        _COMMAND.print_error(error)
        sys.exit(USAGE)

    # Any: the global reactor has no type.
    def main(reactor: Any) -> Deferred[None]:
        def work(workers: Workers) -> Coroutine[Deferred[Any], Any, None]:
            collector = ReferenceCollector(
                config=config,
                reactor=reactor,
                workers=workers,
                environ=os.environ,
                connections=options.connections,
            )
            return _count(collector, workers, options)

        return _COMMAND.run(reactor, work)

    run_reactor(main)


def _parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    common = CommandParser(add_help=False)
    common.add_argument(
        "-o", "--output", type=Path, help="where the data go (default: standard output)"
    )
    common.add_argument("--source", help="what is written into the data about where they are from")
    common.add_argument("--config", help="the configuration file (default: $NIXERY_CONFIG)")
    common.add_argument(
        "--connections",
        type=int,
        default=MAX_CONNECTIONS,
        help="how many requests to a binary cache are under way at once"
        f" (default: {MAX_CONNECTIONS})",
    )
    parser = CommandParser(
        prog=_COMMAND.name,
        description="Counts how popular the packages of a set are, for NIX_POPULARITY_URL.",
    )
    commands = parser.add_subparsers(dest="command", metavar="channel|store|set", required=True)
    channel = commands.add_parser(
        "channel", parents=[common], help="all store paths that a channel lists"
    )
    channel.add_argument(
        "channel",
        help="its name (nixos-unstable), or the URL of its store-paths.xz",
    )
    channel.add_argument("--cache", help=f"the URL of its binary cache (default: {CACHE})")
    store = commands.add_parser("store", parents=[common], help="this machine's Nix store")
    store.add_argument(
        "paths", metavar="PATH", nargs="*", help="only what these store paths need (default: all)"
    )
    package_set = commands.add_parser("set", parents=[common], help="all packages of a package set")
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
    print_error(f"counting {len(references)} store paths")
    popularity = await workers.run(
        count_popularity, references, source if options.source is None else options.source
    )
    data = await workers.run(encode_popularity, popularity)
    await workers.run(_write, options.output, data)
    print_error(f"done: {popularity.setsize} store paths, {len(popularity.transitive)} packages")


def _write(output: Path | None, data: bytes) -> None:
    """Blocks.  :raises StorageError: it cannot be written."""
    if output is None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    try:
        output.write_bytes(data)
    except OSError as error:
        raise StorageError(
            operation=f"write {output}", reason=error.strerror or str(error)
        ) from error
