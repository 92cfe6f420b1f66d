"""Tests of the daemon's start, and of its exit if it fails: real processes of twistd."""

from __future__ import annotations

import base64
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import bcrypt
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from nixery.config.declarations.removed import REMOVED_SETTINGS
from nixery.layers.grouping import Popularity
from nixery.layers.popularity_file import encode_popularity
from nixery.popularity.data import read_pinned
from tests.support.config import FORMER_NAMES

CHECKOUT = Path(__file__).resolve().parent.parent.parent


class StartTests(SynchronousTestCase):
    """
    Faults at the start are said once, and end the process: permanent ones with status 78,
    after which a service manager leaves it be, passing ones with status 1.
    """

    def setUp(self) -> None:
        if shutil.which("nix-build") is None:
            raise SkipTest("Nix is not installed")
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.set = self.directory / "set"
        self.set.mkdir()
        (self.set / "default.nix").write_text("{ }\n")
        self.pidfile = self.directory / "twistd.pid"

    def start(
        self, *options: str, environ: Mapping[str, str] | None = None
    ) -> subprocess.Popen[str]:
        """Start a daemon on the loopback interface, unless options say otherwise."""
        process = subprocess.Popen(
            [
                sys.executable,
                str(Path(sys.executable).parent / "twistd"),
                "--nodaemon",
                f"--pidfile={self.pidfile}",
                "nixery",
                *options,
            ],
            cwd=self.directory,
            env={
                **os.environ,
                "PYTHONPATH": str(CHECKOUT),
                "PYTHONUNBUFFERED": "1",
                "NIX_CONFIG": "build-users-group =\n",
                "NIXERY_PKGS_PATH": str(self.set),
                "STATE_DIRECTORY": str(self.directory / "state"),
                "CACHE_DIRECTORY": str(self.directory / "cache"),
                **(environ or {}),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def fails(
        self, *options: str, environ: Mapping[str, str] | None = None, status: int = 78
    ) -> str:
        """Start a daemon that cannot; what it said."""
        process = self.start(*options, environ=environ)
        output, _ = process.communicate(timeout=60)
        self.assertEqual(status, process.returncode, output)
        self.assertNotIn("Traceback", output)
        self.assertFalse(self.pidfile.exists())
        return output

    def ready(self, process: subprocess.Popen[str]) -> str:
        """Wait until a daemon is ready; the host that it says to pull from."""
        return pulled_from(self.output_until_ready(process))

    def output_until_ready(self, process: subprocess.Popen[str]) -> str:
        """Wait until a daemon is ready; what it says until then."""
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if "docker pull" in line:
                return "".join(said)
        raise AssertionError("".join(said))

    def test_start_and_stop(self) -> None:
        """It says where to pull from, answers there, and ends in good order on SIGTERM."""
        process = self.start("--listen", "tcp:0:interface=127.0.0.1")
        output = self.output_until_ready(process)
        self.assertEqual(
            [
                "Nixery",
                "Address: http, a free port of 127.0.0.1.",
                f"Source: the package set at {self.set}, for x86_64-linux.",
                f"Storage: {self.directory / 'state' / 'storage'}.",
                "Authentication: none, everyone can pull.",
            ],
            [
                re.sub(r"(Nixery) .*", r"\1", line.split("] ", 1)[1])
                for line in output.splitlines()[:5]
            ],
        )
        host = pulled_from(output)
        with urlopen(f"http://{host}/v2/", timeout=30) as answer:
            self.assertEqual(200, answer.status)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=60)
        self.assertNotIn("Traceback", output)
        self.assertNotIn("CRITICAL", output.upper())
        # Twisted passes the signal on when everything has ended.
        self.assertEqual(-signal.SIGTERM, process.returncode)

    def test_authentication_that_a_variable_asks_for_is_obeyed(self) -> None:
        """``NIXERY_AUTH=htpasswd`` asks for passwords, and fails without a file of them."""
        passwords = self.directory / "htpasswd"
        hashed = bcrypt.hashpw(b"wonderland", bcrypt.gensalt(rounds=5)).decode()
        passwords.write_text(f"alice:{hashed}\n")
        environ = {
            "NIXERY_AUTH": "htpasswd",
            "NIXERY_LISTEN": "tcp:0:interface=127.0.0.1",
            "NIXERY_AUHT": "none",
        }
        said = self.fails(environ=environ)
        self.assertIn("NIXERY_AUTH = 'htpasswd' (environment): name the file of the", said)
        self.assertIn(
            "NIXERY_AUTH = 'passwords' (environment): give one of none, htpasswd, token",
            self.fails(environ={"NIXERY_AUTH": "passwords"}),
        )
        process = self.start(environ={**environ, "NIXERY_HTPASSWD_FILE": str(passwords)})
        output = self.output_until_ready(process)
        self.assertIn("NIXERY_AUHT (environment): there is no such setting", output)
        self.assertIn("did you mean NIXERY_AUTH?", output)
        url = f"http://{pulled_from(output)}/v2/"
        self.assertEqual(401, self.assertRaises(HTTPError, urlopen, url, timeout=30).code)
        credentials = base64.b64encode(b"alice:wonderland").decode()
        request = Request(url, headers={"Authorization": f"Basic {credentials}"})
        with urlopen(request, timeout=30) as answer:
            self.assertEqual(200, answer.status)

    def test_port_that_others_reach_without_authentication_is_warned_of(self) -> None:
        """A port that other machines reach without a password is warned of, one of loopback not."""
        for endpoint, warned in (("tcp:0", True), ("tcp:0:interface=127.0.0.1", False)):
            process = self.start("--listen", endpoint)
            output = self.output_until_ready(process)
            self.assertIs(warned, "set auth and" in output)
            self.assertIs(warned, "Anyone who reaches 0.0.0.0:" in output, output)
            self.assertIs(warned, "may not reach: set public_url" in output, output)
            process.terminate()
            process.communicate(timeout=60)

    def test_every_deprecated_name_starts_with_a_warning(self) -> None:
        """Every deprecated name starts, in the file and on the command line, and is warned of."""
        # The other storage than the one that is started has this one.
        former = {old: new for old, new in FORMER_NAMES.items() if old != "gcs_proxy"}
        file = self.directory / "nixery.yaml"
        on_command_line = ("stop_grace", "client_rate", *[*REMOVED_SETTINGS][:1])
        in_file = [name for name in (*former, *REMOVED_SETTINGS) if name not in on_command_line]
        values = {**{old: value for old, (_, value) in former.items()}, "revisions": "[latest]"}
        file.write_text("".join(f"{name}: {values.get(name, 'anything')}\n" for name in in_file))
        process = self.start(
            *("--config", str(file), "--listen", "tcp:0:interface=127.0.0.1"),
            *(f"--{name.replace('_', '-')}={values.get(name, 1)}" for name in on_command_line),
        )
        said = []
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line)
            if "docker pull" in line:
                break
        output = "".join(said)
        for name in in_file:
            present = former[name][0] if name in former else "no effect"
            self.assertRegex(output, rf"{name} \({re.escape(str(file))}\): .*{present}")
        for name in on_command_line:
            present = former[name][0] if name in former else "no effect"
            option, present = (text.replace("_", "-") for text in (name, present))
            self.assertRegex(output, rf"--{option} \(command line\): .*{present}")
        process.send_signal(signal.SIGTERM)
        rest, _ = process.communicate(timeout=60)
        self.assertNotIn("Traceback", output + rest)
        self.assertEqual(-signal.SIGTERM, process.returncode)

    def test_listening_waits_for_no_popularity_data(self) -> None:
        """Listening waits for no popularity data; a copy of them outlives their URL."""
        data = self.directory / "popularity.json"
        there = encode_popularity(Popularity(transitive={"glibc": 2}, setsize=2))

        def run(url: str, says: str, *options: str) -> None:
            listen = ("--listen", "tcp:0:interface=127.0.0.1")
            process = self.start(*listen, *options, environ={"NIX_POPULARITY_URL": url})
            assert process.stdout is not None
            expected = {"docker pull", says}
            for line in process.stdout:
                expected = {text for text in expected if text not in line}
                if not expected:
                    break
            self.assertEqual(set(), expected)
            process.send_signal(signal.SIGTERM)
            output, _ = process.communicate(timeout=60)
            self.assertNotIn("Traceback", output)
            self.assertEqual(-signal.SIGTERM, process.returncode)

        with socket.create_server(("127.0.0.1", 0)) as silent:
            run(f"http://127.0.0.1:{silent.getsockname()[1]}/", "docker pull")
        run(f"file://{data}", "There are no new popularity data")
        kept = self.directory / "state" / "popularity"
        self.assertFalse(kept.exists())
        data.write_bytes(there)
        run(f"file://{data}", "were fetched from")
        pinned = read_pinned(kept)
        assert pinned is not None
        self.assertEqual({"glibc": 2}, pinned.popularity.transitive)
        data.unlink()
        run(f"file://{data}", "are used: 1 packages")
        run(f"file://localhost{data}", "those that were kept are used")
        self.assertEqual(pinned, read_pinned(kept))

    def test_port_in_use(self) -> None:
        """A port that another program has."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            output = self.fails("--listen", f"tcp:{port}:interface=127.0.0.1", status=1)
        self.assertIn(f"Cannot start: port {port} is already in use", output)
        self.assertEqual(1, output.count("in use"))

    def test_package_set_missing(self) -> None:
        """A package set that is not there."""
        output = self.fails("--pkgs-path", str(self.directory / "none"))
        self.assertIn(str(self.directory / "none"), output)
        self.assertIn("NIXERY_PKGS_PATH", output)

    def test_storage_not_writable(self) -> None:
        """A storage directory that cannot be made."""
        (self.directory / "file").touch()
        output = self.fails("--storage-path", str(self.directory / "file" / "storage"))
        self.assertIn(str(self.directory / "file"), output)
        self.assertIn("Cannot start: ", output)

    def test_machine_without_nix_cannot_start(self) -> None:
        """A machine without Nix."""
        programs = self.directory / "bin"
        programs.mkdir()
        for name in ("setsid", "env"):
            program = shutil.which(name)
            assert program is not None
            (programs / name).symlink_to(program)
        output = self.fails(environ={"PATH": str(programs)})
        self.assertIn("Nix cannot be used", output)

    def test_nix_not_up(self) -> None:
        """A daemon of Nix's that does not answer yet."""
        # Newer Nix reads it as a URL, which knows fewer letters than a path of this checkout.
        socket_path = Path("/nonexistent/socket")
        output = self.fails(environ={"NIX_REMOTE": f"unix://{socket_path}"}, status=1)
        self.assertIn(f"'{socket_path}': No such file or directory", output)

    def test_store_that_is_not_where_its_paths_say(self) -> None:
        """A store that is not where its paths say: no image could be packed."""
        place = self.directory / "elsewhere"
        output = self.fails(environ={"NIX_REMOTE": f"local?root={place}"})
        self.assertIn(f"is in {place}/nix/store: NIX_REMOTE is", output)

    def test_certificate_that_is_not_there(self) -> None:
        """A certificate that is not there."""
        none = str(self.directory / "none.pem")
        output = self.fails("--tls-certificate", none, "--tls-key", none)
        self.assertIn(f"cannot use {none} for TLS: it cannot be read", output)

    def test_option_that_there_is_not_is_said_without_pages_of_help_around_it(self) -> None:
        """An option that there is not is said without pages of help around it."""
        self.assertEqual(
            "twistd nixery: there is no option --prot: did you mean --port?\n",
            self.fails("--prot", "1"),
        )

    def test_state_in_use(self) -> None:
        """A second daemon on the same state directory, which the first survives."""
        first = self.start("--listen", "tcp:0:interface=127.0.0.1")
        host = self.ready(first)
        self.pidfile = self.directory / "second.pid"
        output = self.fails("--listen", "tcp:0:interface=127.0.0.1", status=1)
        self.assertIn("another process uses the state directory", output)
        with urlopen(f"http://{host}/v2/", timeout=30) as answer:
            self.assertEqual(200, answer.status)

    def test_configuration_with_several_faults(self) -> None:
        """A configuration with several faults: all of them, without a traceback."""
        output = self.fails("--layer-budget", "0", environ={"PORT": "tcp://10.0.0.1"})
        self.assertIn("--layer-budget = '0'", output)
        self.assertIn("PORT = 'tcp://10.0.0.1'", output)


def pulled_from(output: str) -> str:
    """Return the host from which a daemon says to pull."""
    return output.split("docker pull ")[1].split("/", maxsplit=1)[0]
