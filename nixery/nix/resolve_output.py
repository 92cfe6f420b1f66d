"""
Parse the output of ``nix/resolve.nix`` into packages and problems with messages.

The expression detects the problems; this module writes the messages, with other names,
spelled so that they can be typed into an image name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from attrs import evolve

from nixery.errors import UnexpectedOutput
from nixery.image.declarations import parse_cpe, parse_licenses
from nixery.image.errors import PackageProblem, ProblemKind
from nixery.image.names import PackageRequest, escape_attribute
from nixery.image.packages import LookupResult, Output, Package
from nixery.nix.arguments import STORE
from nixery.nix.suggestions import LevelNames, NameIndexes, spell
from nixery.sources.source import Revision

__all__ = ["missing_result", "parse_results", "thrown", "throws", "throws_silently", "with_reason"]

_PLACEHOLDER = re.compile(r"/[0-9a-z]{52}")

Record = Mapping[str, Any]
"""The JSON of a result.  Its structure is checked by using it: see :func:`parse_results`."""


def parse_results(
    output: bytes,
    requests: Sequence[PackageRequest],
    indexes: NameIndexes,
    package_set: tuple[Revision, str] | None = None,
) -> tuple[LookupResult, ...]:
    """
    Parse the output of ``nix/resolve.nix``.

    This takes some ten milliseconds if it has the names of a large package set: call it on a
    worker thread.

    :param requests: those that were looked up, in the same order.
    :param indexes: find the candidates for missing names.
    :param package_set: the revision and the system that were looked up.
    :raises UnexpectedOutput: it is not output of ``nix/resolve.nix``.
    """
    try:
        data = json.loads(output.decode("utf-8", "replace"))
        levels = {level: indexes.level(names) for level, names in data["levels"].items()}
        if package_set is not None and _TOP in levels:
            indexes.add_top_level(*package_set, levels[_TOP])
        return tuple(
            LookupResult(request=request, result=_result(request, record, levels))
            for request, record in zip(requests, data["answers"], strict=True)
        )
    except (
        ValueError,
        KeyError,
        IndexError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        raise UnexpectedOutput(
            what="the output of resolve.nix", excerpt=output[:400].decode("utf-8", "replace")
        ) from error


def thrown(request: PackageRequest, reason: str = "") -> LookupResult:
    """
    Return the result for a package whose evaluation fails.

    :param reason: Nix's text, if it is known.
    """
    problem = PackageProblem(
        name=request.name,
        kind=ProblemKind.EVALUATION,
        message=f"the package {request.name} does not evaluate",
    )
    return with_reason(LookupResult(request=request, result=problem), reason)


def throws(result: LookupResult) -> bool:
    """True if the package does not evaluate."""
    problem = result.result
    return isinstance(problem, PackageProblem) and problem.kind is ProblemKind.EVALUATION


def throws_silently(result: LookupResult) -> bool:
    """True if Nix has caught an error of the package, and its text is not known."""
    return throws(result) and result == thrown(result.request)


def with_reason(result: LookupResult, reason: str) -> LookupResult:
    """Return ``result``, whose result is a problem, with Nix's text added to its message."""
    if not reason or isinstance(result.result, Package):
        return result
    message = f"{result.result.message}: {reason}"
    return evolve(result, result=evolve(result.result, message=message))


# -- parsing ------------------------------------------------------------------


def _result(
    request: PackageRequest, record: Record, levels: Mapping[str, LevelNames]
) -> Package | PackageProblem:
    if "error" not in record:
        package = _package(request, record)
        return _unknown_output(request, package) or package
    kind = ProblemKind(record["error"])
    message, candidates = _explain(kind, request, record)
    return PackageProblem(
        name=request.name,
        kind=kind,
        message=message,
        candidates=tuple(candidates),
        find_candidates=_find_candidates(request, record, levels)
        if kind is ProblemKind.NOT_FOUND
        else None,
    )


def missing_result(request: PackageRequest, names: LevelNames) -> LookupResult | None:
    """
    Return the result for a package that is missing at the top of a package set.

    :param names: those at the top.
    :return: ``None`` if it may be there.
    """
    parts = request.name.split(".")
    if names.may_have(parts):
        return None
    record = {"error": ProblemKind.NOT_FOUND.value, "path": [], "rest": parts}
    return LookupResult(request=request, result=_result(request, record, {_TOP: names}))


_TOP = "[]"


def _find_candidates(
    request: PackageRequest, record: Record, levels: Mapping[str, LevelNames]
) -> Callable[[Callable[[], bool]], Sequence[str]] | None:
    """Return the search for names near a missing one; ``None`` if its level has no names."""
    level = levels.get(json.dumps(record["path"], separators=(",", ":"), ensure_ascii=False))
    if level is None:
        return None
    refused = escape_attribute(request.name) if request.exact else request.name
    return partial(level.suggest, record["path"], record["rest"], refused)


def _package(request: PackageRequest, record: Record) -> Package:
    return Package(
        requested=(request.name,),
        attribute=_text(".".join(record["path"])),
        name=_text(record["name"]),
        pname=_text(record["pname"]),
        version=_text(record["version"]),
        description=" ".join(_text(record["description"]).split()),
        priority=_integer(record["priority"]),
        derivation=_text(record["derivation"]),
        outputs=_outputs(record["outputs"]),
        other_outputs=_outputs(record["otherOutputs"]),
        licenses=parse_licenses(record["licenses"]),
        cpe=parse_cpe(_text(record["cpe"])),
    )


def _outputs(items: Sequence[Record]) -> tuple[Output, ...]:
    return tuple(
        sorted(Output(name=_text(item["name"]), path=_text(item["path"])) for item in items)
    )


def _unknown_output(request: PackageRequest, package: Package) -> PackageProblem | None:
    """Return the problem of a package whose store paths are not known before it is built."""
    paths = [item.path for item in package.outputs if not item.path.startswith(f"{STORE}/")]
    if not paths:
        return None
    # Nix has a placeholder for the path of an output that is addressed by its content.
    if _PLACEHOLDER.fullmatch(paths[0]):
        return PackageProblem(
            name=request.name,
            kind=ProblemKind.CONTENT_ADDRESSED,
            message=f"the package {package.attribute} is content-addressed, or needs one that is:"
            " its store path is known only after its build, and this registry does not serve such"
            " packages",
        )
    return PackageProblem(
        name=request.name,
        kind=ProblemKind.NOT_A_PACKAGE,
        message=f"{package.attribute} is not a package: its output {paths[0]} is not in {STORE}",
    )


# The metadata of a package comes from its own code, and may have any type.
def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"no text: {value!r:.40}")
    # JSON can hold half of a surrogate pair, which is no character and cannot be encoded.
    return value.encode("utf-8", "replace").decode("utf-8")


def _integer(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError(f"no integer: {value!r:.40}")
    return value


# -- messages -----------------------------------------------------------------

Sentence = tuple[str, Sequence[str]]
"""A message, and the candidates that go with it."""


def _explain(kind: ProblemKind, request: PackageRequest, record: Record) -> Sentence:
    path: list[str] = record["path"]
    package = f"the package {'.'.join(path)}"
    match kind:
        case ProblemKind.NOT_FOUND:
            return _not_found(request, path, record["rest"]), ()
        case ProblemKind.AMBIGUOUS:
            return _ambiguous(request, sorted(record["candidates"]))
        case ProblemKind.NOT_A_PACKAGE:
            return f"{'.'.join(path)} is not a package but {_value(record['type'], path)}", ()
        case ProblemKind.NO_SUCH_OUTPUT:
            outputs = [spell([*path, output]) for output in sorted(record["outputs"])]
            return f"{package} has no output {record['output']}", outputs
        case ProblemKind.UNFREE:
            return f"{package} is unfree, and this registry does not serve unfree packages", ()
        case ProblemKind.BROKEN:
            return f"{package} is marked as broken by its package set", ()
        case ProblemKind.INSECURE:
            reasons = f": {'; '.join(record['reasons'])}" if record["reasons"] else ""
            return f"{package} is marked as insecure by its package set{reasons}", ()
        case ProblemKind.UNSUPPORTED:
            return f"{package} is not available for the system of this image", ()
        case _:
            return f"the package {request.name} does not evaluate", ()


def _not_found(request: PackageRequest, level: list[str], rest: list[str]) -> str:
    """
    Describe a name that was not found.

    :param level: the attribute path of the set that does not have it.
    :param rest: the parts of the name that were looked for in the set.
    """
    message = f"there is no package {request.name}"
    if level:
        message += f": {'.'.join(level)} has no {rest[0]}"
    return message


def _ambiguous(request: PackageRequest, candidates: Sequence[Sequence[str]]) -> Sentence:
    # Only an escape can distinguish them.
    names = [".".join(path) for path in candidates]
    escapes = [escape_attribute(name) for name in names]
    choices = " or ".join(
        f"{name} (write {escape})" for name, escape in zip(names, escapes, strict=True)
    )
    return f"{request.name} is ambiguous: it may mean {choices}", escapes


def _value(kind: str, path: Sequence[str]) -> str:
    """Describe a value that is not a package; ``kind`` is Nix's name for its type."""
    if kind == "set":
        return f"a set of packages: ask for one of them, as in {spell([*path, 'name'])}"
    return {"lambda": "a function", "null": "null", "int": "an int"}.get(kind, f"a {kind}")
