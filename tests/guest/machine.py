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
    "mkdir /run/checks && tar -xf /dev/vdb -C /run/checks && sh -eu /run/checks/{script}"
    " >/dev/ttyS1 2>&1"
)


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
    [initrd] = (root / "boot").glob("initrd.img-*")
    options = (
        *("root=/dev/vda", "rw", "console=ttyS0", "systemd.show_status=1"),
        # The kernel alone makes the devices that are needed; looking for others takes minutes.
        *("systemd.mask=systemd-udevd.service", "systemd.mask=systemd-udev-trigger.service"),
        f"systemd.run=\"/bin/sh -c '{COMMAND.format(script=script)}'\"",
        "systemd.run_success_action=poweroff-force",
        "systemd.run_failure_action=poweroff-force",
    )
    machine = [
        *("qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-m", "1024"),
        *("-display", "none", "-monitor", "none", "-nic", "none", "-no-reboot"),
        *("-serial", f"file:{console}", "-serial", f"file:{output}"),
        *("-kernel", str(kernel), "-initrd", str(initrd), "-append", " ".join(options)),
        *("-drive", f"file={disk},format=raw,if=virtio"),
        *("-drive", f"file={archive},format=raw,if=virtio,readonly=on"),
    ]
    run(["setpriv", "--pdeathsig", "KILL", *machine], seconds=seconds).checked()
    return "".join(file.read_text(errors="replace") for file in (output, console))
