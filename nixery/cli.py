"""
The commands beside the daemon.

``nixery-prepare-image NAME...`` does by hand what the daemon does with Nix: the same
code looks the packages up, builds them and reads their closure, and what it finds is
printed as JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from attrs import asdict
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import react

from nixery.config import Config, find_unsupported, load_config
from nixery.errors import ConfigError, InvalidName, MissingDerivations, NixeryError
from nixery.graph import RuntimeGraph
from nixery.interfaces import Nix, Phase, Realisation, Workers
from nixery.names import ImageName, Tag, parse_image_name
from nixery.nixsetup import make_nix
from nixery.packages import Evaluation
from nixery.sources import PathSource, Revision, resolve_path
from nixery.workers import WorkerPool

__all__ = ["prepare_image"]

USAGE = 2
FAILURE = 1
INTERRUPTED = 130

REEVALUATIONS = 2
"""How often derivations that a garbage collection took are made again."""


def prepare_image(arguments: Sequence[str] | None = None) -> None:
    """
    The command ``nixery-prepare-image``; ends the process.

    Exits with 0, with 1 and a message if the image cannot be prepared, with 2 if
    it was called wrongly.
    """
    options = _parse(arguments)
    try:
        name, config = _read(options, os.environ)
    except (ConfigError, InvalidName) as error:
        _complain(error)
        sys.exit(USAGE)
    react(_run, (name, config, os.environ))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="nixery-prepare-image",
        description=(
            "Builds the packages of an image with Nix, and prints as JSON what the registry"
            " makes an image of: the packages, and all store paths that they need."
        ),
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
    parser.add_argument("--system", help="the Nix system (default: x86_64-linux)")
    parser.add_argument("--config", help="the configuration file (default: $NIXERY_CONFIG)")
    return parser.parse_args(arguments)


def _read(options: argparse.Namespace, environ: Mapping[str, str]) -> tuple[ImageName, Config]:
    """
    :raises ConfigError: the configuration cannot be used.
    :raises InvalidName: the names do not make an image's name.
    """
    given = {"pkgs_path": options.path, "system": options.system, "config": options.config}
    config = load_config(given, environ)
    problems = find_unsupported(config)
    if problems:
        raise ConfigError(problems=problems)
    return parse_image_name("/".join(options.names), config.system), config


# Any: the global reactor has no type.
def _run(
    reactor: Any, name: ImageName, config: Config, environ: Mapping[str, str]
) -> Deferred[None]:
    """Start the work; an interrupt cancels it and waits until its children are gone."""
    pool = WorkerPool("prepare-image", 4, reactor)
    ended: Deferred[None] = Deferred()

    async def work() -> None:
        pool.startService()
        try:
            await _prepare(reactor, pool, name, config, environ)
        except CancelledError:
            sys.exit(INTERRUPTED)
        except NixeryError as error:
            _complain(error)
            sys.exit(FAILURE)
        finally:
            await pool.stopService()
            ended.callback(None)

    task = Deferred.fromCoroutine(work())

    def stop() -> Deferred[None]:
        task.cancel()
        return ended

    reactor.addSystemEventTrigger("before", "shutdown", stop)
    return task


async def _prepare(
    reactor: Any, workers: Workers, name: ImageName, config: Config, environ: Mapping[str, str]
) -> None:
    # What find_unsupported lets through.
    source = cast(PathSource, config.source)
    # The roots of a daemon on this machine belong to it alone.
    with tempfile.TemporaryDirectory(prefix="nixery-prepare-image-") as directory:
        nix = make_nix(config, workers, reactor, environ, state_directory=Path(directory))
        await nix.check()
        revision = await workers.run(resolve_path, source, Tag("latest"))
        evaluation, realisation = await _realise(nix, revision, name)
        graph = await nix.closure(realisation.outputs)
        await nix.release(realisation)
    json.dump(_describe(evaluation, graph), sys.stdout, indent=2)
    sys.stdout.write("\n")


async def _realise(nix: Nix, revision: Revision, name: ImageName) -> tuple[Evaluation, Realisation]:
    """Build the packages, whatever a garbage collector does meanwhile."""
    attempts = REEVALUATIONS + 1
    while True:
        evaluation = await nix.evaluate(revision, name.system, name.requirements)
        try:
            return evaluation, await nix.realise(evaluation.packages, _Narration())
        except MissingDerivations:
            attempts -= 1
            if not attempts:
                raise


def _describe(evaluation: Evaluation, graph: RuntimeGraph) -> Mapping[str, object]:
    return {
        "system": evaluation.system,
        "packages": [asdict(package) for package in evaluation.packages],
        "left_out": evaluation.left_out,
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


class _Narration:
    """Implements :class:`nixery.interfaces.Progress` on standard error."""

    def phase(self, phase: Phase, /) -> None:
        _say(phase.value)

    def count(self, phase: Phase, done: int, expected: int, unit: str, /) -> None:
        """Numbers that change many times a second are of no use there."""

    def derivation(self, derivation: str, /) -> None:
        _say(f"building {derivation}")

    def log(self, line: str, /) -> None:
        _say(f"  {line}")


def _complain(error: NixeryError) -> None:
    _say(f"nixery-prepare-image: {error.message}")


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
