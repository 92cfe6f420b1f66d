"""
Explain a misplaced Nix store, or a socket of Nix's daemon that cannot be used.

Images are packed from the files at store paths, so the files have to be at these paths.
Nix can keep them elsewhere without a message: below a ``root`` of its own, which newer versions
choose by themselves for a user of a machine without ``/nix``, or on another machine.  No command
reports this reliably: Nixery has Nix store a new file, and checks that it is at its path.
"""

from __future__ import annotations

import grp
import json
import os
import pwd
import re
from collections.abc import Mapping

from nixery.errors import UnexpectedOutput
from nixery.nix.arguments import STORE
from nixery.nix.errors import NixMisconfigured, NixUnusable

__all__ = ["explain_denial", "explain_misplacement", "has_content", "parse_stored_path"]

_LOCKED = re.compile(r"locking path '(?P<path>/[^']+)'")
_CHOSEN = re.compile(r"will use '(?P<root>[^']+)' as a chroot store")
# The kernel's ID for groups that are not mapped in a user namespace, as of PrivateUsers=.
_UNSEEN = 65534

_DENIED = re.compile(
    r"(?:cannot connect to socket at|getting status of) '(?P<socket>/[^']+)': Permission denied"
)
_REFUSED = re.compile(
    r"(?P<line>(?:(?P<made>creating directory) '/nix(?:/[^']*)?'|opening lock file '/nix/[^']*')"
    r": Permission denied"
    r"|could not set permissions on '/nix/[^']*'[^:\n]*: Operation not permitted)"
)


# -- the store ----------------------------------------------------------------


def parse_stored_path(printed: bytes) -> str:
    """
    Parse the path of a file that Nix was made to store.

    :raises UnexpectedOutput: it is not a path.
    """
    try:
        path = json.loads(printed)
    except ValueError:
        path = None
    if not isinstance(path, str) or not path.startswith("/"):
        raise UnexpectedOutput(
            what="the path of a stored file", excerpt=printed.decode("utf-8", "replace")
        )
    return path


def has_content(path: str, content: bytes) -> bool:
    """
    True if a file has this content, false if there is no such file.  Blocks.

    :raises NixMisconfigured: it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return file.read(len(content) + 1) == content
    except (FileNotFoundError, NotADirectoryError):
        return False
    except PermissionError as error:
        raise NixMisconfigured(
            reason=f"the user {_user()} cannot read {path}: let everybody read {STORE}"
        ) from error


def explain_misplacement(
    path: str, debug_output: str, environ: Mapping[str, str]
) -> NixMisconfigured:
    """
    Return the error for a store whose files are not at their paths, with advice.

    :param path: the path of a file in the store.
    :param debug_output: Nix's debugging output while it stored the file.
    :param environ: the environment of Nix.
    """
    locked = _LOCKED.search(debug_output)
    location = f"in {os.path.dirname(locked['path'])}" if locked else "elsewhere"
    remote = environ.get("NIX_REMOTE", "")
    if not path.startswith(f"{STORE}/"):
        location = f"in {os.path.dirname(path)}"
        advice = "unset NIX_STORE_DIR, or build Nix for this store"
    elif _CHOSEN.search(debug_output):
        advice = f"there is no /nix/var/nix, and Nix chose another place; {_make_store(_user())}"
    elif remote not in ("", "auto", "daemon", "local"):
        advice = f"NIX_REMOTE is {remote!r}: unset it"
    elif remote == "daemon":
        advice = f"make the {STORE} of Nix's daemon visible here, as by a bind mount"
    else:
        advice = "remove the setting 'store' from nix.conf and NIX_CONFIG"
    return NixMisconfigured(
        reason=(
            f"its store has to be in {STORE}, where images are packed, and is {location}: {advice}"
        )
    )


# -- the daemon ---------------------------------------------------------------


def explain_denial(stderr: str) -> NixUnusable | None:
    """
    Return the error for a missing permission that Nix needs, with advice.  Blocks.

    :param stderr: the standard error of a command that failed.
    :return: ``None`` if it failed for another reason.
    """
    socket = _DENIED.search(stderr)
    if socket:
        return _socket_denied(socket["socket"])
    refusal = _REFUSED.search(stderr)
    if refusal is None:
        return None
    if refusal["made"]:
        return NixMisconfigured(reason=f"{refusal['line']}; {_make_store(_user())}")
    # Nix prints the same while its daemon does not run yet and no setting names it.
    return NixUnusable(
        reason=f"{refusal['line']}; the store belongs to somebody else: see that Nix's daemon runs"
        " (systemctl status nix-daemon.socket), and set NIX_REMOTE=daemon"
    )


def _socket_denied(socket: str) -> NixMisconfigured:
    """
    Return the error for a socket that this user may not connect to.

    The permissions of the socket, or of a parent directory, deny it.
    """
    denying = next(
        (each for each in _steps(socket) if not os.access(each, os.X_OK, effective_ids=True)),
        socket,
    )
    user = _user()
    advice = f"let the user {user} connect to it"
    try:
        status = os.stat(denying)
    except OSError:
        owner = ""
    else:
        mode, group = f"{status.st_mode & 0o7777:04o}", _group(status.st_gid)
        named = group if status.st_gid != _UNSEEN else None
        owner = f" ({denying} has mode {mode}{f' and group {named}' if named else ''})"
        if status.st_mode & 0o010 and status.st_gid != 0:
            advice = (
                (
                    f"put the user {user} into the group {named}"
                    if named
                    else f"put the user {user} into its group, which ls -ld {denying} shows"
                    " (nix-users on Debian)"
                )
                + f", or the line SupplementaryGroups={named or 'GROUP'} under [Service] into"
                " the unit (systemctl edit nixery)"
            )
    return NixMisconfigured(
        reason=f"its daemon's socket {socket} is closed to the user {user}{owner}: {advice}"
    )


def _make_store(user: str) -> str:
    return (
        f"as root, run: install -d -o {user} /nix /nix/var /nix/var/nix - or install Nix with its"
        " daemon (on Debian: nix-setup-systemd)"
    )


def _steps(path: str) -> list[str]:
    """Return the parent directories of a path, from the root."""
    parents: list[str] = []
    while path != os.path.dirname(path):
        path = os.path.dirname(path)
        parents.append(path)
    return parents[::-1]


def _user() -> str:
    number = os.geteuid()
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _group(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)
