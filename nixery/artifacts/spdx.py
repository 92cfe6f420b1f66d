"""
Make the bill of materials of an image in SPDX 2.3, as JSON.

Format: https://spdx.github.io/spdx-spec/v2.3/.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from nixery.artifacts.components import Component
from nixery.artifacts.encoding import encode_identified, encode_value
from nixery.image.closure import StorePath
from nixery.image.config import CREATED
from nixery.image.declarations import License, conjunction

__all__ = ["spdx_document"]

_UNKNOWN = "NOASSERTION"
_DOCUMENT = "SPDXRef-DOCUMENT"
_IMAGE = "SPDXRef-image"


def spdx_document(title: str, components: Sequence[Component]) -> bytes:
    """
    Return the bytes of the document; the same for equal components.

    :param title: the name of the image.
    """
    named = sorted(
        {each.text for component in components for each in component.licenses if not each.is_spdx}
    )
    document: dict[str, object] = {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": _DOCUMENT,
        "name": title,
        "creationInfo": {"created": CREATED, "creators": ["Tool: nixery"]},
    }
    if named:
        document["hasExtractedLicensingInfos"] = [
            {
                "licenseId": _license_id(name),
                "name": name,
                "extractedText": f"The package set gives no text, only the name: {name}",
            }
            for name in named
        ]
    lists = {
        "packages": [
            encode_value(_image_package(title)),
            *(encode_value(_package(each)) for each in components),
        ],
        "relationships": [
            _relationship(_DOCUMENT, "DESCRIBES", _IMAGE),
            *(_relationship(_IMAGE, "CONTAINS", _id(each.path)) for each in components),
            *(
                _relationship(_id(each.path), "DEPENDS_ON", _id(other))
                for each in components
                for other in each.references
            ),
        ],
    }
    # The specification names this site for those who have none of their own.
    prefix = "https://spdx.org/spdxdocs/nixery-"
    return encode_identified(document, lists, "documentNamespace", prefix)


def _image_package(title: str) -> dict[str, object]:
    return {
        "SPDXID": _IMAGE,
        "name": title,
        "downloadLocation": _UNKNOWN,
        "filesAnalyzed": False,
        "licenseConcluded": _UNKNOWN,
        "licenseDeclared": _UNKNOWN,
        "copyrightText": _UNKNOWN,
        "primaryPackagePurpose": "CONTAINER",
    }


def _package(component: Component) -> dict[str, object]:
    references = [
        {
            "referenceCategory": "PACKAGE-MANAGER",
            "referenceType": "purl",
            "referenceLocator": component.purl,
        }
    ]
    if component.cpe:
        references.append(
            {
                "referenceCategory": "SECURITY",
                "referenceType": "cpe23Type",
                "referenceLocator": component.cpe,
            }
        )
    value: dict[str, object] = {
        "SPDXID": _id(component.path),
        "name": component.name,
        "packageFileName": component.path.path,
        "downloadLocation": _UNKNOWN,
        "filesAnalyzed": False,
        "checksums": [{"algorithm": "SHA256", "checksumValue": component.nar_hash}],
        "licenseConcluded": _UNKNOWN,
        "licenseDeclared": _declared(component.licenses),
        "copyrightText": _UNKNOWN,
        "externalRefs": references,
    }
    if component.version:
        value["versionInfo"] = component.version
    if component.description:
        value["description"] = component.description
    return value


def _declared(licenses: Sequence[License]) -> str:
    terms = [each.text if each.is_spdx else _license_id(each.text) for each in licenses]
    return conjunction(terms) or _UNKNOWN


def _license_id(name: str) -> str:
    """Return the id of a licence that is not on SPDX's list; ids have few characters."""
    return f"LicenseRef-nix-{hashlib.sha256(name.encode('utf-8')).hexdigest()[:16]}"


def _id(path: StorePath) -> str:
    return f"SPDXRef-{path.hash}"


def _relationship(source: str, kind: str, target: str) -> str:
    # Nothing in an id has to be escaped.
    return (
        f'{{"relatedSpdxElement":"{target}","relationshipType":"{kind}",'
        f'"spdxElementId":"{source}"}}'
    )
