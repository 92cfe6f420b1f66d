"""
The exit status of a daemon that cannot start, which tells a service manager whether to try again.

``EX_CONFIG`` (78, see sysexits.h) stands for a permanent fault: it lasts until the configuration or
the machine is changed, and the unit names the status in ``RestartPreventExitStatus=``. All other
faults may pass by themselves, as when Nix's daemon is not up yet, and have status 1. This table
decides which is which; a fault that it does not know counts as passing, because a needless restart
does less harm than a daemon that stays down.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from twisted.internet.error import CannotListenError

from nixery.config.errors import ConfigError
from nixery.errors import UnusableFile
from nixery.image.errors import UnknownSystem
from nixery.nix.errors import NixMisconfigured
from nixery.process.errors import CommandMissing
from nixery.runtime.errors import ResourceMissing
from nixery.storage.errors import StorageRefused

__all__ = ["PASSING", "PERMANENT", "exit_status"]

PERMANENT = os.EX_CONFIG
"""The exit status of a fault that a restart cannot fix."""

PASSING = 1
"""The exit status of a fault that may be gone after a restart."""

_PERMANENT_ERRORS = (
    CommandMissing,
    ConfigError,
    NixMisconfigured,
    ResourceMissing,
    StorageRefused,
    UnknownSystem,
    UnusableFile,
)

_PERMANENT_NUMBERS = frozenset(
    {
        errno.EACCES,
        errno.EAFNOSUPPORT,
        errno.EEXIST,
        errno.EINVAL,
        errno.EISDIR,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.ENOENT,
        errno.ENOTDIR,
        errno.ENOTSUP,
        errno.EPERM,
        errno.EROFS,
        errno.EXDEV,
    }
)
"""
Errors of the operating system that the configuration or the rights of files cause.  Not among
them: a full disk, an address that is in use or not there yet, and an input/output error.
"""


def exit_status(error: BaseException) -> int:
    """
    Choose the status with which the daemon ends because of an error.

    Where an error of the operating system is the cause, its number decides: a certificate that
    is missing is a permanent fault, one on a disk that does not answer may be a passing one.
    """
    causes = tuple(_causes(error))
    for cause in causes:
        if isinstance(cause, OSError) and cause.errno is not None:
            return PERMANENT if cause.errno in _PERMANENT_NUMBERS else PASSING
    return PERMANENT if any(isinstance(each, _PERMANENT_ERRORS) for each in causes) else PASSING


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Return the error and the errors that it was raised from."""
    cause: object = error
    while isinstance(cause, BaseException):
        yield cause
        cause = cause.socketError if isinstance(cause, CannotListenError) else cause.__cause__
