"""The log as JSON."""

from __future__ import annotations

import io
import json
import os
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any
from uuid import uuid4

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.application.service import Application, IService, MultiService
from twisted.logger import FileLogObserver, ILogObserver, LogEvent, Logger, capturedLogs
from twisted.plugin import IPlugin, getPlugins
from twisted.trial.unittest import SynchronousTestCase

from nixery.observability.context import current_request
from nixery.observability.json_log import json_line
from nixery.observability.log_service import LoggedService, log_file


class JsonLineTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.events: list[LogEvent] = []
        self.log = Logger(namespace="here", observer=self.events.append)  # type: ignore[arg-type]  # any callable is one

    def read(self) -> dict[str, Any]:
        """The only event, as it was written."""
        line = json_line(self.events.pop())
        self.assertEqual(1, line.count("\n"))
        self.assertTrue(line.isascii())
        document = json.loads(line)
        assert isinstance(document, dict)
        return document

    def test_message_what_it_is_made_of_and_where_and_when_it_was_said(self) -> None:
        """The message, what it is made of, and where and when it was said."""
        self.log.info("{image} took {seconds:.1f} s", image="git", seconds=1.23456789, none=None)
        document = self.read()
        self.assertEqual("git took 1.2 s", document["message"])
        self.assertEqual(("info", "here"), (document["level"], document["namespace"]))
        self.assertEqual(("git", 1.234568, None), (document["image"], document["seconds"], None))
        self.assertRegex(document["time"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00$")

    def test_line_that_is_finished_already_is_not_formatted_again(self) -> None:
        """A line that is finished already is not formatted again."""
        self.log.info("{line}", line="GET /{x}", status=200)
        document = self.read()
        self.assertEqual("GET /{x}", document["message"])
        self.assertEqual(200, document["status"])
        self.assertNotIn("line", document)

    def test_traceback_is_a_field_of_the_line_that_it_belongs_to(self) -> None:
        """A traceback is a field of the line that it belongs to."""
        try:
            raise RuntimeError("the\nreason")
        except RuntimeError:
            self.log.failure("it broke")
        document = self.read()
        self.assertEqual("it broke", document["message"])
        self.assertIn("RuntimeError: the\nreason", document["traceback"])

    def test_event_that_is_logged_while_a_request_is_handled_names_that_request(self) -> None:
        """An event that is logged while a request is handled names that request."""
        token = current_request.set("abc-1")
        self.addCleanup(current_request.reset, token)
        self.log.info("x")
        self.assertEqual("abc-1", self.read()["request_id"])
        self.log.info("x", request_id="abc-2")
        self.assertEqual("abc-2", self.read()["request_id"])

    def test_no_field_takes_the_place_of_what_every_line_has(self) -> None:
        """No field takes the place of what every line has."""
        self.log.info("x", message="y", namespace="z", time="now")
        document = self.read()
        self.assertEqual(("x", "here"), (document["message"], document["namespace"]))
        self.assertNotEqual("now", document["time"])

    def test_plain_values_and_errors_are_shown_other_objects_are_not(self) -> None:
        """Plain values and errors are shown, other objects are not."""
        self.log.info(
            "x",
            path=Path("/a"),
            error=ValueError("no"),
            number=float("nan"),
            items=[1, {"a": b"\xff"}],
            secret=object(),
        )
        document = self.read()
        self.assertEqual(
            ("/a", "no", "nan"), tuple(document[n] for n in ("path", "error", "number"))
        )
        self.assertEqual([1, {"a": "\\xff"}], document["items"])
        self.assertNotIn("secret", document)

    def test_events_that_break(self) -> None:
        """One that cannot be shown is said to be, on a line of its own."""

        class Broken(Exception):
            def __str__(self) -> str:
                raise RuntimeError

        self.log.info("x", error=Broken())
        self.assertIn("could not be logged", self.read()["message"])

    @given(text=st.text(), raw=st.binary())
    @settings(max_examples=100)
    def test_no_forged_lines(self, text: str, raw: bytes) -> None:
        """Any text that is logged stays within its line, and comes back unchanged."""
        self.log.info("{text}", text=text, raw=raw)
        self.assertEqual(text, self.read()["text"])


class ServiceTests(SynchronousTestCase):
    def test_application_that_gets_the_service_logs_json(self) -> None:
        """An application that gets the service logs JSON."""
        file = io.StringIO()
        application = Application("x")
        inner = MultiService()
        LoggedService(inner, file).setServiceParent(application)
        observer = application.getComponent(ILogObserver)
        assert isinstance(observer, FileLogObserver)
        observer({"log_format": "hello", "log_time": 0.0})
        self.assertEqual("hello", json.loads(file.getvalue())["message"])
        assert inner.parent is not None
        self.assertIs(IService(application), inner.parent.parent)

    def test_read_only_installation(self) -> None:
        """That Twisted cannot save its list of plugins is said only where that is a fault."""
        made = tempfile.TemporaryDirectory()
        self.addCleanup(made.cleanup)
        directory = Path(made.name)
        # Another user has to see it.
        directory.chmod(0o755)
        package = directory / f"plugins_{uuid4().hex}"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("")
        (package / "useless.py").write_text("")
        sys.path.insert(0, str(directory))
        self.addCleanup(sys.path.remove, str(directory))
        module = import_module(package.name)

        def written() -> str:
            file = io.StringIO()
            with capturedLogs() as events:
                list(getPlugins(IPlugin, module))
            application = Application("x")
            LoggedService(MultiService(), file).setServiceParent(application)
            for event in events:
                application.getComponent(ILogObserver)(event)
            self.assertEqual(1, len([event for event in events if "errno" in event]))
            return file.getvalue()

        package.chmod(0o555)
        self.addCleanup(package.chmod, 0o755)
        root = os.geteuid() == 0
        if root:
            os.seteuid(65534)
        try:
            self.assertEqual("", written())
        finally:
            if root:
                os.seteuid(0)
        package.chmod(0o755)
        # What cannot be saved for another reason is said.
        (package / "dropin.cache").mkdir()
        self.assertIn("Unable to write to plugin cache", written())

    def test_lines_go_where_twistd_would_write_its_own(self) -> None:
        """Lines go where twistd would write its own."""
        path = self.mktemp()
        file = log_file({"logfile": path}, None)
        file.write("x")
        file.close()
        self.assertEqual("x", Path(path).read_text("utf-8"))
        self.assertTrue(log_file({"logfile": "-"}, None).writable())
