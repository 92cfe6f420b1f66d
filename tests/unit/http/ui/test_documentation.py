"""The documentation: how it is served, and what its sources say of the code."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import NoReturn
from unittest.mock import patch
from urllib.parse import quote

from twisted.python.usage import UsageError
from twisted.trial.unittest import SynchronousTestCase

from nixery.cli.parser import CommandParser
from nixery.config.errors import ConfigError
from nixery.config.load import load_config
from nixery.config.settings import SETTINGS
from nixery.http.routes import UIHandlers
from nixery.http.ui.documentation import Documentation
from nixery.image.names import parse_image_name, parse_reference
from nixery.tap import Options
from nixery.testing.error_types import error_types
from nixery.testing.fakes import InlineWorkers
from tests.support.http import Connection, Response, SteppedWorkers, make_root
from tests.support.pages import BROWSER, make_pages
from tests.unit.http.test_router import find_handler

CHECKOUT = Path(__file__).resolve().parents[4]
SOURCES = CHECKOUT / "web" / "docs"

FILES = {
    "index.html": "<p>the first page",
    "404.html": "<p>another page",
    "running/index.html": "<p>running",
    "searchindex.js": "Search.setIndex({})",
    "_static/docs.css": "body { color: black }" * 100,
    "_static/file.png": "a picture",
    "objects.inv": "for other projects",
    ".buildinfo": "for Sphinx",
}


class ServingTests(SynchronousTestCase):
    """The pages under ``/docs``."""

    def setUp(self) -> None:
        base = Path(self.mktemp()).absolute()
        self.directory = base / "docs"
        for name, text in FILES.items():
            path = self.directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (base / "secret.html").write_text("secret")
        self.connection = self.connect(self.directory)

    def connect(
        self, directory: Path | None, workers: SteppedWorkers | InlineWorkers | None = None
    ) -> Connection:
        """A connection to a site that has the documentation."""
        pages = make_pages()
        documentation = Documentation(
            pages, directory, InlineWorkers() if workers is None else workers
        )
        return Connection(make_root(ui=UIHandlers(pages=pages, documentation=documentation)))

    def get(self, path: str, *headers: tuple[str, str]) -> Response:
        """Ask for a path as a browser does."""
        return self.connection.request("GET", path, BROWSER, *headers)

    def test_folder_is_answered_with_its_page_and_media_types_are_right(self) -> None:
        """A folder is answered with its page, and media types are right."""
        for path, name, media_type in (
            ("/docs/", "index.html", "text/html; charset=utf-8"),
            ("/docs/index.html", "index.html", "text/html; charset=utf-8"),
            ("/docs/running/", "running/index.html", "text/html; charset=utf-8"),
            ("/docs/searchindex.js", "searchindex.js", "text/javascript; charset=utf-8"),
            ("/docs/_static/docs.css", "_static/docs.css", "text/css; charset=utf-8"),
            ("/docs/_static/file.png", "_static/file.png", "image/png"),
        ):
            answer = self.get(path)
            self.assertEqual(
                (200, media_type), (answer.status, answer.header("Content-Type")), path
            )
            self.assertEqual(FILES[name].encode(), answer.body, path)
            policy = answer.header("Content-Security-Policy")
            self.assertIn("script-src 'self'; style-src 'self'", policy)
            self.assertNotIn("unsafe", policy)

    def test_folder_that_is_asked_for_like_a_file_leads_to_itself(self) -> None:
        """A folder that is asked for like a file leads to itself: links are relative to it."""
        for path, location in (("/docs", "/docs/"), ("/docs/running", "/docs/running/")):
            answer = self.get(path)
            self.assertEqual((308, location), (answer.status, answer.header("Location")))

    def test_head_has_the_headers_of_get(self) -> None:
        """HEAD has the headers of GET."""
        got, head = self.get("/docs/"), self.connection.request("HEAD", "/docs/", BROWSER)
        self.assertEqual((200, b""), (head.status, head.body))
        self.assertEqual(got.headers["content-length"], head.headers["content-length"])

    def test_page_that_a_browser_has_is_not_sent_again(self) -> None:
        """A page that a browser has is not sent again; no Last-Modified could mislead it."""
        answer = self.get("/docs/")
        self.assertNotIn("last-modified", answer.headers)
        self.assertEqual("no-cache", answer.header("Cache-Control"))
        again = self.get("/docs/", ("If-None-Match", answer.header("ETag") or ""))
        self.assertEqual((304, b""), (again.status, again.body))
        self.assertEqual(200, self.get("/docs/", ("If-None-Match", '"other"')).status)

    def test_asset_asked_for_by_its_digest_is_kept_for_ever_and_nothing_else_is(self) -> None:
        """An asset asked for by its digest is kept for ever, and nothing else is."""
        for path, kept in (
            ("/docs/_static/docs.css?v=1", True),
            ("/docs/_static/docs.css", False),
            ("/docs/?v=1", False),
        ):
            self.assertEqual(
                kept, "immutable" in (self.get(path).header("Cache-Control") or ""), path
            )

    def test_text_is_sent_compressed_to_those_who_ask_for_it(self) -> None:
        """Text is sent compressed to those who ask for it."""
        answer = self.get("/docs/_static/docs.css", ("Accept-Encoding", "gzip"))
        self.assertEqual("gzip", answer.header("Content-Encoding"))
        self.assertLess(len(answer.body), len(FILES["_static/docs.css"]))

    def test_other_paths_are_answered_by_page_of_site_wherever_they_would_lead(self) -> None:
        """Other paths are answered by a page of the site, wherever they would lead."""
        for path in (
            "/docs/no-such-page",
            "/docs/running/x/",
            "/docs//",
            "/docs/_static/",
            "/docs/objects.inv",
            "/docs/.buildinfo",
            "/docs/../secret.html",
            "/docs/%2e%2e/secret.html",
            "/docs/..%2fsecret.html",
            f"/docs/{quote(str(self.directory))}/index.html",
            "/docs/%ff",
            "/docs/%00",
        ):
            answer = self.get(path)
            self.assertEqual(404, answer.status, path)
            self.assertIn(b"<header", answer.body, path)
            self.assertNotIn(b"secret</", answer.body, path)

    def test_other_methods_are_refused(self) -> None:
        """Other methods are refused."""
        self.assertEqual(405, self.connection.request("POST", "/docs/").status)

    def test_checkout_says_how_to_build_it(self) -> None:
        """A checkout says how to build it."""
        answer = self.connect(None).request("GET", "/docs/")
        self.assertEqual(404, answer.status)
        self.assertIn(b"tox -e docs", answer.body)

    def test_documentation_is_read_once_at_the_first_request(self) -> None:
        """It is read when it is first asked for, away from the reactor, and never again."""
        workers = SteppedWorkers()
        self.connection = self.connect(self.directory, workers)
        self.connection.send("GET", "/docs/", BROWSER)
        self.assertEqual(b"", self.connection.received())
        workers.finish()
        self.assertEqual(200, self.connection.response().status)
        (self.directory / "index.html").unlink()
        self.assertEqual(200, self.get("/docs/").status)

    def test_client_may_leave_while_it_is_read(self) -> None:
        """A client may leave while it is read."""
        workers = SteppedWorkers()
        self.connection = self.connect(self.directory, workers)
        self.connection.send("GET", "/docs/", BROWSER)
        self.connection.disconnect()
        workers.finish()
        self.assertEqual([], self.flushLoggedErrors())


# -- the sources --------------------------------------------------------------------------


def pages() -> Iterator[tuple[str, str]]:
    """The pages and the README, by their names."""
    yield "README.md", (CHECKOUT / "README.md").read_text("utf-8")
    for path in sorted(SOURCES.rglob("*.md")):
        yield path.relative_to(SOURCES).as_posix(), path.read_text("utf-8")


def page(name: str) -> str:
    """The source of a page."""
    return (SOURCES / name).read_text("utf-8")


def blocks(language: str) -> Iterator[tuple[str, str]]:
    """The blocks of code in a language, with the names of their pages."""
    for name, text in pages():
        for block in re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S):
            yield name, block


def commands() -> Iterator[tuple[str, list[str]]]:
    """The commands that readers are told to run, with the names of their pages."""
    for name, block in blocks("console"):
        for line in re.findall(r"^[$#] (.*)$", block.replace("\\\n", ""), re.M):
            # One of several in a pipe or a list is a command as well.
            for part in re.split(r"[|;]|&&|<\(", line):
                yield name, shlex.split(part)


@cache
def entry_points() -> dict[str, tuple[str, str]]:
    """The commands that are installed: module and function by the command's name."""
    found = re.findall(
        r'"(nixery-[a-z-]+) = ([\w.]+):(\w+)"', (CHECKOUT / "setup.py").read_text("utf-8")
    )
    return {command: (module, function) for command, module, function in found}


@cache
def usage(command: str, *arguments: str) -> str:
    """Return the help text of a command, with those of the commands below it."""
    module, function = entry_points()[command]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        getattr(import_module(module), function)([*arguments, "--help"])
    text = printed.getvalue()
    if arguments:
        return text
    below = re.findall(r"^    ([a-z][a-z-]*)  +\w", text, re.M)
    return text + "".join(usage(command, name) for name in below)


class Accepted(Exception):
    """A command line was accepted; the command must not run."""


def command_options(command: str, arguments: Sequence[str]) -> None:
    """Parse the arguments of a command, and do not run it."""
    parse = CommandParser.parse_args

    def stop(self: CommandParser, args: Sequence[str] | None = None) -> NoReturn:
        parse(self, args)
        raise Accepted

    module, function = entry_points()[command]
    with patch.object(CommandParser, "parse_args", stop), contextlib.suppress(Accepted):
        getattr(import_module(module), function)([*arguments])


def daemon_options(arguments: Sequence[str]) -> None:
    """Parse the options of ``twistd nixery``, without the files that they name."""
    with patch.object(Options, "postOptions"):
        Options({}).parseOptions([*arguments])


def options(text: str) -> set[str]:
    """The long options that a text names."""
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text))


class SourceTests(SynchronousTestCase):
    """Tests that the statements of the documentation are true."""

    def test_reference_has_every_setting_once(self) -> None:
        """The reference has every setting once."""
        listed = Counter(
            " ".join(
                re.findall(r"```\{settings\}\n(.*?)```", page("configuration.md"), re.S)
            ).split()
        )
        self.assertEqual(
            Counter(setting.name for setting in SETTINGS),
            listed,
            "name the setting in the section of web/docs/configuration.md where it belongs",
        )

    def test_every_error_has_an_entry_that_says_how_it_reads_why_and_what_to_do(self) -> None:
        """Every error has an entry that says how it reads, why, and what to do."""
        kinds = set(error_types())
        text = page("troubleshooting.md")
        entries = re.split(r"^```\{says\} (\w+)$", text, flags=re.M)
        told = dict(zip(entries[1::2], entries[2::2], strict=True))
        self.assertEqual(kinds, set(told), "describe the error in web/docs/troubleshooting.md")
        for name, entry in told.items():
            self.assertIn("\n**Why:** ", entry, name)
            self.assertIn("\n**What to do:** ", entry, name)

    def test_every_configuration_that_is_shown_can_be_used(self) -> None:
        """Every configuration that is shown can be used."""
        shown = [
            (name, text)
            for name, text in blocks("yaml")
            if re.match(r"# (/etc/nixery/\S*)?nixery\.yaml\n", text) and "credential:" not in text
        ]
        self.assertGreater(len(shown), 5)
        for name, text in shown:
            path = Path(self.mktemp())
            path.write_text(text)
            # Some show one setting of several that belong together.
            environ = {"NIXERY_STORAGE_BACKEND": "gcs"} if "gcs_" in text else {}
            try:
                config = load_config({"config": str(path)}, environ)
            except ConfigError as error:
                self.fail(f"{name}: {error}\n{text}")
            self.assertEqual((), config.warnings, name)

    def test_environment_variables_that_are_named_exist(self) -> None:
        """The environment variables that are named exist."""
        known = {variable for setting in SETTINGS for variable in setting.variables} | {
            "NIXERY_CONFIG",
            "NIXERY_SERVICE_HOST",  # the example of one that is not ours
            # Nix's own.
            "NIX_CONFIG",
            "NIX_PATH",
            "NIX_REMOTE",
            "NIX_STORE_DIR",
        }
        for name, text in pages():
            variables = set(re.findall(r"\b(?:NIX|NIXERY|GCS)_[A-Z_]*[A-Z]\b", text))
            self.assertEqual(set(), variables - known, name)

    def test_json_that_is_shown_is_json(self) -> None:
        """JSON that is shown is JSON."""
        for name, text in blocks("json"):
            try:
                json.loads(text)
            except ValueError as error:
                self.fail(f"{name}: {error}\n{text}")

    def test_toml_that_is_shown_is_toml(self) -> None:
        """TOML that is shown is TOML."""
        shown = [*blocks("toml")]
        self.assertGreater(len(shown), 2)
        for name, text in shown:
            try:
                tomllib.loads(text)
            except tomllib.TOMLDecodeError as error:
                self.fail(f"{name}: {error}\n{text}")

    def test_images_that_readers_are_told_to_pull_have_names_that_are_names(self) -> None:
        """The images that readers are told to pull have names that are names."""
        seen = 0
        for _name, words in commands():
            for word in words:
                match = re.fullmatch(
                    r"(?:docker://)?(?:localhost:8080|registry\.example\.org(?::\d+)?)"
                    r"/(?!builds|readyz|healthz|metrics|docs|v2)([^:@?]+)(?:[:@](.+))?",
                    word,
                )
                if match:
                    seen += 1
                    parse_image_name(match[1], "x86_64-linux")
                    if match[2]:
                        parse_reference(match[2])
        self.assertGreater(seen, 5)

    def test_commands_of_ours_that_readers_are_told_to_run_exist(self) -> None:
        """Commands of ours that readers are told to run exist, with their options."""
        daemon = options(str(Options({}))) | {"--nodaemon", "--pidfile", "--umask"}
        for name, words in commands():
            program = next((word for word in words if "=" not in word), "").rpartition("/")[2]
            given = {option for word in words for option in options(word)}
            if program in {"twistd", "start"}:
                self.assertEqual(set(), given - daemon, name)
            elif program.startswith("nixery-"):
                self.assertIn(program, entry_points(), name)
                self.assertEqual(set(), given - options(usage(program)), (name, words))

    def test_commands_of_ours_are_accepted_by_their_parsers(self) -> None:
        """Commands of ours are accepted as they stand: subcommands, values and what is required."""
        parsed: Counter[str] = Counter()
        for name, words in commands():
            for place, word in enumerate(words):
                program = word.rpartition("/")[2]
                rest = [each for each in words[place + 1 :] if not each.startswith((">", "<"))]
                if program == "nixery" and words[place - 1] == "-n":
                    self.assert_accepted(partial(daemon_options, rest), name, words)
                elif program in entry_points():
                    self.assert_accepted(partial(command_options, program, rest), name, words)
                else:
                    continue
                parsed[program] += 1
                break
        self.assertEqual({*entry_points(), "nixery"}, set(parsed))

    def assert_accepted(self, parse: Callable[[], object], name: str, words: list[str]) -> None:
        """Fail with what a parser prints when it refuses a command."""
        printed = io.StringIO()
        try:
            with contextlib.redirect_stderr(printed):
                parse()
        except (SystemExit, UsageError) as error:
            self.fail(f"{name}: {shlex.join(words)}\n{printed.getvalue() or error}")

    def test_each_command_has_a_section_with_all_options(self) -> None:
        """Each command has a section that names all of its options and no others."""
        sections = re.split(r"^## (nixery-[a-z-]+)$", page("tools.md"), flags=re.M)
        told = dict(zip(sections[1::2], sections[2::2], strict=True))
        self.assertEqual(set(entry_points()), set(told), "describe the command in tools.md")
        for command, text in told.items():
            own = options(usage(command)) - {"--help", "--version"}
            self.assertEqual(own, options(text), command)

    def test_paths_of_the_registry_api_that_are_listed_are_answered(self) -> None:
        """The paths of the registry API that are listed are answered."""
        listed = re.findall(r"^\| `(/v2/[^`]*)`", page("api.md"), re.M)
        self.assertGreater(len(listed), 5)
        answered = set()
        for path in listed:
            digest = "sha256:" + 64 * "0"
            example = path.replace("NAME", "shell/git").replace("TAG", "latest")
            handler, _ = find_handler(example.replace("DIGEST", digest))
            answered.add(handler)
        self.assertEqual({"ping", "catalog", "tags", "manifest", "blob", "referrers"}, answered)

    def test_every_metric_is_listed_and_no_other(self) -> None:
        """Every metric is listed, and no other."""
        rooms = [CHECKOUT / "nixery" / name for name in ("observability", "runtime/tls", "wiring")]
        sources = [path for room in rooms for path in room.glob("*.py")]
        code = "".join(path.read_text("utf-8") for path in sources)
        # Prometheus' library puts the suffix behind the name of what is information.
        counted = set(re.findall(r'"(nixery_[a-z_]+)"', code)) - {"nixery_build"}
        listed = re.findall(r"^\| `(nixery_[a-z_]+)`", page("running/monitoring.md"), re.M)
        self.assertEqual(sorted(counted | {"nixery_build_info"}), sorted(listed))

    def test_modules_that_documentation_is_built_from_import_only_what_build_has(self) -> None:
        """The modules that the documentation is built from import only what a build has."""
        script = (
            "import sys; own = set(sys.modules);"
            "import nixery.config.settings, nixery.errors, nixery.http.error_responses;"
            "new = {name.partition('.')[0] for name in set(sys.modules) - own};"
            "print(*sorted(new - set(sys.stdlib_module_names)))"
        )
        done = subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONPATH": str(CHECKOUT)},
        )
        # The last two are PyYAML's.
        light = {"attr", "attrs", "nixery", "yaml", "cython_runtime", "_cython"}
        found = {re.sub(r"^_cython_\w+$", "_cython", name) for name in done.stdout.split()}
        self.assertEqual(set(), found - light)

    def test_no_page_names_a_setting_as_a_role_does_without_being_able_to(self) -> None:
        """No page names a setting, as a role does, without being able to."""
        names: Sequence[str] = [setting.name for setting in SETTINGS]
        for name, text in pages():
            for role in re.findall(r"\{setting\}`([^`]*)`", text):
                self.assertIn(role, names, name)
