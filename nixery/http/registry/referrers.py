"""
Answer what refers to the manifest of an image.

Format: OCI distribution specification 1.1, "Listing Referrers".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol
from urllib.parse import quote, urlencode

from twisted.web.server import Request

from nixery.artifacts.attachment import Attachment, referrers_index
from nixery.http.headers import parse_number
from nixery.http.responses import answer_with, set_headers
from nixery.image.manifests import OCI_INDEX, Manifest
from nixery.image.names import Digest, ImageName, Tag, parse_digest

__all__ = [
    "NoReferrers",
    "Referrers",
    "answer_referrers",
    "find_by_suffix",
    "parse_referrers_tag",
]


class Referrers(Protocol):
    """Finds what refers to the manifests of images."""

    async def attachments(self, name: ImageName, digest: Digest) -> Sequence[Attachment]:
        """
        Return what is attached to a manifest of a name.

        :raises StorageError: the storage failed.
        """

    async def index(self, name: ImageName, digest: Digest) -> Manifest | None:
        """Return the index of all of it, which is stored then; ``None`` if there is nothing."""

    async def signatures(self, name: ImageName, digest: Digest) -> Manifest | None:
        """Return the manifest of the signatures, which is stored then; ``None`` without any."""

    async def attestations(self, name: ImageName, digest: Digest) -> Manifest | None:
        """Return the manifest of the signed documents, which is stored; ``None`` without any."""


class NoReferrers:
    """Implements :class:`Referrers` for a registry in which nothing refers to anything."""

    async def attachments(self, _name: ImageName, _digest: Digest) -> Sequence[Attachment]:
        return ()

    async def index(self, _name: ImageName, _digest: Digest) -> Manifest | None:
        return None

    async def signatures(self, _name: ImageName, _digest: Digest) -> Manifest | None:
        return None

    async def attestations(self, _name: ImageName, _digest: Digest) -> Manifest | None:
        return None


def answer_referrers(
    request: Request,
    name: ImageName,
    digest: Digest,
    attachments: Sequence[Attachment],
    page_size: bytes | None,
) -> bytes:
    """
    Answer with the index of attachments of the types that are asked for, or a page of it.

    :param page_size: the number of attachments on a page, in digits.
    """
    wanted = [each.decode("utf-8", "replace") for each in request.args.get(b"artifactType", ())]
    if wanted:
        # Several are a union: containerd asks for all types that it knows in one request.
        attachments = [each for each in attachments if each.artifact_type in wanted]
        set_headers(request, {b"OCI-Filters-Applied": b"artifactType"})
    after = request.args.get(b"last", [b""])[-1].decode("utf-8", "replace")
    for number, each in enumerate(attachments):
        if each.manifest.digest == after:
            attachments = attachments[number + 1 :]
            break
    if page_size is not None:
        page = attachments[: parse_number(page_size)]
        if page and len(page) < len(attachments):
            query = urlencode(
                [
                    *(("artifactType", each) for each in wanted),
                    ("n", len(page)),
                    ("last", page[-1].manifest.digest),
                ],
                quote_via=quote,
            )
            following = f"</v2/{name.repository}/referrers/{digest}?{query}>"
            set_headers(request, {b"Link": f'{following}; rel="next"'.encode("ascii")})
        attachments = page
    return answer_with(request, OCI_INDEX, referrers_index(attachments))


def parse_referrers_tag(tag: Tag) -> tuple[Digest, str]:
    """
    Return the digest and the suffix of a tag, ``sha256-<hex>.sig``, that names referrers.

    :raises InvalidDigest: it is no such tag.
    """
    text, _, suffix = tag.partition(".")
    return parse_digest(text.replace("-", ":", 1)), suffix


async def find_by_suffix(
    referrers: Referrers, name: ImageName, digest: Digest, suffix: str
) -> Manifest | None:
    """
    Return the manifest or the index under a tag that names referrers; ``None``: there is none.

    :param digest: as :func:`parse_referrers_tag` returns it, and the suffix.
    :raises StorageError: the storage failed.
    """
    match suffix:
        case "":
            return await referrers.index(name, digest)
        case "sig":
            return await referrers.signatures(name, digest)
        case "att":
            return await referrers.attestations(name, digest)
        case _:
            return None
