"""
``nixery-layers``: shows an image's layers, as text and as a picture.

It shows the store paths of each layer, the reason for each layer, its download size, the images
that share it, and how much is downloaded where another image is present.  All of it is computed by
the code that the daemon makes images with, and from its popularity data.  Sizes are exact: the
layers are packed, and the output is discarded.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

from nixery.cli.common import BarProgress, Command, realise
from nixery.cli.console import print_note
from nixery.cli.errors import CommandRefused
from nixery.cli.parser import CommandParser
from nixery.cli.progress_bar import ProgressBar, progress_bar
from nixery.config.config import Config
from nixery.image.closure import StorePath
from nixery.image.names import ImageName, parse_single_image_name
from nixery.layers.compression_levels import Compression, default_level
from nixery.layers.downloads import Download, compute_download, draw_downloads, pack_chunked
from nixery.layers.grouping import (
    LayerGroup,
    LayerPlan,
    LayerSettings,
    Popularity,
    PopularityKind,
    Strategy,
    plan_layers,
)
from nixery.layers.popularity_file import parse_popularity
from nixery.layers.svg import DrawnLayer, draw_svg, draw_text
from nixery.layers.tarball import pack_store_paths
from nixery.nix.interface import Nix
from nixery.popularity.data import MAX_BYTES, read_pinned
from nixery.popularity.decompress import decompress
from nixery.runtime.deferreds import gather
from nixery.runtime.reactor_time import run_reactor
from nixery.runtime.workers import Workers
from nixery.sources.source import PackageSet
from nixery.wiring.layers import layer_settings
from nixery.wiring.nix import make_nix, make_nix_context
from nixery.wiring.sources import fetch_package_set

__all__ = ["layers"]

_COMMAND = Command(name="nixery-layers")


@frozen(kw_only=True)
class _Arguments:
    """
    The arguments of the command.

    :param name: the image.
    :param compared_images: the images that it is compared with.
    :param popularity_file: a file of popularity data, if not those of the daemon.
    :param svg_file: the file that the picture is written to.
    :param max_paths: maximum number of store paths that are named for each layer.
    :param as_json: true to print JSON.
    """

    name: ImageName
    compared_images: tuple[ImageName, ...]
    config: Config
    popularity_file: Path | None
    svg_file: Path | None
    max_paths: int | None
    as_json: bool


def layers(arguments: Sequence[str] | None = None) -> None:
    """
    Run the command ``nixery-layers``; ends the process.

    Exits with 0, with 1 and a message if an image cannot be made, with 2 if it was
    called wrongly.
    """
    options = _parse_options(arguments)

    def run() -> None:
        parsed = _read_arguments(options, os.environ)
        # Any: the global reactor has no type.
        run_reactor(
            lambda reactor: _COMMAND.run(
                reactor, lambda workers: _show_layers(reactor, workers, parsed)
            )
        )

    _COMMAND.main(run)


def _parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = CommandParser(
        prog=_COMMAND.name,
        description="Shows the layers of an image: contents, reasons, and images that share them.",
        examples=[
            "nixery-layers shell/git",
            "nixery-layers shell/git --with shell/htop --svg layers.svg",
            "nixery-layers git --path /srv/packages --json",
        ],
    )
    parser.add_argument("image", metavar="IMAGE", help="the name of an image: shell/git")
    parser.add_argument(
        "--with",
        metavar="IMAGE",
        dest="others",
        action="append",
        default=[],
        help="show what this image has as well, and what is downloaded where it is present;"
        " may be repeated",
    )
    parser.add_argument("--svg", metavar="FILE", type=Path, help="draw a picture into this file")
    parser.add_argument("--json", action="store_true", help="print JSON, with every store path")
    parser.add_argument("--all-paths", action="store_true", help="name every store path")
    parser.add_argument(
        "--strategy",
        "--layer-strategy",
        metavar="STRATEGY",
        choices=[strategy.value for strategy in Strategy],
        help=f"how packages are put into layers: {', '.join(each.value for each in Strategy)}"
        " (default: as configured)",
    )
    parser.add_argument(
        "--layer-budget", help="how many layers there may be (default: as configured)"
    )
    parser.add_argument(
        "--popularity",
        metavar="FILE",
        type=Path,
        help="popularity data (default: those that the daemon keeps in its state directory)",
    )
    parser.add_argument(
        "--path", help="the package set: a directory or a file (default: $NIXERY_PKGS_PATH)"
    )
    parser.add_argument("--system", help="the Nix system (default: x86_64-linux)")
    parser.add_argument("--config", help="the configuration file (default: $NIXERY_CONFIG)")
    return parser.parse_args(arguments)


def _read_arguments(options: argparse.Namespace, environ: Mapping[str, str]) -> _Arguments:
    """
    :raises ConfigError: the configuration cannot be used.
    :raises InvalidName: a name is not the name of an image.
    """
    overrides = {
        "pkgs_path": options.path,
        "system": options.system,
        "config": options.config,
        "layer_budget": options.layer_budget,
        "layer_strategy": options.strategy,
    }
    config = _COMMAND.load_config(overrides, environ)
    return _Arguments(
        name=parse_single_image_name(options.image, config.sources.system),
        compared_images=tuple(
            parse_single_image_name(other, config.sources.system) for other in options.others
        ),
        config=config,
        popularity_file=options.popularity,
        svg_file=options.svg,
        max_paths=None if options.all_paths else 6,
        as_json=options.json,
    )


async def _show_layers(reactor: Any, workers: Workers, arguments: _Arguments) -> None:
    with progress_bar("reading") as bar:
        await _compute_and_show(reactor, workers, arguments, bar)


async def _compute_and_show(
    reactor: Any, workers: Workers, arguments: _Arguments, bar: ProgressBar
) -> None:
    popularity = await workers.run(_read_popularity, arguments)
    settings = layer_settings(arguments.config.layers)
    # The roots of a daemon on this machine belong to it alone; these are there until
    # everything is packed.
    with tempfile.TemporaryDirectory(prefix="nixery-layers-") as directory:
        context = make_nix_context(
            arguments.config, workers, reactor, os.environ, state_directory=Path(directory)
        )
        nix = make_nix(context).nix
        await nix.check()
        package_set = await fetch_package_set(arguments.config.sources, reactor, context)

        async def plan(name: ImageName) -> LayerPlan:
            return await _plan_image(nix, workers, package_set, name, popularity, settings, bar)

        image_plan = await plan(arguments.name)
        plans = {other.repository: await plan(other) for other in arguments.compared_images}
        compression = arguments.config.layers.compression
        bar.start("packing")
        bar.update(0, len(image_plan))

        async def pack(group: LayerGroup) -> int:
            size = await workers.run(_packed_size, group, compression)
            bar.advance(len(image_plan))
            return size

        sizes = await gather(map(pack, image_plan))
        downloads = await _downloads(workers, image_plan, sizes, plans, compression)
    bar.close()
    images_by_paths: dict[tuple[StorePath, ...], list[str]] = defaultdict(list)
    for other, other_plan in plans.items():
        for group in other_plan:
            images_by_paths[group.paths].append(other)
    image, chunked = arguments.name.repository, compression.kind == "zstd-chunked"
    drawn_layers = [
        DrawnLayer.from_group(group, size=size, shared_with=images_by_paths[group.paths])
        for group, size in zip(image_plan, sizes, strict=True)
    ]
    if arguments.as_json:
        value = {
            "image": image,
            "compression": compression.label,
            "layers": [
                {
                    "title": group.leader.name,
                    "size": size,
                    "unpacked": group.nar_size,
                    "reason": group.reason,
                    "paths": [path.path for path in group.paths],
                    "shared_with": images_by_paths[group.paths],
                }
                for group, size in zip(image_plan, sizes, strict=True)
            ],
            "downloads": [each.json() for each in downloads],
        }
        sys.stdout.write(json.dumps(value, indent=2) + "\n")
    else:
        sys.stdout.write(draw_text(image, drawn_layers, max_paths=arguments.max_paths))
        sys.stdout.write(draw_downloads(image, downloads, chunked=chunked))
    if arguments.svg_file is not None:
        await workers.run(_write, arguments.svg_file, draw_svg(image, drawn_layers))


async def _downloads(
    workers: Workers,
    image_plan: LayerPlan,
    sizes: Sequence[int],
    plans: Mapping[str, LayerPlan],
    compression: Compression,
) -> Sequence[Download]:
    """
    Compute what is downloaded of an image where each of some others is present.

    :param sizes: those of the layers of the image.
    :param plans: the others, by their names.
    """
    if not plans:
        return ()
    kind = "zstd-chunked"
    level = compression.level if compression.kind == kind else default_level(kind)
    groups = {group.paths for plan in (image_plan, *plans.values()) for group in plan}
    packed = dict(
        zip(
            groups,
            await gather(
                workers.run(pack_chunked, [path.path for path in paths], level=level)
                for paths in groups
            ),
            strict=True,
        )
    )

    def compute() -> Sequence[Download]:
        new = {group.paths: packed[group.paths] for group in image_plan}
        size_of = {group.paths: size for group, size in zip(image_plan, sizes, strict=True)}
        return [
            compute_download(
                name, {group.paths: packed[group.paths] for group in plan}, new, size_of
            )
            for name, plan in plans.items()
        ]

    return await workers.run(compute)


async def _plan_image(
    nix: Nix,
    workers: Workers,
    package_set: PackageSet,
    name: ImageName,
    popularity: Popularity,
    settings: LayerSettings,
    bar: ProgressBar,
) -> LayerPlan:
    _, realisation = await realise(nix, package_set, name, BarProgress(bar))
    graph = await nix.closure(realisation.outputs)
    return await workers.run(plan_layers, graph, popularity, settings)


def _packed_size(group: LayerGroup, compression: Compression) -> int:
    """Return the download size of a layer, in bytes. Blocks."""
    paths = [path.path for path in group.paths]
    return pack_store_paths(paths, len, compression=compression).size


def _read_popularity(arguments: _Arguments) -> Popularity:
    """
    Read the popularity data to plan by. Blocks.

    :raises NixeryError: there are data, but they cannot be used.
    """
    if arguments.popularity_file is not None:
        try:
            return parse_popularity(decompress(arguments.popularity_file.read_bytes(), MAX_BYTES))
        except OSError as error:
            raise CommandRefused(
                reason=f"cannot read {arguments.popularity_file}: {error.strerror or error}"
            ) from error
    pinned = read_pinned(arguments.config.storage.state_directory / "popularity")
    if pinned is None:
        print_note("There are no popularity data: images share fewer layers without.")
        return Popularity()
    if pinned.popularity.kind is not PopularityKind.TRANSITIVE:
        print_note("The popularity data have direct references only.")
    return pinned.popularity


def _write(path: Path, picture: str) -> None:
    """Blocks.  :raises CommandRefused: it cannot be written."""
    try:
        path.write_text(picture, "utf-8")
    except OSError as error:
        raise CommandRefused(reason=f"cannot write {path}: {error.strerror or error}") from error
