"""
Tests for ``nixery-admin check`` that need no Nix: its calls, and what it prints.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
from pathlib import Path

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from nixery.cli.admin.check import without_packages
from nixery.cli.admin.check_report import CheckReport, CheckStep, FetchedTree
from nixery.cli.admin.command import admin
from nixery.sources.source import GitSource, ResolvedRef, revision_of

REVISION = revision_of(GitSource(url="https://h/p"), "main", ResolvedRef(commit="a" * 40))
REPORT = CheckReport(
    source="the git repository https://h/p",
    tag="latest",
    system="x86_64-linux",
    steps=[
        CheckStep(name="resolve", seconds=0.25, result="main at aaaaaaaaaaaa"),
        CheckStep(name="evaluate", seconds=12, result="git-2.39"),
    ],
    revision=REVISION,
    fetched=[
        FetchedTree(url="https://h/p", commit="a" * 40, path=Path("/nix/store/x-source")),
        FetchedTree(url="path:/p", commit="", path=Path("/nix/store/y-source")),
    ],
    pins=["/nix/store/z-source"],
    packages=[("git", "git-2.39")],
    package_count=7,
    unpinned=["/o may change"],
    warnings=["it has submodules"],
)


class ReportTests(SynchronousTestCase):
    """Tests of the two forms of a report."""

    def test_people_read_each_step_what_was_found_and_what_to_change(self) -> None:
        """A person reads a line for each thing that was found, and whether all is well."""
        self.assertEqual(
            REPORT.describe(),
            "the git repository https://h/p, tag latest, for x86_64-linux\n"
            "  resolve      0.2 s  main at aaaaaaaaaaaa\n"
            "  evaluate    12.0 s  git-2.39\n"
            f"fetched: {'a' * 40} of https://h/p\n"
            "fetched: path:/p\n"
            "fetched by the evaluation: /nix/store/z-source\n"
            "not pinned: /o may change\n"
            "warning: it has submodules\n"
            "all is well",
        )
        failed = evolve(REPORT, problem="there is no package git")
        self.assertTrue(failed.describe().endswith("\nevaluate failed: there is no package git"))

    def test_programs_read_the_same(self) -> None:
        """JSON has all of it, and whether the source is good."""
        data = json.loads(json.dumps(REPORT.to_plain_data()))
        self.assertTrue(data["ok"])
        self.assertEqual(data["revision"]["identity"]["commit"], "a" * 40)
        self.assertEqual(data["revision"]["pinned"], True)
        self.assertEqual(data["steps"][0]["seconds"], 0.25)
        self.assertEqual(data["fetched"][0]["path"], "/nix/store/x-source")
        self.assertEqual(data["packages"], [{"attribute": "git", "name": "git-2.39"}])
        self.assertEqual(data["pins"], ["/nix/store/z-source"])
        self.assertEqual(data["package_count"], 7)
        self.assertEqual(
            (data["unpinned"], data["warnings"]), (["/o may change"], ["it has submodules"])
        )
        failed = evolve(REPORT, problem="no", revision=None).to_plain_data()
        self.assertEqual((failed["ok"], failed["problem"], failed["revision"]), (False, "no", None))


class CallTests(SynchronousTestCase):
    """Tests of calls that end before anything is tried."""

    def call(self, *arguments: str, status: int, **environ: str) -> str:
        self.patch(os, "environ", {"HOME": "/nonexistent", **environ})
        err = io.StringIO()
        with contextlib.redirect_stderr(err), self.assertRaises(SystemExit) as ended:
            admin(["check", *arguments])
        self.assertEqual(ended.exception.code, status, err.getvalue())
        return err.getvalue()

    def test_wrong_calls_are_told_apart_from_a_source_that_does_not_work(self) -> None:
        """A name, a tag or a setting that can never be right ends with status 2."""
        self.assertIn("not an image name", self.call("Git", status=2))
        self.assertIn("not a tag", self.call("--tag", "a/b", status=2))
        wrong = self.call(status=2, NIXERY_LFS="true")
        self.assertIn("pkgs_repo", wrong)
        self.call("--no-such-option", status=2)

    def test_another_user_is_refused(self) -> None:
        """Another user has other credentials, and would leave files that the daemon cannot use."""
        cache = Path(self.mktemp()).absolute()
        cache.mkdir()
        self.patch(os, "geteuid", lambda: os.getuid() + 1)
        told = self.call(status=1, NIXERY_CACHE_DIRECTORY=str(cache))
        self.assertIn(str(cache), told)
        self.assertIn("run the command as that user", told)

    def test_bucket_is_no_obstacle(self) -> None:
        """A registry that stores its images in a bucket is checked like any other."""
        cache = Path(self.mktemp()).absolute()
        cache.mkdir()
        self.patch(os, "geteuid", lambda: os.getuid() + 1)
        settings = {"NIXERY_STORAGE_BACKEND": "gcs", "GCS_BUCKET": "b"}
        told = self.call(status=1, NIXERY_CACHE_DIRECTORY=str(cache), **settings)
        self.assertIn(str(cache), told)

    def test_no_package_is_needed(self) -> None:
        """Without names, nothing is asked for that a package set may lack."""
        name = without_packages("x86_64-linux")
        self.assertTrue(name.package_requests)
        self.assertTrue(all(request.optional for request in name.package_requests))
