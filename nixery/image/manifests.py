"""
Build and read the manifests of images, and choose media types.

An image has one config and the same layers under two manifests, an OCI manifest
and a Docker v2 manifest, for the clients that know only one of the two.  All of these are
bytes made from values: the same values make the same bytes, and so the same
digests, on any host and at any time.

The config's bytes are the same in both formats, and so is its digest: it is stored
once, with OCI's media type.  Each manifest gives it the media type of its own
family, which clients use; no client reads the Content-Type of a blob.

Formats: OCI image specification 1.1; Docker image manifest version 2, schema 2.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence

from attrs import field, frozen
from attrs.validators import in_

from nixery.errors import NixeryError, UnexpectedOutput
from nixery.image.canonical_json import Json, canonical_json
from nixery.image.config import CONFIG_VERSION, image_config
from nixery.image.errors import ImageLimitExceeded
from nixery.image.names import Digest, parse_digest
from nixery.image.packages import Package

__all__ = [
    "CONFIG_VERSION",
    "DOCKER_CONFIG",
    "DOCKER_LIST",
    "DOCKER_MANIFEST",
    "INDEX_TYPES",
    "MANIFEST_TYPES",
    "MAX_LAYERS",
    "MAX_MANIFEST_SIZE",
    "OCI_CONFIG",
    "OCI_INDEX",
    "OCI_MANIFEST",
    "Descriptor",
    "Image",
    "ImageLayer",
    "Manifest",
    "build_image",
    "descriptor_json",
    "descriptor_of",
    "digest_of",
    "layer_media_type",
    "parse_descriptor",
    "parse_manifest",
    "preferred_media_type",
]

OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"

MANIFEST_TYPES = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
"""The media types of manifests that name a config and layers."""

INDEX_TYPES = frozenset({OCI_INDEX, DOCKER_LIST})
"""The media types of manifests that name other manifests."""

_LAYERS: Mapping[str, tuple[str, str | None]] = {
    "gzip": (
        "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
    ),
    "zstd": (
        "application/vnd.oci.image.layer.v1.tar+zstd",
        # Docker and containerd once defined a name, which no other engine takes.
        None,
    ),
    # Readers that do not know of chunks take it for zstd, and it has no media type of its own.
    "zstd-chunked": ("application/vnd.oci.image.layer.v1.tar+zstd", None),
    "none": (
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.docker.image.rootfs.diff.tar",
    ),
}
"""OCI's and Docker's media types of layers, by compression; ``None``: there is none."""

MAX_LAYERS = 127
"""More layers fail in several engines: overlayfs, mount options and old Docker have limits."""

MAX_MANIFEST_SIZE = 4 << 20
"""The size that the specification requires registries and clients to accept, in bytes."""


@frozen(kw_only=True)
class ImageLayer:
    """
    A stored layer, as :func:`build_image` needs it.

    :param digest: of the blob.
    :param size: of the blob, in bytes.
    :param diff_id: the digest of the layer's uncompressed archive.
    :param uncompressed_size: the size of that archive, in bytes.
    :param compression: ``gzip``, ``zstd``, ``zstd-chunked`` or ``none``.
    :param annotations: those of its descriptors.
    :param contents: the contents of the layer, for a person: names of store paths
        without their hashes, the most important first.
    """

    digest: Digest
    size: int
    diff_id: Digest
    uncompressed_size: int
    compression: str = field(default="gzip", validator=in_(_LAYERS))
    annotations: Mapping[str, str] = field(factory=dict, hash=False)
    contents: tuple[str, ...] = ()


@frozen(kw_only=True)
class Descriptor:
    """A blob's descriptor in a manifest: its media type, its digest, its size in bytes."""

    media_type: str
    digest: Digest
    size: int


@frozen(kw_only=True)
class Manifest:
    """
    A manifest, byte for byte as it is served.

    :param media_type: of :data:`MANIFEST_TYPES` or :data:`INDEX_TYPES`.
    :param digest: of :attr:`body`.
    """

    media_type: str
    digest: Digest
    body: bytes = field(repr=False)

    @property
    def size(self) -> int:
        """The size of the body, in bytes."""
        return len(self.body)

    def blobs(self) -> tuple[Descriptor, ...]:
        """
        Return the blobs that it names, as :func:`parse_manifest` does.

        :raises UnexpectedOutput: it is no manifest.
        """
        return parse_manifest(self.body)


@frozen(kw_only=True)
class Image:
    """
    An image: manifests for the same config and layers, the preferred one first.

    :param manifests: one for each family of media types that has types for all of its
        layers.
    :param config: the config's bytes, if the image has just been made; ``None``
        if only its manifests were read back from storage.
    :raises UnexpectedOutput: a manifest is malformed.
    """

    manifests: tuple[Manifest, ...]
    config: bytes | None = field(default=None, eq=False, repr=False)
    digests: frozenset[Digest] = field(init=False, eq=False, repr=False)

    @digests.default
    def _digests(self) -> frozenset[Digest]:
        """Return all blobs that must be stored: the manifests, the config, the layers."""
        blobs = (blob for manifest in self.manifests for blob in manifest.blobs())
        return frozenset(blob.digest for blob in blobs) | {
            manifest.digest for manifest in self.manifests
        }

    @property
    def all_manifests(self) -> tuple[Manifest, ...]:
        """All manifests by which clients pull it: those of an index's images too."""
        return self.manifests

    def choose_manifest(self, accepted: Collection[str]) -> Manifest:
        """
        Choose the manifest for a client.

        :param accepted: the media types of all its Accept headers, without
            parameters, in any order.
        """
        media_type = preferred_media_type(accepted)
        for manifest in self.manifests:
            if manifest.media_type == media_type:
                return manifest
        return self.manifests[0]


def build_image(
    *,
    layers: Sequence[ImageLayer],
    packages: Iterable[Package],
    system: str,
    has_shell: bool,
    has_ca_bundle: bool,
) -> Image:
    """
    Build the config and the manifests of an image.

    An image with layers that are compressed with zstd has an OCI manifest only.

    :param layers: from the bottom to the top.
    :param packages: the packages of the image, for its labels; in any order.
    :param system: the Nix system, ``x86_64-linux``.
    :param has_shell: true if the root holds ``/bin/bash``: it is then the default
        command of containers.
    :param has_ca_bundle: true if the root holds
        ``/etc/ssl/certs/ca-bundle.crt``.
    :raises ImageLimitExceeded: there are too many layers, or the manifest is too
        large, for engines to take the image.
    :raises UnknownSystem: images have no name for the system.
    """
    if len(layers) > MAX_LAYERS:
        raise ImageLimitExceeded(what="layers", value=len(layers), limit=MAX_LAYERS)
    config = image_config(
        diff_ids=[layer.diff_id for layer in layers],
        contents=[layer.contents for layer in layers],
        packages=packages,
        system=system,
        has_shell=has_shell,
        has_ca_bundle=has_ca_bundle,
    )
    manifests = []
    kinds = {layer.compression for layer in layers}
    for family, (media_type, config_type) in enumerate(
        ((OCI_MANIFEST, OCI_CONFIG), (DOCKER_MANIFEST, DOCKER_CONFIG))
    ):
        if any(_LAYERS[kind][family] is None for kind in kinds):
            continue
        body = canonical_json(
            {
                "schemaVersion": 2,
                "mediaType": media_type,
                "config": descriptor_json(descriptor_of(config, config_type)),
                "layers": [
                    _descriptor(
                        _LAYERS[layer.compression][family],
                        layer.digest,
                        layer.size,
                        layer.annotations,
                    )
                    for layer in layers
                ],
            }
        )
        if len(body) > MAX_MANIFEST_SIZE:
            raise ImageLimitExceeded(
                what="bytes in its manifest", value=len(body), limit=MAX_MANIFEST_SIZE
            )
        manifests.append(Manifest(media_type=media_type, digest=digest_of(body), body=body))
    return Image(manifests=tuple(manifests), config=config)


def preferred_media_type(accepted: Collection[str]) -> str:
    """
    Return the media type of the manifest for a client, by the set of accepted types alone.

    Docker sends its types in a random order that differs between its HEAD and its
    GET, so both order and weights are ignored.  A client that names OCI's
    manifest gets that; one that names Docker's, or any other type of
    Docker's (schema 1, lists), gets Docker's.  All other clients name neither family
    (``*/*``, nothing, OCI's index) and get OCI's, the one that is still being
    specified: clients that cannot read it name the types that they can read.

    :param accepted: media types without parameters.
    """
    present = {media_type.strip().lower() for media_type in accepted}
    if OCI_MANIFEST in present:
        return OCI_MANIFEST
    if any(media_type.startswith("application/vnd.docker.") for media_type in present):
        return DOCKER_MANIFEST
    return OCI_MANIFEST


def parse_manifest(body: bytes) -> tuple[Descriptor, ...]:
    """
    Return the blobs that a manifest names: the config first, then the layers from the
    bottom to the top, each as often as it is named; of an index, the manifests.

    :raises UnexpectedOutput: it is no manifest of an image.
    """
    try:
        value = json.loads(body)
        named = value.get("manifests") or (value["config"], *value["layers"])
        return tuple(parse_descriptor(each) for each in named)
    except (
        AttributeError,
        KeyError,
        TypeError,
        ValueError,
        RecursionError,
        NixeryError,
    ) as error:
        excerpt = body[:200].decode("utf-8", errors="backslashreplace")
        raise UnexpectedOutput(what="a manifest", excerpt=excerpt) from error


def layer_media_type(compression: str) -> str:
    """Return the media type that a layer is stored with: OCI's."""
    return _LAYERS[compression][0]


def digest_of(data: bytes | memoryview) -> Digest:
    """Return the digest of some bytes."""
    return Digest("sha256:" + hashlib.sha256(data).hexdigest())


def _descriptor(
    media_type: str | None,
    digest: Digest,
    size: int,
    annotations: Mapping[str, str] | None = None,
) -> dict[str, Json]:
    descriptor: dict[str, Json] = {"mediaType": media_type, "digest": digest, "size": size}
    return {**descriptor, "annotations": {**annotations}} if annotations else descriptor


def descriptor_of(data: bytes, media_type: str) -> Descriptor:
    """Return the descriptor of some bytes."""
    return Descriptor(media_type=media_type, digest=digest_of(data), size=len(data))


def descriptor_json(blob: Descriptor | Manifest) -> dict[str, Json]:
    """Return the descriptor of a blob, or of a manifest, as manifests have it."""
    return _descriptor(blob.media_type, blob.digest, blob.size)


def parse_descriptor(value: Mapping[str, object]) -> Descriptor:
    """
    Read a descriptor as manifests have it.

    :raises KeyError: a field is missing.
    :raises TypeError: a field has another type.
    :raises InvalidDigest: its digest is none.
    """
    media_type, digest, size = value["mediaType"], value["digest"], value["size"]
    if not isinstance(media_type, str) or not isinstance(digest, str):
        raise TypeError("a media type and a digest are text")
    # True is an int, too.
    if type(size) is not int or size < 0:
        raise TypeError("a size is a natural number")
    return Descriptor(media_type=media_type, digest=parse_digest(digest), size=size)
