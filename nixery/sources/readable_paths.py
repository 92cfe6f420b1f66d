"""
Tell which paths outside the Nix store the evaluations of a package source read from.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from attrs import frozen

from nixery.sources.source import FlakeSource, PathSource, Source, is_pinned_path

__all__ = ["ReadablePath", "directory_of", "readable_paths"]


@frozen(kw_only=True)
class ReadablePath:
    """
    A path outside the Nix store that evaluations read from, as it is configured.

    :param with_siblings: if it is a file, whether they may read the files beside it as well.
    """

    path: Path
    with_siblings: bool = False

    def tree(self, real: Path) -> Path:
        """
        Return the directory or file that may be read.

        :param real: the path without symlinks.
        """
        return directory_of(real) if self.with_siblings else real


def directory_of(path: Path) -> Path:
    """Return the directory that a package set may read: a file's own directory, too."""
    return path.parent if path.suffix == ".nix" else path


def readable_paths(source: Source, others: Sequence[Path] = ()) -> tuple[ReadablePath, ...]:
    """
    Return all paths outside the Nix store that evaluations of a source read from.

    :param others: those of overlays and of the search path.
    """
    paths = [ReadablePath(path=path) for path in others]
    if isinstance(source, PathSource):
        paths.append(ReadablePath(path=source.path, with_siblings=True))
    # What a lock file does not fix changes without a change of files.
    if isinstance(source, FlakeSource) and source.kind == "path" and not source.allow_unlocked:
        paths.append(ReadablePath(path=Path(source.location)))
    return tuple(each for each in paths if not is_pinned_path(each.path))
