"""
Make what a request asks for: the image of one system, or an index of the images of several.

The platforms of an index are evaluated and built beside each other, each as it would be alone: one
that was built before, or is being built for another client, is not built again.  A platform that is
not available is left out, or is the failure of the whole, as the configuration says.  Nothing else
is left out: a full disk, a quota and a time-out are about this registry and not about a platform.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

from attrs import define, evolve, field, frozen
from twisted.logger import Logger

from nixery.builds import cache_keys
from nixery.builds.builder import Builder
from nixery.builds.errors import CachedFailure
from nixery.builds.image_cache import ImageCache
from nixery.builds.progress import Build
from nixery.builds.request import ImageRequest
from nixery.errors import NixeryError
from nixery.image.errors import PackagesRefused
from nixery.image.image_index import ImageIndex, build_index, skip_reason
from nixery.image.manifests import Image
from nixery.image.packages import Evaluation
from nixery.nix.errors import BuildFailed, EvaluationFailed, NotSubstitutable, WrongSystem
from nixery.runtime.deferreds import gather
from nixery.storage.errors import BlobsMissing

__all__ = ["IndexEvaluation", "ImageMaker", "MadeImage"]

MISSING_PLATFORM = (PackagesRefused, EvaluationFailed, WrongSystem, BuildFailed)
"""Failures by which a platform is missing."""

MAX_PUBLICATIONS = 3
"""The most times that an index is published because images of it were removed meanwhile."""

Part: TypeAlias = Evaluation | Image | NixeryError
"""The packages of a platform, its image if that is known already, or why it is missing."""


@frozen(kw_only=True)
class IndexEvaluation:
    """The evaluations of the platforms of an index, by their systems."""

    parts: Mapping[str, Part]


@frozen(kw_only=True)
class MadeImage:
    """
    An image or an index that is stored.

    :param key: the key of its record.
    """

    key: str
    image: Image

    @property
    def is_complete(self) -> bool:
        """False if platforms were left out, which have to be tried again after a while."""
        return not (isinstance(self.image, ImageIndex) and self.image.skipped)


@define(kw_only=True, eq=False)
class ImageMaker:
    """
    Makes images and indexes.

    :param builder: makes the images.
    :param skips_missing: whether a platform that is not available is left out of an index.
    """

    builder: Builder
    skips_missing: bool = True
    _images: ImageCache = field(init=False)
    _log = Logger()

    def __attrs_post_init__(self) -> None:
        self._images = self.builder.pipeline.image_cache

    async def evaluate(self, request: ImageRequest, build: Build) -> Evaluation | IndexEvaluation:
        """
        Evaluate the packages of a request, for all of its platforms.

        :raises NixeryError: see :meth:`nixery.builds.builder.Builder.evaluate`.
        """
        if not request.name.platforms:
            return await self.builder.evaluate(request, build)

        async def evaluate(part: ImageRequest, progress: Build) -> Part:
            if part.revision.pinned:
                known = await self._images.get(part.key)
                if known is not None:
                    return known
            return await self.builder.evaluate(part, progress)

        request = self.builder.split(request)
        return IndexEvaluation(parts=await self._for_each_platform(request, build, evaluate))

    def key(self, request: ImageRequest, evaluation: Evaluation | IndexEvaluation) -> str:
        """Return the key of the image of evaluated packages; of an index, if no build fails."""
        if isinstance(evaluation, Evaluation):
            return request.image_key(evaluation)
        return self._index_key(request, evaluation, evaluation.parts)

    async def build(
        self, request: ImageRequest, evaluation: Evaluation | IndexEvaluation, build: Build
    ) -> MadeImage:
        """
        Return the image or the index of evaluated packages.

        :raises NixeryError: see :meth:`nixery.builds.builder.Builder.build`.
        """
        if isinstance(evaluation, Evaluation):
            image = await self.builder.build(request, evaluation, build)
            return MadeImage(key=request.image_key(evaluation), image=image)

        async def make(part: ImageRequest, progress: Build) -> Part:
            evaluated = evaluation.parts[part.name.system]
            if not isinstance(evaluated, Evaluation):
                return evaluated
            image = await self.builder.build(part, evaluated, progress)
            if part.revision.pinned:
                await self._images.add(part.key, image)
            return image

        request = self.builder.split(request)
        for _ in range(MAX_PUBLICATIONS - 1):
            try:
                return await self._publish(
                    request, evaluation, await self._for_each_platform(request, build, make)
                )
            except BlobsMissing as error:
                self._log.warn("an index is built again: {error}", error=error)
                self._images.invalidate_checks()
        return await self._publish(
            request, evaluation, await self._for_each_platform(request, build, make)
        )

    async def _publish(
        self, request: ImageRequest, evaluation: IndexEvaluation, parts: Mapping[str, Part]
    ) -> MadeImage:
        """Return the index of some images, and store it unless it is known."""
        key = self._index_key(request, evaluation, parts)
        known = await self._images.get(key)
        if known is not None:
            return MadeImage(key=key, image=known)
        images = {each: part for each, part in parts.items() if isinstance(part, Image)}
        index = build_index(images, request.name.system, _skipped(parts))
        await self._images.add(key, index)
        for each, reason in index.skipped.items():
            self._log.warn(
                "{image} has no platform {system}: {reason}",
                image=request.name.repository,
                system=each,
                reason=reason,
            )
        return MadeImage(key=key, image=index)

    def _index_key(
        self, request: ImageRequest, evaluation: IndexEvaluation, parts: Mapping[str, Part]
    ) -> str:
        keys = {}
        for part in self.builder.split(request).parts:
            system = part.name.system
            evaluated = evaluation.parts[system]
            if isinstance(parts[system], NixeryError):
                continue
            if isinstance(evaluated, Evaluation):
                keys[system] = part.image_key(evaluated)
            elif isinstance(evaluated, Image):
                keys[system] = evaluated.manifests[0].digest
        return cache_keys.index_key(keys, request.name.system, _skipped(parts))

    async def _for_each_platform(
        self,
        request: ImageRequest,
        build: Build,
        work: Callable[[ImageRequest, Build], Awaitable[Part]],
    ) -> Mapping[str, Part]:
        """
        Do some work for all platforms, beside each other.

        :return: the results by system, and the failures of platforms that are left out.
        :raises NixeryError: a failure that is not about a platform; that of a platform where none
            may be left out, or where all would be.
        """

        async def attempt(part: ImageRequest) -> Part:
            progress = build.part(part.name)
            try:
                return await work(part, progress)
            except NixeryError as error:
                return error
            finally:
                progress.finish_part()

        results = await gather(attempt(part) for part in request.parts)
        systems = (part.name.system for part in request.parts)
        parts = dict(zip(systems, results, strict=True))
        failures = {each: part for each, part in parts.items() if isinstance(part, NixeryError)}
        for error in failures.values():
            if not (self.skips_missing and isinstance(_original(error), MISSING_PLATFORM)):
                raise error
        if len(failures) == len(parts):
            raise failures.get(request.name.system) or next(iter(failures.values()))
        return parts


def _original(error: NixeryError) -> NixeryError:
    return error.original if isinstance(error, CachedFailure) else error


def _skipped(parts: Mapping[str, Part]) -> Mapping[str, str]:
    """Return why platforms are left out, in words that are the same at each attempt."""
    reasons = {}
    for system, part in parts.items():
        if isinstance(part, NixeryError):
            error = _original(part)
            # The log differs from one build to the next, and so would the index.
            if isinstance(error, BuildFailed) and not isinstance(error, NotSubstitutable):
                error = evolve(error, log=())
            reasons[system] = skip_reason(
                error.summary(system) if isinstance(error, PackagesRefused) else error.message
            )
    return reasons
