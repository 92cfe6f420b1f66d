"""
Collects the types of errors, which live with the packages that raise them.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import walk_packages

import nixery
from nixery import errors
from nixery.errors import NixeryError, UnusableFile

__all__ = ["error_types"]

_BASES = (NixeryError, UnusableFile)


def error_types() -> dict[str, type[NixeryError]]:
    """
    Import ``nixery.errors`` and every package's ``errors`` module.

    :return: the types of errors by their names, without the bases that no code raises.
    """
    modules = [
        import_module(module.name)
        for module in walk_packages(nixery.__path__, "nixery.")
        if module.name.endswith(".errors")
    ]
    return {
        each.__name__: each
        for module in (errors, *modules)
        for each in vars(module).values()
        if isinstance(each, type) and issubclass(each, NixeryError) and each not in _BASES
    }
