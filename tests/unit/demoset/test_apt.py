"""Tests for :mod:`demoset.apt`, as far as it runs nothing."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from demoset.apt import plain_uri
from demoset.errors import DemoFailed


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
