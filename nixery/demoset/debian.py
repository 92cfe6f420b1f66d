"""Parses the records of Debian's archive, as apt prints them."""

from __future__ import annotations

import re

from attrs import frozen

__all__ = ["Record", "parse_records", "parse_uris", "upstream_version"]

_URI = re.compile(r"'(?P<uri>[^']+)' (?P<name>[^_ ]+)_\S+\.deb \d+ ")
_DEPENDENCY = re.compile(r"[a-z0-9][a-z0-9+.-]*")


@frozen(kw_only=True)
class Record:
    """
    The archive's record of one Debian package.

    :param depends: ``Pre-Depends`` and ``Depends``: every one a list of
        alternatives, names only.
    :param recommends: ``Recommends``, in the same form.
    :param size: size of the .deb, in bytes.
    :param sha256: hash of the .deb, in hexadecimal.
    """

    name: str
    version: str
    section: str
    depends: tuple[tuple[str, ...], ...]
    description: str
    homepage: str
    size: int
    sha256: str
    recommends: tuple[tuple[str, ...], ...] = ()


def parse_records(text: str) -> dict[str, Record]:
    """Parse the stanzas that ``apt-cache show`` prints; the first one of a name counts."""
    records: dict[str, Record] = {}
    for stanza in re.split(r"\n\s*\n", text):
        fields: dict[str, str] = {}
        for line in stanza.splitlines():
            # A continuation belongs to a field that is not read here (the long
            # description, tags).
            key, separator, value = line.partition(":")
            if separator and not line[0].isspace():
                fields.setdefault(key.lower(), value.strip())
        if "package" not in fields or "sha256" not in fields:
            continue
        record = Record(
            name=fields["package"],
            version=fields["version"],
            # A section may be qualified: "non-free/libs".
            section=fields.get("section", "").rpartition("/")[2],
            depends=_dependencies(fields.get("pre-depends", ""), fields.get("depends", "")),
            recommends=_dependencies(fields.get("recommends", "")),
            description=fields.get("description-en", fields.get("description", "")),
            homepage=fields.get("homepage", ""),
            size=int(fields["size"]),
            sha256=fields["sha256"],
        )
        records.setdefault(record.name, record)
    return records


def _dependencies(*values: str) -> tuple[tuple[str, ...], ...]:
    """Parse the dependencies that some fields list."""
    return tuple(
        alternatives
        for value in values
        for dependency in value.split(",")
        if (alternatives := _alternatives(dependency))
    )


def _alternatives(dependency: str) -> tuple[str, ...]:
    """Parse the names in ``libfoo (>= 1) | libbar:any``."""
    matches = (_DEPENDENCY.match(part.strip()) for part in dependency.split("|"))
    return tuple(match.group() for match in matches if match)


def parse_uris(text: str) -> dict[str, str]:
    """Parse package names and URIs out of what ``apt-get download --print-uris`` prints."""
    return {match["name"]: match["uri"] for match in map(_URI.match, text.splitlines()) if match}


def upstream_version(version: str) -> str:
    """Return ``2.39.5`` of ``1:2.39.5-0+deb12u3``, without characters that a store path forbids."""
    without_epoch = version.partition(":")[2] or version
    upstream = without_epoch.rpartition("-")[0] or without_epoch
    return re.sub(r"[^A-Za-z0-9+._?=-]", "_", upstream)
