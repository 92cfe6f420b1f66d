"""
Clients that request a blob over TLS and read nothing, beside one that downloads it.
"""

from __future__ import annotations

import re

from tests.end_to_end.case import Once
from tests.end_to_end.fairness import FairnessCase
from tests.end_to_end.images import digest_of
from tests.end_to_end.stalled import BYTES_PER_DOWNLOAD, StallingRegistry

STALLED = 200
"""The number of clients; ``python -m tests.benchmarks.stalled`` has a thousand."""

SHARED_MEGABYTES = 10
"""Memory that does not grow with their number: pieces being read, and the allocator's gaps."""

MOST_TAKEN = 64 * 1024
"""More than the host of a client takes that reads nothing, in bytes."""

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
        own = STALLED * BYTES_PER_DOWNLOAD / 1e6
        self.assert_fair(compared, megabytes=own + SHARED_MEGABYTES)

    def test_only_what_their_hosts_took_counts_as_sent(self) -> None:
        """The access log has the bytes that the clients' hosts took, and no failure."""
        registry = stalling_registry()
        begun = registry.daemon.log_size()
        with registry.stalled(10):
            pass
        log = registry.daemon.log(begun)
        sent = [int(size) for size in re.findall(r" 200 ([0-9]+) B .*\(incomplete\)", log)]
        self.assertEqual(len(sent), 10, log)
        self.assertLess(max(sent), MOST_TAKEN)
        self.assertNotIn("#error", log)
        self.assertNotIn("#critical", log)
