"""
Describe the store paths of an image, with all that a bill of materials says of each.

A component is made of what Nix has registered for the path, and of the evaluation of the
requested packages, and of nothing else: no derivation is read, because another machine that has
the same closure may not have it.  So every machine makes the same components.

The evaluation describes the outputs of the requested packages.  Of all other paths only the name
is known: name, version and output are read from it by Nix's own rule, and there is no licence.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import quote

from attrs import frozen

from nixery.image.closure import RuntimeGraph, StorePath, package_name
from nixery.image.declarations import License
from nixery.image.packages import Evaluation, Package

__all__ = ["Component", "image_components", "image_title"]

OUTPUTS = (
    "bin",
    "debug",
    "dev",
    "devdoc",
    "devman",
    "dist",
    "doc",
    "info",
    "lib",
    "man",
    "static",
    "terminfo",
)
"""The names of outputs by nixpkgs' convention: the last part of a store path's name may be one."""


@frozen(kw_only=True)
class Component:
    """
    A store path of an image.

    :param name: the package's name, without its version: ``hello``.
    :param version: empty if the name has none.
    :param output: the derivation's output: ``out``, ``bin``.
    :param nar_hash: SHA-256 of its archive in Nix's format, in hexadecimal.
    :param nar_size: the size of that archive, in bytes.
    :param references: the paths that it refers to, sorted, without itself.
    :param attribute: its attribute path in the package set; empty if it was not evaluated.
    :param description: one line; empty if there is none.
    :param licenses: those that the package set declares; empty if it declares none, or if it
        was not evaluated.
    :param cpe: as the package set declares it; empty if it declares none.
    """

    path: StorePath
    name: str
    version: str
    output: str
    nar_hash: str
    nar_size: int
    references: tuple[StorePath, ...]
    attribute: str = ""
    description: str = ""
    licenses: tuple[License, ...] = ()
    cpe: str = ""

    @property
    def purl(self) -> str:
        """The package URL; ``nix`` is a candidate of the list of types."""
        version = f"@{quote(self.version, safe='')}" if self.version else ""
        return (
            f"pkg:nix/{quote(self.name, safe='')}{version}"
            f"?output={quote(self.output, safe='')}&outputhash={self.path.hash}"
        )


def image_components(graph: RuntimeGraph, evaluation: Evaluation) -> tuple[Component, ...]:
    """
    Return the components of an image, in the canonical order of the graph.

    :param graph: the closure of the packages' outputs.
    """
    evaluated = _evaluated_paths(evaluation)
    components = []
    for path, info in graph.paths.items():
        package, output = evaluated.get(path.path, (None, ""))
        if package is None:
            name, version, output = split_name(path.name)
        else:
            name, version = package.pname or package.name, package.version
        components.append(
            Component(
                path=path,
                name=name,
                version=version,
                output=output,
                nar_hash=info.nar_hash,
                nar_size=info.nar_size,
                references=info.references,
                attribute="" if package is None else package.attribute,
                description="" if package is None else package.description,
                licenses=() if package is None else package.licenses,
                cpe="" if package is None else package.cpe,
            )
        )
    return tuple(components)


def image_title(evaluation: Evaluation) -> str:
    """Return a name of the image by its contents: the same for all names it is pulled by."""
    return "/".join(sorted({package.attribute for package in evaluation.packages})) or "empty"


_OUTPUT_SUFFIX = re.compile(rf"-(?P<output>{'|'.join(OUTPUTS)})$")


def split_name(name: str) -> tuple[str, str, str]:
    """
    Split the name of a store path into the package's name, its version and the output.

    The version begins as in ``builtins.parseDrvName``.  Nix appends the output's name to that of
    a derivation, unless it is ``out``; only the names of :data:`OUTPUTS` are recognised.

    :param name: as in :attr:`nixery.image.closure.StorePath.name`.
    """
    found = _OUTPUT_SUFFIX.search(name)
    stem, output = (name, "out") if found is None else (name[: found.start()], found["output"])
    pname = package_name(stem)
    # A name that begins with a dash and a digit has no name before its version.
    return (pname, stem[len(pname) + 1 :], output) if pname else (stem, "", output)


def _evaluated_paths(evaluation: Evaluation) -> Mapping[str, tuple[Package, str]]:
    """Return the package and the output of each path that the evaluation describes."""
    paths: dict[str, tuple[Package, str]] = {}
    for package in evaluation.packages:
        for output in (*package.outputs, *package.other_outputs):
            # Two packages can share a path: the first attribute path describes it, as sorted.
            paths.setdefault(output.path, (package, output.name))
    return paths
