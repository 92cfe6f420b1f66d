"""Tests for :mod:`nixery.wiring.signing`."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from nixery.artifacts.errors import SigningKeyUnusable
from nixery.artifacts.signing_key import SigningKey
from nixery.builds.image_cache import ImageCache
from nixery.config.load import load_config
from nixery.testing.fakes import InlineWorkers
from nixery.testing.memory_storage import MemoryStorage
from nixery.wiring.exit_status import PERMANENT, exit_status
from nixery.wiring.signing import SigningSubsystem, make_signing
from nixery.wiring.storage import StorageSubsystem


class MakeSigningTests(SynchronousTestCase):
    """Tests of the signer that the configuration asks for."""

    def make(self, settings: dict[str, object]) -> SigningSubsystem:
        storage = MemoryStorage()
        stored = StorageSubsystem(
            storage=storage,
            images=ImageCache(storage=storage, seconds=Clock().seconds),
            check=lambda: storage.get_record("a", "b"),
            unready=lambda: (),
            check_free_space=None,
            components=(),
        )
        config = load_config(settings, {"HOME": "/h"})
        return make_signing(config, InlineWorkers(), InlineWorkers(), stored=stored)

    def key_file(self) -> tuple[Path, SigningKey]:
        key = Ed25519PrivateKey.generate()
        path = Path(self.mktemp()).absolute()
        path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return path, SigningKey(private_key=key)

    def test_without_a_key_nothing_is_signed(self) -> None:
        """Without a key there is no signer, and nothing to start."""
        made = self.make({})
        self.assertIsNone(made.signer)
        self.assertEqual((), made.components)

    def test_keys_are_read_at_the_start(self) -> None:
        """The keys are read when the daemon starts, and the host is that of the public URL."""
        path, key = self.key_file()
        former = SigningKey(private_key=Ed25519PrivateKey.generate())
        previous = Path(self.mktemp()).absolute()
        previous.write_bytes(former.verification.pem)
        made = self.make(
            {
                "signing_key": str(path),
                "signing_key_previous": [str(previous)],
                "public_url": "https://reg.example:5000/",
            }
        )
        assert made.signer is not None
        self.assertEqual("reg.example:5000", made.signer.host)
        self.assertIsNone(made.signer.keys)
        [component] = made.components
        self.successResultOf(Deferred.fromCoroutine(_awaited(component.start)))
        keys = made.signer.keys
        assert keys is not None
        self.assertEqual(
            [key.verification.id, former.verification.id], [each.id for each in keys.verifying]
        )

    def test_unusable_key_ends_the_daemon_for_good(self) -> None:
        """A key that cannot be used is a fault that no restart mends."""
        path = Path(self.mktemp()).absolute()
        for content in (None, b"no key"):
            if content is not None:
                path.write_bytes(content)
            made = self.make({"signing_key": str(path), "public_url": "https://reg.example"})
            [component] = made.components
            failure = self.failureResultOf(
                Deferred.fromCoroutine(_awaited(component.start)), SigningKeyUnusable
            )
            self.assertEqual(PERMANENT, exit_status(failure.value))


async def _awaited(start: object) -> None:
    await start()  # type: ignore[operator]  # it is one of a component
