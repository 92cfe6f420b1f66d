"""
Entries of the list of served images, by their names.

The registry itself stores only a hash of the packages that a name requests. People look for names,
so each image also has an entry here, under the name it was first requested by. An entry also has
the digests of the layers, so that shared layers are found without reading manifests.
"""

from __future__ import annotations

import json

from attrs import frozen

from nixery.errors import NixeryError
from nixery.image.manifests import Image
from nixery.image.names import Digest, ImageName, Tag, parse_digest, parse_image_name, parse_tag
from nixery.runtime.clocks import WallTime

__all__ = ["ImageEntry", "decode_entry", "encode_entry", "make_entry", "entry_key"]


@frozen(kw_only=True)
class ImageEntry:
    """
    An image that was served.

    :param repository: its name, as a client wrote it.
    :param system: the Nix system it is for.
    :param digest: the digest of its OCI manifest.
    :param size: the download size for a client that has no layer yet, in bytes.
    :param layers: their digests, from the bottom to the top.
    :param first_served: the time at which it was first served for this name and tag.
    """

    repository: str
    tag: Tag
    system: str
    digest: Digest
    size: int
    layers: tuple[Digest, ...]
    first_served: WallTime

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
    _, *layers = manifest.blobs()
    return ImageEntry(
        repository=name.repository,
        tag=tag,
        system=name.system,
        digest=manifest.digest,
        size=sum(layer.size for layer in layers),
        layers=tuple(layer.digest for layer in layers),
        first_served=first_served,
    )


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
