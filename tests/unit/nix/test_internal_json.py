"""The events of a build."""

from __future__ import annotations

import json
from typing import Any

from attrs import define, field
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from nixery.nix import internal_json
from nixery.nix.internal_json import (
    MAX_LINE_CHARACTERS,
    MAX_LOG_LINES,
    MAX_LOGGED_BUILDS,
    MAX_PHASE_CHARACTERS,
    MAX_PLANNED_DERIVATIONS,
    BuildLog,
)
from nixery.nix.progress import Phase


@define(eq=False)
class Recorder:
    """Implements :class:`nixery.nix.progress.Progress`."""

    calls: list[tuple[Any, ...]] = field(factory=list)

    def phase(self, phase: Phase, /) -> None:
        self.calls.append((phase,))

    def count(self, phase: Phase, done: int, expected: int, unit: str, /) -> None:
        self.calls.append((done, expected, unit))

    def derivation(self, derivation: str, /) -> None:
        self.calls.append(("derivation", derivation))

    def derivation_phase(self, derivation: str, phase: str, /) -> None:
        self.calls.append(("phase", derivation, phase))

    def derivation_ended(self, derivation: str, succeeded: bool, /) -> None:
        self.calls.append(("ended", derivation, succeeded))

    def log(self, line: str, derivation: str, /) -> None:
        self.calls.append(("log", line, derivation))


class BuildLogTests(SynchronousTestCase):
    """Tests of the interpretation of log lines."""

    def setUp(self) -> None:
        self.recorder = Recorder()
        self.log = BuildLog(progress=self.recorder)

    def tell(self, **event: Any) -> None:
        self.log.feed(b"@nix " + json.dumps(event, separators=(",", ":")).encode())

    def start(self, activity: int, kind: int, *fields: Any) -> None:
        self.tell(action="start", id=activity, type=kind, level=3, text="", fields=list(fields))

    def result(self, activity: int, kind: int, *fields: Any) -> None:
        self.tell(action="result", id=activity, type=kind, fields=list(fields))

    def stop(self, activity: int) -> None:
        self.tell(action="stop", id=activity)

    def test_planned_derivations_are_counted_and_the_last_of_them_kept(self) -> None:
        """Planned derivations are counted, and the last of them kept."""
        self.tell(action="msg", level=3, msg="these 30 derivations will be built:")
        for number in range(30):
            self.tell(action="msg", level=3, msg=f"  /nix/store/{number}.drv")
        self.tell(action="msg", level=3, msg="  /nix/store/fetched")
        self.assertEqual(self.log.planned_count, 30)
        self.assertEqual(self.log.planned[-1], "/nix/store/29.drv")
        self.assertEqual(len(self.log.planned), MAX_PLANNED_DERIVATIONS)

    def test_builds_are_announced_and_counted(self) -> None:
        """Builds are announced and counted, and their logs are passed on and kept."""
        self.start(1, 104)
        self.result(1, 105, 0, 2, 0, 0)
        self.start(2, 105, "/nix/store/a.drv", "", 1, 1)
        self.result(2, 101, "\x1b[31mone\x1b[0m\r")
        self.start(3, 105, "/nix/store/b.drv", "", 1, 1)
        self.result(3, 101, "two")
        self.result(2, 101, "x" * 2 * MAX_LINE_CHARACTERS)
        self.assertEqual(self.log.unfinished(), ("/nix/store/a.drv", "/nix/store/b.drv"))
        self.result(1, 105, 1, 2, 1, 0)
        self.stop(2)
        self.assertEqual(self.log.unfinished(), ("/nix/store/b.drv",))
        self.assertEqual(
            self.recorder.calls,
            [
                (0, 2, "builds"),
                (Phase.BUILDING,),
                ("derivation", "/nix/store/a.drv"),
                ("log", "one", "/nix/store/a.drv"),
                ("derivation", "/nix/store/b.drv"),
                ("log", "two", "/nix/store/b.drv"),
                ("log", "x" * MAX_LINE_CHARACTERS + "…", "/nix/store/a.drv"),
                (1, 2, "builds"),
                ("ended", "/nix/store/a.drv", True),
            ],
        )
        self.assertEqual(
            self.log.tail("/nix/store/a.drv"), ("one", "x" * MAX_LINE_CHARACTERS + "…")
        )
        self.assertEqual(self.log.tail("/nix/store/b.drv"), ("two",))
        self.assertEqual(self.log.tail("/nix/store/c.drv"), ())

    def test_phase_of_a_builder_is_told_with_its_derivation(self) -> None:
        """The phase is bounded plain text; that of an activity that is no build is ignored."""
        self.start(2, 105, "/nix/store/a.drv")
        self.result(2, 104, "\x1b[31mcheckPhase" + "x" * 100)
        self.result(7, 104, "buildPhase")
        self.stop(2)
        self.result(2, 104, "fixupPhase")
        self.assertEqual(
            [call for call in self.recorder.calls if call[0] in ("phase", "ended")],
            [
                (
                    "phase",
                    "/nix/store/a.drv",
                    ("checkPhase" + "x" * 100)[: MAX_PHASE_CHARACTERS - 5],
                ),
                ("ended", "/nix/store/a.drv", False),
            ],
        )

    def test_build_that_was_asked_for_ends_when_it_is_counted(self) -> None:
        """Nix stops a build that was asked for when all have ended: it is told before that."""
        self.start(1, 104)
        self.start(2, 105, "/nix/store/a.drv")
        self.result(1, 105, 1, 2, 0, 0)
        self.assertEqual(("ended", "/nix/store/a.drv", True), self.recorder.calls[-2])

    def test_build_that_stops_without_having_succeeded_stays_unfinished(self) -> None:
        """A build that stops without having succeeded stays unfinished."""
        self.start(1, 104)
        self.start(2, 105, "/nix/store/a.drv")
        self.stop(2)
        self.assertEqual(self.log.unfinished(), ("/nix/store/a.drv",))

    def test_build_that_was_asked_for_and_stops_late_has_succeeded(self) -> None:
        """A build that was counted as done has succeeded, however late it stops."""
        self.start(1, 104)
        self.start(2, 105, "/nix/store/a.drv")
        self.result(1, 105, 1, 2, 0, 0)
        self.start(3, 105, "/nix/store/b.drv")
        self.result(1, 105, 1, 1, 0, 1)
        self.stop(3)
        self.stop(2)
        self.assertEqual(self.log.failed_derivations, ("/nix/store/b.drv",))
        self.assertEqual(self.log.started_builds, 2)

    def test_origins_of_what_was_built_and_downloaded(self) -> None:
        """Builds are listed, and downloads with their cache, whose address tells no secrets."""
        self.start(1, 103)
        self.start(2, 108, "/nix/store/a", "https://user:secret@cache.example?key=secret")
        self.stop(2)
        self.result(1, 105, 1, 2, 0, 0)
        self.start(3, 108, "/nix/store/b", "https://first.example")
        self.stop(3)
        # It failed there, and the next cache has it.
        self.start(4, 108, "/nix/store/b", "s3://second")
        self.stop(4)
        self.result(1, 105, 2, 2, 0, 0)
        self.start(5, 105, "/nix/store/c.drv", "ssh://builder", 1, 1)
        origins = self.log.origins()
        self.assertEqual(origins.built, ("/nix/store/c.drv",))
        self.assertEqual(
            origins.substituted,
            {"/nix/store/a": "https://cache.example", "/nix/store/b": "s3://second"},
        )

    def test_origins_are_not_known_after_a_failed_download(self) -> None:
        """If a download failed for good, it is not known which paths were downloaded."""
        self.start(1, 103)
        self.start(2, 108, "/nix/store/a", "https://cache.example")
        self.stop(2)
        self.result(1, 105, 0, 1, 0, 1)
        self.start(5, 105, "/nix/store/a.drv", "", 1, 1)
        self.assertIsNone(self.log.origins().substituted)

    def test_the_list_of_builds_is_bounded(self) -> None:
        """Of many builds the first are listed, and the others counted."""
        self.patch(internal_json, "MAX_LISTED_BUILDS", 3)
        for number in (*range(5), 0):
            self.start(number, 105, f"/nix/store/{number}.drv", "", 1, 1)
        origins = self.log.origins()
        self.assertEqual(origins.built, tuple(f"/nix/store/{number}.drv" for number in range(3)))
        self.assertEqual(origins.omitted_builds, 2)

    def test_builds_of_evaluation_are_counted_apart(self) -> None:
        """The builds that an evaluation needs are counted apart from those that follow."""
        for counter in (1, 2):
            self.start(counter, 104)
            self.start(10 + counter, 105, f"/nix/store/{counter}.drv")
            self.result(counter, 105, 1, 1, 0, 0)
            self.stop(10 + counter)
            self.stop(counter)
        self.assertEqual(self.log.failed_derivations, ())

    def test_errors_that_builder_can_have_printed_are_kept_apart(self) -> None:
        """Only errors that no builder can have printed count as Nix's own."""
        self.tell(action="msg", level=0, msg="error: before")
        self.start(2, 105, "/nix/store/a.drv")
        self.tell(action="msg", level=0, msg="error: forged")
        self.tell(action="msg", level=0, msg="warning: error: unable to download 'x'")
        self.tell(action="msg", level=0, msg="error: during", raw_msg="during")
        self.stop(2)
        self.tell(action="msg", level=0, msg="\x1b[31;1merror:\x1b[0m after")
        self.assertEqual(list(self.log.own_errors), ["before", "during", "after"])
        self.assertEqual(list(self.log.reported_errors), ["forged"])
        self.assertEqual(list(self.log.notes), ["warning: error: unable to download 'x'"])

    def test_quoted_log_is_not_part_of_error(self) -> None:
        """The lines of a log that Nix quotes are not part of its error."""
        for head in ("last 2 log lines:", "Last 2 log lines:"):
            self.tell(
                action="msg",
                level=0,
                msg="error: ...",
                raw_msg=f"no;\n       {head}\n       > last 1 log lines:\n       > x\n       For",
            )
        self.assertEqual(list(self.log.own_errors), ["no;", "no;"])

    def test_tails_of_some_logs_are_kept_whatever_the_builds_print(self) -> None:
        """The tails of some logs are kept, whatever the builds print."""
        for number in range(MAX_LOGGED_BUILDS + 1):
            self.start(number, 105, f"/{number}.drv")
            for line in range(MAX_LOG_LINES + 5):
                self.result(number, 101, f"{number} {line}")
            self.stop(number)
        self.assertEqual(self.log.tail("/0.drv"), ())
        self.assertEqual(
            self.log.tail("/1.drv"), tuple(f"1 {line}" for line in range(5, MAX_LOG_LINES + 5))
        )

    def test_bytes_are_summed_over_transfers(self) -> None:
        """Bytes are summed over transfers, those that have ended and those announced."""
        self.start(1, 102)
        self.start(2, 103)
        self.result(1, 106, 101, 1000)
        self.start(3, 101, "http://cache/a")
        self.result(3, 105, 100, 400, 0, 0)
        self.start(4, 101, "http://cache/b")
        self.result(4, 105, 50, 600, 0, 0)
        self.result(3, 105, 400, 400, 0, 0)
        self.stop(3)
        self.result(4, 105, 700, 600, 0, 0)
        self.result(2, 105, 1, 2, 0, 0)
        self.assertEqual(
            self.recorder.calls,
            [
                (Phase.DOWNLOADING,),
                (100, 1000, "bytes"),
                (150, 1000, "bytes"),
                (450, 1000, "bytes"),
                (1100, 1100, "bytes"),
                (1, 2, "paths"),
            ],
        )

    def test_stage_is_entered_once_and_building_is_the_later_one(self) -> None:
        """A stage is entered once, and building is the later one."""
        for number in range(3):
            self.start(10 + number, 101)
            self.start(20 + number, 105, "/a.drv")
        phases = [call for call in self.recorder.calls if isinstance(call[0], Phase)]
        self.assertEqual(phases, [(Phase.DOWNLOADING,), (Phase.BUILDING,)])

    def test_errors_warnings_and_what_is_no_event_are_kept_the_chatter_is_not(self) -> None:
        """Errors, warnings and what is no event are kept, the chatter is not."""
        self.tell(action="msg", level=3, msg="these derivations will be built:")
        self.tell(action="msg", level=1, msg="\x1b[35;1mwarning:\x1b[0m slow")
        self.tell(action="msg", level=0, msg="\x1b[31;1merror:\x1b[0m no\n  detail")
        self.log.feed(b"out of memory\x1b[0m")
        self.log.feed(b"   ")
        self.assertEqual(list(self.log.notes), ["warning: slow", "out of memory"])
        self.assertEqual(list(self.log.own_errors), ["no\n  detail", "out of memory"])
        self.assertEqual(self.log.text(), "warning: slow\nerror: no\n  detail\nout of memory")
        self.assertEqual(self.recorder.calls, [])

    def test_events_of_another_versions_making_are_passed_over(self) -> None:
        """Events of another version's making are passed over."""
        self.start(1, 105)
        self.start(2, 999, "x")
        self.result(2, 105, 1, 2)
        self.result(77, 101, "whose?")
        self.result(1, 105)
        self.tell(action="result", type=105, id=1)
        self.tell(action="celebrate", type=105)
        self.tell(action="msg", level=0, msg=None)
        self.stop(77)
        for line in (
            b"@nix ",
            b'@nix {"action":"start","type":105',
            b'@nix "start" "type":105 \xff',
        ):
            self.log.feed(line)
        self.assertEqual(self.recorder.calls, [("log", "whose?", "")])
        self.assertEqual((list(self.log.own_errors), list(self.log.reported_errors)), ([], []))

    @settings(max_examples=200)
    @given(
        st.dictionaries(
            st.sampled_from(("action", "id", "type", "fields", "level", "msg")),
            st.sampled_from(
                (
                    "start",
                    "stop",
                    "result",
                    "msg",
                    0,
                    1,
                    101,
                    104,
                    105,
                    106,
                    None,
                    [],
                    [0],
                    ["x", 1],
                )
            ),
        )
    )
    def test_no_event_is_an_error(self, event: dict[str, Any]) -> None:
        """No event is an error."""
        BuildLog(progress=Recorder()).feed(b"@nix " + json.dumps(event).encode())
