"""Tests for :mod:`nixery.layers.content_check`."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Mapping

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from nixery.layers.content_check import find_faults, read_entries
from nixery.layers.link_resolver import Kind
from nixery.layers.rootfs import plan_root
from nixery.layers.tarball import Compression, pack_store_paths, pack_tree
from tests.support.trees import File, Link, Node, make_tree
from tests.unit.layers.test_rootfs import package

ORDINARY: dict[str, Node] = {
    "bash": {b"bin": {b"bash": File(b"#!", executable=True), b"sh": Link(b"bash")}},
    "cacert": {b"etc": {b"ssl": {b"certs": {b"ca-bundle.crt": File()}}}},
    "tools": {
        b"bin": {
            b"env": Link(b"coreutils"),
            b"coreutils": File(),
            b"awk": Link(b"/nix/store/bash"),
        },
        b"lib": {b"x.so": File()},
        b"lib64": Link(b"lib"),
        b"share": {b"fonts": Link(b"/etc/fonts"), b"gone": Link(b"nowhere")},
        b"etc": {b"mtab": Link(b"/proc/mounts")},
    },
}


class ContentCheckTests(SynchronousTestCase):
    def entries(
        self, trees: dict[str, Node], compression: str = "gzip"
    ) -> dict[bytes, Kind | bytes]:
        """The entries of the layers of an image that is made now."""
        store: str = os.path.abspath(self.mktemp())
        make_tree(os.fsencode(store), {name.encode(): node for name, node in trees.items()})
        paths = [f"/nix/store/{name}" for name in trees]
        kind = Compression(kind=compression)
        lower: list[bytes] = []
        pack_store_paths(paths, lower.append, compression=kind, store=store)
        upper: list[bytes] = []
        root = plan_root([package(name) for name in trees], closure=paths, store=store)
        pack_tree(root.entries, upper.append, compression=kind)
        found: dict[bytes, Kind | bytes] = {}
        for layer in (lower, upper):
            found |= read_entries(io.BytesIO(b"".join(layer)), compression)
        return found

    def assert_faults(self, changes: Mapping[str, Kind | bytes]) -> None:
        """An ordinary image has faults after a change of its entries, by their paths."""
        entries = self.entries(ORDINARY)
        self.assertEqual([], [*find_faults(entries)])
        for path, entry in changes.items():
            self.assertNotEqual([], [*find_faults({**entries, path.encode(): entry})], path)

    def test_ordinary_images_are_right_in_all_compressions(self) -> None:
        """An image without such names and links is right, however its layers are compressed."""
        for compression in ("gzip", "zstd", "none"):
            self.assertEqual([], [*find_faults(self.entries(ORDINARY, compression))])

    def test_names_that_delete_files(self) -> None:
        """A name that deletes another file is a fault in any layer."""
        self.assert_faults({"nix/store/bash/.wh.x": Kind.FILE, "usr/.wh..wh..opq": Kind.FILE})

    def test_entries_that_every_image_has(self) -> None:
        """An image that lacks users, shells or places for files is at fault."""
        self.assert_faults(
            {
                "tmp": b"/nix/store/tools/tmp",
                "var": b"/nix/store/tools/var",
                "etc/passwd": b"/nix/store/tools/etc/passwd",
                "bin/sh": b"/nix/store/tools/gone",
                "usr/bin/env": Kind.DIRECTORY,
            }
        )

    def test_links_that_are_out_of_place(self) -> None:
        """A link out of the store is a fault where another entry or the image needs its place."""
        self.assert_faults(
            {
                "nix/store/tools/tmp": b"/tmp",
                "nix/store/tools/etc/ssl": b"/etc/ssl",
                "nix/store/tools/bin/bash": b"/var/bash",
                "nix/store/bash/share/fonts": b"/other/fonts",
                # Something of the machine was opened, or left out.
                "share/fonts": Kind.DIRECTORY,
                "share/host": b"/nix/store/host/share",
            }
        )

    @given(st.binary(max_size=80), st.sampled_from(("gzip", "zstd", "none")))
    @settings(max_examples=50)
    def test_data_that_are_no_archive(self, data: bytes, compression: str) -> None:
        """Data that are no archive are a ``ValueError``, and nothing else."""
        with contextlib.suppress(ValueError):
            read_entries(io.BytesIO(data), compression)
