"""
Tests that neither another client's builds nor its wrong passwords keep an honest client waiting.
"""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path

import bcrypt

from nixery.access.throttle import FREE_FAILURES_PER_ADDRESS
from tests.end_to_end.daemon import Daemon
from tests.end_to_end.fairness import FairnessCase
from tests.end_to_end.package_sets import demo_set
from tests.end_to_end.processes import private_directory, wait_until

PACKAGES = 100
BUILD_SECONDS = 0.4

ATTACKS = 24
"""The builds that an attacker asks for: four seconds of work and more."""


def slow_set() -> Path:
    """Make a package set whose packages were never built, and take some tenths of a second."""
    directory = private_directory("slow-set")
    (directory / "default.nix").write_text(
        f"""{{ system ? builtins.currentSystem, ... }}:
        let
          package = name: derivation {{
            name = "${{name}}-1.0";
            inherit system;
            salt = "{secrets.token_hex(16)}";
            builder = "/bin/sh";
            args = [ "-euc" ''
              export PATH=/usr/local/bin:/usr/bin:/bin
              sleep {BUILD_SECONDS}
              mkdir -p "$out/share"
              echo "${{name}}" > "$out/share/${{name}}"
            '' ];
          }} // {{ pname = name; version = "1.0"; }};
        in builtins.listToAttrs (builtins.genList (number: rec {{
          name = "slow${{toString number}}";
          value = package name;
        }}) {PACKAGES})
        """
    )
    return directory


class BuildQueueTests(FairnessCase):
    """Tests of an honest client's builds beside those of others."""

    def setUp(self) -> None:
        self.numbers = count()

    def start(self, **constants: object) -> Daemon:
        daemon = Daemon(
            slow_set(),
            name="fair-builds",
            options=["--max-builds=2"],
            constants={f"nixery.wiring.builds.{name}": value for name, value in constants.items()},
        ).start()
        self.addCleanup(daemon.stop)
        return daemon

    def build(self, daemon: Daemon) -> None:
        """Pull an image that nobody else asks for."""
        answer = daemon.registry.manifest(f"slow{next(self.numbers)}")
        self.assertEqual(200, answer.status, answer.body)

    def queued(self, daemon: Daemon) -> int:
        builds = daemon.registry.get("/builds").json()["builds"]
        return sum(build["state"] in ("queued", "running") for build in builds)

    def test_flood_of_builds(self) -> None:
        """A client that has many builds waiting delays another's by no more than one of them."""
        daemon = self.start()
        attackers = self.attackers(daemon)

        @contextmanager
        def attack() -> Iterator[None]:
            for _ in range(ATTACKS):
                attackers.ask(f"/v2/slow{next(self.numbers)}/manifests/latest")
            wait_until(lambda: self.queued(daemon) > ATTACKS // 2, "the queue to be long")
            yield

        self.assert_fair(self.compare(daemon, lambda: self.build(daemon), attack, times=2))

    def test_flood_of_builds_of_clients_that_have_left(self) -> None:
        """Two clients that fill the queue and leave shut out no third one."""
        daemon = self.start(QUEUED_PER_BUILD=6)
        crowd = [self.attackers(daemon, f"127.0.0.{66 + number}") for number in range(2)]

        @contextmanager
        def attack() -> Iterator[None]:
            for _ in range(ATTACKS // 2):
                for attackers in crowd:
                    attackers.ask(f"/v2/slow{next(self.numbers)}/manifests/latest")
            wait_until(lambda: self.queued(daemon) >= 12, "the queue to be full")
            for attackers in crowd:
                attackers.leave()
            yield

        self.assert_fair(self.compare(daemon, lambda: self.build(daemon), attack, times=2))


class LoginTests(FairnessCase):
    """Tests of an honest user's log-ins beside wrong passwords from the same address."""

    def test_wrong_passwords(self) -> None:
        """Guesses behind the same address keep no user out who has logged in there."""
        directory = private_directory("fair-logins")
        hashed = bcrypt.hashpw(b"correct horse", bcrypt.gensalt(10)).decode()
        (directory / "htpasswd").write_text(f"alice:{hashed}\n")
        (directory / "nixery.yaml").write_text(
            json.dumps({"auth": "htpasswd", "htpasswd_file": str(directory / "htpasswd")})
        )
        daemon = Daemon(
            demo_set(),
            name="fair-logins",
            options=["--config", str(directory / "nixery.yaml")],
            # Each request is a log-in then.
            constants={"nixery.access.access_controller.PASSWORD_CACHE_SECONDS": 0.0},
        ).start()
        self.addCleanup(daemon.stop)
        attackers = self.attackers(daemon, "127.0.0.1")

        def log_in() -> None:
            answer = daemon.registry.get("/v2/", authorization=basic("alice", "correct horse"))
            self.assertEqual(200, answer.status, answer.body)

        def says(text: str) -> bool:
            return text in daemon.log()

        @contextmanager
        def attack() -> Iterator[None]:
            # One by one: of many at once, most would not even be checked.
            for number in range(FREE_FAILURES_PER_ADDRESS + 1):
                header = f"Authorization: {basic(f'user{number}', 'guess')}\r\n"
                attackers.ask("/v2/", headers=header)
                failed = f"'user{number}' from 127.0.0.1 failed to log in"
                wait_until(partial(says, failed), failed)
            self.assertIn("may try again", daemon.log())
            yield

        self.assert_fair(self.compare(daemon, log_in, attack))


def basic(user: str, password: str) -> str:
    """Return the header ``Authorization`` of a user."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
