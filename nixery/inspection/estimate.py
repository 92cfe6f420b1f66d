"""
The price of an image before it is pulled, as a value: what the registry has to do, and what a
client downloads.

Each number is exact, or says that it is not: an estimate that looks like a fact is worse than none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import Enum

from attrs import field, frozen

from nixery.image.closure import StorePath
from nixery.image.image_index import platform_label
from nixery.image.names import Digest, ImageName, Tag
from nixery.image.packages import Evaluation
from nixery.layers.partial_pull import PartialPull

__all__ = [
    "MAX_NAMES",
    "UNKNOWN_SIZE",
    "Accuracy",
    "Estimate",
    "Held",
    "PlatformEstimate",
    "PullSize",
    "StorePlan",
    "names_of",
]

MAX_NAMES = 20
"""The most derivations, and the most store paths, that an estimate names; it counts all."""


class Accuracy(Enum):
    """The meaning of a size."""

    EXACT = "exact"
    """The bytes that a client downloads."""

    ESTIMATE = "estimate"
    """Some layers are not made yet: their unpacked size is known, and their compression is not."""

    LOWER_BOUND = "lower_bound"
    """As an estimate, of only those store paths whose sizes are known before they are built."""

    UNKNOWN = "unknown"
    """Nothing is known."""


@frozen
class Held:
    """The image that a client has already, by its tag or its digest."""

    name: ImageName
    reference: Tag | Digest

    @property
    def label(self) -> str:
        """The name with the tag or the digest, as commands take it."""
        separator = "@" if ":" in self.reference else ":"
        return f"{self.name.repository}{separator}{self.reference}"


@frozen(kw_only=True)
class PullSize:
    """
    Layers of an image, and their size.

    :param layers: their number; ``None``: unknown.
    :param size: their compressed bytes; ``None``: unknown.
    :param accuracy: tells what ``size`` means.
    """

    layers: int | None
    size: int | None
    accuracy: Accuracy

    def json(self) -> Mapping[str, object]:
        """Return it as JSON, for programs."""
        return {"layers": self.layers, "size": self.size, "accuracy": self.accuracy.value}


UNKNOWN_SIZE = PullSize(layers=None, size=None, accuracy=Accuracy.UNKNOWN)


@frozen(kw_only=True)
class StorePlan:
    """
    The work of the registry's Nix before an image can be packed.

    :param known: false if Nix's answer was not understood or came too late, or if Nix gave up since
        the caches in ``unreachable`` did not answer: all else is empty.
    :param all_valid: true if the whole closure is in the Nix store: nothing is downloaded or built.
    :param valid_paths: store paths of the closure that are in the store.  If not all are, it counts
        those that the outputs need that are valid; there may be more.
    :param fetched: store paths that are downloaded from binary caches, those that builds need too.
    :param download_size: bytes of these downloads, rounded by Nix; ``None``: unknown.
    :param unpacked_size: bytes that they have unpacked, likewise.
    :param built: derivations that are built, each after those that it needs.
    :param unavailable: store paths that Nix can neither build nor download, and, if the registry
        builds nothing, the derivations that would have to be built: a pull would fail.
    :param unreachable: URLs of binary caches that did not answer: what they have is in ``built``.
    """

    known: bool = True
    all_valid: bool = False
    valid_paths: int = 0
    fetched: tuple[str, ...] = ()
    download_size: int | None = 0
    unpacked_size: int | None = 0
    built: tuple[str, ...] = ()
    unavailable: tuple[str, ...] = ()
    unreachable: tuple[str, ...] = ()

    @property
    def fetched_names(self) -> tuple[str, ...]:
        """The names of the first store paths that are downloaded."""
        return names_of(self.fetched)

    @property
    def built_names(self) -> tuple[str, ...]:
        """The names of the first derivations that are built."""
        return names_of(self.built)

    @property
    def unavailable_names(self) -> tuple[str, ...]:
        """The names of the first store paths that are not available."""
        return names_of(self.unavailable)

    def json(self) -> Mapping[str, object]:
        """Return it as JSON, for programs."""
        return {
            "known": self.known,
            "all_valid": self.all_valid,
            "valid_paths": self.valid_paths if self.known else None,
            "fetched": {
                "paths": len(self.fetched) if self.known else None,
                "download_size": self.download_size,
                "unpacked_size": self.unpacked_size,
                "names": list(self.fetched_names),
            },
            "built": {
                "derivations": len(self.built) if self.known else None,
                "names": list(self.built_names),
            },
            "unavailable": list(self.unavailable_names),
            "unreachable": list(self.unreachable),
        }


@frozen(kw_only=True)
class PlatformEstimate:
    """
    The estimate for one platform.

    :param system: the Nix system.
    :param missing: why the index will lack this platform; empty: it will not.
    :param ready: true if a pull is answered at once.
    :param digest: the digest of the manifest, if it is ready.
    :param evaluation: the packages, unless the image was found without evaluating them.
    :param store: the work of Nix; ``None`` if the image is ready, or missing.
    :param pull: the layers that a client without any downloads.
    :param shared: those that the client has already; ``None`` if it named no image, or if that is
        unknown.
    :param partial: the bytes that a client of partial pulls downloads, if the image is ready, its
        layers are chunked and the client has an image.
    """

    system: str
    missing: str = ""
    ready: bool = False
    digest: Digest | None = None
    evaluation: Evaluation | None = None
    store: StorePlan | None = None
    pull: PullSize = UNKNOWN_SIZE
    shared: PullSize | None = None
    partial: PartialPull | None = None

    @property
    def platform(self) -> str:
        """The platform as it is written elsewhere: ``amd64``, without the operating system."""
        return platform_label(self.system)

    def json(self) -> Mapping[str, object]:
        """Return it as JSON, for programs."""
        return {
            "platform": self.platform,
            "system": self.system,
            "missing": self.missing or None,
            "ready": self.ready,
            "digest": self.digest,
            "store": None if self.store is None else self.store.json(),
            "pull": self.pull.json(),
            "shared": None if self.shared is None else self.shared.json(),
            "partial_pull": None if self.partial is None else self.partial.json(),
        }


@frozen(kw_only=True)
class Estimate:
    """
    The price of an image.

    :param revision: the revision of the packages, in words.
    :param having: the image that the client has already.
    :param platforms: one for an image; of an index one for each platform, in its order.
    """

    name: ImageName
    tag: Tag
    revision: str
    having: Held | None
    platforms: tuple[PlatformEstimate, ...] = field()

    @platforms.validator
    def _check(self, _attribute: object, value: tuple[PlatformEstimate, ...]) -> None:
        if not value:
            raise ValueError("an image is for one platform at least")

    @property
    def ready(self) -> bool:
        """True if a pull is answered at once."""
        return all(each.ready for each in self.platforms if not each.missing)

    @property
    def own(self) -> PlatformEstimate:
        """The estimate for the registry's own system, or for the first that is not missing."""
        present = [each for each in self.platforms if not each.missing] or list(self.platforms)
        return next((each for each in present if each.system == self.name.system), present[0])

    def json(self) -> Mapping[str, object]:
        """Return it as JSON, for programs."""
        return {
            "image": self.name.repository,
            "tag": self.tag,
            "revision": self.revision,
            "with": None if self.having is None else self.having.label,
            "ready": self.ready,
            "platforms": [each.json() for each in self.platforms],
        }


def names_of(paths: Iterable[str]) -> tuple[str, ...]:
    """Return the names of the first store paths, without hashes and without ``.drv``."""
    shown = list(paths)[:MAX_NAMES]
    return tuple(StorePath(path).name.removesuffix(".drv") for path in shown)
