"""Makes what signs images, and what finds the signatures."""

from __future__ import annotations

from attrs import frozen

from nixery.artifacts.keys import load_keys
from nixery.config.config import Config
from nixery.pulls.referrers import Referrers
from nixery.pulls.signatures import ImageSigner
from nixery.runtime.startup import Component
from nixery.runtime.workers import Workers
from nixery.wiring.storage import StorageSubsystem

__all__ = ["SigningSubsystem", "make_signing"]


@frozen(kw_only=True)
class SigningSubsystem:
    """
    The signatures of images, and what else refers to them.

    :param referrers: finds them.
    :param signer: makes signatures; ``None``: images are not signed.
    :param components: must start before an image is served.
    """

    referrers: Referrers
    signer: ImageSigner | None
    components: tuple[Component, ...]


def make_signing(
    config: Config, cpu: Workers, files: Workers, *, stored: StorageSubsystem
) -> SigningSubsystem:
    """
    Make the signer, if a key is configured, and the referrers.

    :param cpu: the pool in which is signed.
    :param files: the pool for file systems.
    """
    signer, components = None, []
    path, previous = config.signing.signing_key, config.signing.signing_key_previous
    if path is not None:
        # The configuration ensures that there is a URL.
        host = config.http.public_host
        signer = ImageSigner(storage=stored.storage, cpu=cpu, host=host)

        async def start(signer: ImageSigner = signer) -> None:
            assert path is not None
            signer.keys = await files.run(load_keys, path, previous)

        components.append(Component(name="signing key", start=start))
    referrers = Referrers(storage=stored.storage, image_cache=stored.images, cpu=cpu, signer=signer)
    return SigningSubsystem(referrers=referrers, signer=signer, components=tuple(components))
