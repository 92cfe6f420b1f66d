"""
Parse the store path lists and narinfo files of binary caches.

A channel lists its store paths in a file, one a line; a binary cache describes each
of them in a small text, ``<hash>.narinfo``, whose line ``References:`` has the base
names of the paths that it refers to.  These texts are untrusted input from the cache, and
are validated.
"""

from __future__ import annotations

import re

from nixery.errors import UnexpectedOutput
from nixery.image.closure import STORE

__all__ = ["HASH_LENGTH", "parse_references", "parse_store_paths", "store_names"]

HASH_LENGTH = 32

_BASE_NAME = re.compile(r"[0-9abcdfghijklmnpqrsvwxyz]{32}-[0-9a-zA-Z+\-._?=]{1,211}")
_DERIVATION = ".drv"


def parse_store_paths(text: bytes) -> tuple[str, ...]:
    """
    Return the base names of the store paths that a channel's ``store-paths`` lists.

    Derivations are left out: images do not contain them.

    :raises UnexpectedOutput: a line is not a store path of ``/nix/store``.
    """
    lines = text.decode("ascii", "backslashreplace").split("\n")
    return store_names([line for line in lines if line])


def store_names(paths: list[str]) -> tuple[str, ...]:
    """
    Return the base names of store paths, without derivations, each once, in order.

    :raises UnexpectedOutput: one is not a store path of ``/nix/store``.
    """
    names: dict[str, None] = {}
    for path in paths:
        directory, _, name = path.rpartition("/")
        if directory != STORE or not _BASE_NAME.fullmatch(name):
            raise UnexpectedOutput(what="a list of store paths", excerpt=path)
        if not name.endswith(_DERIVATION):
            names[name] = None
    return tuple(names)


def parse_references(name: str, text: bytes) -> tuple[str, ...]:
    """
    Return the references of a store path, without itself.

    :param name: the path's base name.
    :param text: its narinfo.
    :raises UnexpectedOutput: it is not a narinfo, is that of another path, or has
        references that are not base names.
    """
    fields: dict[str, str] = {}
    for line in text.decode("utf-8", "backslashreplace").splitlines():
        key, separator, value = line.partition(":")
        if not separator or key in fields:
            raise UnexpectedOutput(what=f"the narinfo of {name}", excerpt=line)
        # Some keys may occur several times; none of those is used here.
        if key in {"StorePath", "References"}:
            fields[key] = value.strip()
    if fields.get("StorePath") != f"{STORE}/{name}" or "References" not in fields:
        raise UnexpectedOutput(
            what=f"the narinfo of {name}",
            excerpt=f"StorePath: {fields.get('StorePath')}, References: {fields.get('References')}",
        )
    references = fields["References"].split()
    for reference in references:
        if not _BASE_NAME.fullmatch(reference):
            raise UnexpectedOutput(what=f"the narinfo of {name}", excerpt=reference)
    return tuple(sorted({*references} - {name}))
