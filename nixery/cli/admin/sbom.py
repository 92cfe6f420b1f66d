"""
Makes the bills of materials of stored images that have none, because an older version made them.

Their packages are evaluated and built once more, with the code of the daemon, for the names of
licences and the hashes of store paths are not stored with an image. It is checked that the store
paths are still those of the image: a package set moves on, and what it has now says nothing of
what it had. There is no provenance: it is not recorded which parts were built.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import define, field, frozen
from twisted.internet.defer import Deferred

from nixery.artifacts.image_documents import make_bills_of_materials
from nixery.builds.documents import DOCUMENTS, plan_documents
from nixery.builds.image_cache import IMAGES
from nixery.cli.admin.check import refuse_another_user
from nixery.cli.admin.stored import platform_images, read_image
from nixery.cli.common import Command, NullProgress, realise
from nixery.cli.errors import CommandRefused
from nixery.cli.progress_bar import progress_bar
from nixery.config.config import Config
from nixery.errors import NixeryError
from nixery.image.closure import RuntimeGraph
from nixery.image.names import ImageName, Tag, parse_image_name
from nixery.image.packages import Evaluation
from nixery.inspection.catalog import REPORTS
from nixery.inspection.report_file import decode_report
from nixery.nix.commands import NixCommands
from nixery.nix.context import NixContext
from nixery.runtime.reactor_time import run_reactor_and_return
from nixery.runtime.workers import Workers
from nixery.storage.filesystem.backend import FilesystemStorage
from nixery.storage.filesystem.scan import Inventory, StoredImage
from nixery.wiring.nix import make_nix, make_nix_context
from nixery.wiring.sources import fetch_package_set

__all__ = ["DescribedImage", "describe_contents"]


@frozen(kw_only=True)
class DescribedImage:
    """
    An image whose contents were to be described.

    :param image: its name and tag.
    :param digest: of its preferred manifest.
    :param added: true if it had no bills of materials, and has them now.
    :param problem: why it has none; empty otherwise.
    """

    image: str
    digest: str
    added: bool = False
    problem: str = ""


def describe_contents(
    config: Config,
    inventory: Inventory,
    images: Sequence[StoredImage],
    environ: Mapping[str, str],
) -> list[DescribedImage]:
    """
    Make the bills of materials of images, on the global reactor.

    :raises CommandRefused: another user owns the daemon's directories.
    :raises SystemExit: it was interrupted, or Nix cannot be used.
    """
    refuse_another_user(config)
    described: list[DescribedImage] = []

    # Any: the global reactor has no type.
    def main(reactor: Any) -> Deferred[None]:
        async def work(workers: Workers) -> None:
            with tempfile.TemporaryDirectory(prefix="nixery-sbom-") as directory:
                context = make_nix_context(
                    config, workers, reactor, environ, state_directory=Path(directory)
                )
                nix = make_nix(context).nix
                await nix.check()
                describer = _Describer(
                    config=config, inventory=inventory, context=context, nix=nix, reactor=reactor
                )
                try:
                    with progress_bar("describing") as bar:
                        bar.update(0, len(images))
                        for stored in images:
                            described.extend(await describer.describe(stored))
                            bar.advance(len(images))
                finally:
                    await nix.stop()

        return Command(name="nixery-admin").run(reactor, work)

    run_reactor_and_return(main)
    return described


@define(kw_only=True, eq=False)
class _Describer:
    config: Config
    inventory: Inventory
    context: NixContext
    nix: NixCommands
    reactor: Any
    _storage: FilesystemStorage = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._storage = FilesystemStorage(Path(self.inventory.root), self.context.workers)

    async def describe(self, stored: StoredImage) -> list[DescribedImage]:
        """Make the bills of materials of an image, or of each image of an index."""
        digest = stored.manifests[0]
        tags = self.inventory.tags(stored)
        if not tags or tags[0][0].startswith("?"):
            problem = "the name it was made by is not known"
            return [DescribedImage(image=digest, digest=digest, problem=problem)]
        repository, tag = tags[0]
        name = parse_image_name(repository, self.config.sources.system)
        if not stored.parts:
            return [await self._describe(stored, name, Tag(tag))]
        images = platform_images(self.inventory, stored, self.inventory.stored_images())
        return [
            await self._describe(image, name.for_system(system), Tag(tag))
            for system, image in images.items()
        ]

    async def _describe(self, stored: StoredImage, name: ImageName, tag: Tag) -> DescribedImage:
        digest = stored.manifests[0]
        label = f"{name.repository}:{tag}"
        if await self._storage.get_record(DOCUMENTS, digest) is not None:
            return DescribedImage(image=label, digest=digest)
        try:
            await self._attach(stored, name, tag)
        except NixeryError as error:
            return DescribedImage(image=label, digest=digest, problem=error.message)
        return DescribedImage(image=label, digest=digest, added=True)

    async def _attach(self, stored: StoredImage, name: ImageName, tag: Tag) -> None:
        paths = await self._paths(stored)
        graph, evaluation = await self._realise(name, tag)
        if {path.path for path in graph.paths} != paths:
            raise CommandRefused(
                reason="the package set has other store paths for it now: a pull builds it again"
            )
        bills = await self.context.workers.run(make_bills_of_materials, graph, evaluation)
        image = read_image(self.inventory, stored)
        [key, *_] = stored.keys
        record = await self._storage.get_record(IMAGES, key)
        if record is None:
            raise CommandRefused(reason="it was removed meanwhile")
        planned = await plan_documents(
            self._storage, image, {each.digest: bills for each in image.manifests}
        )
        await self._storage.publish(
            planned.blobs,
            planned.needs | image.digests,
            (IMAGES, key, record),
            planned.records,
        )

    async def _paths(self, stored: StoredImage) -> set[str]:
        """
        Return the store paths of an image.

        :raises CommandRefused: they are not known.
        """
        data = await self._storage.get_record(REPORTS, stored.manifests[0])
        try:
            paths = {path.path for path in decode_report(data or b"").paths}
        except ValueError:
            paths = set()
        if not paths or not stored.keys:
            raise CommandRefused(
                reason="its store paths are not known: nixery-admin purge, and the next pull"
                " builds it again"
            )
        return paths

    async def _realise(self, name: ImageName, tag: Tag) -> tuple[RuntimeGraph, Evaluation]:
        package_set = await fetch_package_set(self.config.sources, self.reactor, self.context, tag)
        evaluation, realisation = await realise(self.nix, package_set, name, NullProgress())
        try:
            return await self.nix.closure(realisation.outputs), evaluation
        finally:
            await self.nix.release(realisation)
