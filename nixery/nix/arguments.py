"""
The arguments and the environment of Nix commands, as pure functions.

Those that look packages up are in :mod:`nixery.nix.resolve_arguments`, and nowhere else is
known how Nix is called.  What the commands print is read in :mod:`nixery.image.packages`,
:mod:`nixery.nix.internal_json` and :mod:`nixery.image.closure`; when they are run is decided in
:mod:`nixery.nix.commands`.

Options of the operator's travel in the environment: they may hold access tokens, which
every user of the machine could read from an argument list.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from attrs import field, frozen

from nixery.image.packages import Package
from nixery.sources.source import PackageSet, SourceTree

__all__ = [
    "REFUSED_ATTRIBUTES",
    "STORE",
    "STORE_PROBE",
    "NixSettings",
    "add_root",
    "build",
    "building",
    "chunks",
    "dump",
    "environment",
    "fetch",
    "fetch_environment",
    "hold",
    "json_text",
    "probe_store",
    "query_closure",
    "serve",
    "store_text",
    "version",
]

REFUSED_ATTRIBUTES = frozenset(
    {
        "adjacentpackages",
        "appendoverlays",
        "buildpackages",
        "crosssystem",
        "nixostests",
        "pkgsarocc",
        "pkgsbuildbuild",
        "pkgsbuildhost",
        "pkgsbuildtarget",
        "pkgschecked",
        "pkgscross",
        "pkgsextrahardening",
        "pkgshosthost",
        "pkgshosttarget",
        "pkgsi686linux",
        "pkgsllvm",
        "pkgsllvmlibc",
        "pkgsmusl",
        "pkgsstatic",
        "pkgstargettarget",
        "pkgsx86_64darwin",
        "pkgszig",
        "targetpackages",
        "testers",
        "tests",
    }
)
"""
Attributes, in lower case, that attribute paths may not lead through: nixpkgs' other
package sets, each of which rebuilds everything from the compiler up, and its tests,
which start virtual machines.
"""

STORE = "/nix/store"
"""The only store that images are made of: the packages name it."""

STORE_PROBE = f"{STORE}/00000000000000000000000000000000-nixery-probe"
"""A store path that exists nowhere."""

LOOKUP_VERSION = "1"
"""Changes with ``nix/resolve.nix``, whenever it answers a question in another way."""

ARGUMENTS = 100_000
"""How many bytes of arguments one command gets: every system allows 128 KiB."""


@frozen(kw_only=True)
class NixSettings:
    """
    How Nix is to be used.

    :param state_directory: garbage collection roots are made in its ``gcroots``,
        which belong to one daemon; it has to lie where the Nix daemon sees it.
    :param home: a writable directory for what the commands keep in a home.
    :param timeout: seconds that the build of one derivation may take.
    :param max_silent: seconds that it may print nothing.
    :param build_deadline: seconds that all builds and downloads of one image may
        take together.
    :param eval_timeout: seconds that the evaluation of one image may take.
    :param eval_memory: bytes of memory that an evaluation may use.
    :param evaluations: how many evaluations run at a time.
    :param allow_import_from_derivation: whether an evaluation may build.
    :param options: further options of nix.conf.
    :param config: the ``config`` argument of the package set, as JSON data.
    :param refused: as :data:`REFUSED_ATTRIBUTES`.
    :param fetch_timeout: seconds that fetching one commit may take, all attempts
        together.
    :param source_keep: seconds after which a fetched commit that was not used is given
        to the garbage collector.
    :param substitute_only: whether everything has to come from binary caches.
    """

    state_directory: Path
    home: Path
    timeout: int = 3600
    max_silent: int = 1800
    build_deadline: float = 14400.0
    eval_timeout: float = 120.0
    eval_memory: int = 4 * 1024**3
    evaluations: int = 4
    allow_import_from_derivation: bool = False
    options: Mapping[str, str] = field(factory=dict, hash=False, repr=False)
    config: Mapping[str, object] = field(factory=dict, hash=False)
    refused: frozenset[str] = REFUSED_ATTRIBUTES
    fetch_timeout: float = 1800.0
    source_keep: float = 1209600.0
    substitute_only: bool = False

    @property
    def roots(self) -> Path:
        """Where garbage collection roots are made, a directory for each build."""
        return self.state_directory / "gcroots"

    @property
    def source_roots(self) -> Path:
        """Where the garbage collection roots of fetched sources are made."""
        return self.state_directory / "src"

    def evaluation_identity(self) -> dict[str, str]:
        """What of all this shapes an evaluation, for cache keys."""
        return {
            "config": json_text(self.config),
            "import_from_derivation": json_text(self.allow_import_from_derivation),
            "lookup": LOOKUP_VERSION,
        }


def environment(inherited: Mapping[str, str], settings: NixSettings) -> dict[str, str]:
    """
    The environment of Nix commands.

    :param inherited: the environment of this process: PATH, certificates, proxies
        and NIX_REMOTE are as good for Nix as for us.
    """
    # A package set brings all that it needs: angle brackets find nothing.
    result = {name: value for name, value in inherited.items() if name != "NIX_PATH"}
    result["HOME"] = str(settings.home)
    result["XDG_CACHE_HOME"] = str(settings.home / ".cache")
    # Read by the evaluator's garbage collector, and by nothing else.
    result["GC_MAXIMUM_HEAP_SIZE"] = str(settings.eval_memory)
    lines = [inherited.get("NIX_CONFIG", "")]
    # A line is an option: a line end in a value would begin another one.
    lines += [
        f"{name} = {' '.join(value.split())}" for name, value in sorted(settings.options.items())
    ]
    config = "\n".join(line for line in lines if line)
    if config:
        result["NIX_CONFIG"] = config
    return result


def fetch_environment(
    inherited: Mapping[str, str], git: Mapping[str, str], settings: NixSettings
) -> dict[str, str]:
    """
    The environment of Nix commands that fetch.

    :param inherited: the environment of this process.
    :param git: that of git, which Nix runs: credentials are in the home directory that
        it is told of.
    """
    result = dict(git) | environment(git, settings)
    if inherited.get("HOME"):
        result["HOME"] = inherited["HOME"]
    return result


def version() -> tuple[str, ...]:
    """Prints the version; opens no store."""
    return ("nix-store", "--version")


def probe_store() -> tuple[str, ...]:
    """
    Prints :data:`STORE_PROBE` if the store can be opened and asked.

    Says also which settings Nix's daemon ignores, as debugging output in versions
    before 2.19.
    """
    return ("nix-store", "-vvv", "--check-validity", "--print-invalid", STORE_PROBE)


def store_text(text: str) -> tuple[str, ...]:
    """
    Stores a file, and prints its store path as JSON.

    Says also where the store lies, as debugging output.

    :param text: letters and digits.
    """
    return (
        *("nix-instantiate", "-vvv", "--eval", "--json", "--read-write-mode"),
        *("--expr", f'builtins.toFile "nixery-probe" "{text}"'),
    )


def fetch(tree: SourceTree, fetch_nix: Path, *, shallow: bool = True) -> tuple[str, ...]:
    """
    Brings a commit into the store, and prints its store path as JSON.

    :param fetch_nix: the path of ``nix/fetch.nix``.
    :param shallow: whether to fetch the commit of a git repository without its history.
    """
    return (
        "nix-instantiate",
        *("--eval", "--strict", "--json"),
        "--read-write-mode",
        *("-A", "path"),
        *_fetching(tree, fetch_nix, shallow),
    )


def hold(tree: SourceTree, fetch_nix: Path, link: Path, *, shallow: bool = True) -> tuple[str, ...]:
    """
    Brings a commit into the store, and protects it by a derivation that refers to it.

    :param fetch_nix: the path of ``nix/fetch.nix``.
    :param link: becomes a symlink to the derivation.
    :param shallow: whether to fetch the commit of a git repository without its history.
    """
    return (
        "nix-instantiate",
        *("--add-root", str(link), "--indirect"),
        *("-A", "holder"),
        *_fetching(tree, fetch_nix, shallow),
    )


def _fetching(tree: SourceTree, fetch_nix: Path, shallow: bool) -> tuple[str, ...]:
    arguments = {"kind": tree.kind, "url": tree.url}
    if tree.kind == "git":
        arguments |= {"rev": tree.commit, "ref": tree.ref or ""}
        if not shallow:
            arguments["depth"] = "whole"
    return (
        # The machine's own nix.conf may have either.
        *("--option", "restrict-eval", "false"),
        *("--option", "pure-eval", "false"),
        *(part for name, value in arguments.items() for part in ("--argstr", name, value)),
        str(fetch_nix),
    )


def add_root(link: Path, path: str) -> tuple[str, ...]:
    """
    Protects a store path from garbage collection; fails if it is not valid any more.

    :param link: becomes a symlink to it, or is one.
    """
    return ("nix-store", "--realise", "--add-root", str(link), "--indirect", path)


def build(settings: NixSettings, *, packages: Iterable[Package], out_link: Path) -> tuple[str, ...]:
    """
    Build or download the chosen outputs, and root them.

    :param packages: at least one; without any, Nix would build ``./default.nix``.
    :param out_link: the first root; the others are called after it.
    """
    wanted = {
        f"{package.derivation}!{output.name}" for package in packages for output in package.outputs
    }
    return (*building(settings, out_link), *sorted(wanted))


def building(settings: NixSettings, out_link: Path) -> tuple[str, ...]:
    """The first arguments of what builds; the parameters are those of :func:`build`."""
    return (
        "nix-build",
        *("--log-format", "internal-json"),
        *("--out-link", str(out_link)),
        *("--timeout", str(settings.timeout)),
        *("--max-silent-time", str(settings.max_silent)),
        *(("--max-jobs", "0") if settings.substitute_only else ()),
    )


def query_closure(paths: Sequence[str]) -> tuple[str, ...]:
    """Prints the runtime closure of ``paths``."""
    return ("nix-store", "--query", "--requisites", *paths)


def serve() -> tuple[str, ...]:
    """
    Answers questions about the store on its standard input, see
    :mod:`nixery.nix.serve_protocol`, and keeps paths from garbage collection while it runs.
    """
    return ("nix-store", "--serve", "--write")


def dump(paths: Sequence[str]) -> tuple[str, ...]:
    """
    Prints the records of ``paths``.

    :param paths: at least one; without any, Nix would print the whole database.
    """
    return ("nix-store", "--dump-db", *paths)


def check_validity(paths: Sequence[str]) -> tuple[str, ...]:
    """Prints those of ``paths`` that are not in the store; fails for no other reason."""
    return ("nix-store", "--check-validity", "--print-invalid", *paths)


def attributes(
    settings: NixSettings,
    *,
    expression: Path,
    package_set: PackageSet,
    system: str,
    without: Sequence[str],
) -> tuple[str, ...]:
    """
    Print the attribute paths of all packages of a set, as JSON.

    Evaluates freely: this is for the operator's own package set.

    :param expression: the path of ``nix/attributes.nix``.
    :param without: top-level names that are left out.
    """
    arguments = {
        "src": str(package_set.path),
        "system": system,
        "config": json_text(settings.config),
        "overlays": json_text([str(path) for path in package_set.overlays]),
        "without": json_text(list(without)),
    }
    return (
        *("nix-instantiate", "--eval", "--strict", "--json"),
        *(part for name, value in arguments.items() for part in ("--argstr", name, value)),
        str(expression),
    )


def chunks(paths: Iterable[str], size: int = ARGUMENTS) -> Iterator[list[str]]:
    """``paths`` in order, cut into lists of at most ``size`` bytes of arguments."""
    chunk: list[str] = []
    length = 0
    for path in paths:
        cost = len(path.encode()) + 1
        if chunk and length + cost > size:
            yield chunk
            chunk, length = [], 0
        chunk.append(path)
        length += cost
    if chunk:
        yield chunk


def json_text(value: object) -> str:
    """Data as an argument of an expression."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
