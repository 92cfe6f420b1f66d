"""
Entries of the list of served images, by their names.

The registry itself stores only a hash of the packages that a name requests. People look for names,
so each image also has an entry here, under the name it was first requested by. An entry also has
the digests of the layers, so that shared layers are found without reading manifests.
"""

from __future__ import annotations

import json

from attrs import evolve, frozen

from nixery.errors import NixeryError
from nixery.image.image_index import ImageIndex
from nixery.image.manifests import Image
from nixery.image.names import Digest, ImageName, Tag, parse_digest, parse_image_name, parse_tag
from nixery.runtime.clocks import WallTime

__all__ = [
    "EarlierImage",
    "ImageEntry",
    "decode_entry",
    "encode_entry",
    "entry_key",
    "make_entry",
    "with_history",
]

MAX_EARLIER_IMAGES = 10
"""Number of images that a tag has meant before and that are kept in its entry."""


@frozen(kw_only=True)
class EarlierImage:
    """
    An image that a tag has meant before.

    :param digest: the digest of its OCI manifest, or of the OCI index.
    :param first_served: the time at which it was first served for this name and tag.
    """

    digest: Digest
    first_served: WallTime


@frozen(kw_only=True)
class ImageEntry:
    """
    An image that was served.

    :param repository: its name, as a client wrote it.
    :param system: the Nix system it is for.
    :param digest: the digest of its OCI manifest, or of the OCI index.
    :param size: the download size for a client that has no layer yet, in bytes.
    :param layers: their digests, from the bottom to the top.
    :param first_served: the time at which it was first served for this name and tag.
    :param platforms: the Nix systems of an index; the layers and the size are those of the image
        for clients without indexes.
    :param earlier: the images that the tag has meant before, the latest first.
    """

    repository: str
    tag: Tag
    system: str
    digest: Digest
    size: int
    layers: tuple[Digest, ...]
    first_served: WallTime
    platforms: tuple[str, ...] = ()
    earlier: tuple[EarlierImage, ...] = ()

    @property
    def label(self) -> str:
        """Name and tag, ``shell/git:latest``."""
        return entry_key(self.repository, self.tag)


def entry_key(repository: str, tag: str) -> str:
    """Return the key of an entry, which sorts by name."""
    return f"{repository}:{tag}"


def make_entry(name: ImageName, tag: Tag, image: Image, first_served: WallTime) -> ImageEntry:
    """Make the entry of an image that is being served."""
    manifest = image.manifests[0]
    platforms: tuple[str, ...] = ()
    if isinstance(image, ImageIndex):
        platforms = tuple(image.images)
        image = image.images.get(image.system) or image.images[platforms[0]]
    _, *layers = image.manifests[0].blobs()
    return ImageEntry(
        repository=name.repository,
        tag=tag,
        system=name.system,
        digest=manifest.digest,
        size=sum(layer.size for layer in layers),
        layers=tuple(layer.digest for layer in layers),
        first_served=first_served,
        platforms=platforms,
    )


def with_history(entry: ImageEntry, former: ImageEntry) -> ImageEntry:
    """
    Return an entry with what the tag has meant before.

    :param former: the entry that it replaces.
    """
    if former.digest == entry.digest:
        return evolve(entry, first_served=former.first_served, earlier=former.earlier)
    latest = EarlierImage(digest=former.digest, first_served=former.first_served)
    earlier = [each for each in (latest, *former.earlier) if each.digest != entry.digest]
    return evolve(entry, earlier=tuple(earlier[:MAX_EARLIER_IMAGES]))


def encode_entry(entry: ImageEntry) -> bytes:
    """Encode an entry for storage."""
    return json.dumps(
        {
            "repository": entry.repository,
            "tag": entry.tag,
            "system": entry.system,
            "digest": entry.digest,
            "size": entry.size,
            "layers": entry.layers,
            "served": entry.first_served,
            **({"platforms": entry.platforms} if entry.platforms else {}),
            "earlier": [(each.digest, each.first_served) for each in entry.earlier],
        },
        separators=(",", ":"),
    ).encode("ascii")


def decode_entry(data: bytes) -> ImageEntry:
    """:raises ValueError: the data are not an entry."""
    try:
        value = json.loads(data)
        system = str(value["system"])
        # Names are checked once more: they become links.
        name = parse_image_name(value["repository"], system)
        return ImageEntry(
            repository=name.repository,
            tag=parse_tag(value["tag"]),
            system=system,
            digest=parse_digest(value["digest"]),
            size=int(value["size"]),
            layers=tuple(parse_digest(each) for each in value["layers"]),
            first_served=WallTime(float(value["served"])),
            platforms=tuple(str(each) for each in value.get("platforms", ())),
            earlier=tuple(
                EarlierImage(
                    digest=parse_digest(digest), first_served=WallTime(float(first_served))
                )
                for digest, first_served in value.get("earlier", ())
            ),
        )
    except (
        AttributeError,
        KeyError,
        TypeError,
        ValueError,
        OverflowError,
        RecursionError,
        NixeryError,
    ) as error:
        raise ValueError(f"no listed image: {error}") from error
