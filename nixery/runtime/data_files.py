"""
Locates the files that belong to the program and are not Python: the Nix expressions and the files
of the web pages.

An installation has them as package data under ``nixery``; in a checkout they are
the top-level folders ``nix`` and ``web``.  (``nixery.http`` is a package of its own, so
the installed folders have other names.)
"""

from __future__ import annotations

from pathlib import Path

from nixery.runtime.errors import ResourceMissing

__all__ = ["docs_directory", "find_data_directory", "nix_directory", "web_directory"]


def nix_directory() -> Path:
    """
    Return the folder of the Nix expressions; no component of its path is a symlink, which
    restricted evaluation would refuse.

    :raises ResourceMissing: the installation is incomplete.
    """
    return find_data_directory("nix", Path(__file__).resolve().parents[1])


def web_directory() -> Path:
    """
    Return the folder of templates, styles and scripts.

    :raises ResourceMissing: the installation is incomplete.
    """
    return find_data_directory("web", Path(__file__).resolve().parents[1])


def docs_directory() -> Path | None:
    """
    Return the folder of the built documentation; ``None`` if it was not built, as in a fresh
    checkout.
    """
    package = Path(__file__).resolve().parents[1]
    # The directory in a checkout into which ``tox -e docs`` writes.
    for directory in (package / "_docs", package.parent / "build" / "docs"):
        if (directory / "index.html").is_file():
            return directory
    return None


def find_data_directory(name: str, package: Path) -> Path:
    """
    Return a folder of data files, as the installation or the checkout has it.

    :param name: ``nix`` or ``web``.
    :param package: the folder of the Python package.
    :raises ResourceMissing: there is neither.
    """
    # Installed files come first: beside an installed package, in site-packages, a folder `nix` or
    # `web` would belong to another package.
    installed = package / f"_{name}"
    if installed.is_dir():
        return installed
    checkout = package.parent / name
    if (package.parent / "setup.py").is_file() and checkout.is_dir():
        return checkout
    raise ResourceMissing(name=name, places=(str(installed), str(checkout)))
