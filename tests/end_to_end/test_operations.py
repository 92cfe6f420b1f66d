"""
Tests of an operator's view of a daemon at work: metrics, readiness, and a log that a
program can read.
"""

from __future__ import annotations

import json
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tests.end_to_end.case import EndToEndCase, skopeo
from tests.end_to_end.daemon import Daemon
from tests.end_to_end.package_sets import demo_set
from tests.end_to_end.processes import at_end, wait_until


class OperationsTests(EndToEndCase):
    def read_log(self, daemon: Daemon) -> list[dict[str, Any]]:
        """Every line of the log, each of which has to be an object."""
        lines = [json.loads(line) for line in daemon.log().splitlines()]
        for line in lines:
            self.assertLessEqual({"time", "level", "namespace", "message"}, set(line))
        return lines

    def test_pull_by_a_client_is_in_the_metrics_and_in_the_log(self) -> None:
        """
        A pull by a real client is in the metrics and in the log, where its requests and
        the build that they caused are found by the id that clients get.
        """
        daemon = Daemon(
            demo_set(), name="operations", options=["--log-format=json", "--web-ui=false"]
        ).start()
        at_end(daemon.kill)
        http = daemon.registry
        ready = http.request("GET", "/readyz")
        self.assertEqual((200, b"ok\n"), (ready.status, ready.body))

        first = http.request("GET", "/v2/hello/manifests/latest")
        self.assertEqual(200, first.status)
        refused = http.request("GET", "/v2/no-such-package/manifests/latest")
        self.assertEqual(404, refused.status)
        skopeo().copy(f"{daemon.address}/hello", f"dir:{self.mktemp()}").checked()

        shown = http.request("GET", "/metrics").body.decode()
        values = {
            (sample.name, *sorted(sample.labels.values())): sample.value
            for family in text_string_to_metric_families(shown)
            for sample in family.samples
        }
        self.assertEqual(values["nixery_builds_total", "built"], 1)
        self.assertEqual(values["nixery_build_failures_total", "PackagesRefused"], 1)
        blobs = "/v2/{name}/blobs/{digest}"
        self.assertGreater(values["nixery_http_response_bytes_total", blobs], 1000)
        self.assertGreater(values["nixery_commands_total", "nix-store", "succeeded"], 0)
        self.assertGreater(values["nixery_packed_compressed_bytes_total",], 1000)

        daemon.stop()
        lines = self.read_log(daemon)
        for answer, outcome in ((first, "built"), (refused, "failed")):
            mine = [
                line for line in lines if line.get("request_id") == answer.headers["x-request-id"]
            ]
            [request] = [line for line in mine if "agent" in line]
            self.assertEqual(answer.status, request["status"])
            [build] = [line for line in mine if "build_id" in line]
            self.assertEqual(outcome, build["outcome"])
            self.assertIn("evaluating", build["stages"])
        self.assertFalse([line for line in lines if line["level"] in ("error", "critical")])

    def test_storage_is_gone(self) -> None:
        """A daemon whose storage cannot be written is alive, not ready, and says why."""
        daemon = Daemon(demo_set(), name="unready", options=["--web-ui=false"]).start()
        at_end(daemon.kill)
        drafts = daemon.storage / "tmp"
        drafts.rename(daemon.storage / "elsewhere")
        wait_until(lambda: daemon.registry.request("GET", "/readyz").status == 503, "a red light")
        answer = daemon.registry.request("GET", "/readyz")
        self.assertIn(b"storage: ", answer.body)
        self.assertIn(str(daemon.storage).encode(), answer.body)
        self.assertEqual(200, daemon.registry.request("GET", "/healthz").status)
        (daemon.storage / "elsewhere").rename(drafts)
        wait_until(lambda: daemon.registry.request("GET", "/readyz").status == 200, "a green one")
        daemon.stop()
