"""
The search path of evaluations: what ``<name>`` means in package sets and overlays, and further
paths that they may read.

It belongs to the identity of every revision: other entries are other packages.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from attrs import evolve, field, frozen

from nixery.sources.source import Revision, SourceTree, is_pinned_path

__all__ = ["PinnedArchive", "SearchPath", "search_path_of"]

_ENTRY = "nix_path."
_EXTRA = "extra_path."


@frozen(kw_only=True)
class PinnedArchive:
    """
    An archive whose content a hash fixes.

    :param url: its URL, without secrets.
    :param sha256: the hash of the unpacked archive, 64 hexadecimal digits.
    """

    url: str
    sha256: str

    def __str__(self) -> str:
        return f"{self.url}#sha256-{self.sha256}"

    @property
    def tree(self) -> SourceTree:
        """The files, to be fetched."""
        return SourceTree(kind="hashed", url=self.url, commit=self.sha256)


@frozen(kw_only=True)
class SearchPath:
    """
    The paths that evaluations may read besides the package set and its overlays.

    :param entries: what each ``<name>`` means.
    :param extra_paths: files and directories without a name.
    """

    entries: Mapping[str, Path | PinnedArchive] = field(factory=dict, hash=False)
    extra_paths: tuple[Path, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.entries or self.extra_paths)

    @property
    def paths(self) -> tuple[Path, ...]:
        """All paths, in order."""
        named = (entry for entry in self.entries.values() if isinstance(entry, Path))
        return (*named, *self.extra_paths)

    @property
    def archives(self) -> tuple[PinnedArchive, ...]:
        """All archives, in order."""
        return tuple(entry for entry in self.entries.values() if isinstance(entry, PinnedArchive))

    def with_paths(self, paths: Iterable[Path]) -> SearchPath:
        """
        Replace all paths.

        :param paths: as many, in the order of :attr:`paths`.
        """
        rest = iter(paths)
        entries = {
            name: next(rest) if isinstance(entry, Path) else entry
            for name, entry in self.entries.items()
        }
        return SearchPath(entries=entries, extra_paths=tuple(rest))

    def on_disk(self, fetched: Iterable[Path]) -> tuple[tuple[str, Path], ...]:
        """
        Return the name and the path of each entry, as :class:`PackageSet` has them.

        :param fetched: the paths of :attr:`archives`, in their order.
        """
        rest = iter(fetched)
        return (
            *(
                (name, entry if isinstance(entry, Path) else next(rest))
                for name, entry in self.entries.items()
            ),
            *((f"nixery-extra-{number}", path) for number, path in enumerate(self.extra_paths)),
        )

    def extend(self, revision: Revision, *, version: str | None = None) -> Revision:
        """
        Return a revision that is evaluated with this search path, whose paths have no symlinks.

        :param version: as in :class:`Revision`, of all paths together.
        """
        if not self:
            return revision
        identity = {f"{_ENTRY}{name}": str(entry) for name, entry in self.entries.items()}
        identity |= {f"{_EXTRA}{number}": str(path) for number, path in enumerate(self.extra_paths)}
        pinned = revision.pinned and all(map(is_pinned_path, self.paths))
        return evolve(
            revision,
            identity={**revision.identity, **identity},
            pinned=pinned,
            version=None if pinned else version,
        )


def search_path_of(revision: Revision) -> SearchPath:
    """Return the search path that a revision was extended by."""
    entries: dict[str, Path | PinnedArchive] = {}
    extra_paths: list[Path] = []
    for name, text in revision.identity.items():
        if name.startswith(_EXTRA):
            extra_paths.append(Path(text))
        elif name.startswith(_ENTRY):
            url, _, sha256 = text.rpartition("#sha256-")
            archive = PinnedArchive(url=url, sha256=sha256)
            entries[name.removeprefix(_ENTRY)] = Path(text) if text.startswith("/") else archive
    return SearchPath(entries=entries, extra_paths=tuple(extra_paths))
