"""The subcommands of ``nixery-admin``, and their options."""

from __future__ import annotations

import argparse

from nixery.cli.admin.arguments import count_argument, seconds_argument, size_argument
from nixery.sources.tag_policy import LATEST

__all__ = ["make_parser"]


def make_parser() -> argparse.ArgumentParser:
    """Return the parser; the name of the command becomes ``command``."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--config", help="the configuration file (default: $NIXERY_CONFIG)")
    common.add_argument("--storage-path", help="the directory of the storage")
    common.add_argument("--json", action="store_true", help="print JSON")
    parser = argparse.ArgumentParser(
        prog="nixery-admin", description="Takes care of the images that a registry has stored."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        subparser: argparse.ArgumentParser = commands.add_parser(
            name, parents=[common], help=text, description=text
        )
        return subparser

    gc_parser = command("gc", "Remove what the limits do not keep, and what nothing names.")
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
        help="how long after its last use nothing is removed, in seconds (default: a day)",
    )
    gc_parser.add_argument("--dry-run", action="store_true", help="only say what would be removed")

    verify_parser = command("verify", "Hash everything, and look for what is missing.")
    verify_parser.add_argument(
        "--repair",
        action="store_true",
        help="move what is damaged aside, so that the next pull makes it again",
    )
    verify_parser.add_argument(
        "--jobs", type=count_argument, default=4, help="files hashed at once"
    )

    command("list", "List the images, with their sizes and when they were pulled last.")

    inspect_parser = command("inspect", "Show all that is known of an image.")
    inspect_parser.add_argument("image", metavar="IMAGE", help="a name, NAME:TAG, or a digest")

    purge_parser = command("purge", "Remove images now; the next pull makes them again.")
    purge_parser.add_argument(
        "images", metavar="IMAGE", nargs="+", help="a name, NAME:TAG, or a digest"
    )
    purge_parser.add_argument(
        "--dry-run", action="store_true", help="only say what would be removed"
    )

    sign_parser = command("sign", "Sign images of a time without the key that is configured now.")
    sign_parser.add_argument(
        "images", metavar="IMAGE", nargs="*", help="a name, NAME:TAG, or a digest (default: all)"
    )

    sbom_parser = command("sbom", "Make the bills of materials of images that have none.")
    sbom_parser.add_argument(
        "images", metavar="IMAGE", nargs="+", help="a name, NAME:TAG, or a digest"
    )

    warm_parser = command("warm", "Have a running registry make images ahead of their use.")
    warm_parser.add_argument("images", metavar="IMAGE", nargs="*", help="a name, or NAME:TAG")
    warm_parser.add_argument("--from", dest="file", help="a file with an image a line; - is stdin")
    warm_parser.add_argument("--url", help="of the registry (default: as it is configured)")
    warm_parser.add_argument("--user", help="for a registry that asks who you are")
    warm_parser.add_argument("--password-file", help="the file with that user's password")
    warm_parser.add_argument("--jobs", type=count_argument, default=4, help="how many at once")
    warm_parser.add_argument(
        "--timeout", type=seconds_argument, default=14400.0, help="seconds that one image may take"
    )

    check_parser = command(
        "check", "Try the configured package source out, and say what to change."
    )
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
