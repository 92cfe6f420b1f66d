"""
The routes as their description says they are: schemathesis makes requests of it.

What is asked is the same in each run, and served from memory over a real socket; Nix is
played.  Streams are left out: they do not end.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from openapi_spec_validator import OpenAPIV31SpecValidator
from openapi_spec_validator.validation.exceptions import OpenAPIValidationError
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.core.result import Ok
from twisted.trial.unittest import SynchronousTestCase

from nixery.http.openapi import read_description
from nixery.runtime.data_files import web_directory
from tests.fuzz.fuzz_app import PASSWORD, USER

EXAMPLES = 12
"""Requests of each operation."""

NAMES = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
)

CHECKOUT = Path(__file__).resolve().parents[2]

SERVER = """
import sys
from pathlib import Path
from twisted.internet import reactor
from tests.fuzz.fuzz_app import World
world = World(Path(sys.argv[1]), gated=sys.argv[2] == "gated")
port = reactor.listenTCP(0, world.site, interface="127.0.0.1")
print(port.getHost().port, flush=True)
reactor.run()
"""


class Server:
    """A site on a port of its own, as long as it is entered."""

    def __init__(self, *, gated: bool) -> None:
        self._mode = "gated" if gated else "open"

    def __enter__(self) -> Self:
        self._directory = tempfile.TemporaryDirectory(prefix="nixery-openapi-")
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVER, self._directory.name, self._mode],
            cwd=CHECKOUT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.url = f"http://127.0.0.1:{int(self._process.stdout.readline())}"
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
        self._directory.cleanup()


class DescriptionTests(SynchronousTestCase):
    """Tests that every answer is as described, and never a failure of ours."""

    def test_description_is_openapi(self) -> None:
        """The description is a valid document of OpenAPI 3.1."""
        document = json.loads(read_description(web_directory()))
        OpenAPIV31SpecValidator(document).validate()
        # A response must have a description.
        del document["components"]["responses"]["Well"]["description"]
        with self.assertRaises(OpenAPIValidationError):
            OpenAPIV31SpecValidator(document).validate()

    def check_all(self, *, gated: bool) -> None:
        document = json.loads(read_description(web_directory()))
        auth = (USER, PASSWORD) if gated else None
        load_all_checks()
        checks = [CHECKS.get_one(name) for name in NAMES]
        with Server(gated=gated) as server:
            schema = schemathesis.openapi.from_dict(document)
            schema.config.update(base_url=server.url)
            for result in schema.get_all_operations():
                assert isinstance(result, Ok), result
                operation = result.ok()
                if operation.path.endswith("/events") or (operation.path == "/token") > gated:
                    continue
                with self.subTest(operation=operation.label):

                    def ask(case: Any) -> None:
                        case.call_and_validate(auth=auth, checks=checks, timeout=20)

                    self.run_examples(operation, ask)

    def run_examples(self, operation: Any, ask: Callable[[Any], None]) -> None:

        settings(
            deadline=None,
            derandomize=True,
            database=None,
            max_examples=EXAMPLES,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )(given(operation.as_strategy())(ask))()

    def test_description_holds_if_all_may_be_pulled_without_logging_in(self) -> None:
        """The description holds if all may be pulled without logging in."""
        self.check_all(gated=False)

    def test_description_holds_if_clients_have_to_log_in(self) -> None:
        """The description holds if clients have to log in."""
        self.check_all(gated=True)
