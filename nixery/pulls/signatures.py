"""
Signs the images that are served, and stores the signatures.

An image is signed before it is first served under a name and a tag, by this key: the signatures
are complete when a client has its manifest.  Whatever is signed, is signed once; as signing is
deterministic, replicas that do so at the same time store the same.

    bundle      for each manifest: what is attached to it, signed, as clients list it
    signature   for each manifest, name and tag: that this is the image of that name

What an image is called by clients comes from the configuration: the Host header of a request is
anybody's to choose.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from weakref import ReferenceType, ref

from attrs import define, field
from cachetools import LRUCache
from twisted.logger import Logger

from nixery.artifacts.attachment import Attachment, NewAttachment, encode_attachments
from nixery.artifacts.bundle import attach_bundle
from nixery.artifacts.document import IN_TOTO
from nixery.artifacts.keys import KeyRing
from nixery.artifacts.signing_key import SigningKey, VerificationKey
from nixery.artifacts.simple_signing import (
    SIMPLE_SIGNING,
    decode_signature,
    encode_signature,
    make_payload,
    sign_payload,
)
from nixery.artifacts.statement import SIGNATURE_PREDICATE, make_statement
from nixery.builds.documents import DOCUMENTS, read_attachments
from nixery.errors import StorageError
from nixery.image.canonical_json import sha256_hex
from nixery.image.manifests import Image, Manifest
from nixery.image.names import Digest, ImageName, Tag
from nixery.runtime.deferreds import gather
from nixery.runtime.workers import Workers
from nixery.storage.errors import BlobsMissing, BlobUnknown
from nixery.storage.interface import Storage

__all__ = ["BUNDLES", "SIGNATURES", "ImageSigner", "bundle_key", "signature_prefix"]

BUNDLES = "bundle"
"""The kind of the records of what is signed of a manifest."""

SIGNATURES = "signature"
"""The kind of the records of signatures that a name and a tag mean a manifest."""

MAX_REMEMBERED = 4096
"""The most names and tags of which it is remembered that they are signed."""

Record = tuple[str, str, bytes]


@define(kw_only=True, eq=False)
class ImageSigner:
    """
    Signs images.

    :param storage: holds the images and their signatures.
    :param cpu: the pool in which is signed.
    :param host: the host that clients write before the names of images.
    :param keys: read when the daemon starts; until then nothing is signed.
    """

    storage: Storage
    cpu: Workers
    host: str
    keys: KeyRing | None = None
    # An image that was made or read again is another object, and its signatures are looked for
    # again: they may have been removed with it.
    _signed: MutableMapping[tuple[str, Tag | None], ReferenceType[Image]] = field(
        factory=lambda: LRUCache(MAX_REMEMBERED), init=False
    )
    _log = Logger()

    async def sign(
        self, name: ImageName, tag: Tag | None, image: Image, *, again: bool = False
    ) -> None:
        """
        Sign an image as what a name and a tag mean, unless it is signed.

        A failure is logged: the image can be served without.

        :param tag: ``None`` to sign its manifests and documents only.
        :param again: look for its signatures in the storage even if this process has signed it.
        """
        if self.keys is None or (not again and self._is_signed(name, tag, image)):
            return
        label = name.repository if tag is None else f"{name.repository}:{tag}"
        try:
            await self.add_signatures(self.keys.signing, name, tag, image)
        except (StorageError, BlobsMissing, BlobUnknown) as error:
            self._log.warn("{image} is not signed: {error}", image=label, error=error)
        else:
            self._signed[name.repository, tag] = ref(image)

    def _is_signed(self, name: ImageName, tag: Tag | None, image: Image) -> bool:
        """Tell whether this process has signed an image."""
        known = self._signed.get((name.repository, tag))
        return known is not None and known() is image

    async def add_signatures(
        self, key: SigningKey, name: ImageName, tag: Tag | None, image: Image
    ) -> int:
        """
        Make and store the signatures that are missing.

        :param tag: as for :meth:`sign`.
        :return: how many manifests and references were signed.
        :raises BlobsMissing: the image has been removed.
        :raises BlobUnknown: a document has been removed.
        :raises StorageError: the storage failed.
        """
        planned = await gather(self._plan_bundles(key, each) for each in image.all_manifests)
        statements = {
            manifest: plan
            for manifest, plan in zip(image.all_manifests, planned, strict=True)
            if plan is not None
        }
        references: dict[str, tuple[Digest, str]] = {}
        if tag is not None:
            references = await self._plan_signatures(key, name, tag, image)
        if not statements and not references:
            return 0
        blobs, records = await self.cpu.run(_make_all, key, statements, references)
        await self.storage.publish(
            blobs, {each.digest for each in image.all_manifests}, records[-1], records[:-1]
        )
        return len(records)

    async def _plan_bundles(
        self, key: SigningKey, manifest: Manifest
    ) -> Sequence[tuple[Attachment, bytes]] | None:
        """Return the documents to be signed, and their bytes; ``None`` if all is signed."""
        documents = await read_attachments(self.storage, DOCUMENTS, manifest.digest)
        record_key = bundle_key(manifest.digest, key.verification, documents)
        if len(await read_attachments(self.storage, BUNDLES, record_key)) > len(documents):
            return None
        blobs = await gather(
            self.storage.read(each.blob.digest, record_use=False) for each in documents
        )
        return list(zip(documents, blobs, strict=True))

    async def _plan_signatures(
        self, key: SigningKey, name: ImageName, tag: Tag, image: Image
    ) -> dict[str, tuple[Digest, str]]:
        """Return the manifests and references to be signed, by the keys of their records."""
        reference = f"{self.host}/{name.repository}"
        keys = {
            signature_prefix(reference, manifest.digest, key.verification) + tag: manifest.digest
            for manifest in image.all_manifests
        }
        records = await self.storage.get_records(SIGNATURES, keys)
        payloads = {}
        for record_key, record in records.items():
            try:
                payloads[record_key] = decode_signature(record).payload.digest
            except ValueError:
                continue
        missing = await self.storage.missing(payloads.values(), record_use=False)
        return {
            record_key: (digest, f"{reference}:{tag}")
            for record_key, digest in keys.items()
            if payloads.get(record_key) is None or payloads[record_key] in missing
        }


def bundle_key(manifest: Digest, key: VerificationKey, documents: Sequence[Attachment]) -> str:
    """Return the key of the record of what a key has signed of a manifest and its documents."""
    return sha256_hex(
        {
            "kind": "bundle",
            "key": key.id,
            "manifest": manifest,
            "documents": [each.blob.digest for each in documents],
        }
    )


def signature_prefix(reference: str, manifest: Digest, key: VerificationKey) -> str:
    """
    Return what the record keys of a manifest's signatures begin with; the tag follows.

    :param reference: host and name, without the tag.
    """
    parts = {"kind": "signature", "key": key.id, "manifest": manifest, "reference": reference}
    return f"{sha256_hex(parts)}/"


def _make_all(
    key: SigningKey,
    statements: Mapping[Manifest, Sequence[tuple[Attachment, bytes]]],
    references: Mapping[str, tuple[Digest, str]],
) -> tuple[Sequence[tuple[bytes, str]], Sequence[Record]]:
    """Make all signatures; returns the blobs and the records to be stored."""
    blobs: dict[tuple[bytes, str], None] = {}
    records: list[Record] = []
    for manifest, documents in statements.items():
        bundles = _make_bundles(key, manifest, documents)
        blobs |= dict.fromkeys(blob for each in bundles for blob in each.blobs)
        record_key = bundle_key(manifest.digest, key.verification, [each for each, _ in documents])
        record = encode_attachments(manifest.digest, [each.attachment for each in bundles])
        records.append((BUNDLES, record_key, record))
    for record_key, (digest, reference) in references.items():
        payload = make_payload(reference, digest)
        blobs[payload, SIMPLE_SIGNING] = None
        record = encode_signature(digest, sign_payload(payload, key))
        records.append((SIGNATURES, record_key, record))
    return tuple(blobs), records


def _make_bundles(
    key: SigningKey, manifest: Manifest, documents: Sequence[tuple[Attachment, bytes]]
) -> list[NewAttachment]:
    signature = make_statement(manifest.digest, SIGNATURE_PREDICATE, b"{}")
    bundles = [attach_bundle(manifest, SIGNATURE_PREDICATE, signature, key)]
    for document, data in documents:
        predicate_type = document.predicate_type
        statement = (
            data
            if document.artifact_type == IN_TOTO
            else make_statement(manifest.digest, predicate_type, data)
        )
        bundles.append(attach_bundle(manifest, predicate_type, statement, key))
    return bundles
