"""Tests for :mod:`nixery.limits.unsent_bytes`: who is ended when all hold too much."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from nixery.limits.unsent_bytes import UnsentBytes


class FakeSender:
    """A connection of a client; tells when it is ended."""

    def __init__(self, peer: str | None, ended: list[FakeSender]) -> None:
        self.peer = peer
        self._ended = ended

    def end_slow(self) -> None:
        self._ended.append(self)


class UnsentBytesTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.ended: list[FakeSender] = []
        self.counted = 0
        self.unsent = UnsentBytes(max_bytes=100, on_end=self.count)

    def count(self) -> None:
        self.counted += 1

    def wait(self, peer: str | None, size: int) -> FakeSender:
        """Let a new connection of a client wait with some bytes."""
        sender = FakeSender(peer, self.ended)
        self.unsent.add(sender, peer, size)
        return sender

    def test_nobody_is_ended_within_the_limit(self) -> None:
        """Within the limit nobody is ended, and what was taken does not count any more."""
        first, second = self.wait("192.0.2.1", 60), self.wait("192.0.2.2", 40)
        self.assertEqual(100, self.unsent.total)
        self.unsent.remove(first)
        self.unsent.remove(first)
        self.assertEqual(40, self.unsent.total)
        self.unsent.add(second, second.peer, 60)
        self.assertEqual((100, []), (self.unsent.total, self.ended))

    def test_one_that_waits_longest_of_the_client_that_holds_most_is_ended(self) -> None:
        """The longest wait of the client that holds most ends, and no other client's."""
        self.wait("192.0.2.1", 30)
        first, second = self.wait("192.0.2.2", 20), self.wait("192.0.2.2", 30)
        self.unsent.add(first, first.peer, 5)
        self.wait("192.0.2.3", 20)
        self.assertEqual([first], self.ended)
        self.assertEqual((80, 1), (self.unsent.total, self.counted))
        self.wait("192.0.2.2", 25)
        self.assertEqual([first, second], self.ended)

    def test_one_that_holds_more_than_all_may_ends_itself(self) -> None:
        """One that alone holds more than the limit is ended, after those before it."""
        small, large = self.wait("192.0.2.1", 1), self.wait("192.0.2.1", 101)
        self.assertEqual([small, large], self.ended)
        self.assertEqual(0, self.unsent.total)

    def test_addresses_of_one_network_and_unix_sockets(self) -> None:
        """An IPv6 network is one client, and so are all clients of a UNIX socket."""
        first = self.wait("2001:db8::1", 30)
        self.wait("2001:db8::2", 30)
        self.wait(None, 35)
        self.wait("192.0.2.1", 10)
        self.assertEqual([first], self.ended)
        unix = self.wait(None, 40)
        self.assertEqual(2, len(self.ended))
        self.assertIsNone(self.ended[1].peer)
        self.assertIsNot(unix, self.ended[1])

    def test_no_limit(self) -> None:
        """Without a limit, any number of bytes may wait."""
        self.unsent.max_bytes = 0
        self.wait("192.0.2.1", 10**12)
        self.assertEqual((10**12, []), (self.unsent.total, self.ended))
