"""Tests for :mod:`demoset.lock`."""

from __future__ import annotations

import json

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from demoset.archive import ArchiveState, ResolvedSystem
from demoset.debian import Record
from demoset.lock import parse_lock, render_lock
from demoset.recipes import Unit

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


def state(release: int, **systems: ResolvedSystem) -> ArchiveState:
    return ArchiveState(systems=systems, release=release, busybox=b"")


class LockTests(SynchronousTestCase):
    def test_says_what_to_fetch(self) -> None:
        """The lock names each .deb with its version, URL, size and sum."""
        unit = Unit(name="hello", main=HELLO, debs=(HELLO,), depends=("glibc",))
        system = ResolvedSystem(units={"hello": unit}, urls={"hello": "http://m/h.deb"})
        lock = render_lock(state(13, **{"x86_64-linux": system}), "f")
        self.assertEqual(
            json.loads(lock.content),
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
        urls = {"hello": "http://m/h.deb", "tree": "http://m/t.deb"}
        forwards = ResolvedSystem(units=units, urls=urls)
        backwards = ResolvedSystem(units=dict(reversed(units.items())), urls=urls)
        self.assertEqual(
            render_lock(state(12, a=forwards, b=backwards), ""),
            render_lock(state(12, b=forwards, a=backwards), ""),
        )

    def test_rendered_lock_is_read_for_its_own_recipes_only(self) -> None:
        """A lock is read as it was rendered, and only for the recipes that it was made from."""
        lock = render_lock(state(13), "f")
        self.assertEqual(parse_lock(lock.content, "f"), lock)
        self.assertIsNone(parse_lock(lock.content, "other"))
