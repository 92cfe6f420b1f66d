"""
Parse the output of ``nix/resolve.nix`` into packages and problems with messages.

The expression detects the problems; this module writes the messages, with suggestions
of other names, spelled so that they can be typed into an image name.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

from attrs import evolve

from nixery.errors import UnexpectedOutput
from nixery.image.errors import InvalidName, PackageProblem, ProblemKind
from nixery.image.names import ESCAPE, PackageRequest, escape_attribute, parse_image_name
from nixery.image.packages import LookupResult, Output, Package
from nixery.nix.suggestions import NameIndex

__all__ = ["parse_results", "thrown", "with_reason"]

Record = Mapping[str, Any]
"""The JSON of a result.  Its structure is checked by using it: see :func:`parse_results`."""

SUGGESTIONS_BUDGET_SECONDS = 0.3
"""
Seconds for the suggestions of one evaluation.  A name that is missing from 100,000
takes 35 ms of a processor, and an image may name a hundred of them.
"""


def parse_results(
    output: bytes,
    requests: Sequence[PackageRequest],
    seconds: Callable[[], float],
) -> tuple[LookupResult, ...]:
    """
    Parse the output of ``nix/resolve.nix``.

    This takes some ten milliseconds for each name that is missing from a large package
    set, and no more than :data:`SUGGESTIONS_BUDGET_SECONDS` for all of them: call it on a
    worker thread.

    :param requests: those that were looked up, in the same order.
    :param seconds: a clock that may be read on any thread.
    :raises UnexpectedOutput: it is not output of ``nix/resolve.nix``.
    """
    try:
        data = json.loads(output.decode("utf-8", "replace"))
        levels = _Levels(data["levels"], seconds)
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


def with_reason(result: LookupResult, reason: str) -> LookupResult:
    """Return ``result``, whose result is a problem, with Nix's text added to its message."""
    if not reason or isinstance(result.result, Package):
        return result
    message = f"{result.result.message}: {reason}"
    return evolve(result, result=evolve(result.result, message=message))


# -- parsing ------------------------------------------------------------------


def _result(request: PackageRequest, record: Record, levels: _Levels) -> Package | PackageProblem:
    if "error" not in record:
        return _package(request, record)
    kind = ProblemKind(record["error"])
    message, candidates = _explain(kind, request, record, levels)
    return PackageProblem(
        name=request.name, kind=kind, message=message, candidates=tuple(candidates)
    )


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
        outputs=tuple(
            sorted(
                Output(name=_text(item["name"]), path=_text(item["path"]))
                for item in record["outputs"]
            )
        ),
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


def _spell(path: Sequence[str]) -> str:
    """
    Spell an attribute for an image name.

    The spelling is in lower case and without the underscore before a digit, if that follows
    the grammar of repository names; otherwise it is the escape.
    """
    plain = ".".join(map(_plain, path))
    escape = escape_attribute(".".join(path))
    # Only letters of ASCII are matched without regard to case, and the name of an attribute
    # may look like an escape.
    if not plain.isascii() or plain.startswith(ESCAPE):
        return escape
    try:
        parse_image_name(plain.lower(), system="")
    except InvalidName:
        return escape
    return plain.lower()


def _plain(name: str) -> str:
    """Remove the underscore that Nix's grammar requires before a digit."""
    return name[1:] if name.startswith("_") and name[1:2].isdigit() else name


# -- messages -----------------------------------------------------------------

Sentence = tuple[str, Sequence[str]]
"""A message, and the candidates that go with it."""


def _explain(
    kind: ProblemKind, request: PackageRequest, record: Record, levels: _Levels
) -> Sentence:
    path: list[str] = record["path"]
    package = f"the package {'.'.join(path)}"
    match kind:
        case ProblemKind.NOT_FOUND:
            return _not_found(request, path, record["rest"], levels)
        case ProblemKind.AMBIGUOUS:
            return _ambiguous(request, sorted(record["candidates"]))
        case ProblemKind.NOT_A_PACKAGE:
            return f"{'.'.join(path)} is not a package but {_value(record['type'], path)}", ()
        case ProblemKind.NO_SUCH_OUTPUT:
            outputs = [_spell([*path, output]) for output in sorted(record["outputs"])]
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


def _not_found(
    request: PackageRequest, level: list[str], rest: list[str], levels: _Levels
) -> Sentence:
    """
    Describe a name that was not found.

    :param level: the attribute path of the set that does not have it.
    :param rest: the parts of the name that were looked for in the set.
    """
    message = f"there is no package {request.name}"
    if level:
        message += f": {'.'.join(level)} has no {rest[0]}"
    refused = escape_attribute(request.name) if request.exact else request.name
    # Attributes may have dots in their names.
    names = dict.fromkeys([".".join(rest), rest[0]])
    candidates = chain.from_iterable(levels.suggest(level, name) for name in names)
    return message, [name for name in dict.fromkeys(candidates) if name != refused]


class _Levels:
    """
    The names in each set in which a package was looked up.

    :param names: names by the JSON of the set's attribute path.
    :param seconds: the clock of the time budget, which starts with the creation.
    """

    def __init__(self, names: Mapping[str, Sequence[str]], seconds: Callable[[], float]) -> None:
        self._names = names
        self._seconds = seconds
        self._deadline = seconds() + SUGGESTIONS_BUDGET_SECONDS
        self._indexes: dict[str, tuple[dict[str, str], NameIndex]] = {}

    def suggest(self, level: Sequence[str], missing: str) -> Sequence[str]:
        """Suggest names for one that a set does not have; none after the time budget."""
        if self._seconds() >= self._deadline:
            return ()
        key = json.dumps(level, separators=(",", ":"), ensure_ascii=False)
        if key not in self._indexes:
            names = {_plain(name): name for name in self._names.get(key, ())}
            self._indexes[key] = names, NameIndex(names)
        names, index = self._indexes[key]
        # Names that differ only in case have the same spelling.
        return tuple(
            dict.fromkeys(_spell([*level, names[name]]) for name in index.suggest(missing))
        )


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
        return f"a set of packages: ask for one of them, as in {_spell([*path, 'name'])}"
    return {"lambda": "a function", "null": "null", "int": "an int"}.get(kind, f"a {kind}")
