"""
A client that speaks HTTP to the real server, in memory and synchronously.

Paths and headers are sent byte for byte, which no well-behaved client would do,
and a connection can be lost, paused and resumed at any moment.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from attrs import frozen
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import Site

from nixery.builds.candidates import find_candidates
from nixery.errors import NixeryError
from nixery.http.registry.api import Registry
from nixery.http.root import Root
from nixery.http.routes import Handlers, UIHandlers, make_router
from nixery.http.server import make_site
from nixery.image.errors import PackagesRefused
from nixery.image.image_index import ImageIndex, build_index
from nixery.image.manifests import Image, ImageLayer, build_image, digest_of
from nixery.image.names import Digest, ImageName, Tag
from nixery.storage.errors import BlobUnknown
from nixery.storage.interface import BlobInfo, BlobSource, ByteRange, OpenFile
from nixery.testing.memory_storage import MemoryStorage

P = ParamSpec("P")
T = TypeVar("T")

IMAGE = build_image(
    layers=[
        ImageLayer(
            digest=digest_of(b"layer"),
            size=5,
            diff_id=digest_of(b"archive"),
            uncompressed_size=7,
        )
    ],
    packages=[],
    system="x86_64-linux",
    has_shell=False,
    has_ca_bundle=False,
)
OCI, DOCKER = IMAGE.manifests


def make_index(compression: str = "gzip") -> ImageIndex:
    """Make an index of images for amd64, the system of the registry, and arm64."""
    layer = ImageLayer(
        digest=digest_of(b"layer"),
        size=5,
        diff_id=digest_of(b"archive"),
        uncompressed_size=7,
        compression=compression,
    )
    images = {
        system: build_image(
            layers=[layer], packages=[], system=system, has_shell=False, has_ca_bundle=False
        )
        for system in ("x86_64-linux", "aarch64-linux")
    }
    return build_index(images, "x86_64-linux", {})


def make_root(
    handlers: Handlers | None = None,
    *,
    ui: UIHandlers | None = None,
    registry: Registry | None = None,
) -> Root:
    """Serve some handlers; other paths are a 404."""
    return Root(make_router(handlers or Handlers(ui=ui, registry=registry), "x86_64-linux"))


@frozen
class Response:
    """A response as it was received."""

    status: int
    headers: Mapping[str, Sequence[str]]
    body: bytes

    def header(self, name: str) -> str | None:
        """The only value of a header."""
        values = self.headers.get(name.lower(), ())
        if len(values) > 1:
            raise AssertionError(f"{name} was sent {len(values)} times")
        return values[0] if values else None

    def error(self) -> dict[str, Any]:
        """The only error of a JSON error document."""
        if self.header("Content-Type") != "application/json":
            raise AssertionError(f"not JSON: {self.headers}")
        [error] = json.loads(self.body)["errors"]
        assert isinstance(error, dict)
        return error


class _Transport(StringTransport):
    """A transport that is full after each write, if it is slow."""

    slow = False

    def write(self, data: bytes) -> None:
        super().write(data)
        if self.slow and self.producer is not None:
            self.producer.pauseProducing()

    def writeSequence(self, data: Iterable[bytes]) -> None:  # noqa: N802  # the interface's name
        self.write(b"".join(data))


class Connection:
    """
    A connection to a server of its own.

    :param slow: whether the client takes nothing until :meth:`resume` is called,
        each time that something was sent.
    :param peer: the client's address.
    """

    def __init__(
        self,
        root: Resource | Site,
        clock: Clock | None = None,
        *,
        slow: bool = False,
        peer: str = "192.0.2.1",
    ) -> None:
        site = root if isinstance(root, Site) else make_site(root, clock or Clock())
        self.transport = _Transport(peerAddress=IPv4Address("TCP", peer, 40000))
        self.transport.slow = slow
        protocol = site.buildProtocol(None)
        assert protocol is not None
        self.protocol = protocol
        self.protocol.makeConnection(self.transport)

    def send(self, method: str, path: str | bytes, *headers: tuple[str, str]) -> None:
        """Send a request without a body."""
        target = path if isinstance(path, bytes) else path.encode("ascii")
        lines = [f"{name}: {value}".encode() for name, value in (("Host", "reg:1"), *headers)]
        head = b"%s %s HTTP/1.1" % (method.encode("ascii"), target)
        self.protocol.dataReceived(b"\r\n".join([head, *lines, b"", b""]))

    def received(self) -> bytes:
        """All that the server has sent since the last answer."""
        value = self.transport.value()
        assert isinstance(value, bytes)
        return value

    def response(self) -> Response:
        """Take the bytes that the server has sent, as one answer."""
        head, separator, body = self.received().partition(b"\r\n\r\n")
        if not separator:
            raise AssertionError(f"there is no answer: {head!r}")
        status, *lines = head.decode("latin-1").split("\r\n")
        headers: dict[str, list[str]] = {}
        for line in lines:
            name, _, value = line.partition(": ")
            headers.setdefault(name.lower(), []).append(value)
        self.transport.clear()
        return Response(int(status.split()[1]), headers, body)

    def request(self, method: str, path: str | bytes, *headers: tuple[str, str]) -> Response:
        """Send a request, and the answer to it, which has to come at once."""
        self.send(method, path, *headers)
        return self.response()

    def resume(self) -> None:
        """Let the client read more."""
        assert self.transport.producer is not None
        self.transport.producer.resumeProducing()

    def disconnect(self) -> None:
        """Disconnect the client."""
        if self.transport.producer is not None:
            self.transport.producer.stopProducing()
        self.protocol.connectionLost(Failure(ConnectionLost()))


class FakeImages:
    """Returns images by repository name and tag; raises or awaits other values."""

    def __init__(self) -> None:
        self.images: dict[tuple[str, str], Image | BaseException | Deferred[Image]] = {}
        self.requests: list[tuple[str, str]] = []
        self.head_requests = 0
        self.invalidations = 0
        self.tag_names: Sequence[str] = ("latest",)

    async def get_image(self, name: ImageName, tag: Tag, *, is_head: bool = False) -> Image:
        self.head_requests += is_head
        self.requests.append((name.repository, tag))
        image = self.images[name.repository, tag]
        if isinstance(image, BaseException):
            raise image
        if isinstance(image, Deferred):
            return await image
        return image

    async def find_candidates(self, error: PackagesRefused) -> PackagesRefused:
        return PackagesRefused(problems=find_candidates(error.problems, lambda: 0.0))

    async def list_tags(self, name: ImageName) -> Sequence[str]:
        self.requests.append((name.repository, "tags"))
        return self.tag_names

    def invalidate_checks(self) -> None:
        self.invalidations += 1


class SteppedWorkers:
    """
    Workers whose calls are performed one by one by the test.

    Like the real ones, they never begin a job whose result is not awaited any more.
    """

    def __init__(self) -> None:
        self._calls: list[Callable[[], None]] = []
        self.names: list[str] = []

    async def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        result: Deferred[T] = Deferred(lambda _: self._cancel(perform))

        def perform() -> None:
            try:
                value = function(*args, **kwargs)
            except NixeryError:
                result.errback()
            else:
                result.callback(value)

        self._calls.append(perform)
        self.names.append(function.__name__)
        return await result

    def _cancel(self, call: Callable[[], None]) -> None:
        index = self._calls.index(call)
        del self._calls[index], self.names[index]

    def step(self) -> None:
        """Perform the oldest call."""
        self.names.pop(0)
        self._calls.pop(0)()

    def finish(self) -> None:
        """Perform calls until there are none."""
        while self._calls:
            self.step()

    def __len__(self) -> int:
        return len(self._calls)


class FileStorage(MemoryStorage):
    """
    Blobs that are read from files, and the descriptors that were handed out.

    :param directory: where the files are.
    """

    def __init__(self, directory: str) -> None:
        super().__init__()
        self._directory = directory
        self._infos: dict[Digest, BlobInfo] = {}
        self.descriptors: list[int] = []
        self.opening: Deferred[None] | None = None

    def add(self, data: bytes, media_type: str = "application/octet-stream") -> Digest:
        """Store a blob."""
        digest = digest_of(data)
        Path(self.path(digest)).write_bytes(data)
        self._infos[digest] = BlobInfo(digest=digest, size=len(data), media_type=media_type)
        return digest

    def path(self, digest: Digest) -> str:
        """The path of a blob's file."""
        return os.path.join(self._directory, digest.removeprefix("sha256:"))

    async def stat(self, digest: Digest) -> BlobInfo:
        try:
            return self._infos[digest]
        except KeyError:
            raise BlobUnknown(digest=digest) from None

    async def read(self, digest: Digest, *, record_use: bool = True) -> bytes:
        await self.stat(digest)
        return Path(self.path(digest)).read_bytes()  # noqa: ASYNC240  # there is no reactor here

    async def open(
        self, digest: Digest, part: ByteRange | None = None, *, redirect: bool = True
    ) -> BlobSource:
        info = await self.stat(digest)
        if self.opening is not None:
            await self.opening
        descriptor = os.open(self.path(digest), os.O_RDONLY)
        self.descriptors.append(descriptor)
        return OpenFile(info=info, descriptor=descriptor)

    def open_descriptors(self) -> list[int]:
        """
        Descriptors that are still open on the files of this storage.

        Numbers are used again, and so each is looked up.
        """
        still = []
        for descriptor in self.descriptors:
            try:
                target = os.readlink(f"/proc/self/fd/{descriptor}")
            except FileNotFoundError:
                continue
            if target.startswith(self._directory):
                still.append(descriptor)
        return still
