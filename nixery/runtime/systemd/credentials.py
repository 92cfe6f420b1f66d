"""
Finds credentials: files that systemd puts where only this service can read them.

``LoadCredential=tls-key:/etc/nixery/key.pem`` in the unit makes ``tls-key`` a file in
``$CREDENTIALS_DIRECTORY``, independent of the owner of the original. A setting that names a file
may therefore be ``credential:tls-key``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

__all__ = ["PREFIX", "find_credential"]

PREFIX = "credential:"
"""The prefix of a path that is the name of a credential."""


def find_credential(text: str, environ: Mapping[str, str]) -> str:
    """
    Return the path of a credential.

    :param text: with its prefix.
    :raises ValueError: this service has no credentials, or none of this name; the message says what
        to do.
    """
    name = text.removeprefix(PREFIX)
    if not re.fullmatch(r"(?!\.{1,2}$)[\w.-]+", name, re.ASCII):
        raise ValueError("give the name of a credential of the unit, as credential:tls-key")
    directory = environ.get("CREDENTIALS_DIRECTORY")
    if not directory:
        raise ValueError(
            f"there are no credentials here: put LoadCredential={name}:PATH into the unit, or"
            " give the path itself"
        )
    return f"{directory}/{name}"
