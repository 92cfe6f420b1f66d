"""
``nixery-prepare-image``: prepares the packages of an image without the daemon.

``nixery-prepare-image NAME...`` does what the daemon does with Nix: the same code looks the
packages up, builds them and reads their closure, and the command prints the result as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import asdict

from nixery.cli.common import BarProgress, Command, realise
from nixery.cli.console import print_note
from nixery.cli.parser import CommandParser
from nixery.cli.progress_bar import progress_bar
from nixery.config.config import Config
from nixery.image.closure import RuntimeGraph
from nixery.image.names import ImageName, Tag, parse_single_image_name, parse_tag
from nixery.image.packages import Evaluation
from nixery.nix.progress import Phase
from nixery.runtime.reactor_time import run_reactor
from nixery.runtime.workers import Workers
from nixery.wiring.nix import make_nix, make_nix_context
from nixery.wiring.sources import fetch_package_set

__all__ = ["prepare_image"]

_COMMAND = Command(name="nixery-prepare-image")


def prepare_image(arguments: Sequence[str] | None = None) -> None:
    """
    Run the command ``nixery-prepare-image``; ends the process.

    Exits with 0, with 1 and a message if the image cannot be prepared, with 2 if
    it was called wrongly.
    """
    options = _parse_options(arguments)

    def run() -> None:
        name, tag, config = _read_arguments(options, os.environ)
        run_reactor(
            lambda reactor: _COMMAND.run(
                reactor, lambda workers: _prepare(reactor, workers, name, tag, config, os.environ)
            )
        )

    _COMMAND.main(run)


def _parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = CommandParser(
        prog=_COMMAND.name,
        description=(
            "Builds the packages of an image with Nix, and prints as JSON what the registry"
            " makes an image of: the packages, and all store paths that they need."
        ),
        examples=[
            "nixery-prepare-image shell git",
            "nixery-prepare-image git --path /srv/packages --tag v1",
        ],
    )
    parser.add_argument(
        "names",
        metavar="NAME",
        nargs="+",
        help="packages and meta-packages, as in the name of an image: shell git, or shell/git",
    )
    parser.add_argument(
        "--path", help="the package set: a directory or a file (default: $NIXERY_PKGS_PATH)"
    )
    parser.add_argument(
        "--tag", default="latest", help="the revision of the package set (default: latest)"
    )
    parser.add_argument("--system", help="the Nix system (default: x86_64-linux)")
    parser.add_argument("--config", help="the configuration file (default: $NIXERY_CONFIG)")
    return parser.parse_args(arguments)


def _read_arguments(
    options: argparse.Namespace, environ: Mapping[str, str]
) -> tuple[ImageName, Tag, Config]:
    """
    :raises ConfigError: the configuration cannot be used.
    :raises InvalidName: the names do not make an image's name.
    :raises InvalidReference: the tag is none.
    """
    overrides = {"pkgs_path": options.path, "system": options.system, "config": options.config}
    config = _COMMAND.load_config(overrides, environ)
    return (
        parse_single_image_name("/".join(options.names), config.sources.system),
        parse_tag(options.tag),
        config,
    )


async def _prepare(
    reactor: Any,
    workers: Workers,
    name: ImageName,
    tag: Tag,
    config: Config,
    environ: Mapping[str, str],
) -> None:
    # The roots of a daemon on this machine belong to it alone.
    with tempfile.TemporaryDirectory(prefix="nixery-prepare-image-") as directory:
        context = make_nix_context(
            config, workers, reactor, environ, state_directory=Path(directory)
        )
        nix = make_nix(context).nix
        await nix.check()
        package_set = await fetch_package_set(config.sources, reactor, context, tag)
        with progress_bar("") as bar:
            progress = PrintedProgress(bar)
            evaluation, realisation = await realise(nix, package_set, name, progress)
        graph = await nix.closure(realisation.outputs)
        await nix.release(realisation)
    json.dump(_describe(evaluation, graph), sys.stdout, indent=2)
    sys.stdout.write("\n")


def _describe(evaluation: Evaluation, graph: RuntimeGraph) -> Mapping[str, object]:
    return {
        "system": evaluation.system,
        "packages": [asdict(package) for package in evaluation.packages],
        "left_out": evaluation.missing_optional,
        "graph": [
            {
                "path": info.path.path,
                "nar_hash": info.nar_hash,
                "nar_size": info.nar_size,
                "references": [reference.path for reference in info.references],
            }
            for _, info in sorted(graph.paths.items())
        ],
    }


class PrintedProgress(BarProgress):
    """Prints on standard error what is being built."""

    def phase(self, phase: Phase, /) -> None:
        super().phase(phase)
        print_note(phase.value)

    def derivation(self, derivation: str, /) -> None:
        print_note(f"building {derivation}")

    def log(self, line: str, _derivation: str, /) -> None:
        print_note(f"  {line}")
