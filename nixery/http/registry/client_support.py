"""
Which clients cannot read the layers of an image.

No header says which layers a client can unpack.  gzip and plain archives all of them
can.  Of zstd two things are known:

- Docker's manifests have no word for it that engines agree on: containerd 1.6, podman
  and skopeo refuse ``application/vnd.docker.image.rootfs.diff.tar.zstd``.  Images with
  such layers have an OCI manifest only, and who names Docker's formats alone is not
  served it as something else.
- Docker itself unpacks zstd from version 23 on.  Before, it downloads all of the image
  and says "invalid tar header" then.

Both are told so in words, for this is what the person at the other end can read.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from nixery.http.registry.errors import UnsupportedClient
from nixery.image.manifests import DOCKER_MANIFEST, OCI_MANIFEST, Image, preferred_media_type

__all__ = ["check_readable"]

_DOCKER = re.compile(rb"docker/([0-9]{1,4})\.", re.IGNORECASE)

_FIRST_DOCKER = 23


def check_readable(image: Image, user_agent: bytes | None, accepted: Collection[str]) -> None:
    """
    Refuse a client that would download an image in vain.

    :param user_agent: the header, if there is one.
    :param accepted: the media types of all Accept headers, without parameters.
    :raises UnreadableImage: it would.
    """
    # Any other image is for everybody.
    if len(image.manifests) > 1 or image.manifests[0].media_type != OCI_MANIFEST:
        return
    docker = _DOCKER.match(user_agent or b"")
    if docker is not None and int(docker[1]) < _FIRST_DOCKER:
        raise UnsupportedClient(reason=f"Docker {int(docker[1])} does not know zstd, and 23 does")
    if preferred_media_type(accepted) == DOCKER_MANIFEST and "*/*" not in accepted:
        raise UnsupportedClient(reason="its manifest is OCI's, and only Docker's are accepted")
