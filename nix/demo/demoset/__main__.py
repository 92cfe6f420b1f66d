"""
Makes the demo package set ready, and prints its directory: ``python -m demoset``.

``nix/demo/start`` runs this in the environment that it has made.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from demoset.package_set import default_directory, prepare
from nixery.errors import NixeryError

__all__ = ["main"]


def main(argv: Sequence[str]) -> int:
    """Run the command; return its exit status."""
    default = default_directory(os.environ)
    parser = argparse.ArgumentParser(
        prog="demoset", description="Make the demo package set ready, and print where it is."
    )
    parser.add_argument(
        "directory", nargs="?", type=Path, default=default, help=f"default: {default}"
    )
    parser.add_argument(
        "--refresh", action="store_true", help="make a new lock even if there is one"
    )
    options = parser.parse_args(argv)
    try:
        prepare(options.directory, refresh=options.refresh)
    except (NixeryError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(options.directory.resolve())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
