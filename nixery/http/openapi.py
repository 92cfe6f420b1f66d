"""
Read the OpenAPI description of all routes, served as ``/openapi.json``.

It is written in YAML, where HEAD reuses the description of GET, and served in JSON, which
more programs read.

Format: the OpenAPI Specification, version 3.1.
"""

from __future__ import annotations

import json
from pathlib import Path

import yaml

__all__ = ["DESCRIPTION", "read_description"]

DESCRIPTION = "openapi.json"
"""The name under which the description is served."""

# The C loader, if PyYAML was built with it, is ten times as fast; both load only plain data.
_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_description(directory: Path) -> bytes:
    """
    Return the description in JSON.  Blocks.

    :param directory: as :func:`nixery.runtime.data_files.web_directory` finds it.
    """
    text = (directory / "openapi.yaml").read_text("utf-8")
    # Either loader is a safe one.
    return json.dumps(yaml.load(text, _Loader)).encode("ascii")  # noqa: S506
