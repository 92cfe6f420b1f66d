"""
What ``nix/resolve.nix`` prints, read into answers that a person understands.

The expression knows what is the case; here it is put into sentences, with the names
that may have been meant, spelled so that they can be typed into an image name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from attrs import evolve

from nixery.errors import InvalidName, PackageProblem, ProblemKind, UnexpectedOutput
from nixery.names import Requirement, escape_attribute, parse_image_name
from nixery.nixside.nearness import nearest
from nixery.packages import Answer, Output, Package

__all__ = ["parse_answers", "thrown", "with_reason"]

Record = Mapping[str, Any]
"""JSON of an answer.  Its shape is checked by using it: see :func:`parse_answers`."""

Levels = Mapping[str, Sequence[str]]
"""The names in a set, by the JSON of the set's attribute path."""


def parse_answers(text: bytes, requirements: Sequence[Requirement]) -> tuple[Answer, ...]:
    """
    Read what ``nix/resolve.nix`` prints.

    Takes some ten milliseconds for each name that is missing from a large package
    set: call it on a worker thread.

    :param requirements: those that it was given, in the same order.
    :raises UnexpectedOutput: it is something else.
    """
    try:
        data = json.loads(text)
        levels: Levels = data["levels"]
        return tuple(
            Answer(requirement=requirement, result=_result(requirement, record, levels))
            for requirement, record in zip(requirements, data["answers"], strict=True)
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
            what="the output of resolve.nix", excerpt=text[:400].decode("utf-8", "replace")
        ) from error


def thrown(requirement: Requirement, reason: str = "") -> Answer:
    """
    The answer for a package whose evaluation fails.

    :param reason: Nix's text, where it is known.
    """
    problem = PackageProblem(
        name=requirement.name,
        kind=ProblemKind.EVALUATION,
        message=f"the package {requirement.name} does not evaluate",
    )
    return with_reason(Answer(requirement=requirement, result=problem), reason)


def with_reason(answer: Answer, reason: str) -> Answer:
    """``answer``, whose result is a problem, with Nix's text added to its message."""
    if not reason or isinstance(answer.result, Package):
        return answer
    message = f"{answer.result.message}: {reason}"
    return evolve(answer, result=evolve(answer.result, message=message))


# -- reading ------------------------------------------------------------------


def _result(requirement: Requirement, record: Record, levels: Levels) -> Package | PackageProblem:
    if "error" not in record:
        return _package(requirement, record)
    kind = ProblemKind(record["error"])
    message, candidates = _explain(kind, requirement, record, levels)
    return PackageProblem(
        name=requirement.name, kind=kind, message=message, candidates=tuple(candidates)
    )


def _package(requirement: Requirement, record: Record) -> Package:
    return Package(
        requested=(requirement.name,),
        attribute=".".join(record["path"]),
        name=_text(record["name"]),
        pname=_text(record["pname"]),
        version=_text(record["version"]),
        description=" ".join(record["description"].split()),
        priority=_integer(record["priority"]),
        derivation=_text(record["derivation"]),
        outputs=tuple(
            sorted(
                Output(name=_text(item["name"]), path=_text(item["path"]))
                for item in record["outputs"]
            )
        ),
    )


# What is said of a package comes from its own code, which may say anything.
def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"no text: {value!r:.40}")
    return value


def _integer(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError(f"no integer: {value!r:.40}")
    return value


def _spell(path: Sequence[str]) -> str:
    """
    How an attribute is asked for in an image name.

    In lower case and without the underscore before a digit, where that follows the
    grammar of repository names; the escape where it does not.
    """
    plain = ".".join(map(_plain, path)).lower()
    try:
        parse_image_name(plain, system="")
    except InvalidName:
        return escape_attribute(".".join(path))
    return plain


def _plain(name: str) -> str:
    """Without the underscore that Nix's grammar wants before a digit."""
    return name[1:] if name.startswith("_") and name[1:2].isdigit() else name


# -- sentences ----------------------------------------------------------------

Sentence = tuple[str, Sequence[str]]
"""A message, and the candidates that go with it."""


def _explain(
    kind: ProblemKind, requirement: Requirement, record: Record, levels: Levels
) -> Sentence:
    path: list[str] = record["path"]
    package = f"the package {'.'.join(path)}"
    match kind:
        case ProblemKind.NOT_FOUND:
            return _not_found(requirement, path, levels)
        case ProblemKind.AMBIGUOUS:
            return _ambiguous(requirement, sorted(record["candidates"]))
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
            why = f": {'; '.join(record['reasons'])}" if record["reasons"] else ""
            return f"{package} is marked as insecure by its package set{why}", ()
        case ProblemKind.UNSUPPORTED:
            return f"{package} is not available for the system of this image", ()
        case _:
            return f"the package {requirement.name} does not evaluate", ()


def _not_found(requirement: Requirement, level: list[str], levels: Levels) -> Sentence:
    missing = requirement.name.split(".")[len(level)]
    siblings = levels.get(json.dumps(level, separators=(",", ":"), ensure_ascii=False), ())
    message = f"there is no package {requirement.name}"
    if level:
        message += f": {'.'.join(level)} has no {missing}"
    names = {_plain(name): name for name in siblings}
    # Names that differ in case only are spelled alike.
    near = dict.fromkeys(_spell([*level, names[name]]) for name in nearest(missing, names))
    return message, tuple(near)


def _ambiguous(requirement: Requirement, candidates: Sequence[Sequence[str]]) -> Sentence:
    # Nothing but an escape can tell them apart.
    names = [".".join(path) for path in candidates]
    escapes = [escape_attribute(name) for name in names]
    meant = " or ".join(
        f"{name} (write {escape})" for name, escape in zip(names, escapes, strict=True)
    )
    return f"{requirement.name} is ambiguous: it may mean {meant}", escapes


def _value(kind: str, path: Sequence[str]) -> str:
    """What stands where a package was expected; ``kind`` is Nix's name for it."""
    if kind == "set":
        return f"a set of packages: ask for one of them, as in {_spell([*path, 'name'])}"
    return {"lambda": "a function", "null": "null", "int": "an int"}.get(kind, f"a {kind}")
