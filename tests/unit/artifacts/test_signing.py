"""
Tests of keys, bundles and the signatures of cosign's tags.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    SECP384R1,
    EllipticCurvePrivateKey,
    derive_private_key,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from twisted.trial.unittest import SynchronousTestCase

from nixery.artifacts.attachment import NewAttachment
from nixery.artifacts.bundle import attach_bundle, envelope_of, pre_authentication_encoding
from nixery.artifacts.document import SPDX_PREDICATE
from nixery.artifacts.errors import SigningKeyUnusable
from nixery.artifacts.signing_key import SigningKey, load_signing_key, load_verification_key
from nixery.artifacts.simple_signing import (
    decode_signature,
    encode_signature,
    make_payload,
    sign_payload,
    signature_manifest,
)
from nixery.artifacts.statement import SIGNATURE_PREDICATE, make_statement
from nixery.image.canonical_json import canonical_json
from nixery.image.manifests import OCI_MANIFEST, Manifest, digest_of
from tests.support.signatures import Refused, verify_bundle, verify_simple_signing

IMAGE = Manifest(media_type=OCI_MANIFEST, digest=digest_of(b"image"), body=b"image")

# RFC 6979, A.2.5: ECDSA on P-256, SHA-256, the message "sample".
RFC_KEY = 0xC9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721
RFC_SIGNATURE = bytes.fromhex(
    "3046022100efd48b2aacb6a8fd1140dd9cd45e81d69d2c877b56aaf991c34d0ea84eaf3716"
    "022100f7cb1c942d657c41d436c7a1b6e29f65f3e900dbb9aff4064dc4ab2f843acda8"
)


def pem(key: Ed25519PrivateKey | EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def keys() -> list[SigningKey]:
    return [
        SigningKey(private_key=generate_private_key(SECP256R1())),
        SigningKey(private_key=Ed25519PrivateKey.generate()),
    ]


def bundle_of(predicate_type: str, predicate: bytes, key: SigningKey) -> NewAttachment:
    statement = make_statement(IMAGE.digest, predicate_type, predicate)
    return attach_bundle(IMAGE, predicate_type, statement, key)


class KeyTests(SynchronousTestCase):
    """Tests of the keys."""

    def test_ecdsa_is_deterministic(self) -> None:
        """ECDSA signs as the example of RFC 6979 says."""
        key = SigningKey(private_key=derive_private_key(RFC_KEY, SECP256R1()))
        self.assertEqual(key.sign(b"sample"), RFC_SIGNATURE)
        self.assertTrue(key.verification.is_valid(RFC_SIGNATURE, b"sample"))
        self.assertFalse(key.verification.is_valid(RFC_SIGNATURE, b"simple"))

    def test_signatures_are_equal_in_every_process(self) -> None:
        """Two processes that read the same file sign alike."""
        path = Path(self.mktemp())
        for key in keys():
            path.write_bytes(pem(key.private_key))
            one, two = load_signing_key(path), load_signing_key(path)
            self.assertEqual(one.sign(b"data"), two.sign(b"data"))
            self.assertEqual(one.verification.id, key.verification.id)
            self.assertTrue(one.verification.is_valid(two.sign(b"data"), b"data"))
            self.assertFalse(one.verification.is_valid(two.sign(b"data"), b"datum"))

    def test_public_key_is_read_back(self) -> None:
        """The public key that is served is one that verifies."""
        path = Path(self.mktemp())
        for key in keys():
            path.write_bytes(key.verification.pem)
            self.assertTrue(path.read_text().startswith("-----BEGIN PUBLIC KEY-----\n"))
            read = load_verification_key(path)
            self.assertEqual(read.id, key.verification.id)
            self.assertTrue(read.is_valid(key.sign(b"data"), b"data"))

    def test_keys_that_cannot_sign_images_are_refused(self) -> None:
        """A file without a key of the two kinds is refused, with its path and what to do."""
        path = Path(self.mktemp())
        error = self.assertRaises(SigningKeyUnusable, load_signing_key, path)
        self.assertIn("No such file", error.message)
        encrypted = generate_private_key(SECP256R1()).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
        )
        for content, reason in (
            (b"", "no private key"),
            (encrypted, "without a passphrase"),
            (pem(generate_private_key(SECP384R1())), "neither Ed25519 nor ECDSA"),
            (keys()[0].verification.pem, "no private key"),
        ):
            path.write_bytes(content)
            error = self.assertRaises(SigningKeyUnusable, load_signing_key, path)
            self.assertIn(reason, error.message)
            self.assertIn(str(path), error.message)
            self.assertIn("openssl genpkey", error.message)

    def test_verification_keys_are_public(self) -> None:
        """A private key, or one of another kind, is no key that verifies."""
        path = Path(self.mktemp())
        self.assertRaises(SigningKeyUnusable, load_verification_key, path)
        for content in (
            pem(Ed25519PrivateKey.generate()),
            SigningKey(private_key=generate_private_key(SECP384R1())).verification.pem,
            b"",
        ):
            path.write_bytes(content)
            self.assertRaises(SigningKeyUnusable, load_verification_key, path)

    def test_private_key_is_not_shown(self) -> None:
        """The representation of a key does not show the private one."""
        for key in keys():
            self.assertNotIn("rivate", repr(key).partition("(")[2])


class BundleTests(SynchronousTestCase):
    """Tests of bundles."""

    def test_bundle_is_verified(self) -> None:
        """A client with the public key reads the statement about the manifest."""
        for key in keys():
            new = bundle_of(SIGNATURE_PREDICATE, b"{}", key)
            bundle, kind = new.blobs[1]
            self.assertEqual(kind, "application/vnd.dev.sigstore.bundle.v0.3+json")
            self.assertEqual(canonical_json(json.loads(bundle)), bundle)
            self.assertEqual(
                envelope_of(bundle), canonical_json(json.loads(bundle)["dsseEnvelope"])
            )
            statement = verify_bundle(bundle, pem=key.verification.pem, manifest=IMAGE.digest)
            self.assertEqual(statement["predicateType"], "https://sigstore.dev/cosign/sign/v1")
            self.assertEqual(statement["predicate"], {})

    def test_manifest_tells_what_the_bundle_says(self) -> None:
        """The manifest of a bundle has one layer, and the annotations that cosign looks for."""
        new = bundle_of(SPDX_PREDICATE, b'{"spdxVersion":"SPDX-2.3"}', keys()[0])
        value = json.loads(new.blobs[2][0])
        self.assertEqual(value["artifactType"], value["layers"][0]["mediaType"])
        self.assertEqual(len(value["layers"]), 1)
        self.assertEqual(
            value["annotations"],
            {
                "dev.sigstore.bundle.content": "dsse-envelope",
                "dev.sigstore.bundle.predicateType": SPDX_PREDICATE,
                "org.opencontainers.image.created": "1970-01-01T00:00:01Z",
            },
        )

    def test_bundle_of_another_manifest_or_key_is_refused(self) -> None:
        """A bundle of another manifest, by another key or with a changed statement is refused."""
        key, other = keys()
        bundle = bundle_of(SIGNATURE_PREDICATE, b"{}", key).blobs[1][0]
        pems = key.verification.pem, other.verification.pem
        wrong = digest_of(b"another")
        self.assertRaises(Refused, verify_bundle, bundle, pem=pems[0], manifest=wrong)
        self.assertRaises(Refused, verify_bundle, bundle, pem=pems[1], manifest=IMAGE.digest)
        forged = json.loads(bundle)
        unsigned = bundle_of(SPDX_PREDICATE, b"{}", key).blobs[1][0]
        forged["dsseEnvelope"]["payload"] = json.loads(unsigned)["dsseEnvelope"]["payload"]
        changed = json.dumps(forged).encode()
        self.assertRaises(Refused, verify_bundle, changed, pem=pems[0], manifest=IMAGE.digest)

    def test_signed_bytes_are_those_of_dsse(self) -> None:
        """The signed bytes of an envelope are those of the example of DSSE."""
        self.assertEqual(
            pre_authentication_encoding("http://example.com/HelloWorld", b"hello world"),
            b"DSSEv1 29 http://example.com/HelloWorld 11 hello world",
        )


class SimpleSigningTests(SynchronousTestCase):
    """Tests of the signatures of cosign's tags."""

    def test_payload_has_the_bytes_that_clients_accepted(self) -> None:
        """The payload has the members of the one that cosign, podman and skopeo accepted."""
        digest = "sha256:" + "0" * 64
        self.assertEqual(
            make_payload("127.0.0.1:5902/lab/zc:latest", IMAGE.digest),
            b'{"critical":{"identity":{"docker-reference":"127.0.0.1:5902/lab/zc:latest"},'
            b'"image":{"docker-manifest-digest":"%s"},'
            b'"type":"cosign container image signature"},"optional":null}' % IMAGE.digest.encode(),
        )
        self.assertNotIn(digest, make_payload("a/b:c", IMAGE.digest).decode())

    def test_manifest_has_a_layer_for_each_signature(self) -> None:
        """Each layer of the manifest is a payload with its signature."""
        for key in keys():
            payloads = [make_payload(f"host/shell:{tag}", IMAGE.digest) for tag in "ab"]
            signatures = [sign_payload(payload, key) for payload in payloads]
            tagged = signature_manifest(IMAGE.digest, signatures)
            manifest, config = tagged.manifest, tagged.config
            value = json.loads(manifest.body)
            self.assertEqual(value["config"]["digest"], digest_of(config))
            self.assertEqual(
                json.loads(config)["rootfs"],
                {"type": "layers", "diff_ids": [digest_of(payload) for payload in payloads]},
            )
            self.assertNotIn("subject", value)
            found = [
                verify_simple_signing(
                    layer, payload, pem=key.verification.pem, manifest=IMAGE.digest
                )
                for layer, payload in zip(value["layers"], payloads, strict=True)
            ]
            self.assertEqual(found, ["host/shell:a", "host/shell:b"])
            self.assertEqual(manifest.digest, "sha256:" + hashlib.sha256(manifest.body).hexdigest())

    def test_signature_of_another_manifest_is_refused(self) -> None:
        """A signature of another manifest is refused, and one by another key."""
        key, other = keys()
        payload = make_payload("host/shell:a", IMAGE.digest)
        signature = sign_payload(payload, key)
        [layer] = json.loads(signature_manifest(IMAGE.digest, [signature]).manifest.body)["layers"]
        for pem_, manifest in (
            (key.verification.pem, digest_of(b"another")),
            (other.verification.pem, IMAGE.digest),
        ):
            self.assertRaises(
                Refused, verify_simple_signing, layer, payload, pem=pem_, manifest=manifest
            )

    def test_record_is_read_as_it_was_written(self) -> None:
        """The record of a signature is read as it was written; others are refused."""
        signature = sign_payload(make_payload("host/shell:a", IMAGE.digest), keys()[0])
        record = encode_signature(IMAGE.digest, signature)
        self.assertEqual(decode_signature(record), signature)
        for wrong in (b"", b"[]", b"{}", record.replace(b"sha256", b"md5"), b"[" * 100_000):
            self.assertRaises(ValueError, decode_signature, wrong)
