"""
How ``nix/resolve.nix`` is called: packages looked up, evaluated, and built at once.

As :mod:`nixery.nix.arguments`, whose settings and environment belong to these commands
too.  Whatever a client wrote travels as JSON in one argument, or in one string of an
expression, and is never parsed as an expression itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from attrs import frozen

from nixery.image.names import PackageRequest
from nixery.nix.arguments import NixSettings, building, json_text
from nixery.sources.source import PackageSet

__all__ = ["Lookup", "evaluate", "evaluate_and_build", "question", "stand_by"]

# Without --read-write-mode no derivation is written.
_EVALUATION = ("nix-instantiate", "--eval", "--strict", "--json", "--read-write-mode")

# What ends a string of the Nix language, or means something else than itself in one.
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "$": "\\$", "\r": "\\r"})


@frozen(kw_only=True)
class Lookup:
    """
    Where packages are looked up.

    :param settings: how Nix is to be used.
    :param resolve: the path of ``nix/resolve.nix``, without symlinks.
    :param package_set: a file may read what lies beside it; an overlay may not, for
        that may be the operator's configuration.
    :param system: what the packages run on.
    """

    settings: NixSettings
    resolve: Path
    package_set: PackageSet
    system: str


def evaluate(
    lookup: Lookup, requirements: Sequence[PackageRequest], *, guard: bool = True
) -> tuple[str, ...]:
    """
    Look packages up and write their derivations to the store.

    :param guard: whether a package that throws is an error of its own, or ends
        the evaluation with Nix's text.
    """
    return (
        *_EVALUATION,
        *("-A", "found"),
        *_options(lookup),
        *_arguments(lookup, requirements, guard=guard),
    )


def evaluate_and_build(
    lookup: Lookup, requirements: Sequence[PackageRequest], out_link: Path
) -> tuple[str, ...]:
    """
    Look packages up, and build or download their outputs, in one process.

    :param out_link: as :func:`nixery.nix.arguments.build` says.
    """
    return (
        *building(lookup.settings, out_link),
        *("-A", "outputs"),
        *_options(lookup),
        *_arguments(lookup, requirements),
    )


def stand_by(lookup: Lookup) -> tuple[str, ...]:
    """
    Wait for a :func:`question` on the standard input, then do as :func:`evaluate` does.

    The same for all systems.
    """
    return (*_EVALUATION, *("-A", "found"), *_options(lookup), "-")


def question(lookup: Lookup, requirements: Sequence[PackageRequest]) -> bytes:
    """What :func:`stand_by` reads, to its end."""
    arguments = "".join(
        f"{name} = {_string(value)}; " for name, value in _values(lookup, requirements).items()
    )
    return f"import (/. + {_string(str(lookup.resolve))}) {{ {arguments}}}\n".encode(
        # As the arguments of commands are.
        errors="surrogateescape"
    )


def _options(lookup: Lookup) -> tuple[str, ...]:
    """What restricts an evaluation."""
    source = lookup.package_set.path
    # Restricted evaluation reads what is on the search path, and the store.
    readable = {
        "nixery-src": source.parent if source.suffix == ".nix" else source,
        "nixery-resolve": lookup.resolve,
        **{f"nixery-overlay-{i}": path for i, path in enumerate(lookup.package_set.overlays)},
    }
    return (
        *("--option", "restrict-eval", "true"),
        *(
            "--option",
            "allow-import-from-derivation",
            "true" if lookup.settings.allow_import_from_derivation else "false",
        ),
        *(part for name, path in readable.items() for part in ("-I", f"{name}={path}")),
    )


def _arguments(
    lookup: Lookup, requirements: Sequence[PackageRequest], *, guard: bool = True
) -> tuple[str, ...]:
    """``nix/resolve.nix``, with all that it is given."""
    values = _values(lookup, requirements, guard=guard)
    return (
        *(part for name, value in values.items() for part in ("--argstr", name, value)),
        str(lookup.resolve),
    )


def _values(
    lookup: Lookup, requirements: Sequence[PackageRequest], *, guard: bool = True
) -> Mapping[str, str]:
    names = [
        {"name": item.name, "path": item.name.split("."), "exact": item.exact}
        for item in requirements
    ]
    return {
        "src": str(lookup.package_set.path),
        "system": lookup.system,
        "names": json_text(names),
        "config": json_text(lookup.settings.config),
        "overlays": json_text([str(path) for path in lookup.package_set.overlays]),
        "guard": "true" if guard else "false",
    }


def _string(text: str) -> str:
    """A string of the Nix language."""
    return f'"{text.translate(_ESCAPES)}"'
