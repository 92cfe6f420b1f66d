"""Honest clients beside clients that try to spoil the registry for them."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import random
import shutil
import tarfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.end_to_end.case import watched_set
from tests.end_to_end.daemon import Daemon
from tests.end_to_end.fairness import FairnessCase
from tests.end_to_end.processes import private_directory, run

COMMIT = "0123456789abcdef0123456789abcdef01234567"

COMMITS = 12


class SlowGit:
    """
    A git repository whose server takes its time, and a journal of the commands that reach it.

    :ivar commits: its commits, the newest first.
    :param seconds: the time that every command that reaches the server takes longer.
    """

    def __init__(self, seconds: float) -> None:
        self.directory = private_directory("git")
        self.path = self.directory / "packages"
        shutil.copytree(watched_set().path, self.path)
        self._git("init", "--quiet", "--initial-branch=main", ".")
        self._git("add", ".")
        for number in range(COMMITS):
            self._git("commit", "--quiet", "--allow-empty", f"--message={number}")
        self.commits = self._git("rev-list", "main").split()
        self._journal = self.directory / "journal"
        self._journal.touch()
        commands = self.directory / "commands"
        commands.mkdir()
        script = commands / "git"
        script.write_text(
            "#!/bin/sh\n"
            'case " $* " in *" ls-remote "* | *" fetch "*)\n'
            f'  echo "$*" >> {self._journal}; sleep {seconds} ;;\n'
            "esac\n"
            f'exec {shutil.which("git")} "$@"\n'
        )
        script.chmod(0o755)
        self.environ = {"PATH": f"{commands}:{os.environ['PATH']}", "NIXERY_PKGS_PATH": ""}

    def _git(self, *arguments: str) -> str:
        identity = ("-c", "user.name=A", "-c", "user.email=a@example.org")
        return run(["git", *identity, *arguments], cwd=self.path).checked().stdout

    def commands(self, verb: str) -> int:
        """Count the commands that have reached the server."""
        return f" {self._journal.read_text()} ".count(f" {verb} ")


class GitTests(FairnessCase):
    """Look-ups in a git repository."""

    def setUp(self) -> None:
        super().setUp()
        self.git = SlowGit(0.5)
        self.daemon = Daemon(
            self.git.path,
            name="git",
            environ=self.git.environ,
            options=[f"--pkgs-repo={self.git.path}", "--source-ttl=0"],
        ).start()
        self.addCleanup(self.daemon.kill)

    def pull(self, reference: str = "latest") -> None:
        answer = self.daemon.registry.manifest("plain", reference)
        self.assertEqual(answer.status, 200, answer.body)

    @contextlib.contextmanager
    def asking(self, names: list[str], *, stay: bool) -> Iterator[None]:
        """Ask for many tags, and leave at once or at the end."""
        attackers = self.attackers(self.daemon)
        for name in names:
            attackers.ask(f"/v2/plain/manifests/{name}")
        if not stay:
            attackers.leave()
        yield
        attackers.leave()

    def test_made_up_tags_do_not_delay_the_renewal_of_the_configured_branch(self) -> None:
        """Made-up tags do not delay the renewal of the configured branch."""
        for stay in (False, True):
            names = [f"made-up-{number}-{stay}" for number in range(300)]
            before = self.git.commands("ls-remote")
            compared = self.compare(
                self.daemon, self.pull, functools.partial(self.asking, names, stay=stay)
            )
            self.assert_fair(compared)
            # Seven for the honest client, and few for all others together.
            self.assertLess(self.git.commands("ls-remote") - before, 7 + 10)

    def test_made_up_commits_delay_neither_the_branch_nor_another_commit(self) -> None:
        """Made-up commits delay neither the configured branch nor a commit that exists."""
        unknown = iter(self.git.commits[1:])
        for honest in (self.pull, lambda: self.pull(next(unknown))):
            names = [f"{random.getrandbits(160):040x}" for _ in range(300)]
            attack = functools.partial(self.asking, names, stay=True)
            self.assert_fair(self.compare(self.daemon, honest, attack))


class ChannelServer:
    """
    A channel host that takes its time, and counts its connections.

    It also serves nixpkgs of each commit as an archive.

    :param seconds: the time that it takes to answer for a channel.
    """

    def __init__(self, seconds: float) -> None:
        self.names: list[str] = []
        self.most_at_once = 0
        archive = _archive(watched_set().path)
        lock = threading.Lock()
        running: list[str] = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(handler) -> None:  # noqa: N805  # the name that is called
                name = handler.path.strip("/").partition("/")[0]
                if name == "archive":
                    handler.answer(200, archive)
                    return
                with lock:
                    running.append(name)
                    self.names.append(name)
                    self.most_at_once = max(self.most_at_once, len(running))
                time.sleep(seconds)
                with lock:
                    running.remove(name)
                known = name in ("nixos-unstable", "nixos-25.05")
                handler.answer(200 if known else 404, COMMIT.encode())

            def answer(handler, status: int, body: bytes) -> None:  # noqa: N805
                with contextlib.suppress(ConnectionError):
                    handler.send_response(status)
                    handler.send_header("Content-Length", str(len(body)))
                    handler.end_headers()
                    handler.wfile.write(body)

            def log_message(handler, *_: object) -> None:  # noqa: N805
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _archive(path: Path) -> bytes:
    with io.BytesIO() as buffer:
        with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
            tar.add(path, f"nixpkgs-{COMMIT}")
        return buffer.getvalue()


class ChannelTests(FairnessCase):
    """Look-ups of channels."""

    def test_made_up_channels_delay_no_other_and_open_few_connections(self) -> None:
        """Made-up channels delay neither ``latest`` nor another one, and open few connections."""
        host = ChannelServer(0.5)
        self.addCleanup(host.stop)
        daemon = Daemon(
            watched_set().path,
            name="channels",
            environ={"NIXERY_PKGS_PATH": ""},
            options=[
                "--channel=nixos-unstable",
                f"--channel-url={host.url}",
                f"--nixpkgs-url={host.url}/archive/{{commit}}.tar.gz",
                "--source-ttl=0",
            ],
        ).start()
        self.addCleanup(daemon.kill)

        def pull(tag: str) -> None:
            answer = daemon.registry.manifest("plain", tag)
            self.assertEqual(answer.status, 200, answer.body)

        # Of these, 54 can be names of channels: the others are refused without a request.
        names = [
            f"nixos-{year:02}.{month:02}{variant}"
            for variant in ("", "-small")
            for year in range(100)
            for month in range(1, 13)
            if (year, month) != (25, 5)
        ]

        @contextlib.contextmanager
        def attack() -> Iterator[None]:
            attackers = self.attackers(daemon)
            for name in names:
                attackers.ask(f"/v2/plain/manifests/{name}")
            yield
            attackers.leave()

        for tag in ("latest", "nixos-25.05"):
            self.assert_fair(self.compare(daemon, functools.partial(pull, tag), attack))
        # One for the configured channel.
        self.assertLessEqual(host.most_at_once, 4 + 1)
        self.assertLessEqual(set(host.names), {"nixos-unstable", "nixos-25.05", *names})
        self.assertEqual([each for each in host.names if "nixos-27" <= each < "nixos-a"], [])
