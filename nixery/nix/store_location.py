"""
The place of Nix's store on this machine, and of its daemon's socket.

Images are packed from the files at store paths, so these files have to be where the paths say.
Nix can keep them elsewhere without a word: below a ``root`` of its own, which newer versions
choose by themselves for a user of a machine without ``/nix``, or on another machine.  No command
tells so reliably: the daemon has Nix store a file that was never stored before, and looks for it.
"""

from __future__ import annotations

import grp
import os
import pwd
import re
from collections.abc import Mapping

from nixery.nix.arguments import STORE
from nixery.nix.errors import NixMisconfigured, NixUnusable

__all__ = ["explain_denial", "explain_misplacement", "holds"]

_LOCKED = re.compile(r"locking path '(?P<path>/[^']+)'")
_CHOSEN = re.compile(r"will use '(?P<root>[^']+)' as a chroot store")
# What the kernel shows, in a user namespace as of PrivateUsers=, for groups that are not mapped.
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


def holds(path: str, content: bytes) -> bool:
    """
    Find out whether a file has this content; ``False`` if there is none.  Blocks.

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


def explain_misplacement(path: str, said: str, environ: Mapping[str, str]) -> NixMisconfigured:
    """
    Say where a store lies that is not where its paths say, and what to do about it.

    :param path: of a file in the store.
    :param said: Nix's debugging output while it stored the file.
    :param environ: the environment that Nix has.
    """
    locked = _LOCKED.search(said)
    where = f"in {os.path.dirname(locked['path'])}" if locked else "elsewhere"
    remote = environ.get("NIX_REMOTE", "")
    if not path.startswith(f"{STORE}/"):
        where = f"in {os.path.dirname(path)}"
        advice = "unset NIX_STORE_DIR, or build Nix for this store"
    elif _CHOSEN.search(said):
        advice = f"there is no /nix/var/nix, and Nix chose another place; {_make_store(_user())}"
    elif remote not in ("", "auto", "daemon", "local"):
        advice = f"NIX_REMOTE is {remote!r}: unset it"
    elif remote == "daemon":
        advice = f"make the {STORE} of Nix's daemon visible here, as by a bind mount"
    else:
        advice = "remove the setting 'store' from nix.conf and NIX_CONFIG"
    return NixMisconfigured(
        reason=f"its store has to be in {STORE}, where images are packed, and is {where}: {advice}"
    )


# -- the daemon ---------------------------------------------------------------


def explain_denial(said: str) -> NixUnusable | None:
    """
    Say what this user may not do that Nix needs, and how to be allowed.  Blocks.

    :param said: by a command that failed.
    :return: ``None`` if it failed for another reason.
    """
    socket = _DENIED.search(said)
    if socket:
        return _closed(socket["socket"])
    refused = _REFUSED.search(said)
    if refused is None:
        return None
    if refused["made"]:
        return NixMisconfigured(reason=f"{refused['line']}; {_make_store(_user())}")
    # This is what Nix says, too, while its daemon is not up yet and nothing names it.
    return NixUnusable(
        reason=f"{refused['line']}; the store belongs to somebody else: see that Nix's daemon runs"
        " (systemctl status nix-daemon.socket), and set NIX_REMOTE=daemon"
    )


def _closed(socket: str) -> NixMisconfigured:
    """
    The error for a socket that may not be connected to.

    What denies it is the socket, or a directory on the way to it.
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
    """The directories on the way to a path, from the root."""
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
