"""
Parse the text in the package search box, and describe the results: pure functions.

Users type names as they know them (``python3Packages.requests``, ``libsigc++``), with
various separators; an image name needs lower case and slashes, and escapes for characters
outside its grammar.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from attrs import frozen

from nixery.http.ui.client_commands import guess_program
from nixery.image.errors import InvalidName
from nixery.image.image_index import platform_label
from nixery.image.names import (
    ARCH_META_PACKAGES,
    MAX_NAME_CHARACTERS,
    META_PACKAGES,
    MULTI,
    SHELL,
    ImageName,
    PackageRequest,
    escape_attribute,
    parse_image_name,
)
from nixery.image.packages import LookupResult, Package

__all__ = [
    "MAX_QUERY_CHARACTERS",
    "JsonResult",
    "PackageQuery",
    "PackageQueries",
    "names_in",
    "parse_query",
    "program_of",
    "queries_of",
    "describe_results",
]

MAX_QUERY_CHARACTERS = 1000
"""The longest text that is accepted, in characters."""

MAX_QUERIES = 30
"""The most names that are looked up at once."""

_PROMPT = re.compile(r"[$#] +")
_ENGINE = re.compile(r"(sudo +)?(docker|podman|nerdctl|skopeo|buildah|crictl|ctr) ")
# As engines tell a registry from the first part of a name.
_HOST = re.compile(r"(localhost|[\w-]+(\.[\w-]+)*:[0-9]+|[\w-]+(\.[\w-]+)+)/")
_NIX = re.compile(r"nix(-shell)? ")
_TAG = re.compile(r"(:[\w.-]+)?(@sha256:[0-9a-f]+)?\Z")

_BETWEEN = re.compile(r"[\s,;/]+")

JsonResult = Mapping[str, object]
"""The result for one name, as JSON; ``status``: ``found``, ``meta`` or the problem's kind."""


@frozen(kw_only=True)
class PackageQuery:
    """
    One package name in a query.

    :param typed: the name as it was typed.
    :param component: the component of an image name that requests it.
    :param package_request: the package; ``None`` for a meta-package.
    """

    typed: str
    component: str
    package_request: PackageRequest | None


@frozen(kw_only=True)
class PackageQueries:
    """
    All package names in a query.

    :param name: the image with all of these packages.
    :param moved: the meta-packages that were typed behind other names, and were moved before them.
    """

    queries: tuple[PackageQuery, ...]
    name: ImageName
    moved: tuple[str, ...] = ()

    @property
    def package_requests(self) -> tuple[PackageRequest, ...]:
        """The packages to look up, each once; for a meta-package those it stands for."""
        wanted = [item for item in self.name.package_requests if not item.optional]
        return tuple(wanted)

    @property
    def notice(self) -> str | None:
        """A sentence about the names that were moved; ``None`` if there are none."""
        if not self.moved:
            return None
        comes = "comes" if len(self.moved) == 1 else "come"
        return f"{' and '.join(self.moved)} {comes} first in the name of the image."


def names_in(text: str) -> str:
    """
    Return the names in a command that was pasted: of a container engine, or of Nix.

    :return: the text itself, if it is no such command.
    """
    command = _PROMPT.sub("", text.strip())
    if _ENGINE.match(command):
        words = [word.removeprefix("docker://") for word in command.split()]
        # Neither options nor paths, as of volumes.
        images = [word for word in words if re.match(r"\w[^/]*/(?!\Z)", word) and ":/" not in word]
        named = [word for word in images if _HOST.match(word)]
        if images:
            return _TAG.sub("", _HOST.sub("", (named or images)[0], count=1))
    if _NIX.match(command):
        words = command.split()
        packages = [word.partition("#")[2] for word in words if "#" in word]
        if "-p" in words:
            following = words[words.index("-p") + 1 :]
            packages += itertools.takewhile(lambda word: not word.startswith("-"), following)
        return " ".join(packages) or text
    return text


def parse_query(text: str, system: str, platforms: Sequence[str] = ()) -> PackageQueries | None:
    """
    Parse the typed text; ``None`` if it contains no names.

    :param system: the Nix system of images whose name chooses none.
    :param platforms: the systems of the index that such a name means; empty: it means an image.
    :raises InvalidName: it is too long, or contains something that cannot be a name.
    """
    if len(text) > MAX_QUERY_CHARACTERS:
        raise InvalidName(
            name=text[:64] + "...", reason=f"it is longer than {MAX_QUERY_CHARACTERS} characters"
        )
    typed = list(dict.fromkeys(word for word in _BETWEEN.split(names_in(text)) if word))
    if not typed:
        return None
    if len(typed) > MAX_QUERIES:
        raise InvalidName(
            name=" ".join(typed)[:64] + "...",
            reason=f"there are more than {MAX_QUERIES} names; ask for them in parts",
        )
    # Meta-packages have a meaning only at the start of a name, so they are moved there.
    leading = [word for word in typed if word in META_PACKAGES]
    behind = itertools.dropwhile(META_PACKAGES.__contains__, typed)
    moved = tuple(word for word in behind if word in leading)
    typed = [*leading, *(word for word in typed if word not in leading)]
    components = [_component(word) for word in typed]
    repository = "/".join(components)
    if len(repository) > MAX_NAME_CHARACTERS:
        raise InvalidName(
            name=repository[:64] + "...",
            reason=f"the name of the image would be longer than {MAX_NAME_CHARACTERS} characters",
        )
    name = parse_image_name(repository, system, platforms)
    return PackageQueries(
        queries=tuple(
            PackageQuery(
                typed=word,
                component=component,
                package_request=None if word in leading else _package_request(component),
            )
            for word, component in zip(typed, components, strict=True)
        ),
        name=name,
        moved=moved,
    )


def queries_of(name: ImageName) -> PackageQueries:
    """Return the package names in the name of an image, as :func:`parse_query` those in a text."""
    components = name.repository.split("/")
    meta = list(itertools.takewhile(META_PACKAGES.__contains__, components))
    queries = [
        PackageQuery(typed=component, component=component, package_request=None)
        for component in dict.fromkeys(meta)
    ]
    for component in dict.fromkeys(components[len(meta) :]):
        request = _package_request(component)
        # An escaped name is shown as it is in the package set.
        typed = request.name if request.exact else component
        queries.append(PackageQuery(typed=typed, component=component, package_request=request))
    return PackageQueries(queries=tuple(queries), name=name)


def describe_results(
    queries: PackageQueries,
    results: Sequence[LookupResult],
    platforms: Mapping[str, Sequence[LookupResult]] = MappingProxyType({}),
) -> list[JsonResult]:
    """
    Return the result for each name, in the order in which they are in the image's name.

    :param platforms: of an index, the results for each of its systems.
    """
    by_request = {result.request: result for result in results}
    described: list[JsonResult] = []
    for query in queries.queries:
        if query.package_request is not None:
            package = _describe_package(query, by_request[query.package_request])
            described.append({**package, **_platforms_of(query.package_request, platforms)})
            continue
        described.append(_describe_meta_package(queries, query, by_request))
    return described


def _platforms_of(
    request: PackageRequest, platforms: Mapping[str, Sequence[LookupResult]]
) -> JsonResult:
    """Return the platforms that have a package, and why others do not; nothing without an index."""
    found = {
        platform_label(system): result.result
        for system, results in platforms.items()
        for result in results
        if result.request == request
    }
    if not found:
        return {}
    return {
        "platforms": [label for label, each in found.items() if isinstance(each, Package)],
        "missing_platforms": {
            label: each.message for label, each in found.items() if not isinstance(each, Package)
        },
    }


def _describe_meta_package(
    queries: PackageQueries, query: PackageQuery, found: Mapping[PackageRequest, LookupResult]
) -> JsonResult:
    common = {"name": query.typed, "component": query.component}
    if query.component == MULTI:
        systems = ", ".join(queries.name.platforms) or queries.name.system
        message = f"the image is for {systems}"
        return {**common, "status": "meta", "message": message, "candidates": []}
    if query.component in ARCH_META_PACKAGES:
        return {
            **common,
            "status": "meta",
            "message": f"the image is for {ARCH_META_PACKAGES[query.component]}",
            "candidates": [],
        }
    parts = [found[PackageRequest(name=name, exact=True)] for name in SHELL]
    for answer in parts:
        if not isinstance(answer.result, Package):
            return {**_describe_package(query, answer), **common}
    message = f"stands for {', '.join(SHELL)}"
    return {**common, "status": "meta", "message": message, "candidates": []}


def _describe_package(query: PackageQuery, answer: LookupResult) -> JsonResult:
    common = {"name": query.typed, "component": query.component}
    result = answer.result
    if isinstance(result, Package):
        return {
            **common,
            "status": "found",
            "attribute": result.attribute,
            "pname": result.pname,
            "version": result.version,
            "description": result.description,
            "outputs": [output.name for output in result.outputs],
        }
    return {
        **common,
        "status": result.kind.value,
        "message": result.message,
        "candidates": list(result.candidates),
    }


def program_of(queries: PackageQueries, answers: Sequence[LookupResult]) -> str | None:
    """Guess the program to run in the image; ``None`` if a package is missing."""
    packages = {
        answer.request: answer.result for answer in answers if isinstance(answer.result, Package)
    }
    if len(packages) < len(answers):
        return None
    pnames = {
        query.component: packages[query.package_request].pname
        for query in queries.queries
        if query.package_request is not None
    }
    return guess_program(queries.name.repository, pnames)


def _component(typed: str) -> str:
    lowered = typed.lower()
    try:
        parse_image_name(lowered, system="")
    except InvalidName:
        if not typed.isprintable() or not all(typed.split(".")):
            raise InvalidName(name=typed, reason="no package can be called so") from None
        return escape_attribute(typed)
    return lowered


def _package_request(component: str) -> PackageRequest:
    # After an ordinary component, meta-packages are parsed as ordinary ones.
    name = parse_image_name(f"x/{component}", system="")
    [request] = [
        item for item in name.package_requests if item.name != "x" and not item.optional
    ] or [PackageRequest(name=component)]
    return request
