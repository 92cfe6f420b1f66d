"""The benchmarks' own arithmetic, and that what needs no other program runs."""

from __future__ import annotations

import json
from contextlib import redirect_stdout
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from pathlib import Path
from threading import Thread

from twisted.trial.unittest import SynchronousTestCase

from nixery.image.closure import parse_db_dump
from tests.benchmarks import hardware_limits, package_search, records, scale, soak
from tests.benchmarks.client import Unexpected, download, fetch, hammer, request_for
from tests.benchmarks.compression import Costs, pull_seconds
from tests.benchmarks.measure import Figure, Options, as_table, median_ratio, percentile, run

BODY = b"x" * 100_000


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = BODY if self.path == "/body" else b""
        self.send_response(200 if body else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """Clients that leave in the middle of an answer are what some tests are about."""


class ArithmeticTests(SynchronousTestCase):
    def test_bar_is_met_from_its_own_value_on(self) -> None:
        """A bar is met from its own value on; without a bar there is nothing to meet."""
        for least, most, met in ((2, None, True), (2.1, None, False), (None, 2, True)):
            figure = Figure(name="n", value=2, unit="u", at_least=least, at_most=most)
            self.assertEqual(met, figure.met)
        self.assertIsNone(Figure(name="n", value=2, unit="u").met)

    def test_table_marks_a_figure_that_misses_its_limit(self) -> None:
        """The table marks a figure that misses its limit."""
        table = as_table([Figure(name="n", value=2, unit="u", at_most=1)])
        self.assertIn("MISSED", table)

    def test_ratios_are_those_of_pairs(self) -> None:
        """Ratios are those of pairs; percentiles are values that occurred."""
        self.assertEqual(3, median_ratio([6, 9, 1], [2, 3, 1]))
        self.assertEqual(99, percentile(range(1, 101), 0.99))
        self.assertEqual(1, percentile([1], 0.5))

    def test_growth_is_that_of_a_line_through_all_samples(self) -> None:
        """Growth is that of a line through all samples."""
        self.assertAlmostEqual(5, soak.slope([0, 10, 20, 30], [7, 57, 107, 157]))
        self.assertAlmostEqual(0, soak.slope([0, 10, 20, 30], [7, 8, 8, 7]))
        self.assertEqual(0, soak.slope([3], [4]))

    def test_steps_that_run_at_the_same_time_cost_as_much_as_the_longest_of_them(self) -> None:
        """Steps that run at the same time cost as much as the longest of them."""
        costs = Costs(pack=1, size=100, unpack=3)
        self.assertEqual([14, 11, 10], list(pull_seconds(costs, 10).values()))
        self.assertEqual([5, 4, 3], list(pull_seconds(costs, 100).values()))

    def test_json_goes_to_a_file_beside_the_table_or_is_all_that_is_printed(self) -> None:
        """JSON goes to a file beside the table, or is all that is printed."""
        figures = [Figure(name="n", value=2, unit="u", at_least=3)]
        file = self.mktemp()
        for arguments in (["--json", file], ["--json"]):
            printed = StringIO()
            with redirect_stdout(printed):
                run(
                    {"one": lambda _: figures, "two": lambda _: []},
                    "x",
                    ["--only", "one", *arguments],
                )
            if len(arguments) == 2:
                self.assertIn("MISSED", printed.getvalue())
                text = Path(file).read_text()
            else:
                text = printed.getvalue()
            (figure,) = json.loads(text)["one"]
            self.assertEqual((2, False), (figure["value"], figure["met"]))


class ClientTests(SynchronousTestCase):
    def setUp(self) -> None:
        server = Server(("127.0.0.1", 0), Handler)
        self.port = server.server_address[1]
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)

    def test_all_answers_count(self) -> None:
        """As many answers as were asked for, over any number of connections."""
        for count, connections in ((1, 4), (20, 3)):
            load = hammer(self.port, request_for("/body"), count=count, connections=connections)
            self.assertEqual(count, len(load.latencies))

    def test_every_client_gets_the_whole_body(self) -> None:
        """Every client gets the whole body."""
        self.assertGreater(download(self.port, "/body", len(BODY), connections=3), 0)
        self.assertEqual(BODY, fetch(self.port, request_for("/body"))[1])

    def test_answer_of_another_status_or_length_is_no_result(self) -> None:
        """An answer of another status or length is no result."""
        with self.assertRaises(Unexpected):
            hammer(self.port, request_for("/none"), count=1, connections=1)
        with self.assertRaises(Unexpected):
            download(self.port, "/body", len(BODY) - 1, connections=1)


class SmokeTests(SynchronousTestCase):
    def test_generated_closure_is_one_always_the_same(self) -> None:
        """A generated closure is one, always the same."""
        self.assertEqual(30, len(parse_db_dump(scale.generate_dump(30)).paths))
        self.assertEqual(scale.generate_dump(30), scale.generate_dump(30))

    def test_benchmarks_that_need_no_peers_give_figures(self) -> None:
        """The benchmarks that need no peers give figures."""
        for benchmark in (scale, hardware_limits, records, package_search):
            for figure in benchmark.measure(Options(rounds=1, quick=True)):
                self.assertGreater(figure.value, 0, figure.name)
