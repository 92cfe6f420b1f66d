"""
Images as the specification describes them, read without any of our own code.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from attrs import frozen

__all__ = ["CheckedImage", "check_image", "digest_of", "elf_machine", "read_dir", "read_oci_layout"]

ReadBlob = Callable[[str], bytes]
"""The bytes that are stored under a digest."""


def _unzstd(data: bytes) -> bytes:
    return subprocess.run(
        ["zstd", "--decompress", "--stdout"], input=data, check=True, stdout=subprocess.PIPE
    ).stdout


LAYER_TYPES: Mapping[str, Callable[[bytes], bytes]] = {
    "application/vnd.oci.image.layer.v1.tar+gzip": gzip.decompress,
    "application/vnd.docker.image.rootfs.diff.tar.gzip": gzip.decompress,
    "application/vnd.oci.image.layer.v1.tar+zstd": _unzstd,
    "application/vnd.oci.image.layer.v1.tar": bytes,
    "application/vnd.docker.image.rootfs.diff.tar": bytes,
}
"""The functions that expand layers, by media type."""


@frozen(kw_only=True)
class CheckedImage:
    """
    An image, every byte of which is what its digests say.

    :param config: decoded.
    :param layers: the uncompressed archives, from the bottom to the top.
    """

    digest: str
    manifest: Mapping[str, Any]
    config: Mapping[str, Any]
    layers: Sequence[bytes]

    def members(self) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
        """Every member of every layer, with the archive that it is in."""
        for layer in self.layers:
            with tarfile.open(fileobj=io.BytesIO(layer)) as archive:
                for member in archive:
                    yield member, archive

    def read(self, suffix: str) -> bytes:
        """The first regular file whose path ends in ``suffix``."""
        for member, archive in self.members():
            if member.isreg() and member.name.endswith(suffix):
                stream = archive.extractfile(member)
                if stream is not None:
                    return stream.read()
        raise AssertionError(f"no file of the image ends in {suffix}")


def check_image(manifest: bytes, blob: ReadBlob) -> CheckedImage:
    """
    Check all digests, sizes and diff IDs of an image, byte for byte.

    :param manifest: as it was received.
    :raises AssertionError: something is not what it is said to be.
    """
    decoded = json.loads(manifest)
    config = json.loads(_checked(decoded["config"], blob))
    layers = []
    for descriptor in decoded["layers"]:
        _equal(descriptor["mediaType"] in LAYER_TYPES, True, descriptor["mediaType"])
        layers.append(LAYER_TYPES[descriptor["mediaType"]](_checked(descriptor, blob)))
    _equal([digest_of(layer) for layer in layers], config["rootfs"]["diff_ids"], "the diff IDs")
    _equal(config["rootfs"]["type"], "layers", "the type of the root file system")
    filled = [entry for entry in config.get("history", ()) if not entry.get("empty_layer")]
    _equal(len(filled), len(layers), "the number of layers in the history")
    return CheckedImage(
        digest=digest_of(manifest), manifest=decoded, config=config, layers=tuple(layers)
    )


def read_oci_layout(directory: Path) -> tuple[bytes, ReadBlob]:
    """The manifest of the only image of an OCI image layout, and its blobs."""

    def blob(digest: str) -> bytes:
        return (directory / "blobs" / digest.replace(":", "/")).read_bytes()

    (entry,) = json.loads((directory / "index.json").read_bytes())["manifests"]
    return _checked(entry, blob), blob


def read_dir(directory: Path) -> tuple[bytes, ReadBlob]:
    """The manifest in a directory of skopeo's ``dir:`` transport, and its blobs."""

    def blob(digest: str) -> bytes:
        return (directory / digest.removeprefix("sha256:")).read_bytes()

    return (directory / "manifest.json").read_bytes(), blob


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def elf_machine(program: bytes) -> int:
    """The machine that an ELF file is for (``e_machine``): 62 is x86-64, 183 AArch64."""
    _equal(program[:4], b"\x7fELF", "the beginning of the program")
    return int.from_bytes(program[18:20], "little")


def _checked(descriptor: Mapping[str, Any], blob: ReadBlob) -> bytes:
    data = blob(descriptor["digest"])
    _equal(digest_of(data), descriptor["digest"], "a digest")
    _equal(len(data), descriptor["size"], f"the size of {descriptor['digest']}")
    return data


def _equal(found: object, wanted: object, what: str) -> None:
    if found != wanted:
        raise AssertionError(f"{what}: found {found}, wanted {wanted}")
