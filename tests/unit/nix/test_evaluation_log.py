"""Tests of the events of an evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from nixery.nix.arguments import NixSettings
from nixery.nix.evaluation_log import EvaluationLog

SETTINGS = NixSettings(state_directory=Path("/s"), home=Path("/h"), max_eval_memory=2 * 1024**3)
SET = Path("/set")
ARCHIVE_FAILED = "Failed to open archive (Source threw exception: error: "
NOT_FOUND = "file '{}' was not found in the Nix search path (add it using $NIX_PATH or -I)"


class EvaluationLogTests(SynchronousTestCase):
    """Tests of the reason of a failure."""

    def setUp(self) -> None:
        self.log = EvaluationLog(source=SET)

    def tell(self, **event: Any) -> None:
        self.log.feed(b"@nix " + json.dumps({"action": "msg", "level": 0} | event).encode())

    def reason(self) -> str:
        return self.log.reason(SETTINGS)

    def test_thrown_text_is_told_whole_whatever_it_looks_like(self) -> None:
        """A thrown text is told whole, whatever it looks like."""
        for text in (
            "first line\nerror: second line",
            "this release ran out of memory-safe maintainers",
            "error: out of memory",
            "       at /set/default.nix:1:2:",
        ):
            self.tell(msg=f"\x1b[31;1merror:\x1b[0m\n … while x\n error: {text}", raw_msg=text)
            self.tell(msg="(use '--show-trace' to show detailed location information)")
            self.assertEqual(self.reason(), text.strip())

    def test_refusals_that_a_setting_lifts_name_it(self) -> None:
        """A refusal that a setting lifts is told with the setting."""
        for text, words in (
            (
                "access to absolute path '/srv/a' is forbidden in restricted mode",
                ("'/srv/a' is forbidden", "reads /srv/a only if", "extra_paths", "nix_path"),
            ),
            (
                f"{NOT_FOUND.format('nixpkgs/lib')}\n\n at /set/default.nix:1:8",
                ("file 'nixpkgs/lib' was not", "<nixpkgs> means what nix_path says"),
            ),
            (NOT_FOUND.format("nixpkgs"), ("<nixpkgs> means",)),
            (
                "access to URI 'git+file:///srv/a' is forbidden in restricted mode",
                ("by HTTP, SSH and git alone", "extra_paths"),
            ),
        ):
            self.tell(msg=f"error: {text}", raw_msg=text)
            for each in words:
                self.assertIn(each, self.reason())
            self.assertNotIn("default.nix", self.reason())

    def test_refusals_of_fetches_are_told_alone(self) -> None:
        """A refusal of the guard of fetches is told without Nix's words around it."""
        text = "evaluation aborted with the following error message: 'nixery: give it a sha256'"
        self.tell(msg=f"error: {text}", raw_msg=text)
        self.assertEqual(self.reason(), "give it a sha256")
        text = "evaluation aborted with the following error message: 'another'"
        self.tell(msg=f"error: {text}", raw_msg=text)
        self.assertEqual(self.reason(), text)

    def test_fetched_paths_are_told_and_no_message(self) -> None:
        """A store path that was fetched under guard is told, and nothing but store paths."""
        fetched: list[str] = []
        log = EvaluationLog(source=SET, on_fetched=fetched.append)
        path = f"/nix/store/{'0' * 32}-source"
        for text in (
            f"trace: nixery-fetched {path}",
            "trace: nixery-fetched /etc/passwd",
            f"trace: nixery-fetched {path}/../../../etc",
            f"nixery-fetched {path}",
        ):
            log.feed(b"@nix " + json.dumps({"action": "msg", "level": 0, "msg": text}).encode())
        self.assertEqual(fetched, [path])
        self.assertNotIn(f"{path}\n", f"{log.text()}\n".partition("\n")[0])

    def test_hosts_without_an_answer(self) -> None:
        """A host gave no answer only if Nix has asked it, and has not been refused."""
        url = "https://h/a.tar.gz"
        for text, asked, unanswered in (
            (f"unable to download '{url}': Could not resolve host (6)", url, True),
            (f"unable to download '{url}': HTTP error 503", url, True),
            (f"{ARCHIVE_FAILED}unable to download '{url}': Could not connect (7))", url, True),
            (f"unable to download '{url}': HTTP error 404", url, False),
            (f"unable to download '{url}': Could not resolve host (6)", "https://h/b", False),
            (f"x unable to download '{url}': HTTP error 503", url, False),
        ):
            self.log = EvaluationLog(source=SET)
            self.tell(action="start", type=101, fields=[asked])
            self.assertFalse(self.log.is_unanswered)
            self.tell(msg=f"error: {text}", raw_msg=text)
            self.assertEqual(self.log.is_unanswered, unanswered, text)

    def test_passwords_are_left_out(self) -> None:
        """No password of a URL is told."""
        text = "unable to download 'https://alice:secret@h/a': HTTP error 404"
        self.tell(msg=f"error: {text}", raw_msg=text)
        self.assertEqual(self.reason(), text.replace("alice:secret@", ""))

    def test_traces_decide_nothing(self) -> None:
        """A traced text decides nothing."""
        self.tell(msg="trace: error: out of memory")
        self.tell(msg="trace: x\nerror: out of memory")
        self.tell(msg="error: yes", raw_msg="yes")
        self.assertEqual(self.reason(), "yes")

    def test_warnings_are_no_errors(self) -> None:
        """A warning is no error, even if it reads like one."""
        text = "unable to download 'http://x'"
        self.tell(level=1, msg=f"warning: error: {text}; retrying", raw_msg=text)
        self.assertIsNone(self.log.error)
        self.tell(msg="error: stack", raw_msg="stack")
        self.tell(level=1, msg=f"warning: error: {text}", raw_msg=text)
        self.assertEqual(self.reason(), "stack")

    def test_too_little_memory_is_told_with_the_limit(self) -> None:
        """Too little memory is told with the limit."""
        self.log.feed(b"GC Warning: Out of Memory! Heap size: 190 MiB. Returning NULL!")
        self.tell(msg="\x1b[31;1merror:\x1b[0m out of memory")
        self.assertIn("more than 2048 MiB", self.reason())

    def test_syntax_errors_keep_their_place(self) -> None:
        """A syntax error keeps its place, relative to the package set."""
        raw = "syntax error, unexpected ';'"
        for file, place in (
            ("/set/pkgs/x.nix", "pkgs/x.nix:2:7"),
            ("/set/default.nix:2:7", "default.nix:2:7"),
            ("/etc/secret/overlay.nix", "overlay.nix:2:7"),
        ):
            self.tell(msg=f"error: {raw}", raw_msg=raw, file=file, line=2, column=7)
            self.assertEqual(self.reason(), f"{raw}, at {place}")
        raw = "attribute 'x' missing"
        self.tell(msg=f"error: {raw}", raw_msg=raw, file="/set/x.nix", line=2, column=7)
        self.assertEqual(self.reason(), raw)

    def test_failed_import_from_derivation_is_told_with_its_log(self) -> None:
        """A build that an evaluation needs and that fails is told with the end of its log."""
        self.tell(action="result", type=101, fields=["error: \x1b[31mno"])
        raw = "builder for '/nix/store/x.drv' failed with exit code 1;\n  last 1 log lines:\n  > no"
        self.tell(msg=f"error: {raw}", raw_msg=raw)
        self.assertEqual(
            self.reason(),
            "builder for '/nix/store/x.drv' failed with exit code 1;\n"
            "The last lines of its log:\nerror: no",
        )
        self.tell(msg="error: x", raw_msg="x")
        self.assertEqual(self.reason(), "x")

    def test_builder_of_an_import_cannot_say_that_memory_ran_out(self) -> None:
        """A builder that has Nix print its error of too little memory decides nothing."""
        self.tell(msg="error: out of memory")
        raw = "builder for '/nix/store/x.drv' failed with exit code 1"
        self.tell(msg=f"error: {raw}", raw_msg=raw)
        self.assertEqual(self.reason(), raw)

    def test_what_is_no_event_is_read_as_text(self) -> None:
        """Output of Nix without an event, as of old versions, is read as text."""
        self.log.feed(b"error: stack overflow (possible infinite recursion)")
        self.assertEqual(self.reason(), "stack overflow (possible infinite recursion)")
        self.assertIsNone(self.log.error)

    def test_events_of_another_making_are_passed_over(self) -> None:
        """Events of another making are passed over."""
        for line in (b"@nix", b"@nix {", b"@nix []", b'@nix {"action":"msg","level":0}'):
            self.log.feed(line)
        self.tell(msg="error: x", raw_msg=5)
        self.tell(msg="error: x", raw_msg="x", file=5, line="y")
        self.assertEqual(self.reason(), "x")
