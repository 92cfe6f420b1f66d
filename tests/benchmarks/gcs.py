"""
Measure a bucket: uploads against a disk, memory, signatures, and a warm second instance.

    python -m tests.benchmarks.gcs [--rounds N] [--quick] [--json]

The bucket is the tests' own service on the loopback interface, in a process that wants
a processor too; an answer that takes 80 ms stands for one from far away.  The large
image of the demo package set is what a second instance, with an empty disk, is asked
for.
"""

from __future__ import annotations

import random
import resource
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Event

from attrs import evolve
from twisted.internet.task import Clock

from nixery.image.names import Digest
from nixery.layers.compression import Compression
from nixery.layers.tarball import pack_store_paths
from nixery.storage.filesystem.backend import FilesystemStorage
from nixery.storage.gcs.backend import GcsStorage
from nixery.storage.gcs.connector import Bucket
from nixery.storage.gcs.objects import Objects
from nixery.storage.gcs.retry import RetryPolicy
from nixery.storage.gcs.signing import IamUrls, KeyUrls
from nixery.storage.interface import BlobWriter, Storage
from nixery.testing.fakes import InlineWorkers
from tests.benchmarks.cold import LARGE
from tests.benchmarks.measure import Figure, Options, median_ratio, run, timed
from tests.benchmarks.packing import SOURCES, make_store, store_paths
from tests.end_to_end.package_sets import demo_set
from tests.end_to_end.processes import private_directory
from tests.end_to_end.test_gcs import registry_on
from tests.end_to_end.wire import Registry
from tests.support.fake_gcs.auth import ACCOUNT
from tests.support.fake_gcs.process import FakeBucket, RemoteGcs, fake_gcs
from tests.support.gcs import connection_to, settings_for
from tests.unit.storage.test_contract import LAYER, digest_of, finish

__all__ = ["measure"]

MEGABYTES = 400
UPLOADS = 4
UPLOAD_SIZE = 500_000_000
FAR = 0.08
"""Seconds that an answer takes from far away."""

LAYERS = 95
SIGNATURES = 2000


def measure(options: Options) -> list[Figure]:
    return [
        *_throughput(options),
        *_memory(options),
        *_signatures(options),
        *_looking(options),
        *_second_instance(options),
    ]


def _throughput(options: Options) -> list[Figure]:
    """One layer, packed from files in the page cache by one thread."""
    scratch = private_directory("gcs-packing")
    store = scratch / "store"
    sources = [path for pattern in SOURCES for path in sorted(Path("/").glob(pattern[1:]))]
    make_store(store, sources, (4 if options.quick else MEGABYTES) * 1_000_000)

    def pack(storage: Storage) -> int:
        writer = finish(storage.create())
        packed = pack_store_paths(
            store_paths(store), writer.write, compression=Compression(), store=str(store)
        )
        finish(writer.commit(packed.digest, packed.size, LAYER))
        sizes[:] = [packed.uncompressed_size, packed.size]
        return packed.size

    def to_disk() -> None:
        storage = FilesystemStorage(Path(private_directory("gcs-disk")), InlineWorkers())
        finish(storage.start())
        pack(storage)

    def to_bucket(latency: float) -> None:
        pack(_storage(fake_gcs().make_bucket(latency=latency)))

    sizes = [0, 0]
    to_disk()
    disk, near, far = [], [], []
    for _ in range(options.rounds):
        disk.append(timed(to_disk))
        near.append(timed(lambda: to_bucket(0)))
        far.append(timed(lambda: to_bucket(FAR)))
    rate = sizes[0] / 1e6
    return [
        Figure(name="archive", value=rate, unit="MB"),
        Figure(name="layer", value=sizes[1] / 1e6, unit="MB"),
        Figure(name="packed to disk", value=rate / statistics.median(disk), unit="MB/s"),
        Figure(name="packed to a bucket", value=rate / statistics.median(near), unit="MB/s"),
        Figure(name="packed to a far bucket", value=rate / statistics.median(far), unit="MB/s"),
        Figure(name="bucket / disk", value=median_ratio(disk, near), unit="times"),
        Figure(name="far bucket / disk", value=median_ratio(disk, far), unit="times"),
    ]


def _memory(options: Options) -> list[Figure]:
    """Four uploads at once, in a process that does nothing else."""
    size = 50_000_000 if options.quick else UPLOAD_SIZE
    bucket = fake_gcs().make_bucket()
    peaks = []
    for uploads in (0, UPLOADS):
        arguments = [bucket.server.url, bucket.name, str(uploads), str(size)]
        child = subprocess.run(
            [sys.executable, "-m", "tests.benchmarks.gcs", "--child", *arguments],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        peaks.append(int(child.stdout))
    fake_gcs().control("make", bucket=bucket.name)  # what it holds goes
    return [
        Figure(name="peak before uploads", value=peaks[0] / 1e6, unit="MB"),
        Figure(
            name=f"peak with {UPLOADS} uploads of {size / 1e6:.0f} MB",
            value=peaks[1] / 1e6,
            unit="MB",
        ),
        Figure(name="an upload", value=(peaks[1] - peaks[0]) / UPLOADS / 1e6, unit="MB"),
    ]


def _child(url: str, name: str, uploads: int, size: int) -> None:
    storage = _storage(FakeBucket(RemoteGcs(url), name))
    piece = random.Random(0).randbytes(1 << 20)

    def upload(number: int) -> None:
        writer: BlobWriter = finish(storage.create())
        left = size
        while left:
            left -= writer.write(piece[: min(left, len(piece))])
        finish(writer.commit(digest_of(b"%d" % number), size, LAYER))

    with ThreadPoolExecutor(max(1, uploads)) as threads:
        list(threads.map(upload, range(uploads)))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def _signatures(options: Options) -> list[Figure]:
    count = 20 if options.quick else SIGNATURES
    bucket = fake_gcs().make_bucket()
    connection = connection_to(bucket)
    names = [f"layers/{number:064x}" for number in range(count)]
    keys = KeyUrls(connection, connection.credentials)  # type: ignore[arg-type]  # these credentials sign
    iam = IamUrls(connection, ACCOUNT, RetryPolicy(), bucket.server.url)
    by_key = timed(lambda: [keys.cached_url(name) for name in names])
    asked = names[: count // 10]
    by_iam = timed(lambda: [iam.url(name, Event()) for name in asked])
    kept = timed(lambda: [iam.cached_url(name) for name in asked])
    return [
        Figure(name="URLs signed by a key", value=count / by_key, unit="a second"),
        Figure(name=f"URLs for {LAYERS} layers", value=by_key / count * LAYERS * 1e3, unit="ms"),
        Figure(name="signed by the IAM service", value=len(asked) / by_iam, unit="a second"),
        Figure(name="known from before", value=len(asked) / kept, unit="a second"),
    ]


def _looking(options: Options) -> list[Figure]:
    """Measure how fast the 95 blobs of an image are looked up."""
    figures = []
    for latency in (0.0, 0.03):
        bucket = fake_gcs().make_bucket(latency=latency)
        digests = [digest_of(b"%d" % number) for number in range(LAYERS)]
        for number in range(LAYERS):
            bucket.put("layers/" + digests[number].removeprefix("sha256:"), b"%d" % number)
        for threads in (16, 32):
            connection = connection_to(bucket)
            objects = Objects(connection=connection, retry_policy=RetryPolicy(), stop=Event())

            def look(
                digests: list[Digest] = digests, threads: int = threads, objects: Objects = objects
            ) -> None:
                names = ["layers/" + digest.removeprefix("sha256:") for digest in digests]
                with ThreadPoolExecutor(threads) as pool:
                    list(pool.map(objects.stat, names))

            look()  # connections are made
            seconds = statistics.median(timed(look) for _ in range(options.rounds))
            figures.append(
                Figure(
                    name=f"{LAYERS} looks, {threads} threads, answers in {latency * 1e3:.0f} ms",
                    value=seconds * 1e3,
                    unit="ms",
                )
            )
    return figures


def _second_instance(options: Options) -> list[Figure]:
    name = "hello" if options.quick else LARGE
    bucket = fake_gcs().make_bucket()
    first = registry_on(bucket, demo_set(), "gcs-first")
    first.start()
    cold = timed(lambda: first.registry.manifest(name))
    first.stop()
    manifests, redirects = [], []
    for _ in range(options.rounds):
        second = registry_on(bucket, demo_set(), "gcs-second")
        second.start()
        registry = second.registry
        manifests.append(timed(partial(registry.manifest, name)))
        manifest = registry.manifest(name).json()
        urls = [
            f"/v2/{name}/blobs/{item['digest']}"
            for item in (*manifest["layers"], manifest["config"])
        ]
        redirects.append(timed(partial(_ask_all, registry, urls)))
        second.stop()
    layers = len(urls) - 1
    return [
        Figure(name=f"{name}: layers", value=layers, unit="layers"),
        Figure(name=f"{name}: manifest, packed by the first instance", value=cold, unit="s"),
        Figure(
            name=f"{name}: manifest, from a second one",
            value=statistics.median(manifests),
            unit="s",
        ),
        Figure(
            name=f"{name}: its redirects, by three connections",
            value=statistics.median(redirects),
            unit="s",
        ),
    ]


def _ask_all(registry: Registry, urls: Sequence[str]) -> None:
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(registry.get, urls))


def _storage(bucket: FakeBucket) -> GcsStorage:
    connection = connection_to(bucket)
    reached = Bucket(
        connection=connection,
        urls=KeyUrls(connection, connection.credentials),  # type: ignore[arg-type]  # these credentials sign
    )
    storage = GcsStorage(
        settings=evolve(settings_for(bucket), chunk_size=16 << 20, uploads=UPLOADS),
        workers=InlineWorkers(),
        clock=Clock(),
        give_up=lambda _: None,
        open_bucket=lambda _: reached,
    )
    finish(storage.start())
    return storage


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        _child(sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
    else:
        run({"gcs": measure}, "tests.benchmarks.gcs", sys.argv[1:])
