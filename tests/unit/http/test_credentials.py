"""Tests of the headers that clients log in with, and of the challenges to do so."""

from __future__ import annotations

import contextlib
from base64 import b64encode

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from nixery.access.errors import LoginFailed
from nixery.http.credentials import Basic, Bearer, bearer_challenge, parse_authorization


class CredentialsTests(SynchronousTestCase):
    """The two headers."""

    @given(st.text().filter(lambda text: ":" not in text), st.text())
    def test_name_and_password_come_out_as_they_were(self, user: str, password: str) -> None:
        """Name and password come out as they were; only the name has no colon."""
        value = b64encode(f"{user}:{password}".encode())
        for scheme in (b"Basic ", b"basic  ", b"BASIC "):
            self.assertEqual(
                parse_authorization(scheme + value), Basic(user=user, password=password)
            )

    def test_token_is_taken_as_it_is(self) -> None:
        """A token is taken as it is."""
        self.assertEqual(parse_authorization(b"bearer  a.b.c "), Bearer(token="a.b.c"))

    def test_credentials_that_are_no_utf_8_are_latin_1(self) -> None:
        """Credentials that are no UTF-8 are Latin-1, as clients sent before UTF-8 was agreed."""
        self.assertEqual(
            parse_authorization(b"Basic " + b64encode(b"j\xf6:p")), Basic(user="jö", password="p")
        )

    @given(st.binary(max_size=60))
    def test_any_header_is_read_or_refused_with_loginfailed(self, header: bytes) -> None:
        """Any header is read or refused with LoginFailed."""
        with contextlib.suppress(LoginFailed):
            parse_authorization(header)

    def test_header_that_is_neither_basic_nor_bearer_credentials_is_refused(self) -> None:
        """A header that is neither Basic nor Bearer credentials is refused."""
        for header in (b"", b"Basic", b"Basic !!!", b"Basic " + b64encode(b"alice"), b"Digest x=y"):
            self.assertRaises(LoginFailed, parse_authorization, header)

    def test_challenge_names_where_tokens_are_what_for_and_what_is_wrong(self) -> None:
        """A challenge names where tokens are, what for, and what is wrong."""
        self.assertEqual(
            bearer_challenge("https://r/token", "r", "shell/git", "invalid_token"),
            'Bearer realm="https://r/token",service="r",scope="repository:shell/git:pull",'
            'error="invalid_token"',
        )
        self.assertEqual(bearer_challenge("u", "s"), 'Bearer realm="u",service="s"')
