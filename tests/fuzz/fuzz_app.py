"""
All that is served, in one process and in memory, and what must hold whatever is sent.

Images are made by the real pipeline over a Nix that is played; they are kept by the real
storage, in a directory.  No input may get an answer that says we failed, make us open a file
elsewhere or start a process, or write a line of its own in the log.
"""

from __future__ import annotations

import sys
from base64 import b64encode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPException, HTTPResponse
from importlib import import_module
from io import BytesIO
from pathlib import Path
from socket import socket
from typing import cast

import bcrypt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.logger import ILogObserver, LogEvent, formatEvent, globalLogPublisher
from twisted.python.failure import Failure
from twisted.web.resource import Resource

from nixery.access.access_controller import AccessController
from nixery.access.identity import ANONYMOUS
from nixery.access.passwords import Passwords
from nixery.access.tokens import SigningKey, Tokens
from nixery.artifacts.keys import KeyRing
from nixery.artifacts.signing_key import SigningKey as ImageKey
from nixery.builds.builder import Builder
from nixery.builds.candidates import CandidateSearch
from nixery.builds.document_maker import DocumentMaker
from nixery.builds.image_cache import ImageCache
from nixery.builds.package_catalog import PackageCatalog
from nixery.builds.package_lookup import PackageSearch
from nixery.builds.pipeline import ImagePipeline
from nixery.builds.settings import ImageSettings
from nixery.builds.tracker import BuildTracker
from nixery.http.auth import Authenticator, PagesGuard, RegistryGuard
from nixery.http.health import HealthPage
from nixery.http.keys import PublicKeyPage
from nixery.http.metrics import MetricsPage
from nixery.http.registry.api import Registry
from nixery.http.registry.pull_wait import PullWaiter
from nixery.http.root import Root
from nixery.http.routes import Handlers, UIHandlers, make_router
from nixery.http.server import make_site
from nixery.http.token_endpoint import TokenEndpoint
from nixery.http.ui.build_button import BuildButton
from nixery.http.ui.build_pages import BuildPages
from nixery.http.ui.comparison_page import ComparisonPage
from nixery.http.ui.documentation import Documentation
from nixery.http.ui.estimate_page import EstimatePage
from nixery.http.ui.image_pages import ImagePages
from nixery.http.ui.image_preview import ImagePreview
from nixery.http.ui.image_reference import ImageReferences
from nixery.http.ui.index_page import IndexPage
from nixery.http.ui.pages import Section
from nixery.http.ui.search_page import SearchPage
from nixery.http.visibility import AllowAll
from nixery.image.errors import PackageProblem, ProblemKind
from nixery.image.names import PackageRequest
from nixery.image.packages import LookupResult
from nixery.image.patterns import parse_patterns
from nixery.inspection.catalog import ImageCatalog
from nixery.inspection.estimator import Estimator
from nixery.inspection.image_comparer import ImageComparer
from nixery.layers.grouping import LayerSettings, Popularity
from nixery.layers.tarball import Compression
from nixery.limits.package_rules import PackageRules
from nixery.nix.package_index import IndexEntry, PackageIndex
from nixery.observability.json_log import json_line
from nixery.pulls.images import ImageService
from nixery.pulls.referrers import Referrers
from nixery.pulls.repository_blobs import RepositoryBlobs
from nixery.pulls.signatures import ImageSigner
from nixery.pulls.tag_recorder import TagRecorder
from nixery.pulls.unattended_pulls import UnattendedPulls
from nixery.runtime.background_answers import BackgroundAnswers
from nixery.sources.source import PackageSet, Revision
from nixery.storage.filesystem.backend import FilesystemStorage
from nixery.testing.fakes import FakeNix, FakePackage, FakeSources, FakeWallClock, InlineWorkers
from tests.support.pages import make_pages, site_files

__all__ = ["PASSWORD", "USER", "World", "answers_in", "audited", "basic", "check_logged"]

SYSTEM = "x86_64-linux"

USER, PASSWORD = "ann", "secret"

_PACKAGES = (
    FakePackage(attribute="glibc", files={"lib/libc.so": b"c" * 1000}),
    FakePackage(attribute="bash", files={"bin/bash": b"bash"}, references=("glibc",)),
    FakePackage(attribute="hello", files={"bin/hello": b"hello"}, references=("glibc",)),
    FakePackage(attribute="curl.dev", files={"include/curl.h": b"curl"}),
)

_STARTS = {"os.exec", "os.fork", "os.posix_spawn", "os.system", "subprocess.Popen", "pty.spawn"}
"""Events of what starts a process."""

_TOUCHES = {
    "open",
    "os.chdir",
    "os.chmod",
    "os.chown",
    "os.link",
    "os.listdir",
    "os.mkdir",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.scandir",
    "os.symlink",
    "os.truncate",
    "shutil.rmtree",
}
"""Events of what touches files; their arguments that are paths are the first, but for:"""

_PATHS = {"os.link": slice(2), "os.rename": slice(2), "os.symlink": slice(1, 2)}
"""The arguments of an event that are touched paths: the target of a symlink is none."""

_CODE = (".py", ".pyc", ".so", ".typed")
"""Suffixes of files that Python itself reads: modules are imported when first needed."""


class _Auditor:
    """Records the interpreter's audit events of files and processes, between begin and end."""

    def __init__(self) -> None:
        self.events: list[tuple[str, tuple[object, ...]]] | None = None
        self._added = False

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.events is not None and (event in _STARTS or event in _TOUCHES):
            self.events.append((event, arguments))

    def begin(self) -> list[tuple[str, tuple[object, ...]]]:
        if not self._added:
            # It cannot be removed again, and costs next to nothing while nothing is recorded.
            sys.addaudithook(self)
            self._added = True
        self.events = []
        return self.events

    def end(self) -> None:
        self.events = None


_auditor = _Auditor()

# As the daemon does when it starts: it looks for its plugins in many places.
import_module("networkx")


@contextmanager
def audited(allowed: Sequence[Path]) -> Iterator[None]:
    """
    Fails when a process is started, or a file touched that is not below ``allowed``.
    """
    events = _auditor.begin()
    try:
        yield
    finally:
        _auditor.end()
    for event, arguments in events:
        assert event not in _STARTS, (event, arguments)
        for path in arguments[_PATHS.get(event, slice(1))]:
            if not isinstance(path, str | bytes):
                continue  # a descriptor, of something that is open
            place = Path(path.decode() if isinstance(path, bytes) else path)
            if place.suffix in _CODE or "__pycache__" in place.parts:
                continue
            if place.parent.suffix in {".dist-info", ".egg-info"}:
                continue  # what is installed, which Python looks up
            assert ".." not in place.parts, (event, place)
            assert any(place.is_relative_to(each) for each in allowed), (event, place)


class _Looker:
    """Knows the packages that the played Nix has."""

    def __init__(self, nix: FakeNix) -> None:
        self._nix = nix

    async def look_up(
        self, package_set: PackageSet, system: str, requests: Sequence[PackageRequest]
    ) -> Sequence[LookupResult]:
        answers = []
        for item in requests:
            if item.name in {package.attribute for package in self._nix.packages}:
                [package] = (await self._nix.evaluate(package_set, system, [item])).packages
                answers.append(LookupResult(request=item, result=package))
            else:
                problem = PackageProblem(
                    name=item.name,
                    kind=ProblemKind.NOT_FOUND,
                    message=f"there is no package {item.name}",
                )
                answers.append(LookupResult(request=item, result=problem))
        return answers


class _Indexes:
    """Has an index with the packages of the images."""

    async def get(self, _revision: Revision, _system: str) -> PackageIndex | None:
        return PackageIndex(
            names=("hello", "sesame"),
            entries=tuple(
                IndexEntry(attribute=name, pname=name, version="1", description="", served=True)
                for name in ("hello", "sesame")
            ),
        )


class World:
    """
    A daemon without sockets, threads and Nix.

    :param directory: where it keeps what it has.
    :param gated: whether clients have to log in, and get tokens.
    """

    def __init__(self, directory: Path, *, gated: bool = False, clock: Clock | None = None) -> None:
        self.directory = directory
        directory.mkdir(exist_ok=True)
        self.gated = gated
        self.clock = clock or Clock()
        self.wall_clock = FakeWallClock(self.clock)
        self.workers = InlineWorkers()
        self.storage = FilesystemStorage(directory / "storage", self.workers)
        Deferred.fromCoroutine(self.storage.start())
        self.nix = FakeNix(store=directory / "store", packages=_PACKAGES)
        self.book = BuildTracker(clock=self.clock, wall_clock=self.wall_clock)
        self.site = make_site(self._root(), self.clock)

    def _root(self) -> Resource:
        clock, workers, storage = self.clock, self.workers, self.storage
        sources = FakeSources.at_path(self.directory)
        cache = ImageCache(storage=storage, seconds=clock.seconds)
        library = ImageCatalog(
            storage=storage,
            image_cache=cache,
            cpu=workers,
            clock=clock,
            wall_clock=self.wall_clock,
        )
        pipeline = ImagePipeline(
            sources=sources,
            nix=self.nix,
            storage=storage,
            image_cache=cache,
            cpu=workers,
            max_batches=2,
            compression=Compression(),
            clock=clock,
            store_directory=str(self.directory / "store"),
            documents=DocumentMaker(sources=sources, nix=self.nix, cpu=workers, builder="urn:fuzz"),
            on_built=library.record_build,
        )
        builder = Builder(
            pipeline=pipeline,
            settings=ImageSettings(
                layers=LayerSettings(budget=94),
                popularity=Popularity(),
                compression=Compression(),
            ),
            failure_cache_ttl=60,
        )
        candidates = CandidateSearch(workers=workers, seconds=clock.seconds)
        key = ImageKey(private_key=Ed25519PrivateKey.generate())
        signer = ImageSigner(
            storage=storage, cpu=workers, host="reg.example", keys=KeyRing(signing=key)
        )
        referrers = Referrers(storage=storage, image_cache=cache, cpu=workers, signer=signer)
        images = ImageService(
            sources=sources,
            builder=builder,
            image_cache=cache,
            storage=storage,
            tracker=self.book,
            seconds=clock.seconds,
            candidates=candidates,
            evaluation_ttl=60,
            stale_while_revalidate=0,
            recorder=TagRecorder(storage=storage, signer=signer, on_recorded=library.record_served),
        )
        controller, guard = self._access_controller(cache, referrers), None
        self.controller = controller
        if self.gated:
            guard = RegistryGuard(
                controller, realm="http://reg.example/token", service="reg.example"
            )
        registry = Registry(
            images,
            storage,
            workers,
            clock,
            pull_waiter=PullWaiter(clock=clock),
            guard=guard,
            referrers=referrers,
        )
        files = site_files()
        docs = self.directory / "docs"
        docs.mkdir(exist_ok=True)
        (docs / "index.html").write_text("<p>docs")
        pages = make_pages(
            address="reg.example",
            sections=(Section("Builds", "/builds"), Section("Images", "/images")),
        )
        visibility = PagesGuard(controller, SYSTEM) if self.gated else None
        lookup = PackageSearch(
            sources=sources,
            package_lookup=_Looker(self.nix),
            candidates=candidates,
            seconds=clock.seconds,
        )
        packages = PackageCatalog(
            sources=sources, indexes=_Indexes(), workers=workers, system=SYSTEM
        )
        comparer = ImageComparer(catalog=library, storage=storage, cpu=workers)
        estimator = Estimator(
            sources=sources,
            builder=builder,
            dry_runner=self.nix,
            catalog=library,
            comparer=comparer,
            candidates=candidates,
        )
        references = ImageReferences(address="reg.example", system=SYSTEM)
        index = IndexPage(pages, lookup, SYSTEM, clock, builds=self.book, visibility=visibility)

        async def well() -> Sequence[str]:
            return ()

        async def metrics(_accept: str) -> tuple[str, bytes]:
            return "text/plain; version=0.0.4; charset=utf-8", b"# nothing\n"

        handlers = Handlers(
            registry=registry,
            token=TokenEndpoint(controller) if self.gated else None,
            health=HealthPage(well),
            readiness=HealthPage(well),
            public_key=PublicKeyPage(key.verification.pem),
            metrics=MetricsPage(metrics),
            ui=UIHandlers(
                pages=pages,
                assets=files.assets,
                index=index,
                search=SearchPage(pages, packages, visibility or AllowAll()),
                estimates=EstimatePage(estimator, visibility or AllowAll(), references),
                builds=BuildPages(self.book, clock, pages, visibility=visibility),
                images=ImagePages(
                    library,
                    pages,
                    workers,
                    visibility or AllowAll(),
                    preview=ImagePreview(
                        pages=pages,
                        search=lookup,
                        answers=BackgroundAnswers(clock=clock),
                        estimator=estimator,
                        prices=BackgroundAnswers(clock=clock),
                        references=references,
                        clock=clock,
                        visibility=visibility or AllowAll(),
                        builds=self.book,
                        shows_builds=True,
                    ),
                ),
                build_button=BuildButton(
                    pages=pages,
                    pulls=UnattendedPulls(
                        images=images,
                        builds=self.book,
                        waiting=self.book.clients.waiting,
                        clock=clock,
                    ),
                    candidates=images,
                    visibility=visibility or AllowAll(),
                    rules=PackageRules(),
                    hosts=None,
                ),
                comparison=ComparisonPage(
                    library,
                    comparer,
                    pages,
                    visibility or AllowAll(),
                    system=SYSTEM,
                ),
                documentation=Documentation(pages, docs, workers),
            ),
        )
        self.router = make_router(handlers, SYSTEM)
        return Root(self.router, Authenticator(controller) if self.gated else None, pages=pages)

    def _access_controller(self, cache: ImageCache, referrers: Referrers) -> AccessController:
        controller = AccessController(
            repository_blobs=RepositoryBlobs(self.storage, cache, referrers.digests),
            workers=self.workers,
            seconds=self.clock.seconds,
            wall_clock=self.wall_clock,
            system=SYSTEM,
        )
        hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4))
        controller.replace_users(
            Passwords(hashes={USER: hashed}), {ANONYMOUS: parse_patterns(["hello", "cacert"])}
        )
        key = SigningKey(private_key=Ed25519PrivateKey.generate())
        controller.enable_tokens(Tokens(key=key, wall_clock=self.wall_clock))
        return controller

    def exchange(self, data: bytes) -> bytes:
        """Send some bytes on a connection of their own, and return the answer."""
        transport = StringTransport(peerAddress=IPv4Address("TCP", "192.0.2.1", 40000))
        protocol = self.site.buildProtocol(None)
        assert protocol is not None
        protocol.makeConnection(transport)
        protocol.dataReceived(data)
        # What is written down about images waits for a second.
        self.clock.advance(2)
        value = transport.value()
        if transport.producer is not None:
            transport.producer.stopProducing()
        protocol.connectionLost(Failure(ConnectionLost()))
        assert isinstance(value, bytes)
        return value

    def check(self, data: bytes) -> list[int]:
        """
        Send bytes, and see that nothing happens that must not.

        :return: the statuses of the answers.
        """
        events: list[LogEvent] = []
        observer = cast(ILogObserver, events.append)
        globalLogPublisher.addObserver(observer)
        try:
            with audited([self.directory]):
                received = self.exchange(data)
        finally:
            globalLogPublisher.removeObserver(observer)
        statuses = []
        for status, body in answers_in(received, _methods(data)):
            statuses.append(status)
            assert status < 500, (status, body[:200])
        for event in events:
            check_logged(event)
        for names in self.nix.evaluations:
            for name in names:
                assert name.isprintable() and not {*name} & {*"\"'$`;|& "}, name
        self.nix.evaluations.clear()
        return statuses


def basic(user: str, password: str) -> bytes:
    """The header ``Authorization`` of a user."""
    return b"Basic " + b64encode(f"{user}:{password}".encode())


def check_logged(event: LogEvent) -> None:
    """An event is one line, and nothing in it acts on a terminal."""
    assert "log_failure" not in event, event["log_failure"].getTraceback()
    text = formatEvent(event)
    assert text.isprintable(), text
    line = json_line(event)
    assert line.endswith("}\n")
    assert line[:-1].isascii() and line[:-1].isprintable(), line


def _methods(data: bytes) -> Sequence[str]:
    """The methods that requests may have: how long an answer is depends on HEAD."""
    found = [
        line.partition(b" ")[0].decode("latin-1")
        for line in data.split(b"\r\n")
        if b" HTTP/1" in line
    ]
    return found or ["GET"]


class _Socket:
    def __init__(self, data: BytesIO) -> None:
        self._data = data

    def makefile(self, _mode: str) -> BytesIO:
        return self._data


class _Kept(BytesIO):
    """Is read on, by one answer behind the other."""

    def close(self) -> None:
        pass


_BAD = b"HTTP/1.1 400 "

_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def answers_in(received: bytes, methods: Sequence[str]) -> list[tuple[int, bytes]]:
    """
    The answers that a client reads.

    :param methods: of the requests, as far as they are known.
    :raises AssertionError: they are not framed as HTTP wants.
    """
    data = _Kept(received)
    found: list[tuple[int, bytes]] = []
    # That a client may go on is no answer yet.
    while received[data.tell() :].removeprefix(_CONTINUE):
        method = methods[min(len(found), len(methods) - 1)]
        if b"\r\nConnection: close\r\n" in received[data.tell() :].partition(b"\r\n\r\n")[0]:
            # The last one: what could not be read has no method, whatever it looks like.
            method = "GET" if received[data.tell() :].startswith(_BAD) else method
        response = HTTPResponse(cast(socket, _Socket(data)), method=method)
        try:
            response.begin()
            endless = response.getheader("Content-Type", "").startswith("text/event-stream")
            streamed = response.chunked and response.status == 200
            body = b"" if endless or streamed else response.read()
        except (HTTPException, ValueError) as error:
            raise AssertionError(f"no HTTP: {error!r}, {received[:300]!r}") from error
        found.append((response.status, body))
        if endless or streamed:
            break
    return found
