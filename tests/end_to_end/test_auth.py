"""
Tests of authentication with real clients: passwords, and tokens that they fetch.
"""

from __future__ import annotations

import base64
import json
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import bcrypt

from tests.end_to_end.case import EndToEndCase, Once, containerd, docker, podman, skopeo
from tests.end_to_end.daemon import Daemon, run_admin
from tests.end_to_end.package_sets import demo_set
from tests.end_to_end.processes import private_directory, wait_until
from tests.end_to_end.wire import PATIENT_AGENT, Answer

if TYPE_CHECKING:
    Mixin = EndToEndCase
else:
    # What is mixed into test cases uses their methods, and is none itself.
    Mixin = object

PASSWORDS = {"alice": "correct horse", "bob": "battery staple"}


class Guarded:
    """A registry that authenticates clients, with its files."""

    def __init__(self, auth: str) -> None:
        directory = private_directory(f"auth-{auth}")
        self.passwords = directory / "htpasswd"
        self.configuration = directory / "nixery.yaml"
        self.auth = auth
        self.write_passwords(PASSWORDS)
        self.write_rules(["shell", "hello"])
        self.daemon = Daemon(
            demo_set(), name=auth, options=["--config", str(self.configuration)]
        ).start()
        self.address = self.daemon.address

    def write_passwords(self, passwords: dict[str, str]) -> None:
        """As ``htpasswd -B`` writes them, and as an editor does: another file, renamed."""
        lines = []
        for user, password in passwords.items():
            hashed = bcrypt.hashpw(password.encode(), bcrypt.gensalt(rounds=5)).decode()
            lines.append(f"{user}:{hashed.replace('$2b$', '$2y$')}\n")
        half = self.passwords.with_suffix(".new")
        half.write_text("".join(lines))
        half.rename(self.passwords)

    def write_rules(self, alice: list[str]) -> None:
        """Set the packages that alice may pull; bob may pull all."""
        self.configuration.write_text(
            json.dumps(
                {
                    "auth": self.auth,
                    "htpasswd_file": str(self.passwords),
                    "auth_rules": {"alice": alice},
                }
            )
        )

    def reload(self) -> str:
        """Send the signal; :return: what the daemon says of it."""
        begun = self.daemon.log_size()
        os.kill(self.daemon.pid, signal.SIGHUP)
        wait_until(
            lambda: (
                "Reloaded: users and their rules" in self.daemon.log(begun)
                or "Cannot reload the users and their rules" in self.daemon.log(begun)
            ),
            "the daemon to have looked at its files",
        )
        return self.daemon.log(begun)

    def get(self, path: str, user: str | None = None, password: str | None = None) -> Answer:
        if user is None:
            return self.daemon.registry.get(path)
        password = PASSWORDS[user] if password is None else password
        return self.daemon.registry.get(
            path, Authorization=basic(user, password), User_Agent=PATIENT_AGENT
        )

    def secret(self, user: str) -> Path:
        """A file as ``kubectl create secret docker-registry`` puts into a Secret."""
        password = PASSWORDS[user]
        entry = {
            "username": user,
            "password": password,
            "auth": basic(user, password).removeprefix("Basic "),
        }
        path = self.passwords.with_name("dockerconfigjson")
        path.write_text(json.dumps({"auths": {self.address: entry}}))
        return path


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


htpasswd_registry = Once(lambda: Guarded("htpasswd"))
token_registry = Once(lambda: Guarded("token"))


class AuthTests(Mixin):
    """Tests that hold for both ways of logging in."""

    challenge: ClassVar[str]

    def registry(self) -> Guarded:
        raise NotImplementedError

    def test_docker_logs_in_with_a_password_that_is_right(self) -> None:
        """Docker logs in with a password that is right, and pulls what is for the user."""
        registry = self.registry()
        image = f"{registry.address}/hello"
        self.assertNotEqual(docker().pull(image).status, 0)
        refused = docker().log_in(registry.address, "alice", "wrong")
        self.assertNotEqual(refused.status, 0)
        docker().log_in(registry.address, "alice", PASSWORDS["alice"]).checked()
        try:
            docker().pull(image).checked()
            denied = docker().pull(f"{registry.address}/hello/git")
            self.assertNotEqual(denied.status, 0)
            self.assertIn("denied", denied.output.lower())
        finally:
            docker().log_out(registry.address).checked()

    def test_podman_logs_in_and_pulls(self) -> None:
        """podman logs in and pulls; and pulls with an image pull secret of Kubernetes."""
        registry = self.registry()
        image = f"{registry.address}/shell"
        secret = registry.secret("alice")
        podman().pull(image, "--authfile", str(secret)).checked()
        self.assertNotEqual(podman().pull(image).status, 0)
        podman().log_in(registry.address, "alice", PASSWORDS["alice"]).checked()
        podman().pull(image).checked()

    def test_skopeo_logs_in_and_copies(self) -> None:
        """skopeo logs in and copies; and copies with an image pull secret of Kubernetes."""
        registry = self.registry()
        image = f"{registry.address}/hello"
        target = f"dir:{private_directory('copied')}"
        skopeo().copy(image, target, "--authfile", str(registry.secret("alice"))).checked()
        self.assertNotEqual(skopeo().copy(image, target).status, 0)
        skopeo().log_in(registry.address, "alice", PASSWORDS["alice"]).checked()
        skopeo().copy(image, target).checked()
        denied = skopeo().copy(f"{registry.address}/git", target)
        self.assertNotEqual(denied.status, 0)

    def test_warm_says_that_it_has_to_log_in_and_does(self) -> None:
        """``nixery-admin warm`` names the options that log in, and builds with them."""
        registry = self.registry()
        wanted = ("warm", "hello", "--url", f"http://{registry.address}")
        refused = run_admin(*wanted)
        self.assertEqual(1, refused.status, refused.describe())
        self.assertIn("401: ", refused.output)
        self.assertIn("--user and --password-file", refused.output)
        password = private_directory("warm") / "password"
        password.write_text(PASSWORDS["alice"])
        run_admin(*wanted, "--user", "alice", "--password-file", str(password)).checked()

    def test_containerd_pulls_with_a_users_password_and_without_none(self) -> None:
        """containerd pulls with a user's password, and without none."""
        registry = self.registry()
        image = f"{registry.address}/hello"
        self.assertNotEqual(containerd().pull(image).status, 0)
        containerd().pull(image, "--user", f"alice:{PASSWORDS['alice']}").checked()
        self.assertNotEqual(
            containerd()
            .pull(f"{registry.address}/git", "--user", f"alice:{PASSWORDS['alice']}")
            .status,
            0,
        )

    def test_images_of_others(self) -> None:
        """A user who may not pull an image gets neither its manifest nor its blobs."""
        registry = self.registry()
        manifest = registry.get("/v2/git/manifests/latest", "bob")
        self.assertEqual(manifest.status, 200)
        digest = manifest.headers["docker-content-digest"]
        own = registry.get("/v2/hello/manifests/latest", "alice").json()
        for reference in ("latest", digest):
            denied = registry.get(f"/v2/git/manifests/{reference}", "alice")
            self.assertEqual((denied.status, denied.error["code"]), (403, "DENIED"))
        self.assertEqual(registry.get(f"/v2/hello/manifests/{digest}", "alice").status, 404)
        theirs = {layer["digest"] for layer in manifest.json()["layers"]}
        mine = {layer["digest"] for layer in own["layers"]}
        foreign, shared = min(theirs - mine), min(mine)
        self.assertEqual(registry.get(f"/v2/git/blobs/{foreign}", "alice").status, 403)
        self.assertEqual(registry.get(f"/v2/hello/blobs/{foreign}", "alice").status, 404)
        self.assertEqual(registry.get(f"/v2/hello/blobs/{shared}", "alice").status, 200)
        self.assertEqual(registry.get(f"/v2/hello/blobs/{foreign}", "bob").status, 200)

    def test_pages_need_a_user_and_show_only_what_this_user_may_pull(self) -> None:
        """Pages need a user, and show only what this user may pull; health checks need none."""
        registry = self.registry()
        # No other test has them made: what is known already is no build.
        mine, theirs = "shell/hello", "git/hello"
        for image in (mine, theirs):
            self.assertEqual(registry.get(f"/v2/{image}/manifests/latest", "bob").status, 200)
        for path in ("/", "/builds", "/builds/events", "/images", "/metrics"):
            answer = registry.get(path)
            self.assertEqual(answer.status, 401, path)
            self.assertTrue(answer.headers["www-authenticate"].startswith("Basic "), path)
        self.assertEqual(registry.get("/healthz").status, 200)
        self.assertEqual(registry.get("/readyz").status, 200)
        for user, expected in (("alice", {mine}), ("bob", {mine, theirs})):
            builds = {each["image"] for each in registry.get("/builds", user).json()["builds"]}
            self.assertEqual(builds & {mine, theirs}, expected)
        self.assertEqual(registry.get(f"/images/{theirs}:latest", "alice").status, 404)
        self.assertEqual(registry.get(f"/images/{theirs}:latest", "bob").status, 200)
        self.assertEqual(registry.get("/metrics", "alice").status, 200)
        self.assertEqual(registry.get("/api/packages?names=git", "alice").status, 403)
        self.assertEqual(registry.get("/api/packages?names=hello", "alice").status, 200)

    def test_unauthenticated_client_is_told_how_to_log_in(self) -> None:
        """An unauthenticated client is told how to log in."""
        answer = self.registry().get("/v2/")
        self.assertEqual((answer.status, answer.error["code"]), (401, "UNAUTHORIZED"))
        self.assertTrue(answer.headers["www-authenticate"].startswith(self.challenge))

    def test_signal_puts_other_passwords_and_rules_in_force(self) -> None:
        """A signal puts other passwords and rules in force, unless they cannot be used."""
        registry = self.registry()
        self.assertEqual(registry.get("/v2/", "alice").status, 200)
        self.addCleanup(registry.reload)
        self.addCleanup(registry.write_rules, ["shell", "hello"])
        self.addCleanup(registry.write_passwords, PASSWORDS)
        registry.passwords.write_text("alice:in plain text\n")
        self.assertIn("htpasswd -B", registry.reload())
        self.assertEqual(registry.get("/v2/", "alice").status, 200)
        registry.write_passwords({"alice": "another one"})
        registry.write_rules(["git"])
        registry.reload()
        self.assertEqual(registry.get("/v2/", "alice").status, 401)
        self.assertEqual(registry.get("/v2/", "bob").status, 401)
        self.assertEqual(registry.get("/v2/", "alice", "another one").status, 200)
        allowed = registry.get("/v2/git/manifests/latest", "alice", "another one")
        self.assertEqual(allowed.status, 200)
        said = registry.daemon.log()
        self.assertIn("'alice' from 127.0.0.1 failed to log in", said)
        for password in (*PASSWORDS.values(), "another one", "in plain text"):
            self.assertNotIn(password, said)


class HtpasswdTests(AuthTests, EndToEndCase):
    """Passwords with every request."""

    challenge = "Basic realm="

    def registry(self) -> Guarded:
        return htpasswd_registry()


class TokenTests(AuthTests, EndToEndCase):
    """Tokens that clients fetch with a password."""

    challenge = "Bearer realm="

    def registry(self) -> Guarded:
        return token_registry()

    def test_others_pull_with_the_refresh_token_that_docker_keeps(self) -> None:
        """podman and skopeo pull with the refresh token that ``docker login`` has kept."""
        registry = self.registry()
        image = f"{registry.address}/hello"
        docker().log_in(registry.address, "alice", PASSWORDS["alice"]).checked()
        try:
            kept = docker().auth_file
            self.assertIn("identitytoken", kept.read_text())
            # They send the token in a form whose length they do not announce.
            podman().pull(image, "--authfile", str(kept)).checked()
            target = f"dir:{private_directory('copied')}"
            skopeo().copy(image, target, "--authfile", str(kept)).checked()
        finally:
            docker().log_out(registry.address).checked()

    def test_token_is_for_the_digests_of_its_images(self) -> None:
        """A token of a user without rules reads the digests of its own images, and no others."""
        registry = self.registry()
        theirs = registry.get("/v2/git/manifests/latest", "bob").json()
        manifest = registry.get("/v2/hello/manifests/latest", "bob")
        mine = {layer["digest"] for layer in manifest.json()["layers"]}
        token = registry.get("/token?scope=repository:hello:pull", "bob").json()["token"]
        # Another process finds the same.
        registry.daemon.stop()
        registry.daemon.start()
        digests = {
            f"manifests/{manifest.headers['docker-content-digest']}": 200,
            f"blobs/{manifest.json()['config']['digest']}": 200,
            **{f"blobs/{digest}": 200 for digest in mine},
            **{
                f"blobs/{layer['digest']}": 404
                for layer in theirs["layers"]
                if layer["digest"] not in mine
            },
            f"blobs/{theirs['config']['digest']}": 404,
        }
        for path, status in digests.items():
            answer = registry.daemon.registry.head(
                f"/v2/hello/{path}", Authorization=f"Bearer {token}"
            )
            self.assertEqual(answer.status, status, path)

    def test_key_that_signs_tokens_is_readable_by_its_owner_only(self) -> None:
        """The key that signs tokens is readable by its owner only, and outlasts a restart."""
        registry = self.registry()
        key = registry.daemon.directory / "state" / "token-key.pem"
        self.assertEqual(key.stat().st_mode & 0o777, 0o600)
        token = registry.get("/token?scope=repository:hello:pull", "alice").json()["token"]
        registry.daemon.stop()
        registry.daemon.start()
        wire = registry.daemon.registry
        bearer = f"Bearer {token}"
        self.assertEqual(wire.get("/v2/hello/tags/list", Authorization=bearer).status, 200)
        self.assertEqual(wire.get("/v2/shell/tags/list", Authorization=bearer).status, 401)
        self.assertEqual(wire.get("/v2/git/tags/list", Authorization=bearer).status, 403)
