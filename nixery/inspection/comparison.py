"""
Compares two images: their packages, their layers, and what a client that has one of them fetches to
get the other.

Store paths are matched by the names of their packages and outputs.  A package whose paths differ
and whose version does not was *rebuilt*: something that it depends on has changed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

from attrs import field, frozen

from nixery.image.closure import package_name
from nixery.inspection.report import ImageReport, ReportedLayer, ReportedPath
from nixery.layers.partial_pull import PartialPull

__all__ = ["Comparison", "PackageChange", "PackageChanges", "compare_images", "compare_packages"]

_OUTPUTS = frozenset(
    [
        "bin",
        "data",
        "debug",
        "dev",
        "devdoc",
        "devman",
        "doc",
        "info",
        "lib",
        "man",
        "nfs",
        "out",
        "python",
        "static",
    ]
)
"""The usual names of outputs, as nixpkgs has them."""


@frozen(kw_only=True)
class PackageChange:
    """
    A package that two images have in different ways.

    :param name: of the package, without version.
    :param old: its versions in the old image; none if the package is new.
    :param new: its versions in the new image; none if the package is gone.
    :param size: unpacked size of its store paths that only one of the images has, those of the new
        one if it has any, in bytes.
    """

    name: str
    old: tuple[str, ...]
    new: tuple[str, ...]
    size: int


@frozen(kw_only=True)
class PackageChanges:
    """
    The difference between the packages of two images; each part is sorted by names.

    :param updated: packages of which the versions differ.
    :param added: packages that only the new image has.
    :param removed: packages that only the old image has.
    :param rebuilt: packages of the same version with other store paths.
    :param unchanged: number of store paths that both have.
    """

    updated: tuple[PackageChange, ...]
    added: tuple[PackageChange, ...]
    removed: tuple[PackageChange, ...]
    rebuilt: tuple[PackageChange, ...]
    unchanged: int


@frozen(kw_only=True)
class Comparison:
    """
    The difference between an image that a client has and another one that it pulls.

    :param packages: ``None`` if the closure of one of them is not known.
    :param shared: the layers that the client has already.
    :param new: the layers that it does not have.
    :param partial: what a client of partial pulls fetches; ``None`` if that is not known.
    :param chunked: number of new layers that are chunked.
    :param held_chunked: true if the old image has chunked layers, from which files can be taken.
    """

    packages: PackageChanges | None
    shared: tuple[ReportedLayer, ...]
    new: tuple[ReportedLayer, ...]
    partial: PartialPull | None = None
    chunked: int = 0
    held_chunked: bool = False

    @property
    def shared_size(self) -> int:
        """Bytes of the layers that the client has already."""
        return sum(layer.size for layer in self.shared)

    @property
    def new_size(self) -> int:
        """Bytes that a client fetches that fetches whole layers."""
        return sum(layer.size for layer in self.new)


@frozen(kw_only=True)
class _Output:
    """Store paths of an output of a package, by version; ``paths`` has all of them."""

    versions: set[str] = field(factory=set)
    paths: dict[str, int] = field(factory=dict)


def compare_images(old: ImageReport, new: ImageReport) -> Comparison:
    """
    Compare two images, apart from partial pulls.

    :param old: the image that the client has.
    :param new: the image that it pulls.
    """
    held = {layer.digest for layer in old.layers}
    packages = None
    if old.paths and new.paths:
        packages = compare_packages(old.paths, new.paths)
    return Comparison(
        packages=packages,
        shared=tuple(layer for layer in new.layers if layer.digest in held),
        new=tuple(layer for layer in new.layers if layer.digest not in held),
    )


def compare_packages(
    old: Collection[ReportedPath], new: Collection[ReportedPath]
) -> PackageChanges:
    """Compare the store paths of two images by their packages."""
    before, after = _by_output(old), _by_output(new)
    in_both = {name for name, _ in before} & {name for name, _ in after}
    nothing = _Output()
    kinds: dict[str, dict[tuple[str, tuple[str, ...], tuple[str, ...]], int]]
    kinds = {kind: defaultdict(int) for kind in ("updated", "added", "removed", "rebuilt")}
    unchanged = 0
    for name, output in sorted(before.keys() | after.keys()):
        was, now = before.get((name, output), nothing), after.get((name, output), nothing)
        unchanged += len(was.paths.keys() & now.paths.keys())
        if was.paths.keys() == now.paths.keys():
            continue
        versions = tuple(sorted(was.versions)), tuple(sorted(now.versions))
        if not was.paths:
            kind = "added"
        elif not now.paths:
            kind = "removed"
        else:
            kind = "rebuilt" if was.versions == now.versions else "updated"
        label = name
        if kind in ("added", "removed") and name in in_both:
            label = f"{name} ({output or 'out'})"
        # Outputs of a package that changed alike are told once.
        kinds[kind][label, *versions] += _only(now, was) or _only(was, now)
    return PackageChanges(
        **{kind: _changes(found) for kind, found in kinds.items()}, unchanged=unchanged
    )


def _by_output(paths: Iterable[ReportedPath]) -> Mapping[tuple[str, str], _Output]:
    outputs: dict[tuple[str, str], _Output] = defaultdict(_Output)
    for path in paths:
        name = package_name(path.name)
        version, output = _split_version(path.name[len(name) + 1 :])
        found = outputs[name, output]
        found.versions.add(version)
        found.paths[path.path] = path.size
    return outputs


def _split_version(text: str) -> tuple[str, str]:
    """Split a version from the output behind it: ``8.5.0-dev``."""
    version, dash, output = text.rpartition("-")
    return (version, output) if dash and output in _OUTPUTS else (text, "")


def _only(paths: _Output, others: _Output) -> int:
    """Return the size of the paths that the others have not."""
    return sum(size for path, size in paths.paths.items() if path not in others.paths)


def _changes(
    found: Mapping[tuple[str, tuple[str, ...], tuple[str, ...]], int],
) -> tuple[PackageChange, ...]:
    return tuple(
        PackageChange(name=name, old=old, new=new, size=size)
        for (name, old, new), size in sorted(found.items())
    )
