"""Tests of authentication and authorization by the access controller."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from types import FunctionType, ModuleType

import bcrypt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.cred.checkers import ICredentialsChecker
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer
from zope.interface.verify import verifyObject

from nixery.access.access_controller import (
    MAX_PENDING_CHECKS_PER_ADDRESS,
    PASSWORD_CACHE_SECONDS,
    AccessController,
)
from nixery.access.errors import LoginFailed, LoginThrottled, TokenInvalid
from nixery.access.identity import Identity
from nixery.access.password_checker import HtpasswdChecker
from nixery.access.passwords import Passwords
from nixery.access.tokens import ACCESS, SigningKey, Tokens
from nixery.builds.image_cache import ImageCache
from nixery.image.names import Digest, Tag, parse_image_name
from nixery.image.patterns import parse_patterns
from nixery.pulls.repository_blobs import RepositoryBlobs
from nixery.pulls.tag_records import SERVED, tag_record_key
from nixery.runtime.workers import Workers
from nixery.testing.fakes import FakeWallClock, InlineWorkers
from nixery.testing.memory_storage import MemoryStorage
from tests.support.http import IMAGE, OCI, SteppedWorkers

SYSTEM = "x86_64-linux"
HERE = "192.0.2.1"
KEY = SigningKey(private_key=Ed25519PrivateKey.generate())


def make_passwords(**given: str) -> Passwords:
    return Passwords(
        hashes={
            user: bcrypt.hashpw(password.encode(), bcrypt.gensalt(4))
            for user, password in given.items()
        }
    )


USERS = make_passwords(alice="secret", bob="hunter2")
RULES = {"alice": parse_patterns(["shell", "git"])}


def texts_within(owner: object) -> Iterator[str]:
    """All texts and bytes that an object refers to, by itself or through others."""
    seen: set[int] = set()
    pending = [owner]
    while pending:
        each = pending.pop()
        if id(each) in seen or isinstance(each, type | ModuleType | FunctionType):
            continue
        seen.add(id(each))
        if isinstance(each, str | bytes):
            yield each if isinstance(each, str) else each.decode("latin-1")
        pending += gc.get_referents(each)


class AccessControllerTestCase(SynchronousTestCase):
    tokens = True
    """True if the controller issues tokens."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.wall_clock = FakeWallClock(self.clock)
        self.storage = MemoryStorage()
        self.images = ImageCache(storage=self.storage, seconds=self.clock.seconds)
        self.access_controller = self.make(InlineWorkers())
        self.log_messages: list[str] = []

        @implementer(ILogObserver)
        def observe(event: LogEvent) -> None:
            self.log_messages.append(repr(event))

        globalLogPublisher.addObserver(observe)
        self.addCleanup(globalLogPublisher.removeObserver, observe)

    def make(self, workers: Workers) -> AccessController:
        access_controller = AccessController(
            repository_blobs=RepositoryBlobs(self.storage, self.images),
            workers=workers,
            seconds=self.clock.seconds,
            wall_clock=self.wall_clock,
            system=SYSTEM,
        )
        access_controller.replace_users(USERS, RULES)
        if self.tokens:
            access_controller.enable_tokens(Tokens(key=KEY, wall_clock=self.wall_clock))
        return access_controller

    def log_in(
        self, user: str, password: str, credentials: bytes | None = None, address: str = HERE
    ) -> Deferred[Identity]:
        return Deferred.fromCoroutine(
            self.access_controller.log_in(user, password, address, credentials)
        )

    def may_read_digest(
        self, user: str, image: str, digest: Digest, scopes: frozenset[str] | None = None
    ) -> bool:
        identity = Identity(user=user, scopes=scopes)
        name = parse_image_name(image, SYSTEM)
        return self.successResultOf(
            Deferred.fromCoroutine(self.access_controller.may_read_digest(identity, name, digest))
        )

    def record_pull(self, user: str, image: str, scopes: frozenset[str] | None = None) -> None:
        self.access_controller.record_pull(
            Identity(user=user, scopes=scopes), parse_image_name(image, SYSTEM), IMAGE
        )


class PasswordTests(AccessControllerTestCase):
    """Logging in."""

    def test_passwords_are_a_credentials_checker_of_twisteds(self) -> None:
        """The passwords are a credentials checker of Twisted's."""
        verifyObject(ICredentialsChecker, HtpasswdChecker(USERS, InlineWorkers()))

    def test_only_the_right_password_logs_a_user_in(self) -> None:
        """Only the right password logs a user in."""
        self.assertEqual(self.successResultOf(self.log_in("alice", "secret")).user, "alice")
        for user, password in (
            ("alice", "hunter2"),
            ("mallory", "secret"),
            ("", ""),
            ("ali", "ce"),
        ):
            self.failureResultOf(self.log_in(user, password), LoginFailed)

    def test_verified_login_is_cached_for_minutes_and_then_checked_again(self) -> None:
        """A verified login is cached for minutes, and then checked again."""
        workers = SteppedWorkers()
        self.access_controller = self.make(workers)
        first = self.log_in("alice", "secret", b"Basic x")
        self.assertIsNone(self.access_controller.cached_identity(b"Basic x"))
        workers.finish()
        self.successResultOf(first)
        self.assertEqual(self.access_controller.cached_identity(b"Basic x"), Identity(user="alice"))
        self.successResultOf(self.log_in("alice", "secret"))
        self.assertIsNone(self.access_controller.cached_identity(b"Basic y"))
        self.clock.advance(PASSWORD_CACHE_SECONDS + 1)
        self.assertIsNone(self.access_controller.cached_identity(b"Basic x"))
        self.assertNoResult(self.log_in("alice", "secret"))

    def test_no_password_is_kept(self) -> None:
        """Neither memory nor log has a password."""
        self.successResultOf(self.log_in("alice", "secret", b"Basic c2VjcmV0"))
        self.failureResultOf(self.log_in("alice", "open sesame"), LoginFailed)
        kept = {*texts_within(self.access_controller), *self.log_messages}
        self.assertIn("alice", kept)
        for secret in ("secret", "c2VjcmV0", "sesame"):
            self.assertEqual([], [text for text in kept if secret in text])
        self.assertIn("alice", "".join(self.log_messages))

    def test_password_that_comes_with_several_requests_at_once_is_checked_once(self) -> None:
        """A password that comes with several requests at once is checked once."""
        workers = SteppedWorkers()
        self.access_controller = self.make(workers)
        asked = [self.log_in("alice", "secret") for _ in range(5)]
        self.assertEqual(len(workers), 1)
        asked[0].addErrback(lambda _: None).cancel()
        workers.finish()
        self.assertEqual({self.successResultOf(each).user for each in asked[1:]}, {"alice"})

    def test_one_address_has_few_concurrent_password_checks(self) -> None:
        """An address has few passwords checked at a time, and others are not kept waiting."""
        workers = SteppedWorkers()
        self.access_controller = self.make(workers)
        asked = [self.log_in(f"user{each}", "x") for each in range(MAX_PENDING_CHECKS_PER_ADDRESS)]
        self.failureResultOf(self.log_in("one more", "x"), LoginThrottled)
        elsewhere = self.log_in("alice", "secret", address="192.0.2.2")
        workers.finish()
        self.successResultOf(elsewhere)
        for each in asked:
            self.failureResultOf(each, LoginFailed)

    def test_guesses_at_an_address_do_not_keep_out_who_has_logged_in_from_there(self) -> None:
        """Neither the checks of made-up users nor their failures delay a known user's login."""
        self.successResultOf(self.log_in("alice", "secret"))
        for number in range(40):
            guess = self.log_in(f"user{number}", "x")
            self.failureResultOf(guess, LoginFailed, LoginThrottled)
        workers = SteppedWorkers()
        self.access_controller._checker = HtpasswdChecker(USERS, workers)
        self.clock.advance(PASSWORD_CACHE_SECONDS + 1)
        guesses = [self.log_in(f"more{each}", "x") for each in range(8)]
        login = self.log_in("alice", "secret")
        workers.finish()
        self.assertEqual(self.successResultOf(login).user, "alice")
        for guess in guesses:
            self.failureResultOf(guess, LoginFailed, LoginThrottled)

    def test_too_many_failed_logins_are_throttled_for_a_while(self) -> None:
        """Too many failed logins are throttled for a while, even with the right password."""
        for _ in range(4):
            self.failureResultOf(self.log_in("alice", "wrong"), LoginFailed)
        error = self.failureResultOf(self.log_in("alice", "secret"), LoginThrottled).value
        self.assertEqual(error.retry_after, 1)
        self.successResultOf(self.log_in("alice", "secret", address="192.0.2.2"))
        self.clock.advance(1.1)
        self.successResultOf(self.log_in("alice", "secret"))

    def test_replacing_the_users_drops_cached_identities(self) -> None:
        """Replacing the users drops cached identities, and those of checks in progress."""
        self.successResultOf(self.log_in("alice", "secret", b"old"))
        workers = SteppedWorkers()
        self.access_controller.replace_users(make_passwords(alice="new"), RULES)
        self.assertIsNone(self.access_controller.cached_identity(b"old"))
        self.failureResultOf(self.log_in("alice", "secret"), LoginFailed)
        self.access_controller = self.make(workers)
        late = self.log_in("alice", "secret", b"late")
        # It has begun with the old ones.
        verify = USERS.verify
        self.access_controller.replace_users(make_passwords(alice="new"), RULES)
        workers.finish()
        self.successResultOf(late)
        self.assertTrue(verify("alice", b"secret"))
        self.assertIsNone(self.access_controller.cached_identity(b"late"))


class RuleTests(AccessControllerTestCase):
    """Tests of the rules: the packages each user may pull."""

    def refused(self, user: str | None, image: str) -> tuple[str, ...]:
        return self.access_controller.denied_packages(user, parse_image_name(image, SYSTEM))

    def test_user_with_rules_has_what_they_allow_one_without_has_everything(self) -> None:
        """A user with rules has what they allow, one without has everything."""
        self.assertEqual(self.refused("alice", "shell/git"), ())
        self.assertEqual(self.refused("alice", "git/htop"), ("htop",))
        self.assertEqual(self.refused("bob", "git/htop"), ())

    def test_anonymous_clients_and_removed_users_are_refused_every_package(self) -> None:
        """Anonymous clients and removed users are refused every package."""
        self.assertEqual(self.refused(None, "git"), ("git",))
        self.assertEqual(self.refused("mallory", "git"), ("git",))

    def test_star_names_all_users_that_have_no_rules_of_their_own(self) -> None:
        """A star names all users that have no rules of their own."""
        self.access_controller.replace_users(USERS, RULES | {"*": parse_patterns(["htop"])})
        self.assertEqual(self.refused("bob", "htop/git"), ("git",))
        self.assertEqual(self.refused("alice", "git"), ())
        self.assertEqual(self.refused("mallory", "htop"), ("htop",))

    def test_digest_is_for_a_user_if_an_image_of_the_name_has_it_as_was_served(self) -> None:
        """A digest is for a user if an image of the name has it, as was served."""
        layer = OCI.blobs()[1].digest
        self.assertTrue(self.may_read_digest("bob", "htop", layer))
        self.assertFalse(self.may_read_digest("alice", "git", layer))
        self.record_pull("alice", "shell")
        self.assertFalse(self.may_read_digest("alice", "git", layer))
        for image in ("shell", "arm64/git"):
            self.assertEqual(self.may_read_digest("alice", image, layer), image == "shell")
        self.record_pull("alice", "git/shell")
        # Another spelling of it.
        self.assertTrue(self.may_read_digest("alice", "git/shell/git", OCI.digest))

    def test_digest_is_for_a_token_if_an_image_of_its_scope_has_it(self) -> None:
        """A token is for the digests of its repositories, also that of a user without rules."""
        layer, scopes = OCI.blobs()[1].digest, frozenset({"git", "htop"})
        for digest in (layer, OCI.digest):
            self.assertFalse(self.may_read_digest("bob", "git", digest, scopes))
            self.assertTrue(self.may_read_digest("bob", "git", digest))
        self.record_pull("bob", "git")
        self.assertFalse(self.may_read_digest("bob", "git", layer, scopes))
        self.record_pull("bob", "git", scopes)
        for digest in (layer, OCI.digest):
            self.assertTrue(self.may_read_digest("bob", "git", digest, scopes))
            self.assertFalse(self.may_read_digest("bob", "htop", digest, scopes))

    def test_digests_of_other_processes(self) -> None:
        """Digests served by other processes, or before a restart, are found."""
        name = parse_image_name("git", SYSTEM)

        async def store() -> None:
            for blob in OCI.blobs():
                await self.storage.put(b"layer", "application/octet-stream")
                self.assertTrue(blob.digest)
            await self.images.add("key", IMAGE)
            await self.storage.set_record(SERVED, tag_record_key(name, Tag("v1")), b"key")
            await self.storage.set_record(SERVED, tag_record_key(name, Tag("v2")), b"gone")

        self.successResultOf(Deferred.fromCoroutine(store()))
        self.assertTrue(self.may_read_digest("alice", "git", OCI.digest))
        self.assertTrue(self.may_read_digest("alice", "git", OCI.blobs()[1].digest))
        self.assertFalse(self.may_read_digest("alice", "git", Digest("sha256:" + "0" * 64)))
        self.assertFalse(self.may_read_digest("alice", "shell", OCI.digest))


class TokenTests(AccessControllerTestCase):
    """Tokens that are issued by rules, and end with them."""

    def scopes(self, user: str | None, *scopes: str) -> frozenset[str] | None:
        issued = self.access_controller.issue_tokens(user, scopes)
        return self.access_controller.verify_access_token(
            issued.token, issued.token.encode()
        ).scopes

    def test_token_is_for_what_was_asked_for_and_is_for_the_user(self) -> None:
        """A token is for what was asked for, and is for the user; to pull, and nothing else."""
        self.assertEqual(
            self.scopes(
                "alice",
                "repository:git:pull,push repository:htop:pull",
                "repository(plugin):shell/git:pull",
                "registry:catalog:*",
                "repository:git/htop:pull",
                "repository:shell:push",
                "repository::pull",
                "repository:GIT:pull",
                "nonsense",
                "",
            ),
            {"git", "shell/git"},
        )
        self.assertEqual(self.scopes("bob", "repository:htop:pull"), {"htop"})

    def test_however_many_are_asked_for_a_token_stays_small(self) -> None:
        """However many are asked for, a token stays small."""
        names = [f"repository:p{each}:pull" for each in range(500)]
        self.assertEqual(len(self.scopes("bob", *names) or ()), 16)

    def test_token_that_was_good_is_known_until_it_ends(self) -> None:
        """A token that was good is known until it ends."""
        token = self.access_controller.issue_tokens("alice", ["repository:git:pull"]).token
        identity = self.access_controller.verify_access_token(token, b"Bearer x")
        self.assertEqual(self.access_controller.cached_identity(b"Bearer x"), identity)
        self.clock.advance(301)
        self.assertIsNone(self.access_controller.cached_identity(b"Bearer x"))

    def test_token_ends_when_its_user_has_another_password_or_is_gone(self) -> None:
        """A token ends when its user has another password, or is gone."""
        issued = self.access_controller.issue_tokens("alice", [], with_refresh_token=True)
        assert issued.refresh_token is not None
        self.assertEqual(
            self.access_controller.verify_refresh_token(issued.refresh_token).user, "alice"
        )
        self.access_controller.verify_access_token(issued.token, b"x")
        for users in (make_passwords(alice="new"), make_passwords(bob="secret")):
            self.access_controller.replace_users(users, RULES)
            self.assertIsNone(self.access_controller.cached_identity(b"x"))
            self.assertRaises(
                TokenInvalid, self.access_controller.verify_access_token, issued.token, b"x"
            )
            self.assertRaises(
                TokenInvalid, self.access_controller.verify_refresh_token, issued.refresh_token
            )

    def test_anonymous_tokens_are_valid_while_anonymous_clients_may_pull(self) -> None:
        """Anonymous tokens are valid as long as anonymous clients may pull something."""
        issued = self.access_controller.issue_tokens(
            None, ["repository:git:pull"], with_refresh_token=True
        )
        self.assertIsNone(issued.refresh_token)
        self.assertRaises(
            TokenInvalid, self.access_controller.verify_access_token, issued.token, b"x"
        )
        self.access_controller.replace_users(USERS, {"anonymous": parse_patterns(["git"])})
        self.assertEqual(self.scopes(None, "repository:git:pull", "repository:htop:pull"), {"git"})
        empty = Tokens(key=KEY, wall_clock=self.wall_clock).issue(ACCESS, "", "", [], 60)
        self.assertIsNone(self.access_controller.verify_access_token(empty, b"x").user)

    def test_without_a_token_key_tokens_are_neither_issued_nor_accepted(self) -> None:
        """Without a token key, tokens are neither issued nor accepted."""
        token = self.access_controller.issue_tokens("alice", []).token
        self.access_controller._tokens = None
        self.assertFalse(self.access_controller.issues_tokens)
        self.assertRaises(TokenInvalid, self.access_controller.issue_tokens, "alice", [])
        self.assertRaises(TokenInvalid, self.access_controller.verify_access_token, token, b"x")
        self.assertRaises(TokenInvalid, self.access_controller.verify_refresh_token, token)
