"""Define the limits of builds, and the settings that determine an image."""

from __future__ import annotations

from attrs import frozen

from nixery.image.canonical_json import Json
from nixery.image.manifests import CONFIG_VERSION
from nixery.layers import tarball
from nixery.layers.plan import LayerSettings, Popularity
from nixery.layers.rootfs import ROOT_VERSION
from nixery.layers.tarball import Compression
from nixery.limits.errors import ImageTooLarge

__all__ = ["BuildLimits", "ImageSettings"]


@frozen(kw_only=True)
class BuildLimits:
    """
    Limits of the number, time and size of builds.

    :param max_builds: the number of images that are made at once.
    :param max_evaluations: the number of images whose packages are looked up at once.
    :param max_queued: the number of images that may wait for either.
    :param deadline: seconds that the making of one image may take, from when its
        turn has come.
    :param shutdown_timeout: seconds that running builds are given to end when the
        daemon stops.
    :param max_closure_size: bytes that an image may have, unpacked; ``None``: any number.
    """

    max_builds: int = 4
    max_evaluations: int = 4
    max_queued: int = 64
    deadline: float = 14400.0
    shutdown_timeout: float = 0.0
    max_closure_size: int | None = None

    def check_closure_size(self, size: int) -> None:
        """
        Check the size of a closure.

        :param size: of its store paths unpacked, in bytes.
        :raises ImageTooLarge: it is larger than images may be.
        """
        limit = self.max_closure_size
        if limit is not None and size > limit:
            raise ImageTooLarge(
                what="MB of unpacked files",
                # Rounded so that the one is always above the other.
                value=-(-size // 10**6),
                limit=limit // 10**6,
                setting="max_closure_size",
            )


@frozen(kw_only=True)
class ImageSettings:
    """
    The settings that determine an image besides its packages.

    :param layers: the settings by which a closure is cut into layers.  The root of the image takes
        one more.
    :param popularity: package-set-wide reference counts; empty if unknown.
    :param compression: the compression of the layers.
    """

    layers: LayerSettings
    popularity: Popularity
    compression: Compression

    def identity(self) -> dict[str, Json]:
        """Return all settings as plain data, for cache keys."""
        return {
            "compression": self.compression.label,
            "config": CONFIG_VERSION,
            "layers": self.layers.identity(),
            "popularity": self.popularity.digest,
            "root": ROOT_VERSION,
            "tar": tarball.FORMAT,
        }
