"""
Boots a Debian with its own kernel in a virtual machine, runs a command, and switches it off.

The processor is emulated: this works wherever qemu does, and takes minutes.
"""

from __future__ import annotations

from pathlib import Path

from tests.end_to_end.processes import run

__all__ = ["run_in_machine"]

DISK_SIZE = "3G"
"""The size of the root file system; what is not used takes no room."""

COMMAND = (
    "mkdir /run/checks && tar -xf /dev/nvme1n1 -C /run/checks && sh -eu /run/checks/{script}"
    " >/dev/ttyS1 2>&1"
)

MASKED = ("systemd-udevd.service", "systemd-udev-trigger.service")
"""Services that look for devices, for minutes; the kernel alone makes those that are needed."""


def run_in_machine(root: Path, archive: Path, script: str, *, seconds: float) -> str:
    """
    Run a script in a virtual machine.

    :param root: a tree with a kernel and systemd, which stays as it is.
    :param archive: a tar file. Its content is put into ``/run/checks``; files are made beside it.
    :param script: the path in the archive of a script for ``sh``.
    :param seconds: the timeout.
    :return: the output of the script, and after it that of the machine's console.
    """
    disk, console, output = (archive.with_name(name) for name in ("disk", "console", "output"))
    run(
        ["mke2fs", "-q", "-t", "ext4", "-d", str(root), str(disk), DISK_SIZE], seconds=600
    ).checked()
    [kernel] = (root / "boot").glob("vmlinuz-*")
    options = (
        *("root=/dev/nvme0n1", "rw", "console=ttyS0", "quiet", "audit=0", "mitigations=off"),
        *(f"systemd.mask={service}" for service in MASKED),
        # All that is wanted of it is the command.
        f"systemd.run=\"/bin/sh -c '{COMMAND.format(script=script)}'\"",
        "systemd.run_success_action=poweroff-force",
        "systemd.run_failure_action=poweroff-force",
    )
    machine = [
        # A processor without what is slow to emulate. Time passes by its instructions: on a busy
        # machine it is slow for those who look at it from outside only.
        *("qemu-system-x86_64", "-accel", "tcg", "-icount", "shift=2"),
        *("-cpu", "Nehalem,+rdrand", "-m", "1024"),
        *("-display", "none", "-monitor", "none", "-nic", "none", "-no-reboot"),
        *("-serial", f"file:{console}", "-serial", f"file:{output}"),
        *("-kernel", str(kernel), "-append", " ".join(options)),
        # Debian's kernel has the drivers of these disks and of their file system in it.
        *("-drive", f"file={disk},format=raw,if=none,id=root"),
        *("-drive", f"file={archive},format=raw,if=none,id=archive,readonly=on"),
        *("-device", "nvme,drive=root,serial=root", "-device", "nvme,drive=archive,serial=archive"),
    ]
    run(["setpriv", "--pdeathsig", "KILL", *machine], seconds=seconds).checked()
    return "".join(file.read_text(errors="replace") for file in (output, console))
