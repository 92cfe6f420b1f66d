"""Tests for :mod:`demoset.patchelf`."""

from __future__ import annotations

import struct

from twisted.trial.unittest import SynchronousTestCase

from demoset.patchelf import is_static


def elf(*segments: int) -> bytes:
    """The beginning of a 64-bit program with segments of these types."""
    header = bytearray(64)
    header[:6] = b"\x7fELF\x02\x01"
    struct.pack_into("<Q", header, 32, 64)
    struct.pack_into("<HH", header, 54, 56, len(segments))
    return bytes(header) + b"".join(struct.pack("<I52x", segment) for segment in segments)


class StaticTests(SynchronousTestCase):
    def test_program_that_names_loader_is_not_static_whatever_comes_before_that(self) -> None:
        """A program that names a loader is not static, whatever comes before that."""
        self.assertTrue(is_static(elf(1, 1, 7)))
        self.assertFalse(is_static(elf(6, 3, 1)))
        self.assertFalse(is_static(b"#!/bin/sh\n"))
        self.assertFalse(is_static(b""))
