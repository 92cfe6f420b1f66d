"""
Runs a command under restrictions like those of ``nixery.service``, on machines where no
systemd runs: what the kernel is told is the same.

    python confined.py UNIT COMMAND...

System calls, address families, namespaces, and memory that is both writable and executable
are restricted here, for the process and all of its children; who calls this has taken the
privileges and made the file system read-only.
"""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

ALLOW = 0x7FFF0000
ERRNO = 0x00050000
EPERM, ENOSYS, EAFNOSUPPORT = 1, 38, 97
EQUAL, MASKED_EQUAL = 4, 7
FAMILIES = {"AF_UNIX": 1, "AF_INET": 2, "AF_INET6": 10}
PROT_WRITE, PROT_EXEC, SHM_EXEC = 2, 4, 0o100000
NAMESPACES = (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000)


class Argument(ctypes.Structure):
    """A condition on an argument of a system call: libseccomp's ``scmp_arg_cmp``."""

    _fields_ = [
        ("number", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("one", ctypes.c_uint64),
        ("two", ctypes.c_uint64),
    ]


class Filter:
    """
    A filter of system calls.

    :param default: what happens to those without a rule.
    """

    def __init__(self, default: int) -> None:
        self._library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
        self._library.seccomp_init.restype = ctypes.c_void_p
        self._context = ctypes.c_void_p(self._library.seccomp_init(ctypes.c_uint32(default)))

    def add(self, action: int, call: str, *arguments: Argument) -> None:
        """A rule; calls that this machine does not have are left out."""
        number = self._library.seccomp_syscall_resolve_name(call.encode())
        if number < 0:
            return
        array = (Argument * len(arguments))(*arguments)
        failed = self._library.seccomp_rule_add_array(
            self._context, ctypes.c_uint32(action), number, len(arguments), array
        )
        if failed:
            raise OSError(-failed, f"no rule for {call}")

    def load(self) -> None:
        """Be in force, for ever."""
        failed = self._library.seccomp_load(self._context)
        if failed:
            raise OSError(-failed, "the filter is refused")


def masked(number: int, bits: int) -> Argument:
    """All of these bits are set."""
    return Argument(number, MASKED_EQUAL, bits, bits)


def sets() -> dict[str, list[str]]:
    """systemd's sets of system calls."""
    text = subprocess.run(
        ["systemd-analyze", "--no-pager", "syscall-filter"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    found: dict[str, list[str]] = {}
    for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines():
        if line.startswith("@"):
            members = found[line.strip()] = []
        elif re.match(r"\s+[@a-z_]", line):
            members.append(line.strip())
    return found


def allowed(lines: Iterable[str]) -> set[str]:
    """The calls that ``SystemCallFilter=`` allows, by its lines."""
    known = sets()

    def expand(name: str) -> set[str]:
        if not name.startswith("@"):
            return {name}
        return {call for member in known[name] for call in expand(member)}

    # What a process needs to begin and to end is always allowed.
    calls = expand("@default") | {"execve"}
    for line in lines:
        named = {call for name in line.removeprefix("~").split() for call in expand(name)}
        calls = calls - named if line.startswith("~") else calls | named
    return calls


def confine(unit: str) -> None:
    """Restrict this process as a unit says."""

    def values(name: str) -> list[str]:
        return re.findall(rf"^{name}=(.*)$", unit, re.M)

    calls = allowed(values("SystemCallFilter"))
    first = Filter(ALLOW)
    if values("MemoryDenyWriteExecute") == ["yes"]:
        first.add(ERRNO | EPERM, "mmap", masked(2, PROT_WRITE | PROT_EXEC))
        for call in ("mprotect", "pkey_mprotect"):
            first.add(ERRNO | EPERM, call, masked(2, PROT_EXEC))
        first.add(ERRNO | EPERM, "shmat", masked(2, SHM_EXEC))
    if values("RestrictNamespaces") == ["yes"]:
        first.add(ERRNO | ENOSYS, "clone3")
        first.add(ERRNO | EPERM, "setns")
        for flag in NAMESPACES:
            first.add(ERRNO | EPERM, "unshare", masked(0, flag))
            first.add(ERRNO | EPERM, "clone", masked(0, flag))
    [families] = values("RestrictAddressFamilies")
    for family in set(range(64)) - {FAMILIES[name] for name in families.split()}:
        first.add(ERRNO | EAFNOSUPPORT, "socket", Argument(0, EQUAL, family, 0))
    first.load()
    second = Filter(ERRNO | EPERM)
    for call in sorted(calls | {"seccomp", "prctl"}):
        second.add(ALLOW, call)
    second.load()


if __name__ == "__main__":
    confine(Path(sys.argv[1]).read_text("utf-8"))
    os.execvp(sys.argv[2], sys.argv[2:])
