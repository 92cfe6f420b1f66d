"""Define the request for an image, which all stages of its build share."""

from __future__ import annotations

from attrs import frozen

from nixery.builds import cache_keys
from nixery.builds.settings import ImageSettings
from nixery.image.names import ImageName
from nixery.image.packages import Evaluation
from nixery.sources.source import Revision

__all__ = ["ImageRequest"]


@frozen(kw_only=True)
class ImageRequest:
    """
    A request for the image of a name at a revision, made with the settings of that moment.

    :param key: covers all that the image depends on, as far as that is known without
        evaluating anything.
    :param parts: of an index, the requests for the images of its platforms.
    """

    name: ImageName
    revision: Revision
    settings: ImageSettings
    key: str
    parts: tuple[ImageRequest, ...] = ()

    @property
    def keys(self) -> tuple[str, ...]:
        """The keys of all that is made for the request: those of the parts of an index too."""
        return (self.key, *(part.key for part in self.parts))

    def image_key(self, evaluation: Evaluation) -> str:
        """Return the key of the image once its packages have been evaluated."""
        return cache_keys.image_key(evaluation, self.settings.identity())
