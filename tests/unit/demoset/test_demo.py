"""
Tests for ``nixery.demoset.demo``, and for ``nixery.demoset.apt`` as far as it runs nothing.
"""

from __future__ import annotations

import json
import os
import struct
import sys
from io import StringIO
from pathlib import Path

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from nixery.demoset import demo, listening
from nixery.demoset.apt import Apt, plain_uri
from nixery.demoset.debian import Record
from nixery.demoset.demo import default_directory, is_static, main, prepare, render_lock
from nixery.demoset.errors import DemoFailed
from nixery.demoset.recipes import Unit
from nixery.runtime.data_files import nix_directory

HELLO = Record(
    name="hello",
    version="1:2.10-3",
    section="devel",
    depends=(),
    description="example package",
    homepage="https://example.org/hello",
    size=53080,
    sha256="ab" * 32,
)


def elf(*segments: int) -> bytes:
    """The beginning of a 64-bit program with segments of these types."""
    header = bytearray(64)
    header[:6] = b"\x7fELF\x02\x01"
    struct.pack_into("<Q", header, 32, 64)
    struct.pack_into("<HH", header, 54, 56, len(segments))
    return bytes(header) + b"".join(struct.pack("<I52x", segment) for segment in segments)


class LockTests(SynchronousTestCase):
    def test_says_what_to_fetch(self) -> None:
        """The lock names each .deb with its version, URL, size and sum."""
        unit = Unit(name="hello", main=HELLO, debs=(HELLO,), depends=("glibc",))
        text = render_lock(
            {"x86_64-linux": ({"hello": unit}, {"hello": "http://m/h.deb"})}, "f", 13
        )
        self.assertEqual(
            json.loads(text),
            {
                "format": 1,
                "recipes": "f",
                "release": 13,
                "systems": {
                    "x86_64-linux": {
                        "hello": {
                            "version": "2.10",
                            "description": "example package",
                            "homepage": "https://example.org/hello",
                            "debs": [
                                {
                                    "name": "hello",
                                    "version": "1:2.10-3",
                                    "url": "http://m/h.deb",
                                    "size": 53080,
                                    "sha256": "ab" * 32,
                                }
                            ],
                            "depends": ["glibc"],
                        }
                    }
                },
            },
        )

    def test_order_does_not_matter(self) -> None:
        """The same packages give the same bytes, in whatever order they were found."""
        tree = evolve(HELLO, name="tree")
        units = {
            record.name: Unit(name=record.name, main=record, debs=(record,))
            for record in (HELLO, tree)
        }
        turned = dict(reversed(units.items()))
        urls = {"hello": "http://m/h.deb", "tree": "http://m/t.deb"}
        self.assertEqual(
            render_lock({"a": (units, urls), "b": (turned, urls)}, "", 12),
            render_lock({"b": (units, urls), "a": (turned, urls)}, "", 12),
        )


class DirectoryTests(SynchronousTestCase):
    def test_unit(self) -> None:
        """Under a service manager the set is in the unit's first state directory."""
        self.assertEqual(
            default_directory({"STATE_DIRECTORY": "/var/lib/nixery:/var/lib/other"}),
            Path("/var/lib/nixery/demo"),
        )

    def test_user(self) -> None:
        """A user has it in the state home, which counts only if it is absolute."""
        self.assertEqual(default_directory({"XDG_STATE_HOME": "/s"}), Path("/s/nixery/demo"))
        self.assertEqual(
            default_directory({"XDG_STATE_HOME": "s"}), Path.home() / ".local/state/nixery/demo"
        )


class PrepareTests(SynchronousTestCase):
    """Tests of preparation: it keeps what is there already, and does not ask apt at all."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp())
        patchelf = Path(self.mktemp())
        patchelf.write_bytes(elf(1))
        self.patch(demo, "find_patchelf", lambda: patchelf)
        self.asked = 0

        def ask(*_: object) -> dict[str, object]:
            self.asked += 1
            return {}

        self.patch(demo, "_ask", ask)
        self.patch(demo, "_fetch_busybox", lambda _: b"busybox")
        self.release = "13.8+deb13u2"
        base_files = evolve(HELLO, name="base-files")
        self.patch(
            Apt,
            "records",
            lambda _, names: {names[0]: evolve(base_files, version=self.release)},
        )
        self.patch(demo, "native_architecture", lambda: "amd64")

    def test_complete(self) -> None:
        """The directory has the expressions, the seeds and the lock afterwards."""
        prepare(self.directory)
        names = {path.name for path in self.directory.iterdir()}
        expressions = {
            path.name
            for path in (nix_directory() / "demo").iterdir()
            if path.suffix in {".nix", ".sh"}
        }
        self.assertEqual(
            names, expressions | {"packages.json", "popularity.json", "lock.json", "seeds"}
        )
        for seed in ("busybox", "patchelf"):
            self.assertTrue(os.access(self.directory / "seeds/bin" / seed, os.X_OK))

    def test_kept(self) -> None:
        """A second call makes no query and changes no file."""
        prepare(self.directory)
        before = {path: path.stat().st_ino for path in self.directory.rglob("*")}
        prepare(self.directory)
        self.assertEqual(self.asked, 1)
        self.assertEqual(before, {path: path.stat().st_ino for path in self.directory.rglob("*")})

    def test_refreshed(self) -> None:
        """On request the lock is made anew."""
        prepare(self.directory)
        prepare(self.directory, refresh=True)
        self.assertEqual(self.asked, 2)

    def popularity(self) -> str:
        """The release whose popularity data are beside the lock."""
        data = (self.directory / "popularity.json").read_bytes()
        [release] = [
            path.stem.rpartition("-")[2]
            for path in (nix_directory() / "demo").glob("popularity-*.json")
            if path.read_bytes() == data
        ]
        return release

    def test_popularity(self) -> None:
        """The popularity data are those of the release that the lock was made on."""
        for version, release in (
            ("12.4+deb12u11", "12"),
            ("13.8", "13"),
            # A release that there are no data for has those of one before, or the oldest.
            ("14", "13"),
            ("11.1", "12"),
        ):
            self.release = version
            prepare(self.directory, refresh=True)
            self.assertEqual(self.popularity(), release)
        # The machine has been upgraded, and the lock was kept.
        self.release = "13.8"
        prepare(self.directory)
        self.assertEqual(self.popularity(), "12")

    def test_lock_without_a_release(self) -> None:
        """A lock of an earlier version, which does not say its release, is made anew."""
        prepare(self.directory)
        lock = self.directory / "lock.json"
        lock.write_text(lock.read_text().replace('"release"', '"other"'))
        prepare(self.directory)
        self.assertEqual((self.asked, self.popularity()), (2, "13"))

    def test_no_release(self) -> None:
        """An archive that does not tell its release is refused, with what to do."""
        self.patch(Apt, "records", lambda *_: {})
        error = self.assertRaises(DemoFailed, prepare, self.directory)
        self.assertIn("base-files", error.message)

    def test_other_recipes(self) -> None:
        """A lock that was made for other packages is made anew."""
        prepare(self.directory)
        lock = self.directory / "lock.json"
        lock.write_text(lock.read_text().replace('"recipes": "', '"recipes": "x'))
        prepare(self.directory)
        self.assertEqual(self.asked, 2)

    def test_damaged(self) -> None:
        """A lock that cannot be read is made anew."""
        prepare(self.directory)
        for damaged in ("", "[]", "{}", "{"):
            (self.directory / "lock.json").write_text(damaged)
            prepare(self.directory)
        self.assertEqual(self.asked, 5)

    def test_expressions_follow(self) -> None:
        """After an upgrade the old lock goes with the new expressions."""
        prepare(self.directory)
        (self.directory / "default.nix").write_text("old")
        prepare(self.directory)
        self.assertNotEqual((self.directory / "default.nix").read_text(), "old")
        self.assertEqual(self.asked, 1)


class CommandTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.out, self.err = StringIO(), StringIO()
        self.patch(sys, "stdout", self.out)
        self.patch(sys, "stderr", self.err)

    def test_prints_the_directory(self) -> None:
        """Scripts read from standard output where the set is, and nothing else."""
        calls: list[tuple[Path, bool]] = []
        self.patch(
            demo, "prepare", lambda directory, *, refresh: calls.append((directory, refresh))
        )
        self.assertEqual(main(["lock", "/some/where", "--refresh"]), 0)
        self.assertEqual(self.out.getvalue(), "/some/where\n")
        self.assertEqual(calls, [(Path("/some/where"), True)])

    def test_without_arguments(self) -> None:
        """The command alone makes the default directory ready."""
        calls: list[Path] = []
        self.patch(demo, "prepare", lambda directory, **_: calls.append(directory))
        self.assertEqual(main([]), 0)
        self.assertEqual(calls, [default_directory(os.environ)])

    def test_failure(self) -> None:
        """A failure is one message with what to do, and a status that says so."""

        def fail(*_: object, **__: object) -> None:
            raise DemoFailed(reason="there is no apt", advice="use Debian")

        self.patch(demo, "prepare", fail)
        self.assertEqual(main(["lock", "x"]), 1)
        self.assertEqual(self.err.getvalue(), "nixery-demo: there is no apt: use Debian\n")
        self.assertEqual(self.out.getvalue(), "")


class StaticTests(SynchronousTestCase):
    def test_tells_apart(self) -> None:
        """A program that names a loader is not static, whatever comes before that."""
        self.assertTrue(is_static(elf(1, 1, 7)))
        self.assertFalse(is_static(elf(6, 3, 1)))
        self.assertFalse(is_static(b"#!/bin/sh\n"))
        self.assertFalse(is_static(b""))


class UriTests(SynchronousTestCase):
    def test_ordinary(self) -> None:
        """A URI that Nix can fetch stays as it is."""
        for uri in ("http://m/p/h.deb", "https://m/p/h.deb"):
            self.assertEqual(plain_uri(uri), uri)

    def test_files(self) -> None:
        """A mirror on a disk gets the form of URL that Nix knows."""
        self.assertEqual(plain_uri("file:/mirror/h.deb"), "file:///mirror/h.deb")
        self.assertEqual(plain_uri("copy:///mirror/h.deb"), "file:///mirror/h.deb")

    def test_mirror_list(self) -> None:
        """Of a list of mirrors the first one is taken."""
        listing = Path(self.mktemp()).absolute()
        listing.write_text("# mirrors\n\nhttps://one/debian/\tpriority:1\nhttps://two/debian\n")
        self.assertEqual(
            plain_uri(f"mirror+file:{listing}/pool/main/h/h.deb"),
            "https://one/debian/pool/main/h/h.deb",
        )

    def test_others(self) -> None:
        """A disc in a drive is refused, with the URL and the remedy."""
        for uri in ("cdrom:[Debian]/pool/h.deb", "mirror+file:/no/such/list/pool/h.deb"):
            error = self.assertRaises(DemoFailed, plain_uri, uri)
            self.assertIn(uri, error.message)
            self.assertIn("http", error.advice)


class ListeningTests(SynchronousTestCase):
    """Tests of the addresses that the registry would listen on, for ``nix/demo/start``."""

    def setUp(self) -> None:
        self.out, self.err = StringIO(), StringIO()
        self.patch(sys, "stdout", self.out)
        self.patch(sys, "stderr", self.err)

    def test_configured(self) -> None:
        """The configuration file is asked as well."""
        path = Path(self.mktemp())
        path.write_text("port: 8123\npublic_url: https://registry.example.org\n")
        self.assertEqual(listening.main(["--config", str(path)]), 0)
        self.assertEqual(
            json.loads(self.out.getvalue()),
            {"listen": ["tcp:8123"], "public_url": "https://registry.example.org"},
        )

    def test_unusable(self) -> None:
        """An option that there is none of is said, as the registry says it."""
        self.assertEqual(listening.main(["--prot", "8123"]), 1)
        self.assertIn("there is no option --prot", self.err.getvalue())
