"""The subcommands of ``nixery-admin``, and their options."""

from __future__ import annotations

import argparse
from typing import Any

from nixery.cli.admin.arguments import count_argument, seconds_argument, size_argument
from nixery.cli.parser import CommandParser
from nixery.sources.tag_policy import LATEST

__all__ = ["make_parser"]


def _common_options(**details: Any) -> CommandParser:
    """Make the options that are accepted before and after the command."""
    common = CommandParser(add_help=False, **details)
    group = common.add_argument_group("options of all commands")
    group.add_argument("--config", help="configuration file (default: $NIXERY_CONFIG)")
    group.add_argument("--storage-path", help="directory of the storage (default: as configured)")
    group.add_argument(
        "--json",
        action="store_true",
        default=details.get("argument_default", False),
        help="print JSON",
    )
    return common


EXAMPLES = {
    "check": ["nixery-admin check", "nixery-admin check git htop --no-count"],
    "estimate": ["nixery-admin estimate shell/git", "nixery-admin estimate shell/git --json"],
    "gc": ["nixery-admin gc --dry-run", "nixery-admin gc --max-storage-size 200GiB"],
    "inspect": ["nixery-admin inspect shell/git", "nixery-admin inspect shell/git:latest"],
    "list": ["nixery-admin list", "nixery-admin list --json | jq -r '.[].images[]'"],
    "purge": ["nixery-admin purge shell/git --dry-run", "nixery-admin purge shell/git:latest"],
    "sbom": ["nixery-admin sbom shell/git"],
    "sign": ["nixery-admin sign", "nixery-admin sign shell/git:latest"],
    "verify": ["nixery-admin verify", "nixery-admin verify --repair"],
    "warm": [
        "nixery-admin warm shell/git htop",
        "nixery-admin warm --from images.txt --user alice --password-file secret",
        "SSL_CERT_FILE=ca.pem nixery-admin warm git --url https://registry.example",
    ],
}
"""Examples of each command, for its help."""


def _add_registry_options(parser: CommandParser) -> None:
    """Add the options of commands that ask a running registry."""
    parser.add_argument(
        "--url",
        help="URL of the registry (default: as configured); the variable SSL_CERT_FILE names a PEM"
        " file with the authorities to trust",
    )
    parser.add_argument("--user", help="user to log in as, if the registry answers 401")
    parser.add_argument("--password-file", help="file with the password of --user")


def make_parser() -> argparse.ArgumentParser:
    """Return the parser; the name of the command becomes ``command``."""
    parser = CommandParser(
        prog="nixery-admin",
        description="Manages the stored images of a registry.",
        parents=[_common_options()],
        examples=["nixery-admin list", "nixery-admin verify --help"],
    )
    # The command must not replace an option that is given before it by its own default.
    common = _common_options(argument_default=argparse.SUPPRESS)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str) -> CommandParser:
        subparser: CommandParser = commands.add_parser(
            name, parents=[common], help=text, description=text, examples=EXAMPLES[name]
        )
        return subparser

    gc_parser = command("gc", "Delete what the limits do not keep and what no image uses.")
    gc_parser.add_argument(
        "--max-storage-size", type=size_argument, help="instead of the setting: 200GiB"
    )
    gc_parser.add_argument(
        "--max-image-age", type=seconds_argument, help="instead of the setting, in seconds"
    )
    # As the settings were called.
    for former, name, parse in (
        ("--max-bytes", "max_storage_size", size_argument),
        ("--max-age", "max_image_age", seconds_argument),
    ):
        gc_parser.add_argument(former, dest=name, type=parse, help=argparse.SUPPRESS)
    gc_parser.add_argument(
        "--grace",
        type=seconds_argument,
        help="keep everything used within this many seconds (default: a day)",
    )
    gc_parser.add_argument(
        "--dry-run", action="store_true", help="only print what would be deleted"
    )

    verify_parser = command("verify", "Check every stored file by its hash, and find missing ones.")
    verify_parser.add_argument(
        "--repair",
        action="store_true",
        help="move damaged files aside; the next pull builds them again",
    )
    verify_parser.add_argument(
        "--jobs", type=count_argument, default=4, help="number of files to hash at once"
    )

    command("list", "List the images with their sizes and last pulls.")

    inspect_parser = command("inspect", "Show all details of an image.")
    inspect_parser.add_argument("image", metavar="IMAGE", help="a name, NAME:TAG, or a digest")

    purge_parser = command("purge", "Delete images now; the next pull builds them again.")
    purge_parser.add_argument(
        "images", metavar="IMAGE", nargs="+", help="a name, NAME:TAG, or a digest"
    )
    purge_parser.add_argument(
        "--dry-run", action="store_true", help="only print what would be deleted"
    )

    sign_parser = command("sign", "Sign images that were stored before the signing key was set.")
    sign_parser.add_argument(
        "images", metavar="IMAGE", nargs="*", help="a name, NAME:TAG, or a digest (default: all)"
    )

    sbom_parser = command("sbom", "Add bills of materials to images that have none.")
    sbom_parser.add_argument(
        "images", metavar="IMAGE", nargs="+", help="a name, NAME:TAG, or a digest"
    )

    warm_parser = command("warm", "Make a running registry build images before they are pulled.")
    warm_parser.add_argument("images", metavar="IMAGE", nargs="*", help="a name, or NAME:TAG")
    warm_parser.add_argument(
        "--from", dest="file", help="file with one image per line; -: standard input"
    )
    _add_registry_options(warm_parser)
    warm_parser.add_argument(
        "--jobs", type=count_argument, default=4, help="images to request at once"
    )
    warm_parser.add_argument(
        "--timeout", type=seconds_argument, default=14400.0, help="maximum seconds for one image"
    )

    estimate_parser = command(
        "estimate", "Ask a running registry what an image costs, before it is pulled."
    )
    estimate_parser.add_argument("image", metavar="IMAGE", help="a name, or NAME:TAG")
    estimate_parser.add_argument(
        "--with", dest="having", metavar="IMAGE", help="an image that the client has: NAME:TAG"
    )
    _add_registry_options(estimate_parser)
    estimate_parser.add_argument(
        "--timeout",
        type=seconds_argument,
        default=600.0,
        help="maximum seconds to wait for the answer (default: 600)",
    )

    check_parser = command("check", "Test the configured package source, and say what to change.")
    check_parser.add_argument(
        "names", metavar="NAME", nargs="*", help="packages to evaluate, as in an image's name"
    )
    check_parser.add_argument(
        "--tag", default=LATEST, help="the revision of the package set (default: latest)"
    )
    check_parser.add_argument(
        "--no-count",
        action="store_true",
        help="do not count the packages, which takes minutes for nixpkgs",
    )
    return parser
