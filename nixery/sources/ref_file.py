"""
Store the last results of reference look-ups on disk.

A daemon that starts while the upstream is unreachable serves the stored results.  The
file also has the commits that were found to be in the repository's history, which
stay accepted.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from nixery.image.names import is_commit
from nixery.sources.source import ResolvedRef

__all__ = ["RefFile"]

FORMAT_VERSION = 1


class RefFile:
    """
    Reads and writes a file of references by their keys.

    Both methods block.

    :param path: the path of the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> dict[str, ResolvedRef]:
        """
        Read the references, the oldest first; empty if there is no file.

        :raises OSError: it cannot be read.
        :raises ValueError: it does not have the expected format.
        """
        try:
            text = self._path.read_text("utf-8")
        except FileNotFoundError:
            return {}
        data = json.loads(text)
        if not isinstance(data, dict) or data.get("version") != FORMAT_VERSION:
            raise ValueError(f"{self._path} is of another version")
        return {str(key): _parse_entry(entry) for key, entry in data["references"]}

    def save(self, references: Mapping[str, ResolvedRef]) -> None:
        """
        Replace the file atomically.

        :raises OSError: it cannot be written.
        """
        data = {
            "version": FORMAT_VERSION,
            "references": [
                [key, {"commit": ref.commit, "ref": ref.ref}] for key, ref in references.items()
            ],
        }
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_suffix(".new")
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(data, file, indent=1)
            file.flush()
            # Without this, a power cut may leave the new name on an empty file.
            os.fsync(file.fileno())
        temporary.replace(self._path)


def _parse_entry(entry: object) -> ResolvedRef:
    match entry:
        case {"commit": str(commit), "ref": str() | None as ref} if is_commit(commit):
            return ResolvedRef(commit=commit, ref=ref)
    raise ValueError(f"{entry!r} is no reference")
