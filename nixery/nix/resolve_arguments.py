"""
Build the commands that look packages up, to evaluate or to build them.

One command calls ``nix/resolve.nix`` once.  A resident evaluator is told ``nix/package_set.nix``
and ``nix/lookup.nix`` once, and answers one look-up after the other.

The settings and the environment are those of :mod:`nixery.nix.arguments`.  Text from clients
is passed as JSON in one argument, or in one string of an expression, and is never parsed
as an expression itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from enum import Enum
from functools import cache
from pathlib import Path

from attrs import frozen

from nixery.image.names import PackageRequest
from nixery.nix.arguments import FLAKE_OPTIONS, NixSettings, building, json_text
from nixery.sources.readable_paths import directory_of
from nixery.sources.source import PackageSet, Revision

__all__ = [
    "Fetches",
    "Lookup",
    "binding",
    "describe",
    "evaluate",
    "evaluate_and_build",
    "inline",
    "question",
    "repl",
]

_EVALUATION = (
    "nix-instantiate",
    *("--eval", "--strict", "--json"),
    # Without it no derivation is written.
    "--read-write-mode",
    # Only events tell the text of an error apart from its trace.
    *("--log-format", "internal-json"),
)

# Characters that end a string of the Nix language or a line, or have a special meaning in one.
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "$": "\\$", "\r": "\\r", "\n": "\\n"})

_FETCHED_URLS = (
    *("http://", "https://", "ssh://", "git://"),
    *("git+http://", "git+https://", "git+ssh://", "hg+http://", "hg+https://", "hg+ssh://"),
    *("tarball+http://", "tarball+https://", "github:", "gitlab:", "sourcehut:"),
)
"""
The URLs that an evaluation may fetch.

Those of files are not among them: Nix reads these as paths, which the search path allows.
"""


class Fetches(Enum):
    """The network fetches that an evaluation may do."""

    FORBIDDEN = "forbidden"
    """None but those that Nix's own options allow."""
    PINNED = "pinned"
    """Those whose result a hash or a full commit fixes, see ``nix/guarded_fetches.nix``."""
    ANY = "any"


@frozen(kw_only=True)
class Lookup:
    """
    The arguments that all look-ups in one package set share.

    :param settings: the settings of Nix commands.
    :param resolve: the path of ``nix/resolve.nix``, without symlinks.
    :param package_set: if it is a file, it may read files beside it; an overlay may not, for
        these may be the operator's configuration.
    :param system: the system that the packages run on.
    :param fetches: the network fetches that the package set and its overlays may do.
    """

    settings: NixSettings
    resolve: Path
    package_set: PackageSet
    system: str
    fetches: Fetches = Fetches.FORBIDDEN

    @property
    def names_key(self) -> tuple[Revision, str]:
        """The revision and the system, which determine the names that the package set has."""
        return self.package_set.revision, self.system


@cache
def inline(path: Path) -> str:
    """
    Return the text of an expression, with those of the files that it imports in their places.

    Pure evaluation reads no file outside of the store, and in Nix 2.8 not even those that
    ``builtins.toFile`` has put there.  The files are part of the installation, and read once.

    :param path: the path of the expression; it names the others ``import ./NAME.nix``.
    """
    lines = path.read_text("utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    return _IMPORT.sub(lambda match: f"({inline(path.with_name(match[1]))})", text)


_IMPORT = re.compile(r"\bimport \./([a-z_]+\.nix)\b")


def evaluate(
    lookup: Lookup, requests: Sequence[PackageRequest], *, guard: bool = True
) -> tuple[str, ...]:
    """
    Command that looks packages up and writes their derivations to the store.

    :param guard: whether a package that throws is reported as its own error, or ends
        the evaluation with Nix's text.
    """
    return (
        *_EVALUATION,
        *("-A", "found"),
        *_options(lookup),
        *_arguments(lookup, requests, guard=guard),
    )


def evaluate_and_build(
    lookup: Lookup, requests: Sequence[PackageRequest], out_link: Path
) -> tuple[str, ...]:
    """
    Command that looks packages up and builds or downloads their outputs, in one process.

    :param out_link: as in :func:`nixery.nix.arguments.build`.
    """
    return (
        *building(lookup.settings, out_link),
        *("-A", "outputs"),
        *_options(lookup),
        *_arguments(lookup, requests),
    )


def repl(lookup: Lookup) -> tuple[str, ...]:
    """
    Command that reads a :func:`binding` and then expressions, such as a :func:`question`, a line
    each.

    It is restricted as an evaluation is, and is the same for all systems and configurations.
    """
    return (
        *("nix", "repl"),
        # Newer versions may demand it of every command of this name.
        *("--extra-experimental-features", "nix-command"),
        # A file of the operator's that would be applied to what is bound.
        *("--option", "repl-overlays", ""),
        *_options(lookup),
    )


def binding(lookup: Lookup) -> str:
    """
    Return the line that binds what a :func:`question` asks; not for a flake.

    Nothing is read before the first question, and what all questions have in common is
    evaluated once.
    """
    values = _set_values(lookup)
    shared = {name: values[name] for name in ("system", "config")}
    expressions = lookup.resolve.parent
    package_set = f"import {_path(expressions / 'package_set.nix')} {_attributes(values)}"
    return (
        f"lookup = import {_path(expressions / 'lookup.nix')}"
        f" ({_attributes(shared)} // {{ packages = {package_set}; }})"
    )


def question(requests: Sequence[PackageRequest]) -> str:
    """Return the expression that looks packages up, guarded, once :func:`binding` was read."""
    return f"(lookup {_attributes(_question_values(requests))}).found"


def describe(lookup: Lookup, names: Sequence[str] | None) -> tuple[str, ...]:
    """
    Command that prints what packages are called and say of themselves, or all names of a set.

    It writes nothing, and may do nothing else that :func:`evaluate` may not.

    :param names: attributes at the top of the set; ``None`` to print all of them.
    """
    expression = lookup.resolve.parent / "index.nix"
    wanted = json_text(None if names is None else list(names))
    return (
        *("nix-instantiate", "--eval", "--strict", "--json", "--readonly-mode"),
        *_options(lookup),
        *_argstr(_set_values(lookup) | {"names": wanted}),
        *_expression(lookup, expression),
    )


def _options(lookup: Lookup) -> tuple[str, ...]:
    """Return the options that restrict an evaluation."""
    import_from_derivation = (
        "--option",
        "allow-import-from-derivation",
        "true" if lookup.settings.allow_import_from_derivation else "false",
    )
    if lookup.package_set.flake:
        # What is fetched has a hash; Nix 2.8 refuses inputs where evaluation is restricted too.
        return (
            *FLAKE_OPTIONS,
            *("--option", "restrict-eval", "false"),
            *("--option", "pure-eval", "true"),
            *import_from_derivation,
        )
    # Restricted evaluation can read the paths of the search path, and the store.  Those of the
    # package set are watched: see ``readable_paths``.
    readable = {
        "nixery-src": directory_of(lookup.package_set.path),
        # With what ``nix/resolve.nix`` imports.
        "nixery-nix": lookup.resolve.parent,
        **{f"nixery-overlay-{i}": path for i, path in enumerate(lookup.package_set.overlays)},
        **dict(lookup.package_set.search_path),
    }
    return (
        *("--option", "restrict-eval", "true"),
        *import_from_derivation,
        # The machine's own nix.conf may set it.
        *("--option", "nix-path", ""),
        *_fetch_options(lookup.fetches),
        *(part for name, path in readable.items() for part in ("-I", f"{name}={path}")),
    )


def _fetch_options(fetches: Fetches) -> tuple[str, ...]:
    """Return the options that allow an evaluation to fetch."""
    if fetches is Fetches.FORBIDDEN:
        return ()
    return (
        *("--option", "extra-allowed-uris", " ".join(_FETCHED_URLS)),
        # For ``fetchTree``.
        *("--option", "extra-experimental-features", "flakes"),
    )


def _arguments(
    lookup: Lookup, requests: Sequence[PackageRequest], *, guard: bool = True
) -> tuple[str, ...]:
    """Return the path of ``nix/resolve.nix`` and its arguments."""
    values = _set_values(lookup) | _question_values(requests, guard=guard)
    return (*_argstr(values), *_expression(lookup, lookup.resolve))


def _argstr(values: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(part for name, value in values.items() for part in ("--argstr", name, value))


def _expression(lookup: Lookup, path: Path) -> tuple[str, ...]:
    """Return the arguments that name an expression of ours."""
    return ("--expr", inline(path)) if lookup.package_set.flake else (str(path),)


def _set_values(lookup: Lookup) -> dict[str, str]:
    """Return the arguments of ``nix/package_set.nix``."""
    flake = lookup.package_set.flake
    return {
        **({"flake": flake} if flake else {"src": str(lookup.package_set.path)}),
        "system": lookup.system,
        "config": json_text(lookup.settings.config),
        "overlays": json_text([str(path) for path in lookup.package_set.overlays]),
        **({} if flake else {"fetches": lookup.fetches.value}),
    }


def _question_values(requests: Sequence[PackageRequest], *, guard: bool = True) -> dict[str, str]:
    names = [
        {
            "name": item.name,
            "path": item.name.split("."),
            "exact": item.exact,
            "optional": item.optional,
        }
        for item in requests
    ]
    return {"names": json_text(names), "guard": "true" if guard else "false"}


def _attributes(values: Mapping[str, str]) -> str:
    """Write a set of strings in the Nix language."""
    return "{ " + "".join(f"{name} = {_string(text)}; " for name, text in values.items()) + "}"


def _path(path: Path) -> str:
    """Write a path in the Nix language, whose literals of paths cannot hold every character."""
    return f"(/. + {_string(str(path))})"


def _string(text: str) -> str:
    """Write a text as a string of the Nix language, within one line."""
    return f'"{text.translate(_ESCAPES)}"'
