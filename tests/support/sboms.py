"""Judges bills of materials by the libraries of those who define the formats."""

from __future__ import annotations

import json

from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from spdx_tools.spdx.parser.error import SPDXParsingError
from spdx_tools.spdx.parser.jsonlikedict.json_like_dict_parser import JsonLikeDictParser
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

__all__ = ["cyclonedx_problems", "spdx_problems"]


def cyclonedx_problems(document: bytes) -> list[str]:
    """Return what is wrong with a document by the strict JSON schema of CycloneDX 1.6."""
    validator = JsonStrictValidator(SchemaVersion.V1_6)
    return [
        str(error) for error in validator.validate_str(document.decode(), all_errors=True) or ()
    ]


def spdx_problems(document: bytes) -> list[str]:
    """Return what is wrong with a document by the rules of SPDX 2.3, references included."""
    try:
        parsed = JsonLikeDictParser().parse(json.loads(document))
    except SPDXParsingError as error:
        return list(error.get_messages())
    return [message.validation_message for message in validate_full_spdx_document(parsed)]
