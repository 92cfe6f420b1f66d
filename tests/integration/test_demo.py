"""
The demo package set: what apt answers becomes packages, and those truly run.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import os
import re
import secrets
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from demoset.apt import Apt
from demoset.errors import DemoFailed
from tests.integration.demokit import (
    SetTestCase,
    build,
    checked,
    closure,
    demo_set,
    evaluate,
    run,
)
from tests.integration.nixenv import nix_environment

# -- apt ------------------------------------------------------------------------


class AptTests(SynchronousTestCase):
    """Tests of apt with archives in a directory, in place of Debian's and a third party's."""

    def setUp(self) -> None:
        for program in ("apt-get", "dpkg-deb"):
            if shutil.which(program) is None:
                raise SkipTest(f"{program} is not installed: this is no Debian machine")
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.sources = self.directory / "sources.list"
        self.sources.touch()
        settings = self.directory / "machine.conf"
        settings.write_text(
            f'Dir::Etc::sourcelist "{self.sources}";\n'
            'Dir::Etc::sourceparts "/dev/null";\n'
            # The hooks of a machine must not be run: this one would fail.
            'APT::Update::Pre-Invoke { "false"; };\n'
        )
        self.patch(os, "environ", {**os.environ, "APT_CONFIG": str(settings)})

    def add_archive(self, origin: str, packages: Mapping[str, str]) -> Path:
        """An archive with these packages (their versions by their names)."""
        root = self.directory / origin
        lists = root / "dists/stable/main/binary-amd64"
        lists.mkdir(parents=True)
        stanzas = []
        for name, version in packages.items():
            control = (
                f"Package: {name}\nVersion: {version}\nArchitecture: amd64\nSection: libs\n"
                f"Maintainer: nobody <nobody@example.org>\nDescription: from {origin}\n"
            )
            tree = root / f"{name}-tree"
            (tree / "DEBIAN").mkdir(parents=True)
            (tree / "DEBIAN/control").write_text(control)
            deb = root / f"pool/{name}_{version}_amd64.deb"
            deb.parent.mkdir(exist_ok=True)
            checked("dpkg-deb", "--build", tree, deb, environ=os.environ)
            content = deb.read_bytes()
            stanzas.append(
                f"{control}Filename: {deb.relative_to(root)}\nSize: {len(content)}\n"
                f"SHA256: {hashlib.sha256(content).hexdigest()}\n"
            )
        listing = "\n".join(stanzas).encode()
        (lists / "Packages").write_bytes(listing)
        (root / "dists/stable/Release").write_text(
            f"Origin: {origin}\nSuite: stable\nArchitectures: amd64\nComponents: main\n"
            "Date: Sat, 01 Jan 2022 00:00:00 UTC\nSHA256:\n"
            f" {hashlib.sha256(listing).hexdigest()} {len(listing)} main/binary-amd64/Packages\n"
        )
        with self.sources.open("a") as file:
            # A blank would end the address.
            file.write(f"deb [trusted=yes] file:{quote(str(root))} stable main\n")
        return root

    def make(self, architecture: str = "amd64") -> Apt:
        home = self.directory / f"apt-{architecture}"
        home.mkdir()
        return Apt(home, architecture)

    def test_records_and_files(self) -> None:
        """A package of the archive is described, located and fetched as it is there."""
        root = self.add_archive("Debian", {"hello": "1:2.10-3", "libfoo": "1.0"})
        apt = self.make()
        apt.update()
        hello, libfoo = apt.record("hello"), apt.record("libfoo")
        assert hello is not None and libfoo is not None
        self.assertEqual(hello.version, "1:2.10-3")
        urls = apt.uris([hello, libfoo])
        self.assertEqual(unquote(urls["libfoo"]), f"file://{root}/pool/libfoo_1.0_amd64.deb")
        content = apt.download(libfoo).read_bytes()
        self.assertEqual(hashlib.sha256(content).hexdigest(), libfoo.sha256)

    def test_names_that_the_archive_does_not_know_are_no_error(self) -> None:
        """Names that the archive does not know are no error."""
        self.add_archive("Debian", {"hello": "1.0"})
        apt = self.make()
        apt.update()
        self.assertIsNone(apt.record("nothing"))

    def test_missing_network_is_told(self) -> None:
        """Without a network it is that which is told, and not that apt has no sources."""
        with socket.socket() as unused:
            # Bound and not listening: a connection is refused.
            unused.bind(("127.0.0.1", 0))
            port = unused.getsockname()[1]
            self.sources.write_text(f"deb [trusted=yes] http://127.0.0.1:{port} stable main\n")
            failure = self.assertRaises(DemoFailed, self.make().update)
        self.assertIn("cannot be reached", failure.reason)
        self.assertIn(f"127.0.0.1:{port}", failure.reason)

    def test_missing_archive_with_a_network_advises_to_change_the_sources(self) -> None:
        """With a network and no Debian archive, it is the sources that have to be changed."""
        failure = self.assertRaises(DemoFailed, self.make().update)
        self.assertIn("name no Debian archive", failure.reason)

    def test_newer_package_of_the_same_name_in_another_archive_is_not_taken(self) -> None:
        """A newer package of the same name in another archive is not taken."""
        self.add_archive("Debian", {"hello": "1.0"})
        self.add_archive("Elsewhere", {"hello": "2.0"})
        apt = self.make()
        apt.update()
        hello = apt.record("hello")
        assert hello is not None
        self.assertEqual(hello.description, "from Debian")

    def test_without_an_archive_of_debians_the_error_says_what_to_add(self) -> None:
        """Without an archive of Debian's, the error says what to add."""
        self.add_archive("Elsewhere", {"hello": "2.0"})
        error = self.assertRaises(DemoFailed, self.make().update)
        self.assertIn("no Debian archive for amd64", error.message)
        self.assertIn("/etc/apt/sources.list.d", error.message)

    def test_archive_without_packages_for_an_architecture_is_none_for_that_one(self) -> None:
        """An archive without packages for an architecture is none for that one."""
        self.add_archive("Debian", {"hello": "1.0"})
        error = self.assertRaises(DemoFailed, self.make("arm64").update)
        self.assertIn("arm64", error.message)

    def test_one_source_out_of_order(self) -> None:
        """A source that cannot be reached is no matter if it is not Debian's."""
        self.add_archive("Debian", {"hello": "1.0"})
        with self.sources.open("a") as file:
            file.write("deb [trusted=yes] file:/no/such/archive stable main\n")
        apt = self.make()
        apt.update()
        self.assertIsNotNone(apt.record("hello"))


# -- the set ----------------------------------------------------------------------


class ProgramTests(SetTestCase):
    """Programs run from their store paths, with no environment at all."""

    def output(self, package: str, *argv: str, **environ: str) -> str:
        return checked(build(package) / argv[0], *argv[1:], environ=environ)

    def test_bash_is_there_by_both_of_its_names_and_as_sh(self) -> None:
        """Bash is there by both of its names, and as sh."""
        self.assertEqual(build("bash"), build("bashInteractive"))
        self.assertEqual(self.output("bashInteractive", "bin/sh", "-c", "echo $((6*7))"), "42\n")

    def test_perl_finds_its_modules_and_so_does_a_perl_that_perl_starts(self) -> None:
        """Perl finds its modules, and so does a Perl that Perl starts."""
        script = (
            "use POSIX; use Storable; use Encode; use Digest::SHA;"
            ' print strftime("%Y ", gmtime(0)), `$^X -MData::Dumper -e "print 5"`'
        )
        shell = str(build("bash") / "bin")
        self.assertEqual(self.output("perl", "bin/perl", "-e", script, PATH=shell), "1970 5")

    def test_program_written_in_perl_finds_the_modules_of_other_packages(self) -> None:
        """A program written in Perl finds the modules of other packages."""
        done = subprocess.run(
            [build("moreutils") / "bin/ts", "-r"],
            env={},
            input="2020-11-23T10:00:00.5 something\n",
            capture_output=True,
            text=True,
            check=True,
        )
        self.assertIn("ago something", done.stdout)

    def test_python_has_its_extension_modules_terminals_and_certificates(self) -> None:
        """Python has its extension modules, terminals and certificates."""
        script = (
            "import bz2, ctypes, curses, hashlib, json, lzma, readline, sqlite3, ssl, uuid, zlib;"
            "curses.setupterm('xterm-256color');"
            "print(curses.tigetnum('colors'),"
            " len(ssl.create_default_context().get_ca_certs()) > 100)"
        )
        bundle = build("cacert") / "etc/ssl/certs/ca-bundle.crt"
        printed = self.output("python3", "bin/python3", "-c", script, SSL_CERT_FILE=str(bundle))
        self.assertEqual(printed, "256 True\n")

    def test_in_merged_root_python_finds_packages_there_and_what_those_need(self) -> None:
        """In a merged root Python finds the packages there, and what those need."""
        (self.directory / "bin").mkdir()
        (self.directory / "bin/python3").symlink_to(build("python3") / "bin/python3")
        packages = self.directory / "lib/python3/dist-packages"
        packages.mkdir(parents=True)
        for name in ("requests", "pyyaml"):
            for entry in (build(f"python3Packages.{name}") / "lib/python3/dist-packages").iterdir():
                (packages / entry.name).symlink_to(entry)
        script = "import requests, yaml; print(requests.__file__, yaml.__with_libyaml__)"
        printed = checked(self.directory / "bin/python3", "-c", script)
        self.assertEqual(printed, f"{packages}/requests/__init__.py True\n")

    def test_git_makes_clones_and_runs(self) -> None:
        """Git makes a repository from its templates, clones it, and runs shell commands."""
        git = build("git") / "bin/git"
        environ = {
            "HOME": str(self.directory),
            **{f"GIT_{who}_NAME": "A" for who in ("AUTHOR", "COMMITTER")},
            **{f"GIT_{who}_EMAIL": "a@example.org" for who in ("AUTHOR", "COMMITTER")},
        }
        first, second = self.directory / "first", self.directory / "second"
        checked(git, "init", "--quiet", first, environ=environ)
        self.assertTrue((first / ".git/info/exclude").is_file())
        (first / "file").write_text("content\n")
        checked(git, "-C", first, "add", "file", environ=environ)
        checked(git, "-C", first, "commit", "--quiet", "-m", "one", environ=environ)
        checked(git, "clone", "--quiet", f"file://{first}", second, environ=environ)
        self.assertEqual((second / "file").read_text(), "content\n")
        # This one is a shell script, and uses sed and others.
        checked(git, "-C", second, "filter-branch", "-f", "--msg-filter", "cat",
                environ={**environ, "FILTER_BRANCH_SQUELCH_WARNING": "1"})  # fmt: skip

    def test_curl_trusts_what_it_is_told(self) -> None:
        """curl speaks TLS and believes in the authorities that the environment names."""
        certificate, key = self.directory / "certificate", self.directory / "key"
        subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
        checked(
            build("openssl") / "bin/openssl",
            *("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject),
            *("-keyout", key, "-out", certificate),
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        server = _TLSServer(("127.0.0.1", 0), _Greeting)
        server.context = context
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        command: list[str | Path] = [
            *(build("curl!bin") / "bin/curl", "--silent", "--show-error"),
            *("--resolve", f"localhost:{server.server_port}:127.0.0.1"),
            f"https://localhost:{server.server_port}/",
        ]
        self.assertEqual(checked(*command, environ={"SSL_CERT_FILE": str(certificate)}), "hello\n")
        bundle = build("cacert") / "etc/ssl/certs/ca-bundle.crt"
        refused = run(command, environ={"SSL_CERT_FILE": str(bundle)})
        self.assertIn("certificate", refused.stderr)


class _TLSServer(http.server.HTTPServer):
    """A server that ends connections as TLS wants it: one that is cut off is an error."""

    context: ssl.SSLContext

    def get_request(self) -> tuple[socket.socket, Any]:
        plain, address = super().get_request()
        return self.context.wrap_socket(
            plain, server_side=True, do_handshake_on_connect=False
        ), address

    def shutdown_request(self, request: Any) -> None:
        # A client that does not trust the server has not even begun.
        with contextlib.suppress(OSError):
            request.unwrap()
        super().shutdown_request(request)


class _Greeting(http.server.BaseHTTPRequestHandler):
    # Neither may a handshake that fails be an error of the tests.
    def handle(self) -> None:
        with contextlib.suppress(ssl.SSLError):
            super().handle()

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"hello\n")

    def log_message(self, *_: object) -> None:
        pass


class PackageTests(SetTestCase):
    def test_package_refers_to_what_it_uses(self) -> None:
        """A package refers to what it uses, and to nothing else it was built with."""
        names = closure(build("hello"))
        self.assertEqual({re.sub("-[0-9].*", "", name) for name in names}, {"hello", "glibc"})

    def test_curl_is_cut_into_outputs(self) -> None:
        """curl is cut into outputs, whose references go from programs to libraries only."""
        parts = {output: build(f"curl!{output}") for output in ("bin", "dev", "out", "man")}
        self.assertTrue((parts["bin"] / "bin/curl").is_file())
        self.assertTrue((parts["man"] / "share/man").is_dir())
        self.assertTrue(list((parts["dev"] / "include").rglob("curl.h")))
        self.assertTrue(list((parts["out"] / "lib").rglob("libcurl.so.4")))
        self.assertFalse((parts["out"] / "include").exists())
        names = closure(parts["out"])
        self.assertFalse([name for name in names if name.endswith(("-bin", "-dev", "-man"))])
        self.assertEqual(
            evaluate('(set "x86_64-linux").curl.meta.outputsToInstall'), ["bin", "man"]
        )

    def test_other_system_has_programs_of_its_own(self) -> None:
        """For the other system there are programs of its own, which use their own loader."""
        program = build("hello", "aarch64-linux") / "bin/hello"
        content = program.read_bytes()
        machine = int.from_bytes(content[18:20], "little")
        self.assertEqual(machine, 183)  # EM_AARCH64
        loader = re.search(rb"/nix/store/[^\0]*/ld-linux-aarch64\.so\.1\0", content)
        assert loader is not None
        loaded = Path(loader.group().rstrip(b"\0").decode()).read_bytes()
        self.assertEqual(int.from_bytes(loaded[18:20], "little"), 183)

    def test_build_of_one_package_fetches_nothing_of_the_others(self) -> None:
        """A build of one package fetches nothing of the others."""
        derivation = evaluate('(set "x86_64-linux").hello.drvPath')
        assert isinstance(derivation, str)
        # Evaluation in read-only mode does not write it.
        build("hello")
        needed = checked("nix-store", "--query", "--requisites", derivation,
                         environ=nix_environment())  # fmt: skip
        fetched = {line.partition("-")[2] for line in needed.split() if line.endswith(".deb.drv")}
        self.assertEqual(
            {name.partition("_")[0] for name in fetched},
            {"dash", "hello", "libc-bin", "libc6", "libgcc-s1"},
        )

    def test_all_packages_but_the_refused_have_derivations_on_both_systems(self) -> None:
        """All packages of both systems have derivations, but for those that are refused."""
        refused = ["antique", "foreign", "leaky", "unrar"]
        for system in ("x86_64-linux", "aarch64-linux"):
            answer = evaluate(
                f'let s = removeAttrs (set "{system}") [ "aborting" ];'
                " packages = builtins.filter (name: s.${name}.type or null == "
                '"derivation") (builtins.attrNames s);'
                " in builtins.filter (name: !(builtins.tryEval s.${name}.drvPath).success)"
                " packages"
            )
            self.assertEqual(answer, refused)

    def test_package_that_is_there_to_fail_does_and_says_so(self) -> None:
        """The package that is there to fail does, and says so."""
        failure = self.assertRaises(AssertionError, build, "failing")
        self.assertIn("the sixth step failed", str(failure))

    def test_failure_because_mirror_has_dropped_file_says_how_to_get_new_lock(self) -> None:
        """A failure because a mirror has dropped a file says how to get a new lock."""
        copy = self.directory / "set"
        shutil.copytree(demo_set(), copy)
        lock = json.loads((copy / "lock.json").read_text())
        for deb in lock["systems"]["x86_64-linux"]["hello"]["debs"]:
            # Another sum, so that it is not in the store.
            deb |= {"url": f"file://{self.directory}/hello_1.deb", "sha256": secrets.token_hex(32)}
        (copy / "lock.json").write_text(json.dumps(lock))
        done = run(
            ["nix-build", "--no-out-link", copy, "--attr", "hello"], environ=nix_environment()
        )
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("nix/demo/start_--prepare-only_--refresh", done.stderr)
        self.assertIn("hello_1.deb", done.stderr)

    def test_without_a_lock(self) -> None:
        """The expressions alone say what makes a set of them."""
        for path in demo_set().iterdir():
            if path.suffix in {".nix", ".sh"}:
                shutil.copy(path, self.directory)
        done = run(
            ["nix-instantiate", self.directory, "--attr", "hello"], environ=nix_environment()
        )
        self.assertIn("nix/demo/start --prepare-only --directory", done.stderr)

    def test_unit_that_is_built_again_is_the_same_bit_for_bit(self) -> None:
        """A unit that is built again is the same, bit for bit."""
        derivation = checked(
            "nix-store", "--query", "--deriver", build("bash"), environ=nix_environment()
        )
        checked(
            "nix-build",
            *("--no-out-link", "--check", derivation.strip()),
            environ=nix_environment(),
        )
