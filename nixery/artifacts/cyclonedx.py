"""
Make the bill of materials of an image in CycloneDX 1.6, as JSON.

Format: ECMA-424, https://cyclonedx.org/docs/1.6/json/.
"""

from __future__ import annotations

from collections.abc import Sequence

from nixery.artifacts.components import Component
from nixery.artifacts.encoding import encode_identified, encode_value
from nixery.image.declarations import License

__all__ = ["cyclonedx_document"]

IMAGE_REFERENCE = "image"
"""The ``bom-ref`` of the image itself; those of components are store paths."""


def cyclonedx_document(title: str, components: Sequence[Component]) -> bytes:
    """
    Return the bytes of the document; the same for equal components.

    It has no creation time, and does not name the image's digest: the same components may be
    packed differently, and the artifact that holds the document says whose it is.

    :param title: the name of the image.
    """
    paths = [each.path.path for each in components]
    return encode_identified(
        {
            "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
            "bomFormat": "CycloneDX",
            "specVersion": "1.6",
            "version": 1,
            "metadata": {
                "component": {"bom-ref": IMAGE_REFERENCE, "name": title, "type": "container"},
                "tools": {"components": [{"name": "nixery", "type": "application"}]},
            },
        },
        {
            "components": [encode_value(_component(each)) for each in components],
            "dependencies": [
                _dependency(IMAGE_REFERENCE, paths),
                *(
                    _dependency(each.path.path, [other.path for other in each.references])
                    for each in components
                ),
            ],
        },
        "serialNumber",
        "urn:uuid:",
    )


def _dependency(reference: str, needed: Sequence[str]) -> str:
    # Nothing in a store path has to be escaped.
    items = ",".join([f'"{path}"' for path in needed])
    return f'{{"dependsOn":[{items}],"ref":"{reference}"}}'


def _component(component: Component) -> dict[str, object]:
    properties = [
        {"name": "nix:output_path", "value": component.path.path},
        {"name": "nix:output", "value": component.output},
        {"name": "nix:nar_size", "value": str(component.nar_size)},
    ]
    if component.attribute:
        properties.append({"name": "nix:attribute", "value": component.attribute})
    value: dict[str, object] = {
        "bom-ref": component.path.path,
        "type": "library",
        "name": component.name,
        "purl": component.purl,
        "hashes": [{"alg": "SHA-256", "content": component.nar_hash}],
        "properties": properties,
    }
    if component.version:
        value["version"] = component.version
    if component.description:
        value["description"] = component.description
    if component.licenses:
        value["licenses"] = _licenses(component.licenses)
    if component.cpe:
        value["cpe"] = component.cpe
    return value


def _licenses(licenses: Sequence[License]) -> list[dict[str, object]]:
    """Return the licences: an expression stands alone, and others are a list."""
    if len(licenses) == 1 and licenses[0].is_spdx and not licenses[0].is_spdx_id:
        return [{"expression": licenses[0].text}]
    return [{"license": {"id" if each.is_spdx_id else "name": each.text}} for each in licenses]
