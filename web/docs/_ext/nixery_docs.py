"""
Renders what the documentation says of settings and of errors from the code.

``settings`` shows the settings that it names, as their table declares them, and the role
``setting`` links to one.  ``says`` shows how an error reads: its body has the fields
of an example, in YAML, and the message and the answer over HTTP are the code's own.
"""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, ClassVar, Union, get_args, get_origin, get_type_hints

import attrs
import yaml
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from nixery.config.setting import ANY_VALUE, Setting
from nixery.config.settings import SETTINGS
from nixery.config.types import InvalidValue, Kind
from nixery.errors import NixeryError
from nixery.http.error_responses import error_response
from nixery.testing.error_types import error_types

__all__ = ["setup"]

_BY_NAME = {setting.name: setting for setting in SETTINGS}


def setup(app: Sphinx) -> Mapping[str, Any]:
    """Tell Sphinx of the directives and the roles."""
    # The roles, by which pages link to what the directives show.
    app.add_object_type("setting", "setting")
    app.add_object_type("failure", "failure")
    app.add_directive("settings", Settings)
    app.add_directive("says", Says)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


class Settings(SphinxDirective):
    """The settings whose names stand in the body."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        shown = nodes.definition_list(classes=["setting"])
        for name in " ".join(self.content).split():
            if name not in _BY_NAME:
                raise self.error(f"there is no setting {name!r}")
            shown += self._item(_BY_NAME[name])
        return [shown]

    def _item(self, setting: Setting) -> nodes.definition_list_item:
        identifier = f"setting-{setting.option}"
        term = nodes.term("", "", nodes.literal(text=setting.name), ids=[identifier])
        self.state.document.note_explicit_target(term)
        self.env.get_domain("std").note_object("setting", setting.name, identifier, location=term)
        told = nodes.field_list()
        for name, value in _facts(setting):
            told += nodes.field("", nodes.field_name(text=name), nodes.field_body("", value))
        text = setting.help[0].upper() + setting.help[1:]
        meaning = nodes.paragraph("", f"{text}.")
        return nodes.definition_list_item("", term, nodes.definition("", meaning, told))


def _facts(setting: Setting) -> Sequence[tuple[str, nodes.paragraph]]:
    repeated = " (may be repeated)" if setting.kind.repeated else ""
    facts = [("Option", nodes.paragraph("", "", _code(f"--{setting.option}"), _text(repeated)))]
    codes = [node for each in setting.variables for node in (_text(" or "), _code(each))]
    facts.append(("Variable", nodes.paragraph("", "", *codes[1:])))
    if setting.former_names:
        names = ", ".join(setting.aliases)
        if setting.inverted_alias is not None:
            names = f"{setting.inverted_alias}, with the opposite meaning"
        facts.append(("Formerly", nodes.paragraph("", names)))
    facts.append(("Value", nodes.paragraph("", _expected(setting.kind))))
    facts.append(("Default", nodes.paragraph("", setting.default_text or "none")))
    if setting.requires is not None:
        other, value = setting.requires
        with_value = "" if value is ANY_VALUE else f": {value}"
        facts.append(("Only with", nodes.paragraph("", "", _code(f"{other}{with_value}"))))
    return facts


def _code(text: str) -> nodes.literal:
    return nodes.literal(text=text)


def _text(text: str) -> nodes.Text:
    return nodes.Text(text)


_WORDS = {
    "text": "a text",
    "path": "a path",
    "paths": "a list of paths",
    "boolean": "true or false",
    "mapping": "a mapping: {name: value}",
    "endpoint strings": "Twisted endpoint strings; in the file, a list of them",
}


def _expected(kind: Kind) -> str:
    """Tell what a value has to be, in the words in which a wrong one is refused."""
    if kind.name in _WORDS:
        return _WORDS[kind.name]
    try:
        kind.parse(object())
    except InvalidValue as rejected:
        words = str(rejected).removeprefix("give ")
    else:
        raise ValueError(f"{kind.name}: everything is a value of this kind")
    # Of these the words have no more to say than that it is not empty.
    if words == "a text that is not empty":
        words = f"a {kind.name}"
    units = {"bytes", "MiB", "seconds", "threads", "layers", "images", "processes"}
    return f"{words}, in {kind.name}" if kind.name in units and kind.name not in words else words


class Says(SphinxDirective):
    """
    Shows how an error reads.

    The argument is its type, the body its fields, as YAML.  What is left out gets a value
    that does not matter.  ``at`` says where it is met, if not in an answer to a client.
    """

    has_content = True
    required_arguments = 1
    option_spec: ClassVar = {"at": lambda argument: directives.choice(argument, tuple(_PLACES))}

    def run(self) -> list[nodes.Node]:
        name = self.arguments[0]
        kind = error_types().get(name)
        if not (isinstance(kind, type) and issubclass(kind, NixeryError)):
            raise self.error(f"there is no error {name!r}")
        try:
            example = _make(kind, yaml.safe_load("\n".join(self.content)) or {})
        except (TypeError, ValueError, yaml.YAMLError) as error:
            raise self.error(f"{name}: {error}") from error
        identifier = f"error-{name}"
        where = nodes.paragraph("", "", _code(name), classes=["failure-status"], ids=[identifier])
        self.state.document.note_explicit_target(where)
        self.env.get_domain("std").note_object("failure", name, identifier, location=where)
        where += _text(": ")
        where += self._where(example)
        said = nodes.literal_block(example.message, example.message, language="text")
        return [nodes.container("", where, said, classes=["failure"])]

    def _where(self, example: NixeryError) -> list[nodes.Node]:
        if "at" in self.options:
            return [_text(_PLACES[self.options["at"]])]
        problem = error_response(example)
        words: list[nodes.Node] = [
            _text(f"HTTP status {problem.status}, code "),
            _code(problem.code),
        ]
        retry = problem.headers.get(b"Retry-After")
        if retry is not None:
            words += [_text(", with "), _code(f"Retry-After: {retry.decode('ascii')}")]
        return words


_PLACES = {
    "start": "when the daemon starts, in its log and on the terminal",
    "command": "printed by a command",
    "inside": "in the log; clients are told of what it led to",
}


def _make(kind: type[Any], given: Mapping[str, Any]) -> Any:
    """A value of an attrs class, of YAML data."""
    hints = get_type_hints(kind)
    unknown = set(given) - set(hints)
    if unknown:
        raise ValueError(f"{kind.__name__} has no field {', '.join(sorted(unknown))}")
    values = {}
    for field in attrs.fields(kind):
        if field.name in given:
            values[field.name] = _value(hints[field.name], given[field.name])
        elif field.default is attrs.NOTHING:
            values[field.name] = _value(hints[field.name], _PLAIN.get(field.name, {}))
    return kind(**values)


_PLAIN = {"output": {"argv": ["nix-build"], "status": 1}}
"""Fields that are in no message, and may be left out."""


def _value(hint: Any, given: Any) -> Any:
    origin = get_origin(hint)
    if origin in {Union, types.UnionType}:
        return None if given is None else _value(get_args(hint)[0], given)
    if origin is tuple:
        return tuple(_value(get_args(hint)[0], item) for item in given)
    if hint is NixeryError:
        fields = dict(given)
        return _make(error_types()[fields.pop("type")], fields)
    if attrs.has(hint):
        return _make(hint, given)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return hint(given)
    if isinstance(hint, type) and not isinstance(given, hint | int if hint is float else hint):
        raise TypeError(f"{given!r} is no {hint.__name__}")
    return given
