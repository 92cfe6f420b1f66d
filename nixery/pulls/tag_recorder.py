"""
Record what was served under the tags of names, and sign it.
"""

from __future__ import annotations

from collections.abc import Callable, MutableMapping

from attrs import define, field
from cachetools import LRUCache
from twisted.logger import Logger

from nixery.errors import StorageError
from nixery.image.canonical_json import canonical_json
from nixery.image.manifests import Image
from nixery.image.names import ImageName, Tag
from nixery.pulls.signatures import ImageSigner
from nixery.pulls.tag_records import (
    MEMBERS,
    NAMES,
    SERVED,
    member_record_key,
    name_key,
    tag_record_key,
)
from nixery.runtime.deferreds import gather
from nixery.storage.interface import Storage

__all__ = ["TagRecorder"]


@define(kw_only=True, eq=False)
class TagRecorder:
    """
    Records the images that are served under tags.

    :param storage: stores the records.
    :param signer: signs what is served; ``None``: nothing is signed.
    :param on_recorded: called with the new current image of a name and a tag; must not block.
    """

    storage: Storage
    signer: ImageSigner | None = None
    on_recorded: Callable[[ImageName, Tag, Image], None] | None = None
    # By the keys of the records of tags, the images that they are known to name.
    _recorded_keys: MutableMapping[str, str] = field(factory=lambda: LRUCache(4096), init=False)
    _log = Logger()

    async def record(self, name: ImageName, tag: Tag, key: str, image: Image) -> None:
        """
        Record that this is the current image of a name and a tag, and sign it as such.

        A failure is logged: the image can be served without.

        :param key: the key of the record of the image.
        """
        if self.signer is not None:
            await self.signer.sign(name, tag, image)
        record_key = tag_record_key(name, tag)
        if self._recorded_keys.get(record_key) != key:
            try:
                await gather(
                    (
                        self.storage.add_record(NAMES, name_key(name), name.repository.encode()),
                        self.storage.set_record(SERVED, record_key, key.encode("ascii")),
                        *(
                            self.storage.add_record(
                                MEMBERS,
                                member_record_key(name, manifest.digest),
                                canonical_json({"digest": manifest.digest}),
                            )
                            for manifest in image.all_manifests
                        ),
                    )
                )
            except StorageError as error:
                # For example a full disk, from which images can still be served.
                self._log.warn("the served tags are not recorded: {error}", error=error)
                return
            self._recorded_keys[record_key] = key
            if self.on_recorded is not None:
                self.on_recorded(name, tag, image)
