"""
Clients that request a blob over TLS and read nothing, beside one that downloads it.
"""

from __future__ import annotations

from tests.end_to_end.case import Once
from tests.end_to_end.fairness import FairnessCase
from tests.end_to_end.images import digest_of
from tests.end_to_end.stalled import BYTES_PER_DOWNLOAD, StallingRegistry

STALLED = 200
"""The number of clients; the benchmark of the same name has as many as a whole attack."""

stalling_registry = Once(StallingRegistry)


class StalledDownloadTests(FairnessCase):
    """Downloads that stall."""

    def test_they_take_little_memory_and_no_time_of_others(self) -> None:
        """They take little memory, and do not delay another client."""
        registry = stalling_registry()
        # What the daemon needs once for all of them is no memory of each.
        for _ in range(2):
            with registry.stalled(10):
                pass

        def download() -> None:
            answer = registry.registry.get(registry.path)
            self.assertEqual(digest_of(answer.body), registry.path.rpartition("/")[2])

        compared = self.compare(registry.daemon, download, lambda: registry.stalled(STALLED))
        self.assert_fair(compared, megabytes=STALLED * BYTES_PER_DOWNLOAD / 1e6)
