"""Tests for :mod:`nixery.nix.serve_protocol`: bytes in, values out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from nixery.errors import UnexpectedOutput
from nixery.image.closure import PathRecord
from nixery.nix import serve_protocol
from nixery.nix.serve_protocol import Parse

T = TypeVar("T")

HELLO = "/nix/store/00000000000000000000000000000000-hello-1.0"
GLIBC = "/nix/store/11111111111111111111111111111111-glibc-2.36"

# What `nix-hash --type sha256 --to-base16` says of the second.
HEXADECIMAL = "16d6f63d7f9ff50e0be4d923ef1b7fd9ebae9cb6647906e81b3554b375f28457"
NIX_32 = "0mw4y9sv6m1m3gl0cyb4nsfaxsyrgwdyy8yrwh5hxxczgwyzdmhn"


def number(value: int) -> bytes:
    return value.to_bytes(8, "little")


def string(text: str) -> bytes:
    data = text.encode()
    return number(len(data)) + data + b"\0" * (-len(data) % 8)


def strings(texts: Sequence[str]) -> bytes:
    return number(len(texts)) + b"".join(map(string, texts))


def info(path: str, references: Sequence[str] = (), *, nar_hash: str = f"sha256:{NIX_32}") -> bytes:
    """Encode a server's information about a path."""
    return (
        string(path)
        + string(f"{path}.drv")
        + strings(references)
        + number(1000)
        + number(1234)
        + string(nar_hash)
        + string("")
        + strings(["cache.example-1:c2lnbmF0dXJl"])
    )


def read(parse: Parse[T], data: bytes) -> tuple[T, bytes]:
    """Return the result of a parser for ``data``, and the rest of the data."""
    wanted, position = next(parse), 0
    while True:
        piece = data[position : position + wanted]
        assert len(piece) == wanted, "more is wanted than there is"
        position += wanted
        try:
            wanted = parse.send(piece)
        except StopIteration as ended:
            return ended.value, data[position:]


class RequestTests(SynchronousTestCase):
    """Tests of the requests, byte for byte."""

    def test_greeting_is_a_magic_number_and_a_version(self) -> None:
        """Two numbers: what it is, and the version."""
        self.assertEqual(
            bytes.fromhex("eb9d0c3900000000 0502000000000000"), serve_protocol.client_hello()
        )

    def test_command_its_flags_and_strings_that_are_filled_up_to_8_bytes(self) -> None:
        """A command, its flags, and strings that are filled up to 8 bytes."""
        self.assertEqual(
            number(1) + number(1) + number(0) + strings([HELLO, GLIBC]),
            serve_protocol.add_temp_roots([HELLO, GLIBC]),
        )
        self.assertEqual(
            number(7) + number(0) + strings([HELLO]), serve_protocol.query_closure([HELLO])
        )
        self.assertEqual(number(2) + strings([]), serve_protocol.query_path_infos([]))


class AnswerTests(SynchronousTestCase):
    """Tests of the parsing of answers."""

    def refused(self, parse: Parse[object], data: bytes) -> str:
        with self.assertRaises(UnexpectedOutput) as caught:
            read(parse, data)
        error: UnexpectedOutput = caught.exception
        return error.message

    def test_every_version_from_the_one_on_that_tells_hashes(self) -> None:
        """Every version from the one on that tells hashes."""
        for version in (0x204, 0x205, 0x207, 0x2FF):
            self.assertEqual(
                (None, b"rest"),
                read(
                    serve_protocol.read_server_hello(),
                    number(0x5452EECB) + number(version) + b"rest",
                ),
            )

    def test_other_program_or_protocol_is_refused(self) -> None:
        """Neither another program, nor another protocol, nor one that is too old."""
        for magic, version in ((0x5452EECC, 0x205), (0x5452EECB, 0x203), (0x5452EECB, 0x300)):
            self.assertIn(
                "greeting",
                self.refused(serve_protocol.read_server_hello(), number(magic) + number(version)),
            )

    def test_strings_of_any_length_and_what_follows_them_is_left_alone(self) -> None:
        """Strings of any length, and what follows them is left alone."""
        for paths in ([], [HELLO], [HELLO, GLIBC, ""]):
            self.assertEqual(
                (paths, b"\1" * 8), read(serve_protocol.read_paths(), strings(paths) + b"\1" * 8)
            )

    def test_path_infos_have_hashes_in_hexadecimal(self) -> None:
        """Each path with its hash in hexadecimal, whichever way it was written."""
        said = info(GLIBC, [GLIBC]) + info(HELLO, [GLIBC], nar_hash=HEXADECIMAL) + string("")
        records, rest = read(serve_protocol.read_path_infos(), said)
        self.assertEqual(
            [
                PathRecord(GLIBC, HEXADECIMAL, 1234, [GLIBC]),
                PathRecord(HELLO, HEXADECIMAL, 1234, [GLIBC]),
            ],
            records,
        )
        self.assertEqual(b"", rest)

    def test_malformed_answer_is_refused_before_memory_is_filled_with_it(self) -> None:
        """A malformed answer is refused before memory is filled with it."""
        self.assertIn("a string", self.refused(serve_protocol.read_path_infos(), number(1 << 40)))
        self.assertIn("a list", self.refused(serve_protocol.read_paths(), number(1 << 63)))
        for nar_hash in ("e" * 52, "z" * 52):
            self.assertIn(
                "a hash",
                self.refused(
                    serve_protocol.read_path_infos(), info(HELLO, nar_hash=nar_hash) + string("")
                ),
            )

    @settings(max_examples=50)
    @given(st.lists(st.text(alphabet=st.characters(codec="ascii"), max_size=40), max_size=6))
    def test_sent_list_is_read_as_the_same_list(self, texts: list[str]) -> None:
        """Any list that is sent is read as the same list."""
        self.assertEqual(
            (texts, b""),
            read(serve_protocol.read_paths(), serve_protocol.query_path_infos(texts)[8:]),
        )
