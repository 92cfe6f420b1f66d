"""
The storage in a bucket on an emulator that is not ours, from PyPI.

It is lenient: it ignores preconditions and signatures, and has no moves.  These tests
prove that a server of other authors understands the requests, and that the storage
works without moves; all else is for the tests' own service.
"""

from __future__ import annotations

import hashlib
import os
import random
import socket
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from urllib.request import urlopen

from twisted.internet.task import Clock
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from nixery.storage.errors import BlobUnknown
from nixery.storage.gcs.backend import GcsStorage
from nixery.storage.gcs.client import GcsSettings
from nixery.storage.gcs.http import StoredObject
from nixery.storage.interface import ByteRange, Redirect, Stream
from nixery.testing.fakes import InlineWorkers
from tests.support.fake_gcs.process import fake_gcs
from tests.support.gcs import CHUNK, HASTY, fetch, follow
from tests.unit.storage.test_contract import LAYER, MANIFEST, digest_of, drain, finish

BUCKET = "nixery"


class EmulatorTests(SynchronousTestCase):
    """The whole way, once."""

    def setUp(self) -> None:
        if find_spec("gcp_storage_emulator") is None:
            raise SkipTest("gcp-storage-emulator is not installed")
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        emulator = subprocess.Popen(
            [
                *(sys.executable, "-m", "gcp_storage_emulator", "start", "--in-memory"),
                *("--host=127.0.0.1", f"--port={port}", f"--default-bucket={BUCKET}"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self.addCleanup(emulator.wait)
        self.addCleanup(emulator.kill)
        url = f"http://127.0.0.1:{port}"
        self.patch(os, "environ", {**os.environ, "STORAGE_EMULATOR_HOST": url})
        deadline = time.monotonic() + 30
        while not _answers(f"{url}/storage/v1/b/{BUCKET}"):
            self.assertLess(time.monotonic(), deadline, "the emulator does not answer")
            time.sleep(0.05)

    def make(self, *, redirect: bool = True) -> GcsStorage:
        storage = GcsStorage(
            settings=GcsSettings(bucket=BUCKET, chunk_size=CHUNK, redirect=redirect),
            workers=InlineWorkers(),
            clock=Clock(),
            give_up=lambda reason: self.fail(f"it gave up: {reason}"),
            retry_policy=HASTY,
        )
        finish(storage.start())
        self.assertEqual((), storage.faults())
        return storage

    def test_blobs_and_records_are_read_by_another_instance(self) -> None:
        """Blobs of all sizes and records are stored, found by another instance, and read."""
        first, second = self.make(), self.make(redirect=False)
        large = random.Random(0).randbytes(3 * CHUNK + 5)
        for data in (b"", b"small", large):
            writer = finish(first.create())
            writer.write(data)
            info = finish(writer.commit(digest_of(data), len(data), LAYER))
            self.assertEqual((len(data), LAYER), (info.size, info.media_type))
            self.assertEqual(info, finish(second.stat(info.digest)))
            source = finish(first.open(info.digest))
            assert isinstance(source, Redirect)
            self.assertEqual(data, follow(source))
            stream = finish(second.open(info.digest))
            assert isinstance(stream, Stream)
            self.assertEqual(data, finish(drain(stream)))
        part = ByteRange(start=CHUNK - 1, stop=2 * CHUNK)
        stream = finish(second.open(digest_of(large), part))
        assert isinstance(stream, Stream)
        self.assertEqual(large[part.start : part.stop], finish(drain(stream)))
        writer = finish(first.create())
        writer.write(large[:-1])
        finish(writer.abort())
        unknown = digest_of(large[:-1])
        self.assertEqual({unknown}, finish(first.missing([unknown, digest_of(large)])))
        with self.assertRaises(BlobUnknown):
            finish(first.read(unknown))
        finish(first.put(b"{}", MANIFEST))
        self.assertEqual(b"{}", finish(second.read(digest_of(b"{}"))))

        keys = ["key", "with/slash", "with space", "ä%2F", "x" * 2000]
        for key in keys:
            self.assertEqual(b"1", finish(first.add_record("layer", key, b"1")))
            self.assertEqual(b"1", finish(second.add_record("layer", key, b"2")))
        self.assertEqual(sorted(keys), finish(second.list_records("layer")))
        self.assertEqual(["with space", "with/slash"], finish(second.list_records("layer", "with")))
        for key in keys:
            finish(second.delete_record("layer", key))
            self.assertIsNone(finish(first.get_record("layer", key)))

        staged = [item.name for item in _all(first, "staging/")]
        self.assertEqual([], staged)
        names = {item.name for item in _all(first, "layers/")}
        hashes = {hashlib.sha256(data).hexdigest() for data in (b"", b"small", large, b"{}")}
        self.assertEqual({f"layers/{each}" for each in hashes}, names)


MACHINE = """
import sys
from threading import Event
from google.auth.compute_engine import Credentials
from nixery.storage.gcs.client import GcsSettings, connect
from nixery.storage.gcs.signing import IamUrls, choose_urls
from nixery.storage.gcs.retry import RetryPolicy

settings = GcsSettings(bucket=sys.argv[2], endpoint=sys.argv[1])
connection = connect(settings)
assert isinstance(connection.credentials, Credentials), connection.credentials
urls = choose_urls(connection, settings, RetryPolicy(), Event(), iam=sys.argv[1])
assert isinstance(urls, IamUrls), urls
print(urls.url("layers/x", Event()))
"""


class MachineAccountTests(SynchronousTestCase):
    """A machine of Google's, as google-auth sees it, played by the tests' own service."""

    def test_account_without_a_key_signs_by_the_iam_service(self) -> None:
        """Its account is found by its metadata server, and signs by the IAM service."""
        bucket = fake_gcs().make_bucket()
        bucket.put("layers/x", b"here")
        host = bucket.server.url.removeprefix("http://")
        # Where the metadata server is, google-auth asks when it is imported.
        environ = {
            **os.environ,
            "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
            "CLOUDSDK_CONFIG": "/nonexistent",
            "HOME": "/nonexistent",
            "GCE_METADATA_HOST": host,
            "GCE_METADATA_ROOT": host,
            "GCE_METADATA_IP": host,
        }
        environ.pop("GOOGLE_APPLICATION_CREDENTIALS", None)
        machine = subprocess.run(
            [sys.executable, "-c", MACHINE, bucket.server.url, bucket.name],
            env=environ,
            check=False,
            capture_output=True,
            text=True,
            timeout=60,
        )
        self.assertEqual(0, machine.returncode, machine.stderr)
        self.assertEqual(b"here", fetch(machine.stdout.strip()))


def _all(storage: GcsStorage, prefix: str) -> list[StoredObject]:
    bucket = finish(storage._connector.bucket())
    return [item for page in storage._objects(bucket).list(prefix) for item in page]


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=5):
            return True
    except OSError:
        return False
