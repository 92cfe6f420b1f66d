"""Tests for :mod:`nixery.nix.narinfo`."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from nixery.errors import UnexpectedOutput
from nixery.nix.narinfo import parse_references, parse_store_paths

CURL = "0c16bbd4h8zy0kvkdiy7pxzyqblm6vhg-curl-8.5.0-bin"
GLIBC = "1c16bbd4h8zy0kvkdiy7pxzyqblm6vhg-glibc-2.38"

NARINFO = f"""\
StorePath: /nix/store/{CURL}
URL: nar/1w1fff338fvdw53sqgamddn1b2xgds473pv6y13gizdbqjv4i5p3.nar.xz
Compression: xz
NarHash: sha256:1impfw8zdgisxkghq9a3q7cn7jb9zyzgxdydiamp8z2nlyyl0h5h
NarSize: 9876543
References: {CURL} {GLIBC}
Deriver: 2c16bbd4h8zy0kvkdiy7pxzyqblm6vhg-curl-8.5.0.drv
Sig: cache.nixos.org-1:GrGV/Ls10TzoOaCnrcAqmPbKXFLLSBDeGNh5EQGKyuGA4K1wv1LcRVb6/sU+NAPK8lDi==
Sig: another-1:GrGV/Ls10TzoOaCnrcAqmPbKXFLLSBDeGNh5EQGKyuGA4K1wv1LcRVb6/sU+NAPK8lDiam8VcM==
"""


class ReferencesTests(SynchronousTestCase):
    """Tests for :func:`parse_references`."""

    def test_references_are_told_without_the_path_itself(self) -> None:
        """Those of the path, without itself."""
        self.assertEqual((GLIBC,), parse_references(CURL, NARINFO.encode()))

    def test_path_may_refer_to_nothing(self) -> None:
        """A path may refer to nothing."""
        text = NARINFO.replace(f" {CURL} {GLIBC}", "")
        self.assertEqual((), parse_references(CURL, text.encode()))

    def test_narinfo_of_another_path_is_refused(self) -> None:
        """A narinfo of another path, an incomplete one and any other text are refused."""
        for text in (
            "",
            "<html>",
            NARINFO.replace(f"/{CURL}", f"/{GLIBC}"),
            NARINFO.replace("/nix/store", "/gnu/store"),
            NARINFO.replace("References", "Referenced"),
            NARINFO.replace(GLIBC, "../../../etc/passwd"),
            NARINFO.replace(GLIBC, f"/nix/store/{GLIBC}"),
            NARINFO + f"References: {CURL}\n",
            NARINFO + f"StorePath: /nix/store/{CURL}\n",
        ):
            self.assertRaises(UnexpectedOutput, parse_references, CURL, text.encode())

    @settings(max_examples=200)
    @given(st.binary() | st.text().map(lambda text: text.encode("utf-8", "surrogatepass")))
    def test_any_answer_is_read_or_refused(self, text: bytes) -> None:
        """Any answer is read or refused."""
        for whole in (text, NARINFO.encode() + text):
            try:
                references = parse_references(CURL, whole)
            except UnexpectedOutput:
                continue
            self.assertEqual((GLIBC,), references)


class StorePathsTests(SynchronousTestCase):
    """Tests for :func:`parse_store_paths`."""

    def test_store_paths_each_once_without_derivations_in_order(self) -> None:
        """Store paths, each once, without derivations, in order."""
        text = f"/nix/store/{GLIBC}\n/nix/store/{CURL}\n/nix/store/{GLIBC}\n/nix/store/{CURL}.drv\n"
        self.assertEqual((GLIBC, CURL), parse_store_paths(text.encode()))
        self.assertEqual((), parse_store_paths(b""))

    def test_line_that_is_no_store_path_ends_it(self) -> None:
        """A line that is no store path ends it."""
        for line in ("hello", f"/gnu/store/{CURL}", f"/nix/store/{CURL}/bin", "/nix/store/x", "é"):
            text = f"/nix/store/{GLIBC}\n{line}\n"
            self.assertRaises(UnexpectedOutput, parse_store_paths, text.encode())
