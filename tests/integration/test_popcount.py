"""The commands ``nixery-popcount`` and ``nixery-layers``, as a person runs them."""

from __future__ import annotations

import json
import lzma
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from nixery.layers.grouping import Popularity
from nixery.layers.popularity_file import parse_popularity
from nixery.popularity.count import count_popularity
from nixery.testing.fakes import store_path
from tests.integration.nixenv import INTERRUPTIBLE, ODD, command_environment, nix_missing

POPCOUNT = (sys.executable, "-c", "from nixery.cli.popcount import popcount; popcount()")
LAYERS = (sys.executable, "-c", "from nixery.cli.layers import layers; layers()")

PATHS = 400


class Cache:
    """
    A channel and its binary cache on the loopback interface.

    :param references: of the paths that it has, by base names.
    """

    def __init__(self, references: Mapping[str, list[str]]) -> None:
        self.narinfos = {
            f"/{name[:32]}.narinfo": f"StorePath: /nix/store/{name}\nReferences: {' '.join(used)}\n"
            for name, used in references.items()
        }
        self.listed = lzma.compress("".join(f"/nix/store/{name}\n" for name in references).encode())
        self.asked: Counter[str] = Counter()
        self.failing: set[str] = set()
        self.stopped_at: int | None = None
        self.arrived = threading.Event()
        self.go_on = threading.Event()
        cache = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                status, body = cache.answer(self.path)
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            # Clients open many connections at once.
            request_queue_size = 128

            def handle_error(self, *_: object) -> None:
                """Clients are killed here."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def answer(self, path: str) -> tuple[int, bytes]:
        if path == "/store-paths.xz":
            return 200, self.listed
        self.asked[path] += 1
        if self.stopped_at is not None and self.asked.total() >= self.stopped_at:
            self.arrived.set()
            self.go_on.wait(60)
        if path in self.failing:
            self.failing.remove(path)
            return 503, b"later"
        if path not in self.narinfos:
            return 404, b"404"
        return 200, self.narinfos[path].encode()

    def close(self) -> None:
        self.go_on.set()
        self._server.shutdown()
        self._server.server_close()


class CommandTests(SynchronousTestCase):
    """The common parts of the tests of both commands."""

    def setUp(self) -> None:
        self.directory = Path(self.mktemp()).absolute()
        self.directory.mkdir()
        self.environment = command_environment(self.directory)

    def run_command(self, *argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            argv,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )

    def succeed(self, *argv: str) -> subprocess.CompletedProcess[str]:
        result = self.run_command(*argv)
        self.assertEqual(result.returncode, 0, result.stderr)
        return result

    def count(self, *arguments: str) -> Popularity:
        return parse_popularity(self.succeed(*POPCOUNT, *arguments).stdout.encode())


class ChannelTests(CommandTests):
    """Counting what a binary cache has."""

    def setUp(self) -> None:
        super().setUp()
        numbers = random.Random(3)
        names = [
            store_path(f"p{number % 150}-1.{number}").path.rpartition("/")[2]
            for number in range(PATHS)
        ]
        self.references = {
            name: sorted({names[numbers.randrange(number + 1)] for _ in range(4)})
            for number, name in enumerate(names)
        }
        self.cache = Cache(self.references)
        self.addCleanup(self.cache.close)
        self.call = ("channel", f"{self.cache.url}/store-paths.xz", "--cache", self.cache.url)

    def test_each_path_is_asked_for_once(self) -> None:
        """Each path is asked for once, the second time none, and the counts are true."""
        expected = count_popularity(self.references, "")
        self.assertEqual(expected, self.count(*self.call))
        self.assertEqual({1}, {*self.cache.asked.values()})
        self.assertEqual(PATHS, len(self.cache.asked))
        output = self.directory / "popularity.json"
        self.succeed(*POPCOUNT, *self.call, "--output", str(output), "--source", "a test")
        written = parse_popularity(output.read_bytes())
        self.assertEqual((expected, "a test"), (written, written.source))
        self.assertEqual(PATHS, self.cache.asked.total())

    def test_command_resumes_its_work_after_an_interrupt_by_a_signal_of_any_kind(self) -> None:
        """The command resumes its work after an interrupt, by a signal of any kind."""
        for number, (ending, status) in enumerate(((signal.SIGINT, 130), (signal.SIGKILL, -9))):
            self.cache.arrived.clear()
            self.cache.go_on.clear()
            self.cache.stopped_at = (number + 1) * PATHS // 3
            with subprocess.Popen(
                [*INTERRUPTIBLE, *POPCOUNT, *self.call, "--connections", "8"],
                env=self.environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            ) as process:
                self.assertTrue(self.cache.arrived.wait(60))
                process.send_signal(ending)
                self.assertEqual(status, process.wait(60))
            self.cache.go_on.set()
        self.cache.stopped_at = None
        self.assertEqual(count_popularity(self.references, ""), self.count(*self.call))
        # What was answered before the interrupt has been kept.  What was answered
        # before the process was killed need not be: it is written in batches.
        self.assertLess(self.cache.asked.total(), PATHS + PATHS // 3 + 3 * 8)

    def test_missing_paths_are_left_out_and_reported(self) -> None:
        """Missing paths are left out and reported; temporary failures are tried again."""
        paths = sorted(self.cache.narinfos)
        self.cache.failing = {*paths[:3]}
        del self.cache.narinfos[paths[5]]
        self.cache.narinfos[paths[6]] = "<html>"
        result = self.succeed(*POPCOUNT, *self.call)
        self.assertIn("1 store paths are not in", result.stderr)
        self.assertIn("1 store paths have descriptions that cannot be used", result.stderr)
        left = {
            name: used
            for name, used in self.references.items()
            if name[:32] not in {paths[5][1:33], paths[6][1:33]}
        }
        self.assertEqual(count_popularity(left, ""), parse_popularity(result.stdout.encode()))

    def test_list_that_is_cut_short_or_none_is_an_error_in_one_line(self) -> None:
        """A list that is cut short, or none, is an error in one line."""
        for listed, text in (
            (self.cache.listed[:-20], "cut short"),
            (b"<html>", "list of store paths"),
        ):
            self.cache.listed = listed
            result = self.run_command(*POPCOUNT, *self.call)
            self.assertEqual((1, ""), (result.returncode, result.stdout))
            self.assertIn(text, result.stderr)
            self.assertNotIn("Traceback", result.stderr)

    def test_cache_of_something_else_is_an_error_that_says_what_to_do(self) -> None:
        """A cache of something else is an error that says what to do."""
        self.cache.narinfos.clear()
        result = self.run_command(*POPCOUNT, *self.call)
        self.assertEqual(1, result.returncode)
        self.assertIn("--cache", result.stderr)


class SetTests(CommandTests):
    """Counting what Nix has, and can build."""

    skip = nix_missing()

    # What ends an evaluation that looks at it, or does not end.
    EXCLUDED = (
        *("aborting", "abortingDisk", "syntaxError", "typeError", "stackOverflow"),
        *("hungry", "endless", "attributeMissing"),
    )
    # What does not build, or not in time.
    UNBUILT = (
        *("slow", "dependsOnSlow", "silent", "downloaded"),
        *("readsHost", "looksUp", "importsBuilt"),
    )

    def arguments(self) -> list[str]:
        every = (*self.EXCLUDED, *self.UNBUILT)
        return [part for name in every for part in ("--exclude", name)]

    def test_packages_that_can_be_built_are_counted(self) -> None:
        """Packages that can be built are counted; those that cannot are reported."""
        result = self.succeed(*POPCOUNT, "set", *self.arguments())
        self.assertIn("packages cannot be used", result.stderr)
        self.assertIn("are not in the store", result.stderr)
        result = self.succeed(*POPCOUNT, "set", "--realise", *self.arguments())
        self.assertIn("packages failed to build", result.stderr)
        popularity = parse_popularity(result.stdout.encode())
        self.assertEqual(2, popularity.transitive["plain"])
        self.assertEqual(1, popularity.direct["plain"])
        self.assertEqual(1, popularity.transitive["dependent"])
        self.assertEqual(2, popularity.transitive["multi"] + popularity.transitive["upper-case"])
        self.assertNotIn("numbered", popularity.transitive)
        self.assertIn(str(ODD), popularity.source)
        # Now it is in the store.
        self.assertEqual(popularity, self.count("set", *self.arguments()))

    def test_closures_of_some_paths_or_all_that_there_is(self) -> None:
        """The closures of some paths, or all that there is."""
        prepare = (
            sys.executable,
            "-c",
            "from nixery.cli.prepare_image import prepare_image; prepare_image()",
        )
        image = json.loads(self.succeed(*prepare, "dependent").stdout)
        [dependent] = [
            output["path"] for package in image["packages"] for output in package["outputs"]
        ]
        link = self.directory / "result"
        link.symlink_to(dependent)
        for path in (dependent, str(link)):
            popularity = self.count("store", path)
            self.assertEqual({"plain": 2, "dependent": 1}, popularity.transitive)
            self.assertEqual({"plain": 1}, popularity.direct)
        every = self.count("store")
        self.assertGreaterEqual(every.setsize, 2)
        self.assertGreaterEqual(every.transitive["plain"], 2)

    def test_path_that_the_store_does_not_have_is_an_error(self) -> None:
        """A path that the store does not have is an error."""
        result = self.run_command(*POPCOUNT, "store", store_path("nothing-1").path)
        self.assertEqual((1, ""), (result.returncode, result.stdout))
        self.assertNotIn("Traceback", result.stderr)

    def test_wrong_call_exits_with_2(self) -> None:
        """A wrong call exits with 2."""
        for arguments in ((), ("channel",), ("set", "--system", "pdp11"), ("store", "--no")):
            result = self.run_command(*POPCOUNT, *arguments)
            self.assertEqual((2, ""), (result.returncode, result.stdout), result.stderr)

    def test_images_layers_are_listed_and_drawn(self) -> None:
        """An image's layers are listed and drawn, with what other images have of them."""
        data = self.directory / "popularity.json"
        self.succeed(*POPCOUNT, "set", "--realise", *self.arguments(), "-o", str(data))
        picture = self.directory / "picture.svg"
        common = ("--popularity", str(data))
        result = self.succeed(
            *LAYERS, "dependent", "--with", "plain", *common, "--svg", str(picture)
        )
        self.assertIn("dependent: ", result.stdout)
        self.assertIn("plain-1.2", result.stdout)
        self.assertIn("dependent-1", result.stdout)
        self.assertIn("<svg", picture.read_text())
        # Of the two layers only that of the dependent has to be downloaded.
        self.assertIn("Download of dependent where plain is present:", result.stdout)
        self.assertRegex(result.stdout, r"whole layers +[0-9]+ B  1 of 2 layers are new")
        self.assertRegex(result.stdout, r"partial pull +[0-9.]+ k?B  1 of 1 files are new \(if")
        printed = json.loads(
            self.succeed(*LAYERS, "dependent", "--with", "plain", *common, "--json").stdout
        )
        self.assertEqual(
            [["plain"], []],
            sorted((each["shared_with"] for each in printed["layers"]), reverse=True),
        )
        [download] = printed["downloads"]
        self.assertEqual(
            ("plain", 1, 2), (download["present"], download["new_layers"], download["layers"])
        )
        self.assertEqual(
            sum(each["size"] for each in printed["layers"] if not each["shared_with"]),
            download["size"],
        )
        self.assertEqual(1, download["partial_pull"]["new_files"])
        one = self.succeed(*LAYERS, "dependent", "--layer-budget", "1", *common).stdout
        self.assertIn("dependent: 1 layer, ", one)
        other = self.succeed(*LAYERS, "dependent", "--strategy", "dominators").stdout
        self.assertIn("dependent: 1 layer, ", other)
        self.assertEqual(
            [], [path.name for path in self.directory.iterdir() if "nixery-" in path.name]
        )

    def test_command_exits_with_1_or_2_if_it_cannot_show_the_layers_and_says_why(self) -> None:
        """The command exits with 1 or 2 if it cannot show the layers, and says why."""
        for status, arguments in (
            (1, ("plian",)),
            (1, ("plain", "--popularity", str(self.directory / "nothing"))),
            (1, ("plain", "--popularity", str(ODD / "default.nix"))),
            (2, ("Plain",)),
            (2, ("plain", "--layer-budget", "0")),
            (2, ("plain", "--strategy", "units")),
        ):
            result = self.run_command(*LAYERS, *arguments)
            self.assertEqual((status, ""), (result.returncode, result.stdout), result.stderr)
            self.assertNotIn("Traceback", result.stderr)
