"""
Detect clients that cannot unpack the layers of an image.

No header says which compressions a client supports.  All clients support gzip and
uncompressed layers.  Two limitations are known for zstd:

- Docker's manifests have no media type for it that engines agree on: containerd 1.6,
  podman and skopeo refuse ``application/vnd.docker.image.rootfs.diff.tar.zstd``.  Images
  with such layers have an OCI manifest only, and a client that accepts only Docker's
  formats is not served that manifest under another type.
- Docker itself unpacks zstd from version 23 on.  Older versions download the whole image
  and then say "invalid tar header".

Both get an error message with the reason, which their user can read.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from nixery.http.registry.errors import UnsupportedClient
from nixery.image.image_index import ImageIndex
from nixery.image.manifests import (
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    Image,
    preferred_media_type,
)

__all__ = ["check_readable"]

_DOCKER = re.compile(rb"docker/([0-9]{1,4})\.", re.IGNORECASE)

_FIRST_DOCKER = 23


def check_readable(image: Image, user_agent: bytes | None, accepted: Collection[str]) -> None:
    """
    Refuse a client that would download an image which it cannot unpack.

    :param user_agent: the header, if there is one.
    :param accepted: the media types of all Accept headers, without parameters.
    :raises UnsupportedClient: the client cannot unpack the image's layers.
    """
    accepts_index = isinstance(image, ImageIndex) and OCI_INDEX in accepted
    if isinstance(image, ImageIndex):
        # Its images have the same compression.
        image = next(iter(image.images.values()))
    # All clients support any other image.
    if len(image.manifests) > 1 or image.manifests[0].media_type != OCI_MANIFEST:
        return
    docker = _DOCKER.match(user_agent or b"")
    if docker is not None and int(docker[1]) < _FIRST_DOCKER:
        raise UnsupportedClient(reason=f"Docker {int(docker[1])} does not know zstd, and 23 does")
    only_docker = preferred_media_type(accepted) == DOCKER_MANIFEST and "*/*" not in accepted
    if only_docker and not accepts_index:
        raise UnsupportedClient(reason="its manifest is OCI's, and only Docker's are accepted")
