"""Loads YAML as the configuration needs it."""

from __future__ import annotations

from typing import Any

import yaml

__all__ = ["load_yaml"]


class _UniqueKeyLoader(yaml.SafeLoader):
    """
    Loads YAML safely, and rejects a name that is given twice instead of ignoring one.

    A text that looks like a date or a number and is none is a YAML error that names its position.
    """

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        # PyYAML does not catch the exceptions of the types' own constructors.
        except (ValueError, AttributeError, LookupError, OverflowError) as error:
            raise yaml.MarkedYAMLError(
                problem=f"{node.tag.rpartition(':')[2]} cannot be read: {error}",
                problem_mark=node.start_mark,
            ) from error

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    raise yaml.MarkedYAMLError(
                        problem=f"{key.value!r} is given twice", problem_mark=key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def load_yaml(text: str) -> Any:  # as yaml.load
    """
    Load one YAML document, or JSON, which is YAML too.

    :raises yaml.YAMLError: it is none, or gives a name twice.
    :raises RecursionError: it is nested too deeply.
    """
    # The loader is a SafeLoader.
    return yaml.load(text, _UniqueKeyLoader)  # noqa: S506
