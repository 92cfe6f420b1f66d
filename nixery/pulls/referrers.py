"""
Finds what refers to the manifests of images: documents, bundles and signatures.

Nothing is made for a client that asks, except for images of a time without the key that signs now:
these are signed when their signatures are first asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence

from attrs import define, field
from cachetools import LRUCache

from nixery.artifacts.attachment import Attachment, referrers_index
from nixery.artifacts.bundle import BUNDLE, envelope_of
from nixery.artifacts.signing_key import VerificationKey
from nixery.artifacts.simple_signing import (
    ENVELOPE,
    Signature,
    TaggedManifest,
    attestation_manifest,
    decode_signature,
    signature_manifest,
)
from nixery.artifacts.statement import SIGNATURE_PREDICATE
from nixery.builds.documents import DOCUMENTS, read_attachments
from nixery.builds.image_cache import ImageCache
from nixery.image.manifests import (
    MANIFEST_TYPES,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_MANIFEST,
    Image,
    Manifest,
    digest_of,
)
from nixery.image.names import Digest, ImageName, Tag
from nixery.pulls.signatures import (
    BUNDLES,
    SIGNATURES,
    ImageSigner,
    bundle_key,
    signature_prefix,
)
from nixery.pulls.tag_records import MEMBERS, SERVED, member_record_key, tag_record_prefix
from nixery.runtime.workers import Workers
from nixery.storage.errors import BlobUnknown
from nixery.storage.interface import Storage

__all__ = ["Referrers"]


@define(kw_only=True, eq=False)
class Referrers:
    """
    Finds what refers to manifests.

    :param storage: holds the images, and what refers to them.
    :param image_cache: the cache of images that were made.
    :param cpu: the pool in which large documents are read.
    :param signer: signs images; ``None``: no signatures are shown.
    """

    storage: Storage
    image_cache: ImageCache
    cpu: Workers
    signer: ImageSigner | None = None
    # By the bundles, which have the same envelopes.
    _attestations: MutableMapping[tuple[Digest, ...], TaggedManifest] = field(
        factory=lambda: LRUCache(256), init=False
    )

    async def attachments(self, name: ImageName, digest: Digest) -> tuple[Attachment, ...]:
        """
        Return what is attached to a manifest: documents, and then bundles.

        :param name: the name of an image that has the manifest.
        :raises StorageError: the storage failed.
        """
        documents = await read_attachments(self.storage, DOCUMENTS, digest)
        bundles = await self._bundles(name, digest, documents)
        return documents + bundles

    async def index(self, name: ImageName, digest: Digest) -> Manifest | None:
        """
        Return the index of all attachments of a manifest, and store it; ``None`` without any.

        :raises StorageError: the storage failed.
        """
        attachments = await self.attachments(name, digest)
        if not attachments:
            return None
        body = referrers_index(attachments)
        # Nothing keeps it for longer than retention does, nor does any client need that: the tag
        # makes it anew.
        await self.storage.put(body, OCI_INDEX)
        return Manifest(media_type=OCI_INDEX, digest=digest_of(body), body=body)

    async def signatures(self, name: ImageName, digest: Digest) -> Manifest | None:
        """
        Return the manifest of the signatures of a manifest, and store it; ``None`` without any.

        :param name: the name that is signed, in the spelling of the client.
        :raises StorageError: the storage failed.
        """
        signatures = await self._signatures(name, digest)
        if self._keys and self._keys[0].id not in {each.key_id for each in signatures}:
            await self._sign(name, digest)
            signatures = await self._signatures(name, digest)
        if not signatures:
            return None
        return await self._store(signature_manifest(digest, signatures))

    async def attestations(self, name: ImageName, digest: Digest) -> Manifest | None:
        """
        Return the manifest of the signed documents of a manifest, and store all of it; ``None``
        without any.

        :raises StorageError: the storage failed.
        """
        bundles = _document_bundles(await self.attachments(name, digest))
        if not bundles:
            return None
        made = self._attestations.get(_digests_of(bundles))
        if made is None or await self.storage.missing(made.digests, record_use=False):
            made = await self._make_attestations(digest, bundles, store=True)
        return made.manifest

    async def _make_attestations(
        self, digest: Digest, bundles: Sequence[Attachment], *, store: bool
    ) -> TaggedManifest:
        envelopes = []
        for bundle in bundles:
            data = await self.storage.read(bundle.blob.digest, record_use=False)
            envelope = await self.cpu.run(envelope_of, data)
            if store:
                await self.storage.put(envelope, ENVELOPE)
            envelopes.append((envelope, bundle.predicate_type))
        made = await self.cpu.run(attestation_manifest, digest, envelopes)
        if store:
            await self._store(made)
        self._attestations[_digests_of(bundles)] = made
        return made

    async def _store(self, tagged: TaggedManifest) -> Manifest:
        await self.storage.put(tagged.config, OCI_CONFIG)
        await self.storage.put(tagged.manifest.body, OCI_MANIFEST)
        return tagged.manifest

    async def digests(self, name: ImageName, digest: Digest) -> frozenset[Digest]:
        """
        Return the digests of all that refers to a manifest of a name, and of its blobs.

        :raises StorageError: the storage failed.
        """
        attachments = await self.attachments(name, digest)
        found = {each for attachment in attachments for each in attachment.digests}
        found.add(digest_of(referrers_index(attachments)))
        signatures = await self._signatures(name, digest)
        found |= signature_manifest(digest, signatures).digests
        bundles = _document_bundles(attachments)
        if bundles:
            made = self._attestations.get(_digests_of(bundles))
            made = made or await self._make_attestations(digest, bundles, store=False)
            found |= made.digests
        return frozenset(found)

    async def _bundles(
        self, name: ImageName, digest: Digest, documents: tuple[Attachment, ...]
    ) -> tuple[Attachment, ...]:
        found = await self._bundles_by_key(digest, documents)
        if self._keys and not found.get(self._keys[0].id):
            await self._sign(name, digest)
            found = await self._bundles_by_key(digest, documents)
        return tuple(bundle for bundles in found.values() for bundle in bundles)

    async def _bundles_by_key(
        self, digest: Digest, documents: tuple[Attachment, ...]
    ) -> Mapping[str, tuple[Attachment, ...]]:
        return {
            key.id: await read_attachments(
                self.storage, BUNDLES, bundle_key(digest, key, documents)
            )
            for key in self._keys
        }

    async def _signatures(self, name: ImageName, digest: Digest) -> list[Signature]:
        """Return the signatures by all keys, in the order of their tags."""
        signatures = []
        for key in self._keys:
            tags = await self._signed_tags(name, digest, key)
            records = await self.storage.get_records(SIGNATURES, tags)
            for record_key in sorted(records):
                try:
                    signatures.append(decode_signature(records[record_key]))
                except ValueError:
                    continue
        missing = await self.storage.missing(
            {each.payload.digest for each in signatures}, record_use=False
        )
        return [each for each in signatures if each.payload.digest not in missing]

    async def _sign(self, name: ImageName, digest: Digest) -> None:
        """
        Sign an image that was served for a name before this key was there, or whose signatures
        are gone: under the tags that mean it now, and those under which a former key has signed it.
        """
        if self.signer is None:
            return
        if await self.storage.get_record(MEMBERS, member_record_key(name, digest)) is None:
            return
        prefix = tag_record_prefix(name)
        tags = await self.storage.get_records(
            SERVED, await self.storage.list_records(SERVED, prefix)
        )
        for tag_key, record in sorted(tags.items()):
            image = await self.image_cache.get(record.decode("ascii", "replace"), record_use=False)
            if image is not None and digest in {each.digest for each in image.all_manifests}:
                tag = Tag(tag_key.removeprefix(prefix))
                await self.signer.sign(name, tag, image, again=True)
        try:
            info = await self.storage.stat(digest)
            if info.media_type in MANIFEST_TYPES:
                body = await self.storage.read(digest, record_use=False)
                manifest = Manifest(media_type=info.media_type, digest=digest, body=body)
                for former in (None, *await self._former_tags(name, digest)):
                    await self.signer.sign(name, former, Image(manifests=(manifest,)))
        except BlobUnknown:
            return

    async def _former_tags(self, name: ImageName, digest: Digest) -> list[Tag]:
        """Return the tags under which former keys have signed a manifest for a name."""
        tags: set[Tag] = set()
        for key in self._keys[1:]:
            tags.update((await self._signed_tags(name, digest, key)).values())
        return sorted(tags)

    async def _signed_tags(
        self, name: ImageName, digest: Digest, key: VerificationKey
    ) -> Mapping[str, Tag]:
        """Return the tags under which a key has signed a manifest, by the keys of the records."""
        assert self.signer is not None
        prefix = signature_prefix(f"{self.signer.host}/{name.repository}", digest, key)
        keys = await self.storage.list_records(SIGNATURES, prefix)
        return {each: Tag(each.removeprefix(prefix)) for each in keys}

    @property
    def _keys(self) -> tuple[VerificationKey, ...]:
        if self.signer is None or self.signer.keys is None:
            return ()
        return self.signer.keys.verifying


def _document_bundles(attachments: Sequence[Attachment]) -> Sequence[Attachment]:
    """Return the bundles of documents, without those that only say that an image is signed."""
    return [
        each
        for each in attachments
        if each.artifact_type == BUNDLE and each.predicate_type != SIGNATURE_PREDICATE
    ]


def _digests_of(attachments: Sequence[Attachment]) -> tuple[Digest, ...]:
    return tuple(each.blob.digest for each in attachments)
