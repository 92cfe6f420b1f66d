"""
Reads the password file, in the format that ``htpasswd -B`` writes.

Only bcrypt is accepted.  The other formats that Apache supports are broken (old MD5, SHA-1
without a salt) or no protection at all (plain text); a file that has one of them is
rejected as a whole, and the error names the line.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Mapping
from pathlib import Path

import bcrypt
from attrs import field, frozen

from nixery.access.errors import PasswordFileUnusable
from nixery.access.identity import ANONYMOUS, ANY_USER

__all__ = ["Passwords", "parse_passwords", "read_passwords"]

MAX_FILE_BYTES = 4 * 2**20
"""Maximum size of the password file in bytes."""

MAX_COST = 16
"""Maximum bcrypt cost: a check takes seconds then, and each further step doubles that."""

# The last character of a salt has four bits only, and bcrypt refuses to check any other.
_BCRYPT = re.compile(r"\$2[aby]\$([0-9]{2})\$[./A-Za-z0-9]{21}[.Oeu][./A-Za-z0-9]{31}")

_MAX_PASSWORD_BYTES = 72
"""Bytes of a password that bcrypt uses; ``htpasswd`` silently truncates to them, too."""

_BCRYPT_ALPHABET = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"


@frozen(kw_only=True)
class Passwords:
    """
    The users, and the hashes of their passwords.

    :param hashes: by the names of users.
    """

    hashes: Mapping[str, bytes] = field(repr=False)
    _max_cost: int = field(init=False, repr=False)
    _salt: str = field(init=False, repr=False)

    @_max_cost.default
    def _find_max_cost(self) -> int:
        return max(map(_cost, self.hashes.values()), default=10)

    @_salt.default
    def _make_salt(self) -> str:
        return "".join(secrets.choice(_BCRYPT_ALPHABET) for _ in range(53))

    def __contains__(self, user: object) -> bool:
        return user in self.hashes

    def verify(self, user: str, password: bytes) -> bool:
        """
        Tell whether it is the user's password.

        A password that is not costs the same for every name, so that the time of an answer does
        not reveal which users exist: as much as a check of the costliest hash in the file.

        Takes a good part of a second of processor time: call it on a thread of a pool.
        """
        stored = self.hashes.get(user)
        # bcrypt's own code ends a password at a NUL, so that any text after it would match.
        valid = stored is not None and b"\0" not in password
        expected = stored if valid and stored is not None else self._dummy_hash(self._max_cost)
        candidate = password.replace(b"\0", b"?")[:_MAX_PASSWORD_BYTES]
        # checkpw compares in constant time.
        if bcrypt.checkpw(candidate, expected) and valid:
            return True
        # A check of cost n takes 2^n rounds, and 2^n + 2^n + 2^(n+1) + ... + 2^(m-1) = 2^m.
        for cost in range(_cost(expected), self._max_cost):
            bcrypt.checkpw(candidate, self._dummy_hash(cost))
        return False

    def _dummy_hash(self, cost: int) -> bytes:
        """Return a hash of an unknown password."""
        # The last characters of salt and hash encode fewer bits than the others do.
        return f"$2b${cost:02}${self._salt[:21]}.{self._salt[22:52]}.".encode("ascii")

    def fingerprint(self, user: str) -> str | None:
        """
        Return a fingerprint that changes with the user's password and reveals nothing about
        it; ``None`` if there is no such user.
        """
        stored = self.hashes.get(user)
        return None if stored is None else hashlib.blake2b(stored, digest_size=12).hexdigest()


def _cost(hashed: bytes) -> int:
    """Return the cost of a bcrypt hash: the binary logarithm of its rounds."""
    return int(hashed[4:6])


def read_passwords(path: Path) -> Passwords:
    """
    Read the password file.

    :raises PasswordFileUnusable: it cannot be read, or cannot be trusted.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise PasswordFileUnusable(
            path=str(path), reason=f"it cannot be read: {error.strerror or error}"
        ) from error
    if len(data) > MAX_FILE_BYTES:
        raise PasswordFileUnusable(path=str(path), reason="it is larger than 4.19 MB")
    return parse_passwords(data, str(path))


def parse_passwords(data: bytes, path: str) -> Passwords:
    """
    Parse the content of a password file.

    :param path: for messages.
    :raises PasswordFileUnusable: a line is wrong, or it has no users.
    """
    hashes: dict[str, bytes] = {}
    for number, line in enumerate(data.split(b"\n"), 1):

        def make_error(reason: str, number: int = number) -> PasswordFileUnusable:
            return PasswordFileUnusable(path=f"{path}, line {number}", reason=reason)

        try:
            text = line.decode("utf-8").strip("\r")
        except UnicodeDecodeError:
            raise make_error("it is no UTF-8") from None
        if not text.strip() or text.startswith("#"):
            continue
        user, colon, hashed = text.partition(":")
        if not colon:
            raise make_error("there is no colon between a user's name and a hash")
        if not user or not user.isprintable() or " " in user or len(user) > 255:
            raise make_error("the name of a user has to be printable, without spaces")
        if user in (ANONYMOUS, ANY_USER):
            raise make_error(f"no user can be called {user}: the rules have a meaning for it")
        if user in hashes:
            raise make_error(f"the user {user} has been there before")
        match = _BCRYPT.fullmatch(hashed)
        if match is None:
            raise make_error(
                f"what follows {user} is not a bcrypt hash: write it again with"
                f" htpasswd -B {path} {user}"
            )
        if not 4 <= int(match[1]) <= MAX_COST:
            raise make_error(f"the cost {match[1]} is not between 4 and {MAX_COST}")
        hashes[user] = hashed.encode("ascii")
    if not hashes:
        raise PasswordFileUnusable(path=path, reason="there is no user in it")
    return Passwords(hashes=hashes)
