"""The file of passwords."""

from __future__ import annotations

import contextlib
from pathlib import Path

import bcrypt
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from nixery.access.errors import PasswordFileUnusable
from nixery.access.passwords import Passwords, parse_passwords, read_passwords


def hashed(password: bytes, prefix: bytes = b"$2y$") -> bytes:
    return bcrypt.hashpw(password, bcrypt.gensalt(4)).replace(b"$2b$", prefix)


GOOD = hashed(b"secret")


class ParseTests(SynchronousTestCase):
    """Reading it."""

    def refused(self, text: bytes, *words: str) -> None:
        with self.assertRaises(PasswordFileUnusable) as raised:
            parse_passwords(text, "/htpasswd")
        for word in words:
            self.assertIn(word, raised.exception.message)

    def test_users_are_lines_and_comments_do_not_matter(self) -> None:
        """Users are lines; comments, empty lines and line ends of other systems do not matter."""
        text = b"# who\n\nalice:%s\r\nb\xc3\xb6b:%s\n" % (GOOD, GOOD)
        self.assertEqual({*parse_passwords(text, "f").hashes}, {"alice", "böb"})

    def test_hash_other_than_bcrypt_is_refused_and_not_shown(self) -> None:
        """Other hashes than bcrypt are refused, naming the command for one, and not shown."""
        for other in (
            b"opensesame",
            b"$apr1$abcdefgh$0123456789012345678901",
            b"{SHA}2jmj7l5rSw0yVb/vlWAYkK/YBwk=",
            b"$2y$10$short",
            b"",
            GOOD + b":more",
            b"$2y$05$" + b"!" * 53,
        ):
            self.refused(b"alice:" + other + b"\n", "line 1", "htpasswd -B /htpasswd alice")
        try:
            parse_passwords(b"alice:opensesame", "f")
        except PasswordFileUnusable as error:
            self.assertNotIn("opensesame", error.message + repr(error))

    def test_hash_that_costs_minutes_is_refused(self) -> None:
        """A hash that would take a processor for minutes is refused, as is one that is none."""
        self.refused(b"alice:$2y$31$" + GOOD[7:], "cost 31")
        self.refused(b"alice:$2y$03$" + GOOD[7:], "cost 03")

    def test_name_that_would_be_ambiguous_somewhere_is_refused_with_its_line(self) -> None:
        """A name that would be ambiguous somewhere is refused, with its line."""
        for user in (
            b"",
            b" alice",
            b"al ice",
            b"\x1b[31m",
            b"anonymous",
            b"*",
            b"\xff",
            b"a" * 256,
        ):
            self.refused(b"bob:%s\n%s:%s\n" % (GOOD, user, GOOD), "line 2")
        self.refused(b"bob:%s\nbob:%s\n" % (GOOD, GOOD), "line 2", "before")
        self.refused(b"bob\n", "colon")

    def test_file_without_users_is_one_that_is_being_written_and_is_refused(self) -> None:
        """A file without users is one that is being written, and is refused."""
        self.refused(b"# nobody yet\n", "no user")

    @settings(max_examples=200)
    @given(st.binary(max_size=200))
    def test_any_file_either_parses_as_users_or_raises_passwordfileunusable(
        self, text: bytes
    ) -> None:
        """Any file either parses as users or raises PasswordFileUnusable."""
        with contextlib.suppress(PasswordFileUnusable):
            parse_passwords(text, "f")

    def test_file_that_cannot_be_read_or_is_something_else_is_told(self) -> None:
        """A file that cannot be read, or is something else, is told."""
        path = Path(self.mktemp())
        with self.assertRaises(PasswordFileUnusable) as raised:
            read_passwords(path)
        self.assertIn("No such file", raised.exception.message)
        path.write_bytes(b"#" * (4 * 2**20 + 1))
        self.assertRaises(PasswordFileUnusable, read_passwords, path)
        path.write_bytes(b"alice:" + GOOD)
        self.assertIn("alice", read_passwords(path))


class VerifyTests(SynchronousTestCase):
    """Checking passwords."""

    def passwords(self, password: bytes = b"secret", prefix: bytes = b"$2y$") -> Passwords:
        return Passwords(hashes={"alice": hashed(password, prefix)})

    def test_all_prefixes_of_the_algorithm_are_accepted(self) -> None:
        """All names for the same algorithm do."""
        for prefix in (b"$2y$", b"$2b$", b"$2a$"):
            passwords = self.passwords(prefix=prefix)
            self.assertTrue(passwords.verify("alice", b"secret"))
            self.assertFalse(passwords.verify("alice", b"Secret"))

    def test_unknown_user_is_refused_and_check_is_as_expensive_as_known_users(self) -> None:
        """An unknown user is refused, and the check is as expensive as a known user's."""
        passwords = self.passwords()
        self.assertFalse(passwords.verify("mallory", b"secret"))
        self.assertFalse(passwords.verify("", b""))
        tried: list[bytes] = []

        def check(_password: bytes, against: bytes) -> bool:
            tried.append(against)
            return False

        self.patch(bcrypt, "checkpw", check)
        passwords.verify("alice", b"x")
        passwords.verify("mallory", b"x")
        self.assertEqual([each[3:7] for each in tried], [b"$04$", b"$04$"])
        self.assertNotEqual(*tried)

    def test_wrong_password_costs_the_same_for_every_user(self) -> None:
        """The rounds of all checks together are the same, whatever the cost of a user's hash."""
        hashes = {
            f"user{cost}": hashed(b"secret").replace(b"$04$", b"$%02d$" % cost)
            for cost in (4, 5, 9, 12)
        }
        passwords = Passwords(hashes=hashes)
        rounds: list[int] = []

        def check(_password: bytes, against: bytes) -> bool:
            rounds.append(2 ** int(against[4:6]))
            return False

        self.patch(bcrypt, "checkpw", check)
        for user in (*hashes, "mallory"):
            rounds.clear()
            self.assertFalse(passwords.verify(user, b"x"))
            self.assertEqual(sum(rounds), 2**12, user)
        for name in ("user4", "mallory"):
            rounds.clear()
            self.assertFalse(passwords.verify(name, b"x\0"))
            self.assertEqual(sum(rounds), 2**12, name)

    def test_nobody_is_a_hash(self) -> None:
        """Unknown users are compared with a hash that bcrypt can check."""
        for _ in range(5):
            self.assertFalse(Passwords(hashes={"a": GOOD}).verify("mallory", b"secret"))

    def test_bcrypt_reads_72_bytes_and_so_does_htpasswd(self) -> None:
        """bcrypt reads 72 bytes, and so does htpasswd; what is longer is no failure."""
        passwords = self.passwords(b"x" * 72)
        self.assertTrue(passwords.verify("alice", b"x" * 100))

    def test_nothing_can_stand_behind_a_zero_where_bcrypt_itself_might_not_look(self) -> None:
        """Nothing can stand behind a zero, where bcrypt itself might not look."""
        passwords = self.passwords(b"secret")
        self.assertFalse(passwords.verify("alice", b"secret\0"))
        self.assertFalse(passwords.verify("alice", b"secret\0more"))

    def test_fingerprint_changes_with_the_password_and_has_nothing_of_its_hash(self) -> None:
        """A fingerprint changes with the password, and has nothing of its hash."""
        one, two = self.passwords(), self.passwords()
        self.assertNotEqual(one.fingerprint("alice"), two.fingerprint("alice"))
        self.assertIsNone(one.fingerprint("mallory"))
        self.assertNotIn(one.fingerprint("alice") or "", repr(one))
        self.assertNotIn("2y", repr(one))
