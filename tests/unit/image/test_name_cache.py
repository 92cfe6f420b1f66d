"""Tests for :mod:`nixery.image.name_cache`."""

from __future__ import annotations

import tracemalloc

from twisted.trial.unittest import SynchronousTestCase

from nixery.image.name_cache import NameCache, memory_size
from nixery.image.names import MAX_NAME_CHARACTERS, ImageName, parse_image_name


def long_name(number: int) -> ImageName:
    """Return a name with as many packages as one can have."""
    text = f"p{number}/" + "/".join("abcdefghij0123456789"[i % 20] + str(i) for i in range(99))
    return parse_image_name(text[:MAX_NAME_CHARACTERS].rstrip("/"), "x86_64-linux")


class NameCacheTests(SynchronousTestCase):
    """Tests of the memory that names may take."""

    def test_value_is_found_until_others_take_its_room(self) -> None:
        """The least recently used name leaves first."""
        size = memory_size(long_name(10))
        cache: NameCache[ImageName, int] = NameCache(3 * size)
        for number in (10, 11, 12):
            cache.add(long_name(number), number, size)
        self.assertEqual(10, cache.get(long_name(10)))
        cache.add(long_name(13), 13, size)
        self.assertEqual(
            [10, None, 12, 13], [cache.get(long_name(number)) for number in (10, 11, 12, 13)]
        )

    def test_names_take_no_more_memory_than_is_said(self) -> None:
        """However many long names there are, the cache stays within its bound."""
        limit = 2**20
        tracemalloc.start()
        self.addCleanup(tracemalloc.stop)
        before = tracemalloc.get_traced_memory()[0]
        cache: NameCache[ImageName, str] = NameCache(limit)
        for number in range(200):
            name = long_name(number)
            cache.add(name, "value", memory_size(name))
        self.assertLess(tracemalloc.get_traced_memory()[0] - before, limit)
        self.assertGreater(len(cache), 20)
