"""Tests of tokens, and of the texts that are refused as tokens."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from nixery.access.errors import TokenInvalid, TokenKeyUnusable
from nixery.access.tokens import ACCESS, REFRESH, SigningKey, Tokens, load_key, load_or_create_key
from nixery.testing.fakes import FakeWallClock

KEY = ed25519.Ed25519PrivateKey.generate()
TIME = Clock()
CLOCK = FakeWallClock(TIME)
TOKENS = Tokens(key=SigningKey(private_key=KEY), wall_clock=CLOCK)


def part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


class TokenTests(SynchronousTestCase):
    """Tests of issuing and reading tokens."""

    def issue(self, seconds: int = 300, use: str = ACCESS) -> str:
        return TOKENS.issue(use, "alice", "mark", ["shell/git"], seconds)

    def refused(self, token: str, use: str = ACCESS) -> None:
        self.assertRaises(TokenInvalid, TOKENS.verify, token, use)

    def test_token_is_read_with_its_claims(self) -> None:
        """A token is read with the claims it was issued with."""
        for key in (KEY, ec.generate_private_key(ec.SECP256R1())):
            tokens = Tokens(key=SigningKey(private_key=key), wall_clock=CLOCK)
            claims = tokens.verify(tokens.issue(ACCESS, "alice", "mark", ["b", "a"], 300), ACCESS)
            self.assertEqual(claims.user, "alice")
            self.assertEqual(claims.fingerprint, "mark")
            self.assertEqual(claims.repositories, {"a", "b"})
            nobody = tokens.verify(tokens.issue(ACCESS, None, None, [], 300), ACCESS)
            self.assertEqual((nobody.user, nobody.fingerprint), (None, None))

    def test_token_whose_time_is_over_is_none_nor_is_one_of_tomorrow(self) -> None:
        """A token whose time is over is none, nor is one of tomorrow."""
        for ahead in (-301, 86400):
            clock = FakeWallClock(TIME, CLOCK.offset + ahead)
            tokens = Tokens(key=TOKENS.key, wall_clock=clock)
            self.refused(tokens.issue(ACCESS, "alice", "m", [], 300))

    def test_token_of_another_instance_whose_clock_is_a_little_ahead_is_good(self) -> None:
        """A token of another instance, whose clock is a little ahead, is good."""
        for ahead in (1, 2):
            clock = FakeWallClock(TIME, CLOCK.offset + ahead)
            tokens = Tokens(key=TOKENS.key, wall_clock=clock)
            token = tokens.issue(ACCESS, "alice", "m", [], 300)
            self.assertEqual("alice", TOKENS.verify(token, ACCESS).user)

    def test_refresh_token_is_refused_as_an_access_token_and_the_other_way_round(self) -> None:
        """A refresh token is refused as an access token, and the other way round."""
        self.refused(self.issue(use=REFRESH))
        self.refused(self.issue(), REFRESH)
        self.assertEqual(TOKENS.verify(self.issue(use=REFRESH), REFRESH).user, "alice")

    def test_token_signed_with_another_key_is_refused(self) -> None:
        """A token signed with another key is refused."""
        other = Tokens(
            key=SigningKey(private_key=ed25519.Ed25519PrivateKey.generate()), wall_clock=CLOCK
        )
        self.refused(other.issue(ACCESS, "alice", "mark", [], 300))

    def test_token_does_not_choose_how_it_is_checked(self) -> None:
        """A token does not choose how it is checked."""
        claims = jwt.decode(self.issue(), options={"verify_signature": False})
        public = KEY.public_key()
        for secret in (
            public.public_bytes(Encoding.Raw, PublicFormat.Raw),
            b"x" * 32,
        ):
            self.refused(jwt.encode(claims, secret, algorithm="HS256"))
        self.refused(jwt.encode(claims, "", algorithm="none"))
        self.refused(jwt.encode(claims, ec.generate_private_key(ec.SECP256R1()), algorithm="ES256"))
        header, body, signature = self.issue().split(".")
        for alg in ("none", "None", "HS256", "ES256", "RS256", "", None, 1, ["EdDSA"]):
            self.refused(f"{part({'alg': alg, 'typ': 'JWT'})}.{body}.{signature}")
            self.refused(f"{part({'alg': alg})}.{body}.")
        self.assertEqual(json.loads(base64.urlsafe_b64decode(header + "=="))["alg"], "EdDSA")

    def test_token_that_was_changed_in_any_place_is_none(self) -> None:
        """A token that was changed in any place is none."""
        token = self.issue()
        header, body, signature = token.split(".")
        claims = jwt.decode(token, options={"verify_signature": False})
        changes: list[dict[str, object]] = [
            {"sub": "bob"},
            {"exp": claims["exp"] + 1},
            {"access": []},
        ]
        for change in changes:
            self.refused(f"{header}.{part(claims | change)}.{signature}")
        self.refused(f"{header}.{body}.")
        self.refused(f"{header}.{body}")

    def test_claims_are_complete(self) -> None:
        """A signed token is refused if a claim is missing or has an unexpected value."""
        claims = jwt.decode(self.issue(), options={"verify_signature": False})
        for name in claims:
            if name == "jti":
                continue
            less = {each: claims[each] for each in claims if each != name}
            self.refused(jwt.encode(less, KEY, algorithm="EdDSA"))
        for change in ({"aud": "other"}, {"iss": "other"}, {"access": [1]}, {"access": None}):
            self.refused(jwt.encode(claims | change, KEY, algorithm="EdDSA"))

    @settings(max_examples=80)
    @given(st.one_of(st.text(max_size=60), st.text("abc.-_=", max_size=60)))
    def test_any_text_that_is_no_token_is_refused_as_an_invalid_token(self, token: str) -> None:
        """Any text that is no token is refused as an invalid token."""
        self.refused(token)

    def test_text_that_is_too_long_for_a_token_is_refused_unparsed(self) -> None:
        """A text that is too long for a token is refused unparsed."""
        self.refused("a" * 9000)


class KeyTests(SynchronousTestCase):
    """The key and its file."""

    def test_key_is_made_once_and_only_its_owner_can_read_it(self) -> None:
        """A key is made once, and only its owner can read it."""
        path = Path(self.mktemp()) / "token-key.pem"
        first = load_or_create_key(path)
        self.assertEqual(path.stat().st_mode & 0o777, 0o600)
        self.assertEqual([each.name for each in path.parent.iterdir()], [path.name])
        token = Tokens(key=first, wall_clock=CLOCK).issue(ACCESS, "a", "m", [], 300)
        Tokens(key=load_or_create_key(path), wall_clock=CLOCK).verify(token, ACCESS)

    def test_keys_of_two_kinds_can_be_used_and_no_others(self) -> None:
        """Keys of two kinds can be used, and no others."""
        path = Path(self.mktemp())
        for private, algorithm in (
            (ed25519.Ed25519PrivateKey.generate(), "EdDSA"),
            (ec.generate_private_key(ec.SECP256R1()), "ES256"),
            (ec.generate_private_key(ec.SECP384R1()), None),
            (rsa.generate_private_key(65537, 2048), None),
        ):
            path.write_bytes(
                private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            )
            if algorithm is None:
                self.assertRaises(TokenKeyUnusable, load_key, path)
            else:
                self.assertEqual(load_key(path).algorithm, algorithm)
        for text in (b"", b"-----BEGIN PRIVATE KEY-----\nnonsense\n-----END PRIVATE KEY-----\n"):
            path.write_bytes(text)
            self.assertRaises(TokenKeyUnusable, load_key, path)
        self.assertRaises(TokenKeyUnusable, load_key, path / "missing")
        self.assertRaises(TokenKeyUnusable, load_or_create_key, path / "below" / "a file")

    def test_key_is_not_shown_by_accident(self) -> None:
        """A key is not shown by accident."""
        self.assertEqual(repr(TOKENS.key), "SigningKey()")
