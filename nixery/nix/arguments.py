"""
The arguments and the environment of Nix commands, as pure functions.

Commands that look packages up are in :mod:`nixery.nix.resolve_arguments`, and those that fetch
sources in :mod:`nixery.nix.fetch_arguments`; no other module builds Nix commands.
:mod:`nixery.nix.resolve_output`, :mod:`nixery.nix.internal_json` and :mod:`nixery.image.closure`
parse their output; :mod:`nixery.nix.commands` runs them.

The operator's options are passed in the environment: they may hold access tokens, which
every user of the machine could read from an argument list.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from attrs import field, frozen

from nixery.image.packages import Package
from nixery.sources.source import PackageSet

__all__ = [
    "FLAKE_FEATURES",
    "FLAKE_OPTIONS",
    "REFUSED_ATTRIBUTES",
    "STORE",
    "STORE_PROBE",
    "NixSettings",
    "build",
    "building",
    "chunks",
    "dump",
    "environment",
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
Attributes, in lower case, that attribute paths may not contain: nixpkgs' other
package sets, each of which rebuilds everything from the compiler up, and its tests,
which start virtual machines.
"""

STORE = "/nix/store"
"""The only supported store: packages contain its path."""

STORE_PROBE = f"{STORE}/00000000000000000000000000000000-nixery-probe"
"""A well-formed store path that does not exist."""

FLAKE_FEATURES = ("--extra-experimental-features", "nix-command flakes")
"""Options of the commands that deal with flakes, which the machine's nix.conf need not allow."""

FLAKE_OPTIONS = (
    *FLAKE_FEATURES,
    # What a name in the machine's registry of flakes means is no part of any lock file.
    *("--option", "use-registries", "false"),
)
"""Options of the commands that deal with the inputs of flakes as well."""

LOOKUP_VERSION = "2"
"""Has to change whenever ``nix/resolve.nix`` gives other results for the same request."""

MAX_ARGUMENT_BYTES = 100_000
"""The most bytes of arguments of one command: every system allows 128 KiB."""


FETCH_TIMEOUT_SECONDS = 1800.0
"""Seconds for one commit: the history of nixpkgs comes through a slow line in this time."""

SOURCE_RETENTION_SECONDS = 14 * 86400.0
"""
Seconds for which an unused commit stays in the store: a channel moves on every few days, and
a client with a pinned tag pulls it again within two weeks, or can wait for a download.
"""


@frozen(kw_only=True)
class NixSettings:
    """
    The settings of Nix commands.

    :param state_directory: garbage collection roots are made in its ``gcroots``,
        which belong to one daemon; it has to lie where the Nix daemon sees it.
    :param home: a writable directory, the HOME of the commands.
    :param timeout: seconds that the build of one derivation may take.
    :param max_silent: seconds for which it may print nothing.
    :param build_deadline: seconds that all builds and downloads of one image may take together.
    :param eval_timeout: seconds that the evaluation of one image may take.
    :param max_eval_memory: bytes of memory that an evaluation may use.
    :param evaluations: the most concurrent evaluations.
    :param evaluators: the most package sets that are kept in memory.
    :param allow_import_from_derivation: whether an evaluation may build derivations.
    :param allow_unpinned_fetches: whether an evaluation may fetch what no hash or commit fixes.
    :param options: further options of nix.conf.
    :param options_file: a file of such options, which Nix reads for each command; they precede
        ``options``.
    :param config: the ``config`` argument of the package set, as JSON data.
    :param refused: as :data:`REFUSED_ATTRIBUTES`.
    :param fetch_timeout: seconds that fetching one commit may take, all attempts together.
    :param source_retention: seconds after which an unused fetched commit is left to the
        garbage collector.
    :param substitute_only: whether everything has to come from binary caches.
    """

    state_directory: Path
    home: Path
    timeout: int = 3600
    max_silent: int = 1800
    build_deadline: float = 14400.0
    eval_timeout: float = 120.0
    max_eval_memory: int = 4 * 1024**3
    evaluations: int = 4
    evaluators: int = 3
    allow_import_from_derivation: bool = False
    allow_unpinned_fetches: bool = False
    options: Mapping[str, str] = field(factory=dict, hash=False, repr=False)
    options_file: Path | None = None
    config: Mapping[str, object] = field(factory=dict, hash=False)
    refused: frozenset[str] = REFUSED_ATTRIBUTES
    fetch_timeout: float = FETCH_TIMEOUT_SECONDS
    source_retention: float = SOURCE_RETENTION_SECONDS
    substitute_only: bool = False

    @property
    def roots(self) -> Path:
        """The directory of garbage collection roots, with a directory for each build."""
        return self.state_directory / "gcroots"

    @property
    def source_roots(self) -> Path:
        """The directory of the garbage collection roots of fetched sources."""
        return self.state_directory / "src"

    def evaluation_identity(self) -> dict[str, str]:
        """Return the settings that affect the result of an evaluation, for cache keys."""
        identity = {
            "config": json_text(self.config),
            "import_from_derivation": json_text(self.allow_import_from_derivation),
            "lookup": LOOKUP_VERSION,
        }
        if self.allow_unpinned_fetches:
            identity["fetches"] = "unpinned"
        return identity


def environment(inherited: Mapping[str, str], settings: NixSettings) -> dict[str, str]:
    """
    Return the environment of Nix commands.

    :param inherited: the environment of this process: its PATH, certificates, proxies
        and NIX_REMOTE apply to Nix too.
    """
    # Look-ups of ``<name>`` find nothing, and builders no settings (by impureEnvVars).
    result = {k: v for k, v in inherited.items() if not k.startswith(("NIX_PATH", "NIXERY_"))}
    result["HOME"] = str(settings.home)
    result["XDG_CACHE_HOME"] = str(settings.home / ".cache")
    # Only the evaluator's garbage collector reads this.
    result["GC_MAXIMUM_HEAP_SIZE"] = str(settings.max_eval_memory)
    lines = [inherited.get("NIX_CONFIG", "")]
    if settings.options_file is not None:
        lines.append(f"include {settings.options_file}")
    # Each line is an option: a line end in a value would begin another one.
    lines += [
        f"{name} = {' '.join(value.split())}" for name, value in sorted(settings.options.items())
    ]
    config = "\n".join(line for line in lines if line)
    if config:
        result["NIX_CONFIG"] = config
    return result


def version() -> tuple[str, ...]:
    """Command that prints the version; opens no store."""
    return ("nix-store", "--version")


def probe_store() -> tuple[str, ...]:
    """
    Command that prints :data:`STORE_PROBE` if the store can be opened and queried.

    It also prints which settings Nix's daemon ignores, as debugging output in versions
    before 2.19.
    """
    return ("nix-store", "-vvv", "--check-validity", "--print-invalid", STORE_PROBE)


def store_text(text: str) -> tuple[str, ...]:
    """
    Command that stores a file, and prints its store path as JSON.

    It also prints the location of the store, as debugging output.

    :param text: the content, letters and digits only.
    """
    return (
        *("nix-instantiate", "-vvv", "--eval", "--json", "--read-write-mode"),
        *("--expr", f'builtins.toFile "nixery-probe" "{text}"'),
    )


def build(settings: NixSettings, *, packages: Iterable[Package], out_link: Path) -> tuple[str, ...]:
    """
    Command that builds or downloads the chosen outputs, and roots them.

    :param packages: at least one; without any, Nix would build ``./default.nix``.
    :param out_link: the first root; the names of the others are derived from it.
    """
    installables = {
        f"{package.derivation}!{output.name}" for package in packages for output in package.outputs
    }
    return (*building(settings, out_link), *sorted(installables))


def building(settings: NixSettings, out_link: Path) -> tuple[str, ...]:
    """Return the first arguments of commands that build; parameters as in :func:`build`."""
    return (
        "nix-build",
        *("--log-format", "internal-json"),
        *("--out-link", str(out_link)),
        *("--timeout", str(settings.timeout)),
        *("--max-silent-time", str(settings.max_silent)),
        *(("--max-jobs", "0") if settings.substitute_only else ()),
    )


def dry_run(packages: Iterable[Package]) -> tuple[str, ...]:
    """
    Command that prints what would be built or downloaded to make the chosen outputs valid.

    :param packages: at least one, with an output.
    """
    return (
        *("nix-store", "--realise", "--dry-run"),
        *sorted(
            f"{package.derivation}!{output.name}"
            for package in packages
            for output in package.outputs
        ),
    )


def query_closure(paths: Sequence[str]) -> tuple[str, ...]:
    """Command that prints the runtime closure of ``paths``."""
    return ("nix-store", "--query", "--requisites", *paths)


def serve() -> tuple[str, ...]:
    """
    Command that answers requests on its standard input, see :mod:`nixery.nix.serve_protocol`.

    It protects paths from garbage collection while it runs.
    """
    return ("nix-store", "--serve", "--write")


def dump(paths: Sequence[str]) -> tuple[str, ...]:
    """
    Command that prints the database records of ``paths``.

    :param paths: at least one; without any, Nix would print the whole database.
    """
    return ("nix-store", "--dump-db", *paths)


def check_validity(paths: Sequence[str]) -> tuple[str, ...]:
    """Command that prints the invalid ones of ``paths``; fails only if Nix does not work."""
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
    Command that prints the attribute paths of all packages of a set, as JSON.

    Evaluation is not restricted: use this for the operator's own package set only.

    :param expression: the path of ``nix/attributes.nix``.
    :param without: top-level names that are left out.
    """
    arguments = {
        "src": str(package_set.path),
        "system": system,
        "config": json_text(settings.config),
        "overlays": json_text([str(path) for path in package_set.overlays]),
        "flake": package_set.flake,
        "without": json_text(list(without)),
    }
    return (
        *("nix-instantiate", "--eval", "--strict", "--json"),
        *("--option", "nix-path", ""),
        *(part for name, path in package_set.search_path for part in ("-I", f"{name}={path}")),
        *(FLAKE_OPTIONS if package_set.flake else ()),
        *(part for name, value in arguments.items() for part in ("--argstr", name, value)),
        str(expression),
    )


def chunks(paths: Iterable[str], size: int = MAX_ARGUMENT_BYTES) -> Iterator[list[str]]:
    """Split ``paths``, in order, into lists of at most ``size`` bytes of arguments."""
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
    """Encode data as JSON, for an argument of an expression."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))
