"""
Prints, as JSON, the endpoints on which ``twistd nixery`` with the same options would listen.

``nix/demo/start`` runs this before the long steps: it reports an unusable configuration and a port
that is in use first.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from twisted.python import usage

from nixery.tap import Options

__all__ = ["main"]


def main(argv: Sequence[str]) -> int:
    """Run the command; return its exit status."""
    options = Options()
    try:
        options.parseOptions(list(argv))
    except usage.UsageError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    config = options.config.http
    answer = {"listen": config.listen, "public_url": config.public_url}
    sys.stdout.write(f"{json.dumps(answer)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
