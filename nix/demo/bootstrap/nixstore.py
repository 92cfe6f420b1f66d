"""
Tells whether this user can build with the machine's Nix, before anything is built.

Root builds by itself.  Another user needs Nix's daemon, or a store to write to: where there
is neither, some versions of Nix fail, and others silently take a store below the home
directory, whose files are not where their paths say.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

__all__ = ["daemon_listens", "store_fault"]

_ROOT = Path("/nix")

_ELSEWHERE = ("NIX_REMOTE", "NIX_STORE_DIR", "NIX_STATE_DIR")
"""Environment variables that select another store."""


def daemon_listens(root: Path = _ROOT) -> bool:
    """Tell whether Nix has a daemon that this user may use."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(root / "var/nix/daemon-socket/socket")) == 0


def store_fault(root: Path = _ROOT) -> str | None:
    """
    Return the reason why this user cannot build with Nix, and how to fix it.

    :param root: the directory of the store and of Nix's state.
    :return: lines of text, with commands indented by four blanks; ``None`` if nothing is
        known to be wrong.
    """
    state = root / "var/nix"
    if (
        os.geteuid() == 0
        or any(os.environ.get(name) for name in _ELSEWHERE)
        or daemon_listens(root)
        or _writable(state)
    ):
        return None
    if state.exists():
        return (
            f"Nix's store in {root} belongs to somebody else, and there is no daemon of Nix that"
            " you may use: run this as root, or have root install nix-setup-systemd and put you"
            " into the group nix-users"
        )
    directories = " ".join(map(str, (root, root / "var", state)))
    return (
        "Nix has no store that you may write to, and no daemon: run this as root, or have root"
        f" make you a store first:\n    install -d -o {os.geteuid()} {directories}"
    )


def _writable(state: Path) -> bool:
    """Tell whether Nix can keep its state there, or make the directory, as it has to be."""
    if state.exists():
        return os.access(state, os.W_OK)
    # Newer versions do not make it: they take a store elsewhere.
    try:
        state.mkdir(parents=True)
    except OSError:
        return False
    return True
