"""Tests for :mod:`demoset.apt`, as far as it runs nothing."""

from __future__ import annotations

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from demoset.apt import plain_uri
from demoset.errors import DemoFailed


class UriTests(SynchronousTestCase):
    def test_uri_that_nix_can_fetch_stays_as_it_is(self) -> None:
        """A URI that Nix can fetch stays as it is."""
        for uri in ("http://m/p/h.deb", "https://m/p/h.deb"):
            self.assertEqual(plain_uri(uri), uri)

    def test_mirror_on_a_disk_gets_the_form_of_url_that_nix_knows(self) -> None:
        """A mirror on a disk gets the form of URL that Nix knows."""
        self.assertEqual(plain_uri("file:/mirror/h.deb"), "file:///mirror/h.deb")
        self.assertEqual(plain_uri("copy:///mirror/h.deb"), "file:///mirror/h.deb")

    def test_of_a_list_of_mirrors_the_first_one_is_taken(self) -> None:
        """Of a list of mirrors the first one is taken."""
        listing = Path(self.mktemp()).absolute()
        listing.write_text("# mirrors\n\nhttps://one/debian/\tpriority:1\nhttps://two/debian\n")
        self.assertEqual(
            plain_uri(f"mirror+file:{listing}/pool/main/h/h.deb"),
            "https://one/debian/pool/main/h/h.deb",
        )

    def test_disc_in_a_drive_is_refused_with_the_url_and_the_remedy(self) -> None:
        """A disc in a drive is refused, with the URL and the remedy."""
        for uri in ("cdrom:[Debian]/pool/h.deb", "mirror+file:/no/such/list/pool/h.deb"):
            error = self.assertRaises(DemoFailed, plain_uri, uri)
            self.assertIn(uri, error.message)
            self.assertIn("http", error.advice)
