"""
The machine's Nix store: whether the tests can build into it.

Root builds by itself.  Another user needs a daemon, or a store of their own; where there
is neither, some versions of Nix silently take a store below the home directory, whose
paths are not where they say.
"""

from __future__ import annotations

import os
import socket
import subprocess
from pathlib import Path

__all__ = ["DAEMON_SOCKET", "daemon_listens", "store_fault"]

STORE = Path("/nix/store")
DAEMON_SOCKET = Path("/nix/var/nix/daemon-socket/socket")

_ABSENT = """\
Nix has no daemon that you may use, and no store. Run this as root, or let root make a store
for you:

    install -d -o {} -g {} /nix
"""

_FOREIGN = """\
The Nix store belongs to somebody else, and there is no daemon that you may use. Run this as
root, or let root start nix-daemon and add you to the group of Nix's users.
"""


def daemon_listens() -> bool:
    """Whether this machine's Nix has a daemon, which builds for this user, too."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(DAEMON_SOCKET)) == 0


def store_fault() -> str | None:
    """Why this user cannot build with Nix, and the command that helps, or ``None``."""
    if daemon_listens():
        return None
    if os.geteuid() != 0 and not _writable():
        return _FOREIGN if STORE.exists() else _ABSENT.format(os.geteuid(), os.getegid())
    # Makes the store if there is none.
    done = subprocess.run(
        ["nix-store", "--init"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    return f"Nix cannot be used:\n{done.stderr}" if done.returncode else None


def _writable() -> bool:
    """Whether this user may write to the store, or make it."""
    return os.access(STORE if STORE.exists() else STORE.parent, os.W_OK)
