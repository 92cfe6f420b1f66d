"""
Tests for :mod:`nixery.pulls.signatures` and :mod:`nixery.pulls.referrers`.

Images are made by the whole pipeline and asked for by HTTP, as clients do that verify them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, ParamSpec, TypeVar

from attrs import evolve
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from nixery.artifacts.document import (
    CYCLONEDX,
    CYCLONEDX_PREDICATE,
    IN_TOTO,
    PROVENANCE_PREDICATE,
    SPDX,
    SPDX_PREDICATE,
    Document,
)
from nixery.artifacts.keys import KeyRing
from nixery.artifacts.signing_key import SigningKey, VerificationKey
from nixery.builds.documents import DOCUMENTS, plan_documents, read_attachments
from nixery.http.registry.api import Registry
from nixery.image.image_index import ImageIndex
from nixery.image.manifests import Image, Manifest, digest_of
from nixery.image.names import Digest, Tag, parse_image_name
from nixery.pulls.images import ImageService
from nixery.pulls.referrers import Referrers
from nixery.pulls.repository_blobs import RepositoryBlobs
from nixery.pulls.signatures import ImageSigner
from nixery.storage.errors import StorageFull
from nixery.testing.fakes import InlineWorkers
from tests.support.builds import BuilderCase
from tests.support.http import Connection, Response, make_root
from tests.support.signatures import Refused, verify_bundle, verify_simple_signing
from tests.support.workers import CountingWorkers

P = ParamSpec("P")
T = TypeVar("T")

BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
SIGNED = "https://sigstore.dev/cosign/sign/v1"
HOST = "registry.example:5000"

DOCUMENTS_OF_IMAGE = (
    Document(media_type=CYCLONEDX, predicate_type=CYCLONEDX_PREDICATE, data=b'{"c":1}'),
    Document(media_type=SPDX, predicate_type=SPDX_PREDICATE, data=b'{"s":1}'),
    Document(media_type=IN_TOTO, predicate_type=PROVENANCE_PREDICATE, data=b'{"p":1}'),
)


class SignedCase(BuilderCase):
    """A registry that signs what it serves."""

    def setUp(self) -> None:
        self.key = SigningKey(private_key=generate_private_key(SECP256R1()))
        self.previous: tuple[VerificationKey, ...] = ()
        self.is_signing = True
        self.cpu = CountingWorkers()
        super().setUp()

    def make_service(self) -> ImageService:
        service = super().make_service()
        images = self.builder.pipeline.image_cache
        self.signer = ImageSigner(
            storage=self.storage,
            cpu=self.cpu,
            host=HOST,
            keys=KeyRing(signing=self.key, previous=self.previous),
        )
        signer = self.signer if self.is_signing else None
        self.referrers = Referrers(
            storage=self.storage, image_cache=images, cpu=InlineWorkers(), signer=signer
        )
        service.recorder.signer = signer
        registry = Registry(
            service, self.storage, InlineWorkers(), self.clock, referrers=self.referrers
        )
        self.connection = Connection(make_root(registry=registry))
        return service

    def get(self, path: str, *headers: tuple[str, str]) -> Response:
        return self.connection.request("GET", path, *headers)

    def read(self, path: str) -> Any:
        answer = self.get(path)
        self.assertEqual(answer.status, 200, path)
        return json.loads(answer.body)

    def attach(self, image: Image, documents: Sequence[Document] = DOCUMENTS_OF_IMAGE) -> None:
        """Attach documents to an image that has been made."""
        each = {manifest.digest: documents for manifest in image.manifests}
        self.now(self.builder.pipeline.image_cache.add("key", image, each))

    def listed(self, manifest: Manifest, name: str = "hello", query: str = "") -> Any:
        return self.read(f"/v2/{name}/referrers/{manifest.digest}{query}")["manifests"]

    def bundle(self, listed: Any, name: str = "hello") -> bytes:
        manifest = self.read(f"/v2/{name}/manifests/{listed['digest']}")
        [layer] = manifest["layers"]
        answer = self.get(f"/v2/{name}/blobs/{layer['digest']}")
        self.assertEqual(digest_of(answer.body), layer["digest"])
        return answer.body

    def references(
        self, manifest: Manifest, name: str = "hello", key: SigningKey | None = None
    ) -> list[str]:
        """Verify the signatures under cosign's tag; return what they say."""
        tag = manifest.digest.replace(":", "-") + ".sig"
        references = []
        for layer in self.read(f"/v2/{name}/manifests/{tag}")["layers"]:
            payload = self.get(f"/v2/{name}/blobs/{layer['digest']}").body
            pem = (key or self.key).verification.pem
            references.append(
                verify_simple_signing(layer, payload, pem=pem, manifest=manifest.digest)
            )
        return references


class SigningTests(SignedCase):
    """Tests of what is signed, and when."""

    def test_image_is_signed_from_its_first_answer_on(self) -> None:
        """Each manifest has a bundle and a signature for the name when the image is answered."""
        for manifest in self.build("hello").manifests:
            [listed] = self.listed(manifest)
            self.assertEqual(listed["artifactType"], BUNDLE)
            self.assertEqual(listed["annotations"]["dev.sigstore.bundle.predicateType"], SIGNED)
            statement = verify_bundle(
                self.bundle(listed), pem=self.key.verification.pem, manifest=manifest.digest
            )
            self.assertEqual((statement["predicateType"], statement["predicate"]), (SIGNED, {}))
            self.assertEqual(self.references(manifest), [f"{HOST}/hello:latest"])

    def test_documents_are_listed_and_signed(self) -> None:
        """Documents come first, in their order, and then a bundle of each."""
        image = self.build("hello")
        self.attach(image)
        for manifest in image.manifests:
            listed = self.listed(manifest)
            self.assertEqual(
                [each["artifactType"] for each in listed],
                [CYCLONEDX, SPDX, IN_TOTO, BUNDLE, BUNDLE, BUNDLE, BUNDLE],
            )
            self.assertEqual(self.bundle(listed[0]), b'{"c":1}')
            statements = [
                verify_bundle(
                    self.bundle(each), pem=self.key.verification.pem, manifest=manifest.digest
                )
                for each in listed[3:]
            ]
            self.assertEqual(
                [(each["predicateType"], each["predicate"]) for each in statements],
                [
                    (SIGNED, {}),
                    (CYCLONEDX_PREDICATE, {"c": 1}),
                    (SPDX_PREDICATE, {"s": 1}),
                    (PROVENANCE_PREDICATE, {"p": 1}),
                ],
            )
            self.assertEqual(json.loads(self.bundle(listed[2])), statements[3])

    def test_wrong_keys_and_changed_manifests_are_refused(self) -> None:
        """A client with another key, or with another manifest, refuses what is signed."""
        image, other = self.build("hello"), self.build("git")
        bundle = self.bundle(self.listed(image.manifests[0])[0])
        wrong = SigningKey(private_key=generate_private_key(SECP256R1()))
        for key, manifest in ((wrong, image.manifests[0]), (self.key, other.manifests[0])):
            self.assertRaises(
                Refused,
                verify_bundle,
                bundle,
                pem=key.verification.pem,
                manifest=manifest.digest,
            )
        self.assertRaises(Refused, self.references, image.manifests[0], "hello", wrong)

    def test_every_name_and_tag_has_a_signature(self) -> None:
        """Each name in each spelling has signatures of the tags that it was served under."""
        self.sources.revisions["v1"] = self.sources.revisions["latest"]
        [manifest, *_] = self.build("git/hello").manifests
        self.assertEqual(self.references(manifest, "git/hello"), [f"{HOST}/git/hello:latest"])
        self.successResultOf(self.request("hello/git"))
        self.successResultOf(self.request("hello/git", Tag("v1")))
        self.assertEqual(
            self.references(manifest, "hello/git"),
            [f"{HOST}/hello/git:latest", f"{HOST}/hello/git:v1"],
        )
        self.assertEqual(self.references(manifest, "git/hello"), [f"{HOST}/git/hello:latest"])

    def test_host_of_the_request_is_not_signed(self) -> None:
        """The identity comes from the configuration, whatever host a client names."""
        for host in ("evil.example", "registry.example"):
            self.get("/v2/hello/manifests/latest", ("Host", host))
        [manifest, *_] = self.build("hello").manifests
        self.assertEqual(self.references(manifest), [f"{HOST}/hello:latest"])

    def test_every_replica_makes_the_same(self) -> None:
        """A process that has the key only makes the same bytes as the one before."""
        [manifest, *_] = self.build("hello").manifests
        index = self.get(f"/v2/hello/referrers/{manifest.digest}").body
        tag = manifest.digest.replace(":", "-") + ".sig"
        signatures = self.get(f"/v2/hello/manifests/{tag}").body
        for kind, key in [*self.storage._records]:
            if kind in ("bundle", "signature"):
                self.now(self.storage.delete_record(kind, key))
        self.restart()
        self.build("hello")
        self.assertEqual(self.get(f"/v2/hello/referrers/{manifest.digest}").body, index)
        self.assertEqual(self.get(f"/v2/hello/manifests/{tag}").body, signatures)

    def test_signed_once(self) -> None:
        """A signed image is not signed again, by this process or the next one."""
        self.build("hello")
        self.assertEqual(self.cpu.calls, 1)
        self.build("hello")
        self.restart()
        self.build("hello")
        self.assertEqual(self.cpu.calls, 1)
        self.successResultOf(self.request("cacert/hello"))
        self.assertEqual(self.cpu.calls, 2)

    def test_warm_image_asks_the_storage_nothing(self) -> None:
        """A signed image in memory is answered without a look at its signatures."""
        self.build("hello")
        image = self.build("hello")

        async def refuse(*_: object, **__: object) -> None:
            raise AssertionError("the storage was asked")

        for method in ("get_record", "get_records", "missing", "read", "publish"):
            self.patch(self.storage, method, refuse)
        parsed = parse_image_name("hello", "x86_64-linux")
        self.now(self.signer.sign(parsed, Tag("latest"), image))

    def test_full_storage_serves_unsigned(self) -> None:
        """An image that cannot be signed is served, and signed when it is pulled again."""
        publish = self.storage.publish
        calls: list[object] = []

        async def first_only(*arguments: Any) -> None:
            calls.append(arguments)
            if len(calls) > 1:
                raise StorageFull(operation="write", reason="no space left")
            await publish(*arguments)

        self.patch(self.storage, "publish", first_only)
        image = self.build("hello")
        self.assertEqual(self.listed(image.manifests[0]), [])
        self.patch(self.storage, "publish", publish)
        self.build("hello")
        self.assertEqual(len(self.listed(image.manifests[0])), 1)

    def test_lost_blobs_are_made_again(self) -> None:
        """Bundles and payloads that a rule has removed are made again by the next process."""
        [manifest, *_] = self.build("hello").manifests
        [listed] = self.listed(manifest)
        tag = manifest.digest.replace(":", "-") + ".sig"
        [layer] = self.read(f"/v2/hello/manifests/{tag}")["layers"]
        bundle = self.read(f"/v2/hello/manifests/{listed['digest']}")["layers"][0]["digest"]
        self.storage.lose(bundle, layer["digest"])
        self.restart()
        self.build("hello")
        self.assertEqual(self.listed(manifest), [listed])
        self.assertEqual(digest_of(self.bundle(listed)), bundle)
        self.assertEqual(self.references(manifest), [f"{HOST}/hello:latest"])

    def test_lost_signatures_are_made_again_when_asked_for(self) -> None:
        """A process that remembers to have signed an image signs it again if that is gone."""
        [manifest, *_] = self.build("hello").manifests
        self.build("hello")
        for kind, key in [*self.storage._records]:
            if kind in ("bundle", "signature"):
                self.now(self.storage.delete_record(kind, key))
        self.assertEqual(self.references(manifest), [f"{HOST}/hello:latest"])
        self.assertEqual(len(self.listed(manifest)), 1)


class IndexTests(SignedCase):
    """Tests of indexes of several platforms."""

    def index(self) -> Image:
        name = parse_image_name("multi/hello", "x86_64-linux")
        return self.now(self.service.get_image(name, Tag("latest")))

    def verify(self, index: Image, *keys: SigningKey) -> None:
        """Verify the index and the manifests of all platforms, as clients do."""
        self.assertEqual(len(index.all_manifests), 6)
        for manifest in index.all_manifests:
            listed = self.listed(manifest, "multi/hello")
            for key, each in zip(keys, listed, strict=True):
                bundle = self.bundle(each, "multi/hello")
                verify_bundle(bundle, pem=key.verification.pem, manifest=manifest.digest)
            if len(keys) == 1:
                self.assertEqual(
                    self.references(manifest, "multi/hello"), [f"{HOST}/multi/hello:latest"]
                )

    def test_index_and_platforms_are_signed(self) -> None:
        """Clients verify the index, and each manifest, as what the name means."""
        self.verify(self.index(), self.key)
        calls = self.cpu.calls
        self.restart()
        self.index()
        self.assertEqual(self.cpu.calls, calls)

    def test_index_of_a_time_without_a_key(self) -> None:
        """An index is signed when its signatures are asked for, also by a new key."""
        self.is_signing = False
        self.restart()
        index = self.index()
        self.is_signing = True
        self.restart()
        self.verify(index, self.key)
        former = self.key
        self.key = SigningKey(private_key=Ed25519PrivateKey.generate())
        self.previous = (former.verification,)
        self.restart()
        self.verify(index, self.key, former)

    def test_documents_belong_to_the_platforms(self) -> None:
        """A platform's documents are listed for its manifests, and for the index there are none."""
        index = self.index()
        assert isinstance(index, ImageIndex)
        self.attach(index.images["aarch64-linux"])
        for manifest in index.images["aarch64-linux"].manifests:
            types = [each["artifactType"] for each in self.listed(manifest, "multi/hello")]
            self.assertEqual(types[:3], [CYCLONEDX, SPDX, IN_TOTO])
        for manifest in index.manifests:
            types = [each["artifactType"] for each in self.listed(manifest, "multi/hello")]
            self.assertEqual(types, [BUNDLE])


class RotationTests(SignedCase):
    """Tests of images of another time: unsigned ones, and those of a former key."""

    def test_images_of_a_time_without_a_key(self) -> None:
        """An image of a time without a key is signed when its signatures are asked for."""
        self.is_signing = False
        self.restart()
        image = self.build("hello")
        self.assertEqual(self.listed(image.manifests[0]), [])
        tag = image.manifests[0].digest.replace(":", "-") + ".sig"
        self.assertEqual(self.get(f"/v2/hello/manifests/{tag}").status, 404)
        self.is_signing = True
        self.restart()
        self.assertEqual(self.references(image.manifests[0]), [f"{HOST}/hello:latest"])
        self.assertEqual(len(self.listed(image.manifests[1])), 1)

    def test_only_what_was_served_is_signed(self) -> None:
        """A manifest that is stored, and was not served under a name, is not signed for it."""
        self.is_signing = False
        self.restart()
        image = self.build("hello")
        self.is_signing = True
        self.restart()
        tag = image.manifests[0].digest.replace(":", "-") + ".sig"
        self.assertEqual(self.get(f"/v2/git/manifests/{tag}").status, 404)
        self.assertEqual(self.listed(image.manifests[0], "git"), [])

    def test_new_key_signs_anew_and_the_former_one_still_verifies(self) -> None:
        """After a rotation clients with either key accept the image."""
        [manifest, *_] = self.build("hello").manifests
        former = self.key
        self.key = SigningKey(private_key=Ed25519PrivateKey.generate())
        self.previous = (former.verification,)
        self.restart()
        self.build("hello")
        listed = self.listed(manifest)
        for key, each in zip((self.key, former), listed, strict=True):
            verify_bundle(self.bundle(each), pem=key.verification.pem, manifest=manifest.digest)
        tag = manifest.digest.replace(":", "-") + ".sig"
        layers = self.read(f"/v2/hello/manifests/{tag}")["layers"]
        for key, layer in zip((self.key, former), layers, strict=True):
            payload = self.get(f"/v2/hello/blobs/{layer['digest']}").body
            pem = key.verification.pem
            verify_simple_signing(layer, payload, pem=pem, manifest=manifest.digest)

    def test_new_key_signs_what_is_pulled_by_digest(self) -> None:
        """
        After a rotation signatures are complete without a pull by tag, also of an image that its
        tag has left since.
        """
        images = [self.build("hello")]
        self.nix.packages = [evolve(each, version="2.0") for each in self.nix.packages]
        images.append(self.build("hello"))
        former = self.key
        self.key = SigningKey(private_key=Ed25519PrivateKey.generate())
        self.previous = (former.verification,)
        self.restart()
        for image in images:
            for manifest in image.manifests:
                tag = manifest.digest.replace(":", "-") + ".sig"
                layers = self.read(f"/v2/hello/manifests/{tag}")["layers"]
                for key, layer in zip((self.key, former), layers, strict=True):
                    payload = self.get(f"/v2/hello/blobs/{layer['digest']}").body
                    reference = verify_simple_signing(
                        layer, payload, pem=key.verification.pem, manifest=manifest.digest
                    )
                    self.assertEqual(reference, f"{HOST}/hello:latest")

    def test_signatures_by_keys_that_are_gone_are_not_shown(self) -> None:
        """Signatures by a key that is not configured any more are not shown."""
        [manifest, *_] = self.build("hello").manifests
        self.key = SigningKey(private_key=Ed25519PrivateKey.generate())
        self.restart()
        self.build("hello")
        [listed] = self.listed(manifest)
        verify_bundle(self.bundle(listed), pem=self.key.verification.pem, manifest=manifest.digest)
        self.assertEqual(self.references(manifest), [f"{HOST}/hello:latest"])

    def test_image_that_its_tag_has_left_keeps_its_signatures(self) -> None:
        """An image is verified by its digest after its tag means another one."""
        first = self.build("hello")
        self.nix.packages = [evolve(each, version="2.0") for each in self.nix.packages]
        second = self.build("hello")
        self.assertNotEqual(first.manifests[0].digest, second.manifests[0].digest)
        for image in (first, second):
            self.assertEqual(self.references(image.manifests[0]), [f"{HOST}/hello:latest"])


class ReferrersTests(SignedCase):
    """Tests of the referrers API."""

    def setUp(self) -> None:
        super().setUp()
        self.image = self.build("hello")
        self.attach(self.image)
        self.manifest = self.image.manifests[0]
        self.path = f"/v2/hello/referrers/{self.manifest.digest}"

    def test_types_are_a_union(self) -> None:
        """Several types ask for any of them, and the answer says that it is filtered."""
        for types, count in (
            ((SPDX,), 1),
            ((SPDX, CYCLONEDX), 2),
            ((BUNDLE,), 4),
            (("text/plain",), 0),
            (("text/plain", SPDX), 1),
        ):
            query = "&".join(f"artifactType={each.replace('+', '%2B')}" for each in types)
            answer = self.get(f"{self.path}?{query}")
            self.assertEqual(answer.header("OCI-Filters-Applied"), "artifactType")
            listed = json.loads(answer.body)["manifests"]
            self.assertEqual(len(listed), count)
            self.assertLessEqual({each["artifactType"] for each in listed}, set(types))
        self.assertIsNone(self.get(self.path).header("OCI-Filters-Applied"))

    def test_links_lead_through_all_pages(self) -> None:
        """Links lead through all referrers, each once, and keep the types."""
        whole = self.listed(self.manifest)
        for query, expected in (
            ("", whole),
            (f"&artifactType={BUNDLE.replace('+', '%2B')}", whole[3:]),
        ):
            found: list[Any] = []
            path: str | None = f"{self.path}?n=2{query}"
            while path is not None:
                answer = self.get(path)
                found += json.loads(answer.body)["manifests"]
                link = answer.header("Link")
                path = None
                if link is not None:
                    target, rel = link.split("; ")
                    self.assertEqual(rel, 'rel="next"')
                    path = target.strip("<>")
            self.assertEqual(found, expected)
        self.assertEqual(self.get(f"{self.path}?n=some").status, 400)
        self.assertEqual(self.listed(self.manifest, query="?n=0"), [])

    def test_tag_has_the_same_index(self) -> None:
        """The tag of the referrers scheme has the bytes of the API, also by their digest."""
        tag = self.manifest.digest.replace(":", "-")
        answer = self.get(f"/v2/hello/manifests/{tag}")
        self.assertEqual(answer.body, self.get(self.path).body)
        self.assertEqual(answer.header("Content-Type"), "application/vnd.oci.image.index.v1+json")
        digest = answer.header("Docker-Content-Digest")
        self.restart()
        self.assertEqual(self.get(f"/v2/hello/manifests/{digest}").body, answer.body)

    def test_manifests_of_referrers_are_served_with_their_type(self) -> None:
        """A listed manifest is served by its digest, with its media type and size."""
        self.restart()
        for listed in self.listed(self.manifest):
            answer = self.get(f"/v2/hello/manifests/{listed['digest']}")
            self.assertEqual(answer.header("Content-Type"), listed["mediaType"])
            self.assertEqual(len(answer.body), listed["size"])
            value = json.loads(answer.body)
            self.assertEqual(value["artifactType"], listed["artifactType"])
            self.assertEqual(value["annotations"], listed["annotations"])
            self.assertEqual(value["subject"]["digest"], self.manifest.digest)
            self.assertEqual(self.get(f"/v2/hello/blobs/{value['config']['digest']}").body, b"{}")

    def test_nothing_refers_to_a_referrer(self) -> None:
        """Clients that ask for the referrers of a referrer get an empty index."""
        for listed in self.listed(self.manifest):
            self.assertEqual(self.read(f"/v2/hello/referrers/{listed['digest']}")["manifests"], [])

    def test_attestations_have_the_envelopes_of_the_bundles(self) -> None:
        """The tag that older versions of cosign look for has the statements of the bundles."""
        tag = self.manifest.digest.replace(":", "-") + ".att"
        for _ in range(2):
            layers = self.read(f"/v2/hello/manifests/{tag}")["layers"]
            self.assertEqual(
                [each["annotations"]["predicateType"] for each in layers],
                [CYCLONEDX_PREDICATE, SPDX_PREDICATE, PROVENANCE_PREDICATE],
            )
            for layer, listed in zip(layers, self.listed(self.manifest)[4:], strict=True):
                self.assertEqual(layer["mediaType"], "application/vnd.dsse.envelope.v1+json")
                self.assertEqual(layer["annotations"]["dev.cosignproject.cosign/signature"], "")
                envelope = self.get(f"/v2/hello/blobs/{layer['digest']}").body
                bundle = json.loads(self.bundle(listed))
                self.assertEqual(json.loads(envelope), bundle["dsseEnvelope"])
            # What is lost is made again.
            self.storage.lose(layers[0]["digest"])

    def test_bad_digest_is_refused(self) -> None:
        """A digest that is none is a 400, and an unknown one has no referrers."""
        self.assertEqual(self.get("/v2/hello/referrers/sha256:0").status, 400)
        unknown = "sha256:" + "0" * 64
        self.assertEqual(self.read(f"/v2/hello/referrers/{unknown}")["manifests"], [])
        for suffix in ("", ".sig", ".att", ".sbom"):
            path = f"/v2/hello/manifests/{unknown.replace(':', '-')}{suffix}"
            self.assertEqual(self.get(path).status, 404)

    def test_first_documents_win(self) -> None:
        """Documents of a host that makes the image later are dropped."""
        later = [evolve(each, data=b'{"later":1}') for each in DOCUMENTS_OF_IMAGE]
        whole = self.listed(self.manifest)
        self.attach(self.image, later)
        self.assertEqual(self.listed(self.manifest), whole)

    def test_documents_that_are_lost_are_replaced(self) -> None:
        """Documents whose blobs a rule has removed are replaced when the image is made again."""
        [lost, *_] = self.now(read_attachments(self.storage, DOCUMENTS, self.manifest.digest))
        self.storage.lose(lost.blob.digest)
        self.assertNotIn(CYCLONEDX, {each["artifactType"] for each in self.listed(self.manifest)})
        self.attach(self.image)
        listed = self.listed(self.manifest)
        self.assertEqual(self.bundle(listed[0]), b'{"c":1}')
        self.assertEqual(len(listed), 7)

    def test_all_of_it_belongs_to_the_name(self) -> None:
        """Referrers of an image belong to its name, and to no other, for limited clients."""
        tag = self.manifest.digest.replace(":", "-")
        suffixes = ("", ".sig", ".att")
        paths = [f"/v2/hello/manifests/{tag}{suffix}" for suffix in suffixes]
        digests = {Digest(digest_of(self.get(path).body)) for path in paths}
        for path in paths[1:]:
            value = self.read(path)
            digests |= {Digest(each["digest"]) for each in (value["config"], *value["layers"])}
        for listed in self.listed(self.manifest):
            manifest = self.read(f"/v2/hello/manifests/{listed['digest']}")
            digests |= {listed["digest"], manifest["layers"][0]["digest"]}
        self.build("git")
        self.restart()
        blobs = RepositoryBlobs(
            self.storage, self.builder.pipeline.image_cache, self.referrers.digests
        )
        hello, git = (parse_image_name(name, "x86_64-linux") for name in ("hello", "git"))
        for digest in digests:
            self.assertTrue(self.now(blobs.contains(hello, digest)))
            self.assertFalse(self.now(blobs.contains(git, digest)))

    def test_plan_of_nothing(self) -> None:
        """An image without documents is published as it always was."""
        plan = self.now(plan_documents(self.storage, self.image, {}))
        self.assertEqual((plan.blobs, plan.needs, plan.records), ((), frozenset(), ()))
