"""
Tests of programs of the demo set: they run in a container, without a network.
"""

from __future__ import annotations

import re

from tests.end_to_end.case import EndToEndCase, demo_registry, docker

COMMIT = """
set -e
cd /tmp
export GIT_AUTHOR_NAME=A GIT_AUTHOR_EMAIL=a@example.org
export GIT_COMMITTER_NAME=A GIT_COMMITTER_EMAIL=a@example.org
git init --quiet origin
echo content > origin/file
git -C origin add file
git -C origin commit --quiet --message first
git clone --quiet file:///tmp/origin copy
cat copy/file
git -C copy log --format=%s
"""

TRUST = """
import os, ssl
context = ssl.create_default_context(cafile=os.environ["SSL_CERT_FILE"])
print(len(context.get_ca_certs()))
print(os.path.samefile(os.environ["SSL_CERT_FILE"], "/etc/ssl/certs/ca-certificates.crt"))
"""


class ContentsTests(EndToEndCase):
    """Programs in containers of the demo set."""

    def execute(self, name: str, *command: str) -> str:
        """Run a command in a new container, and return its output."""
        image = f"{demo_registry().address}/{name}"
        docker().pull(image).checked()
        return docker().run(image, *command).checked().stdout

    def test_python_finds_its_library_compiled_modules_included(self) -> None:
        """Python finds its library, compiled modules included."""
        script = "import json, sqlite3, ssl, zlib; print(json.dumps(sum(range(10))))"
        self.assertEqual(self.execute("python3", "python3", "-c", script).strip(), "45")

    def test_package_of_a_nested_set_is_found_by_the_interpreter(self) -> None:
        """A package of a nested set is found by the interpreter."""
        script = "import yaml; print(yaml.safe_load('a: [1, 2]')['a'][1])"
        said = self.execute("python3/python3packages.pyyaml", "python3", "-c", script)
        self.assertEqual(said.strip(), "2")

    def test_ca_bundle_is_where_ssl_cert_file_and_habit_look_for_it(self) -> None:
        """The CA bundle is where SSL_CERT_FILE and habit look for it."""
        count, same = self.execute("python3", "python3", "-c", TRUST).split()
        self.assertGreater(int(count), 50)
        self.assertEqual(same, "True")

    def test_git_commits_and_clones(self) -> None:
        """git commits and clones."""
        said = self.execute("shell/git", "bash", "-c", COMMIT)
        self.assertEqual(said.split(), ["content", "first"])

    def test_shell_is_the_command(self) -> None:
        """An image with a shell runs it when nothing else is asked for."""
        image = f"{demo_registry().address}/shell"
        docker().pull(image).checked()
        docker().run(image).checked()

    def test_programs_of_all_kinds_start(self) -> None:
        """Programs of all kinds start."""
        commands = {
            "curl": "curl --version",
            "jq": "jq --version",
            "perl": "perl -e 'use POSIX; print floor(3.7), qq(\n)'",
            "vim": "vim --version",
            "sqlite": "sqlite3 :memory: 'select 6 * 7'",
            "less": "less --version",
            "openssl": "openssl version",
            "7zz": "7zz",
            "gawk": "gawk 'BEGIN { print 42 }'",
        }
        said = self.execute(
            "/".join(["shell", *commands]),
            "bash",
            "-c",
            "set -e\n" + "\n".join(f"echo == {name}\n{commands[name]}" for name in commands),
        )
        parts = dict(re.findall(r"^== (\S+)\n(.*?)(?=^== |\Z)", said, re.MULTILINE | re.DOTALL))
        self.assertEqual(sorted(parts), sorted(commands))
        self.assertEqual(
            (parts["perl"].strip(), parts["sqlite"].strip(), parts["gawk"].strip()),
            ("3", "42", "42"),
        )
        for name, word in {"curl": "libcurl", "vim": "VIM", "openssl": "OpenSSL"}.items():
            self.assertIn(word, parts[name])
