"""The benchmarks' own arithmetic, and that what needs no other program runs."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from twisted.trial.unittest import SynchronousTestCase

from nixery.graph import parse_dump
from tests.benchmarks import ceilings, scale
from tests.benchmarks.client import Unexpected, download, fetch, hammer, request_for
from tests.benchmarks.measure import Figure, Options, as_table, median_ratio, percentile

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
    def test_bars(self) -> None:
        """A bar is met from its own value on; without a bar there is nothing to meet."""
        for least, most, met in ((2, None, True), (2.1, None, False), (None, 2, True)):
            figure = Figure(name="n", value=2, unit="u", at_least=least, at_most=most)
            self.assertEqual(met, figure.met)
        self.assertIsNone(Figure(name="n", value=2, unit="u").met)

    def test_table(self) -> None:
        """What is missed stands out."""
        table = as_table([Figure(name="n", value=2, unit="u", at_most=1)])
        self.assertIn("MISSED", table)

    def test_statistics(self) -> None:
        """Ratios are those of pairs; percentiles are values that occurred."""
        self.assertEqual(3, median_ratio([6, 9, 1], [2, 3, 1]))
        self.assertEqual(99, percentile(range(1, 101), 0.99))
        self.assertEqual(1, percentile([1], 0.5))


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

    def test_download(self) -> None:
        """Everybody gets all of it."""
        self.assertGreater(download(self.port, "/body", len(BODY), connections=3), 0)
        self.assertEqual(BODY, fetch(self.port, request_for("/body"))[1])

    def test_refusals(self) -> None:
        """An answer of another status or length is no result."""
        with self.assertRaises(Unexpected):
            hammer(self.port, request_for("/none"), count=1, connections=1)
        with self.assertRaises(Unexpected):
            download(self.port, "/body", len(BODY) - 1, connections=1)


class SmokeTests(SynchronousTestCase):
    def test_closures(self) -> None:
        """A generated closure is one, always the same."""
        self.assertEqual(30, len(parse_dump(scale.generate_dump(30)).paths))
        self.assertEqual(scale.generate_dump(30), scale.generate_dump(30))

    def test_run(self) -> None:
        """What needs no peers comes to figures."""
        for benchmark in (scale, ceilings):
            for figure in benchmark.measure(Options(rounds=1, quick=True)):
                self.assertGreater(figure.value, 0, figure.name)
