"""
Errors of grouping and packing layers.
"""

from __future__ import annotations

from attrs import frozen

from nixery.errors import NixeryError

__all__ = ["MissingPath", "ReservedName"]


@frozen(kw_only=True)
class MissingPath(NixeryError):
    """A store path vanished, or was unreadable, while it was being packed."""

    path: str
    reason: str

    @property
    def message(self) -> str:
        return f"{self.path} could not be packed: {self.reason}"


@frozen(kw_only=True)
class ReservedName(NixeryError):
    """
    A file has a name that the format of layers reads as an instruction.

    :param path: the path of the file in the image.
    :param packages: the packages of the image that need its store path, by attribute.
    """

    path: str
    packages: tuple[str, ...] = ()

    @property
    def message(self) -> str:
        packages = f" (needed by {', '.join(self.packages)})" if self.packages else ""
        return (
            f"the image cannot hold {self.path}{packages}: in an image, a name that begins with"
            " .wh. deletes another file. Rename the file in the package"
        )
