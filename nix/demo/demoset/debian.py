"""Parses the records of Debian's archive, as apt prints them."""

from __future__ import annotations

import re
from mmap import mmap

from attrs import frozen

__all__ = ["Record", "Records", "parse_uris", "upstream_version"]

_PACKAGE = re.compile(rb"(?m)^Package: (\S+)$")
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


class Records:
    """
    The packages of an archive, by name; each is parsed when it is looked up.  The first of a name
    counts.

    :param text: one stanza a package, with an empty line after each, as ``apt-cache dumpavail``
        prints them: some 50 MB for all of Debian.
    """

    def __init__(self, text: bytes | mmap) -> None:
        self._text = text
        self._places: dict[str, int] = {}
        for match in _PACKAGE.finditer(text):
            self._places.setdefault(match[1].decode(), match.start())

    def get(self, name: str) -> Record | None:
        """Return the record of a package; ``None`` if there is no file of it to fetch."""
        place = self._places.get(name)
        if place is None:
            return None
        end = self._text.find(b"\n\n", place)
        stanza = self._text[place : None if end < 0 else end]
        return _parse_record(stanza.decode("utf-8", "replace"))


def _parse_record(stanza: str) -> Record | None:
    fields: dict[str, str] = {}
    for line in stanza.splitlines():
        # A continuation belongs to a field that is not read here (the long
        # description, tags).
        key, separator, value = line.partition(":")
        if separator and not line[0].isspace():
            fields.setdefault(key.lower(), value.strip())
    if "sha256" not in fields:
        return None
    return Record(
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
