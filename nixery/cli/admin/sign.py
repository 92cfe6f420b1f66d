"""
Signs stored images, of a time without the key that is configured now.

The registry signs an image when it serves it; this command is for those that are to be verified
before that, as by a mirror that copies them by digest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ParamSpec, TypeVar

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from nixery.artifacts.keys import KeyRing
from nixery.cli.admin.stored import read_image
from nixery.image.names import Tag, parse_image_name
from nixery.pulls.signatures import ImageSigner
from nixery.storage.filesystem.backend import FilesystemStorage
from nixery.storage.filesystem.scan import Inventory, StoredImage

__all__ = ["SignedImage", "sign"]

P = ParamSpec("P")
T = TypeVar("T")


@frozen(kw_only=True)
class SignedImage:
    """
    An image that has been signed.

    :param image: its name and tag.
    :param digest: of its preferred manifest.
    :param added: how many signatures and bundles were added; 0: it was signed before.
    """

    image: str
    digest: str
    added: int


class _Inline:
    """Implements :class:`nixery.runtime.workers.Workers` on this thread."""

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        return function(*args, **kwargs)


def sign(
    inventory: Inventory,
    images: Sequence[StoredImage],
    keys: KeyRing,
    host: str,
    system: str,
    *,
    on_signed: Callable[[], object],
) -> list[SignedImage]:
    """
    Sign images under all names and tags that mean them now.  Blocks.

    :param host: the host that clients write before the names of images.
    :param system: the Nix system of images whose names choose none.
    :param on_signed: called after each image.
    :raises BlobsMissing: one has been removed.
    :raises StorageError: the storage failed.
    """
    workers = _Inline()
    storage = FilesystemStorage(Path(inventory.root), workers)
    signer = ImageSigner(storage=storage, cpu=workers, host=host, keys=keys)
    signed: list[SignedImage] = []

    async def sign_all() -> None:
        for stored in images:
            image = read_image(inventory, stored)
            for repository, tag in inventory.tags(stored):
                if repository.startswith("?"):
                    continue  # of a version that did not keep names
                name = parse_image_name(repository, system)
                added = await signer.add_signatures(keys.signing, name, Tag(tag), image)
                signed.append(
                    SignedImage(
                        image=f"{repository}:{tag}", digest=stored.manifests[0], added=added
                    )
                )
            on_signed()

    def fail(failure: Failure) -> None:
        failures.append(failure)

    # All calls run on this thread, so that it has ended when this returns.
    failures: list[Failure] = []
    Deferred.fromCoroutine(sign_all()).addErrback(fail)
    for failure in failures:
        failure.raiseException()
    return signed
