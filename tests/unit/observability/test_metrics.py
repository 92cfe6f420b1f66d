"""Metrics, as they are counted, named and shown."""

from __future__ import annotations

import inspect
import json
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any, cast

from prometheus_client import Metric
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as parse_openmetrics,
)
from prometheus_client.parser import text_string_to_metric_families as parse_text
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from nixery.builds.build_reporter import BuildReporter
from nixery.builds.views import BuildState, BuildView, Stage
from nixery.errors import StorageError
from nixery.http.metrics import MetricsPage
from nixery.http.routes import Handlers
from nixery.image.manifests import digest_of
from nixery.nix.progress import Phase
from nixery.observability.context import BuildStats, current_build_stats
from nixery.observability.exposition import Exposition
from nixery.observability.instrumented import MeasuredSpawner, measured_storage
from nixery.observability.metrics import Metrics, SampledMetric
from nixery.observability.request_metrics import RequestMeter, route_of
from nixery.process.errors import CommandMissing, CommandOutput, ProcessFailed, ProcessTimedOut
from nixery.process.protocol import Stdin
from nixery.process.spawner import Command, ProcessResult
from nixery.runtime.clocks import WallTime
from nixery.runtime.data_files import web_directory
from nixery.storage.errors import BlobUnknown
from nixery.storage.interface import Storage
from nixery.tap import Options
from nixery.testing.fakes import InlineWorkers
from nixery.testing.memory_storage import MemoryStorage
from nixery.wiring import application
from nixery.wiring.observability import ObservabilitySubsystem, make_observability
from tests.support.http import Connection, make_root
from tests.unit.storage.test_contract import StorageContract

NOT_OF_GAUGES = ("_seconds", "_info", "_total", "_ratio")


class MetricsTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.metrics = Metrics()
        self.clock = Clock()

    def value(self, name: str, **labels: str) -> float | None:
        value = self.metrics.registry.get_sample_value(name, labels)
        assert value is None or isinstance(value, float)
        return value

    def page(self) -> Connection:
        exposition = Exposition(metrics=self.metrics, worker=InlineWorkers())
        return Connection(make_root(Handlers(metrics=MetricsPage(exposition.expose))))


class ExpositionTests(MetricsTestCase):
    def test_official_parsers_read_what_is_shown_in_format_that_was_asked_for(self) -> None:
        """The official parsers read what is shown, in the format that was asked for."""
        page = self.page()
        text = page.request("GET", "/metrics")
        self.assertEqual("text/plain; version=0.0.4; charset=utf-8", text.header("Content-Type"))
        plain = {family.name for family in parse_text(text.body.decode())}
        answer = page.request(
            "GET",
            "/metrics",
            ("Accept", "application/openmetrics-text; version=1.0.0, text/plain;q=0.1"),
        )
        media_type = answer.header("Content-Type")
        assert media_type is not None
        self.assertTrue(media_type.startswith("application/openmetrics-text; version=1.0.0"))
        families = {family.name for family in parse_openmetrics(answer.body.decode())}
        for name in ("nixery_builds", "nixery_storage_operation_duration_seconds"):
            self.assertIn(name, plain)
            self.assertIn(name, families)

    def test_versions_that_are_none(self) -> None:
        """A client that asks for nonsense gets the plain format."""
        answer = self.page().request(
            "GET", "/metrics", ("Accept", "application/openmetrics-text; version=x")
        )
        self.assertEqual(200, answer.status)
        media_type = answer.header("Content-Type")
        assert media_type is not None
        self.assertIn("text/plain", media_type)

    def test_there_is_one_page_and_it_can_only_be_read(self) -> None:
        """There is one page, and it can only be read."""
        page = self.page()
        self.assertEqual(404, page.request("GET", "/metrics/x").status)
        self.assertEqual(405, page.request("POST", "/metrics").status)
        self.assertEqual(b"", page.request("HEAD", "/metrics").body)

    def test_samples_are_taken_when_asked(self) -> None:
        """A sampled metric has the value of the moment of the request."""
        values = [1.0]
        self.metrics.add_sampled(
            SampledMetric(
                name="x_waiting", help="x", labels=("q",), read=lambda: [(("a",), values[0])]
            )
        )
        values[0] = 2.0
        self.assertIn(b'x_waiting{q="a"} 2.0', self.page().request("GET", "/metrics").body)

    def test_registries_are_their_own(self) -> None:
        """Two daemons in one process count apart."""
        self.metrics.unpacked_bytes.inc()
        [other] = Metrics().unpacked_bytes.collect()
        self.assertEqual(0.0, other.samples[0].value)


class RequestTests(MetricsTestCase):
    def test_however_many_paths_there_are_there_are_few_routes(self) -> None:
        """However many paths there are, there are few routes."""
        pages = {b"", b"metrics", b"builds"}
        digest = b"sha256:" + b"0" * 64
        for path, route in (
            (b"/v2", "/v2/"),
            (b"/v2/", "/v2/"),
            (b"/v2/a/b/manifests/latest", "/v2/{name}/manifests/{tag}"),
            (b"/v2/a/manifests/" + digest, "/v2/{name}/manifests/{digest}"),
            (b"/v2/a/blobs/" + digest, "/v2/{name}/blobs/{digest}"),
            (b"/v2/a/tags/list", "/v2/{name}/tags/list"),
            (b"/v2/tags/list/manifests/x", "/v2/{name}/manifests/{tag}"),
            (b"/v2/a/referrers/" + digest, "/v2/{name}/referrers/{digest}"),
            (b"/v2/_catalog", "/v2/other"),
            (b"/v2//", "/v2/other"),
            (b"/", "/"),
            (b"/builds/17/events", "/builds"),
            (b"/etc/passwd", "other"),
            (b"/\xff", "other"),
            (b"", "/"),
            (b"*", "/"),
        ):
            self.assertEqual(route, route_of(path, lambda: pages), path)

    def test_requests_count_under_route_method_and_status(self) -> None:
        """A request counts under its route, method and status, with its bytes and seconds."""

        class Ended:
            method = b"GET"
            path = b"/v2/a/blobs/x"
            code = 200
            sentLength = 7  # noqa: N815  # Twisted's name
            aborted = False

        meter = RequestMeter(self.metrics, lambda: ())
        meter.record(Ended(), 0.002)
        meter.record(Ended(), 0.002)
        left = Ended()
        left.aborted, left.method = True, b"BREW"
        meter.record(left, 1.0)
        blobs = "/v2/{name}/blobs/{digest}"
        count = "nixery_http_requests_total"
        self.assertEqual(2, self.value(count, route=blobs, method="GET", status="200"))
        self.assertEqual(1, self.value(count, route=blobs, method="other", status="499"))
        self.assertEqual(21, self.value("nixery_http_response_bytes_total", route=blobs))
        self.assertEqual(
            2,
            self.value("nixery_http_request_duration_seconds_bucket", route=blobs, le="0.0025"),
        )


class StorageTests(MetricsTestCase):
    def test_operations_are_counted_and_missing_is_no_error(self) -> None:
        """They are counted with what they take; what is not there is no error."""
        storage = measured_storage(MemoryStorage(), self.metrics, self.clock.seconds)
        data = b"layer"

        async def use() -> None:
            writer = await storage.create()
            writer.write(data)
            await writer.commit(digest_of(data), len(data), "text/plain")
            await storage.set_record("kind", "key", b"1")
            await storage.read(digest_of(data))

        self.successResultOf(Deferred.fromCoroutine(use()))
        self.failureResultOf(Deferred.fromCoroutine(storage.stat(digest_of(b"none"))), BlobUnknown)
        for operation in ("create", "commit", "set_record", "read", "stat"):
            name = "nixery_storage_operation_duration_seconds_count"
            self.assertEqual(1, self.value(name, operation=operation), operation)
            self.assertEqual(0, self.value("nixery_storage_errors_total", operation=operation))

    def test_storage_that_fails_is_seen_and_its_failure_passed_on(self) -> None:
        """A storage that fails is seen, and its failure passed on."""

        class Broken(MemoryStorage):
            async def get_record(self, kind: str, key: str) -> bytes | None:
                raise StorageError(operation=f"get {kind} {key}", reason="broken")

        storage = measured_storage(Broken(), self.metrics, self.clock.seconds)
        self.failureResultOf(Deferred.fromCoroutine(storage.get_record("a", "b")), StorageError)
        self.assertEqual(1, self.value("nixery_storage_errors_total", operation="get_record"))


class MeasuredContractTests(StorageContract, SynchronousTestCase):
    """The contract of storage, which holds for one that is measured."""

    def storage(self) -> Storage:
        self.measures = Metrics()
        return measured_storage(MemoryStorage(), self.measures, Clock().seconds)

    def test_every_method_of_the_interface_is_measured(self) -> None:
        """Each method of the interface is measured, and its arguments are passed on."""
        calls: list[tuple[str, tuple[object, ...], dict[str, object]]] = []

        class Noting:
            """Notes what it is asked for."""

            def __getattr__(self, name: str) -> Any:
                async def note(*args: object, **kwargs: object) -> None:
                    calls.append((name, args, kwargs))

                return note

        measures = Metrics()
        storage = measured_storage(cast("Storage", Noting()), measures, Clock().seconds)
        methods = [name for name in dir(Storage) if not name.startswith("_")]
        self.assertGreaterEqual(len(methods), 14)
        labels: Counter[str] = Counter()
        for name in methods:
            signature = inspect.signature(getattr(Storage, name))
            given: dict[str, Any] = {key: [] for key in signature.parameters if key != "self"}
            self.successResultOf(Deferred.fromCoroutine(getattr(storage, name)(**given)))
            self.assertEqual(name, calls[-1][0])
            label = {"commit_many": "commit", "read_part": "read"}.get(name, name)
            labels[label] += 1
            count = "nixery_storage_operation_duration_seconds_count"
            self.assertEqual(
                labels[label],
                measures.registry.get_sample_value(count, {"operation": label}),
                name,
            )
        self.assertEqual(methods, [name for name, _, _ in calls])


class CommandTests(MetricsTestCase):
    def test_commands_count_by_their_program_and_how_they_ended(self) -> None:
        """Commands count by their program and how they ended."""
        output = CommandOutput(argv=("nix-build",), stderr="")
        results: list[ProcessResult | Exception] = [
            ProcessResult(stdout=b"", stderr=""),
            ProcessFailed(output=output),
            ProcessTimedOut(output=output, seconds=1),
            CommandMissing(command="nix-build"),
            CancelledError(),
        ]

        class Spawner:
            async def run(self, command: Command) -> ProcessResult:
                assert command.argv
                result = results.pop(0)
                if isinstance(result, Exception):
                    raise result
                return result

        spawner = MeasuredSpawner(Spawner(), self.metrics, self.clock.seconds)
        for outcome in ("succeeded", "failed", "timed_out", "missing", "cancelled"):
            run = spawner.run(Command(argv=("/bin/nix-build", "--x"), environment={}))
            ended = Deferred.fromCoroutine(run).addErrback(lambda _: None)
            self.successResultOf(ended)
            labels = {"command": "nix-build", "outcome": outcome}
            self.assertEqual(1, self.value("nixery_commands_total", **labels), outcome)

    def test_interactive_command_is_counted_but_its_duration_is_not(self) -> None:
        """An interactive command is counted, but its duration is not."""

        class Spawner:
            async def run(self, command: Command) -> ProcessResult:
                assert command.stdio_handler is not None
                return ProcessResult(stdout=b"", stderr="")

        class Handler:
            def started(self, stdin: Stdin, /) -> None: ...

            def data_received(self, data: bytes, /) -> None: ...

        spawner = MeasuredSpawner(Spawner(), self.metrics, self.clock.seconds)
        run = spawner.run(Command(argv=("nix-store",), environment={}, stdio_handler=Handler()))
        self.successResultOf(Deferred.fromCoroutine(run))
        labels = {"command": "nix-store"}
        self.assertEqual(1, self.value("nixery_commands_total", **labels, outcome="succeeded"))
        self.assertFalse(self.value("nixery_command_duration_seconds_count", **labels))


class BuildTests(MetricsTestCase):
    def view(self, state: BuildState, **changes: object) -> BuildView:
        fields: dict[str, object] = {
            "id": "b1",
            "image": "git",
            "tag": "latest",
            "system": "x86_64-linux",
            "position": None,
            "started_at": 100.0,
            "ended_at": 110.0,
            "elapsed": 10.0,
            "stages": (
                Stage(phase=Phase.EVALUATING, started_at=WallTime(100), ended_at=WallTime(101)),
                Stage(phase=Phase.BUILDING, started_at=WallTime(101), ended_at=WallTime(109)),
            ),
            "counts": (),
            "running": (),
            "follows": None,
            "digest": None,
            "failure": None,
            "log_lines": 0,
            "version": 1,
        }
        return BuildView(state=state, **(fields | changes))  # type: ignore[arg-type]  # fields by their names

    def test_each_build_counts_once(self) -> None:
        """Each build counts once, with its stages, layers and bytes."""
        reporter = BuildReporter(self.metrics)
        stats = BuildStats(failure="BuildFailed", layers_reused=2)
        stats.count_packed_layer(unpacked=30, packed=10)
        token = current_build_stats.set(stats)
        self.addCleanup(current_build_stats.reset, token)
        reporter.report(self.view(BuildState.SUCCEEDED))
        reporter.report(self.view(BuildState.FAILED))
        looked = (Stage(phase=Phase.EVALUATING, started_at=WallTime(100), ended_at=WallTime(100)),)
        reporter.report(self.view(BuildState.SUCCEEDED, stages=looked))
        reporter.report(self.view(BuildState.SUCCEEDED, stages=looked, follows="b2"))
        reporter.report(self.view(BuildState.CANCELLED))
        for outcome in ("built", "failed", "known", "shared", "cancelled"):
            self.assertEqual(1, self.value("nixery_builds_total", outcome=outcome), outcome)
        self.assertEqual(1, self.value("nixery_build_failures_total", error="BuildFailed"))
        stage = "nixery_build_stage_duration_seconds_sum"
        self.assertEqual(24, self.value(stage, phase="building"))
        self.assertEqual(10, self.value("nixery_layers_total", source="stored"))
        self.assertEqual(50, self.value("nixery_packed_compressed_bytes_total"))


class NamesTests(SynchronousTestCase):
    """The names that a daemon with all of its parts shows."""

    def families(self, *options: str) -> list[Metric]:
        """Return the metrics that are registered in a daemon with all of its parts."""
        parsed = Options({"HOME": self.mktemp()})
        parsed.parseOptions(["--pkgs-path=/p", "--listen=tcp:1", *options])
        made: list[ObservabilitySubsystem] = []

        def remember(*args: Any) -> ObservabilitySubsystem:
            made.append(make_observability(*args))
            return made[-1]

        self.patch(application, "make_observability", remember)
        application.make_application(parsed.config, parsed.endpoints, MemoryReactorClock())
        metrics = made[0].metrics
        return [] if metrics is None else list(metrics.registry.collect())

    def test_names_have_our_prefix_base_units_and_total_for_what_only_grows(self) -> None:
        """Names have our prefix, base units, and ``_total`` for what only grows."""
        for family in self.families():
            if family.name.startswith(("process_", "python_")):
                continue
            self.assertRegex(family.name, r"^nixery_[a-z_]+$")
            self.assertTrue(family.documentation.endswith("."), family.name)
            if family.type == "histogram":
                self.assertTrue(family.name.endswith(("_seconds", "_bytes")), family.name)
            if family.type == "counter":
                # The library takes the suffix off the family and puts it on each sample.
                self.assertFalse(family.name.endswith("_total"))
            if family.type == "gauge":
                self.assertFalse(family.name.endswith(NOT_OF_GAUGES), family.name)
            self.assertNotRegex(family.name, r"milli|_ms\b|kilo|mega|minutes")

    def test_no_metrics_are_registered_if_they_are_switched_off(self) -> None:
        """No metrics are registered if they are switched off."""
        self.assertEqual([], self.families("--metrics=false"))

    def test_each_metric_of_the_dashboard_exists(self) -> None:
        """Each metric that the dashboard asks for is one that the daemon has."""
        known = set(_series(self.families()))
        board = json.loads((web_directory() / "grafana" / "nixery.json").read_text("utf-8"))
        self.assertGreaterEqual(board["schemaVersion"], 36)
        self.assertEqual("nixery", board["uid"])
        identifiers = [panel["id"] for panel in board["panels"]]
        self.assertEqual(len(set(identifiers)), len(identifiers))
        asked = 0
        for panel in board["panels"]:
            self.assertLessEqual({"type", "title", "gridPos"}, set(panel))
            self.assertLessEqual(panel["gridPos"]["x"] + panel["gridPos"]["w"], 24)
            for target in panel.get("targets", ()):
                names = re.findall(r"\b(?:nixery|process|python)_[a-z_]+", target["expr"])
                self.assertTrue(names, target["expr"])
                self.assertEqual(set(), set(names) - known, panel["title"])
                self.assertEqual(target["expr"].count("("), target["expr"].count(")"))
                asked += 1
        self.assertGreater(asked, 20)


def _series(families: Iterable[Metric]) -> Iterable[str]:
    for family in families:
        if family.type == "counter":
            yield f"{family.name}_total"
        elif family.type == "histogram":
            yield from (f"{family.name}_{part}" for part in ("bucket", "sum", "count"))
        elif family.type == "info":
            yield f"{family.name}_info"
        else:
            yield family.name
