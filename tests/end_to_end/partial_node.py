"""A node of the tests' own that pulls images by partial pulls, or by whole layers."""

from __future__ import annotations

import json
from collections.abc import Sequence

from attrs import define, field

from nixery.storage.interface import ByteRange
from tests.end_to_end.wire import OCI_MANIFEST, Registry
from tests.support.partial_pulls import PartialPuller, digest_of, parse_parts

__all__ = ["PartialNode"]


@define
class PartialNode:
    """
    A node that keeps what it pulls.

    :param registry: pulls from there.
    """

    registry: Registry
    _puller: PartialPuller = field(factory=PartialPuller, init=False)
    _present: set[str] = field(factory=set, init=False)

    def pull(self, name: str) -> tuple[int, int]:
        """
        Pull the latest image of a name: the layers that are not here, those with tables in parts.

        :return: the size of all layers, and the bytes of bodies of blobs that came.
        :raises AssertionError: an answer, or a layer that was made of its parts, is wrong.
        """
        manifest = self.registry.manifest(name, accept=OCI_MANIFEST).json()
        body = self.registry.blob(name, manifest["config"]["digest"])
        sent = len(body)
        layers = manifest["layers"]
        for layer, diff_id in zip(layers, json.loads(body)["rootfs"]["diff_ids"], strict=True):
            digest, size = layer["digest"], layer["size"]
            if digest in self._present:
                continue
            self._present.add(digest)
            if "annotations" not in layer:
                sent += len(self.registry.blob(name, digest))
                continue
            received = _Reader(self.registry, f"/v2/{name}/blobs/{digest}", size)
            pulled = self._puller.pull(received.read, layer["annotations"])
            sent += received.sent
            assert digest_of(pulled.archive) == diff_id
        return sum(layer["size"] for layer in layers), sent


@define
class _Reader:
    """Reads parts of a blob, and counts the bytes of the answers."""

    registry: Registry
    path: str
    size: int
    sent: int = 0

    def read(self, ranges: Sequence[ByteRange]) -> Sequence[bytes]:
        spans = ",".join(f"{each.start}-{each.stop - 1}" for each in ranges)
        answer = self.registry.get(self.path, range=f"bytes={spans}")
        assert answer.status == 206, answer
        self.sent += len(answer.body)
        if len(ranges) == 1:
            return [answer.body]
        told = parse_parts(answer.headers["content-type"], answer.body)
        places = [f"bytes {each.start}-{each.stop - 1}/{self.size}" for each in ranges]
        assert places == [place for place, _ in told]
        return [data for _, data in told]
