"""
A registry that runs as another user, and reaches the store through Nix's own daemon.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.end_to_end.case import EndToEndCase
from tests.end_to_end.daemon import Daemon, private_environment, single_user_nix
from tests.end_to_end.processes import Server, private_directory
from tests.support.trees import below

__all__ = ["NOBODY", "start_stranger"]

NOBODY = (
    "--reuid=nobody",
    "--regid=nogroup",
    "--clear-groups",
    # The code and the package set may lie where only root may look.
    "--inh-caps=-all,+dac_read_search",
    "--ambient-caps=+dac_read_search",
)


def start_stranger(
    case: EndToEndCase,
    packages: Path,
    *,
    configuration: str = "",
    options: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
    umask: int = 0o022,
    interpreter: Sequence[str] | None = None,
) -> Daemon:
    """
    Start it, with a Nix daemon that does not trust it; both end with the test.

    :param packages: the package set that it serves.
    :param configuration: YAML.
    :param interpreter: the command that becomes the other user, and then is Python.
    """
    directory = private_directory("stranger")
    directory.chmod(0o755)
    socket = directory / "nix"
    reached = {"NIX_DAEMON_SOCKET_PATH": str(socket)}
    nix_daemon = Server(
        ["nix-daemon"],
        log=directory / "nix-daemon.log",
        ready=socket.exists,
        environ={**private_environment(directory), **single_user_nix(), **reached},
    )
    nix_daemon.start()
    case.addCleanup(nix_daemon.kill)
    theirs = directory / "theirs"
    theirs.mkdir()
    (theirs / "nixery.yaml").write_text(configuration)
    daemon = Daemon(
        packages,
        directory=theirs,
        identity=NOBODY if interpreter is None else (),
        interpreter=(sys.executable,) if interpreter is None else interpreter,
        options=["--config", str(theirs / "nixery.yaml"), *options],
        umask=umask,
        environ={**(environ or {}), "NIX_CONFIG": "", "NIX_REMOTE": "daemon", **reached},
    )
    for path in (theirs, *below(theirs)):
        shutil.chown(path, "nobody", "nogroup")
    daemon.start()
    case.addCleanup(daemon.kill)
    return daemon
