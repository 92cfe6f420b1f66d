"""Tests of the limits on packages, builds and image sizes, all the way through the builder."""

from __future__ import annotations

from attrs import evolve
from twisted.internet.defer import Deferred

from nixery.builds.errors import CachedFailure
from nixery.image.patterns import parse_patterns
from nixery.limits.build_quota import BuildQuota
from nixery.limits.errors import BuildsExceeded, ImageTooLarge, PackagesDenied
from nixery.limits.package_rules import PackageRules
from tests.support.builds import BuilderCase


class BuildLimitTests(BuilderCase):
    def setUp(self) -> None:
        super().setUp()
        self.build_quota = BuildQuota(max_concurrent=2, max_per_hour=3, seconds=self.clock.seconds)
        self.builder.build_quota = self.build_quota

    def test_builds_per_hour_are_limited(self) -> None:
        """So many are made; what is there is served all the same, and to others more."""
        for name in ("hello", "git", "bash"):
            self.successResultOf(self.by("a", name))
        self.failureResultOf(self.by("a", "hello/git"), BuildsExceeded)
        self.successResultOf(self.by("a", "hello"))
        self.successResultOf(self.by("b", "hello/git"))
        self.successResultOf(self.by("a", "hello/git"))

    def test_client_has_a_limited_number_of_builds_at_a_time(self) -> None:
        """A client has a limited number of builds at a time; joining another's takes no place."""
        gate: Deferred[None] = Deferred()
        self.nix.before_realise = lambda: gate
        for name in ("hello", "git"):
            self.assertNoResult(self.by("a", name))
        self.failureResultOf(self.by("a", "bash"), BuildsExceeded)
        self.nix.before_realise = None
        self.successResultOf(self.by("b", "bash"))
        self.nix.before_realise = lambda: gate
        gate.callback(None)
        self.nix.before_realise = None
        self.successResultOf(self.by("a", "hello/git"))

    def test_joining_in_vain(self) -> None:
        """A client that joined a build refused for another client gets its own build."""
        for name in ("hello", "git", "bash"):
            self.successResultOf(self.by("a", name))
        gate: Deferred[None] = Deferred()
        self.sources.before_fetch = lambda: gate
        first, second = self.by("a", "hello/git"), self.by("b", "hello/git")
        self.assertNoResult(second)
        self.sources.before_fetch = None
        gate.callback(None)
        self.failureResultOf(first, BuildsExceeded)
        self.successResultOf(second)

    def test_denied_package_is_not_evaluated(self) -> None:
        """A denied package is not evaluated."""
        self.builder.package_rules = PackageRules(denied=parse_patterns(["git"]))
        self.failureResultOf(self.request("hello/git"), PackagesDenied)
        self.assertEqual([], self.nix.evaluations)

    def test_denied_when_found(self) -> None:
        """A package that turns out to be denied after evaluation is not built."""
        self.patch(PackageRules, "check", lambda *_: None)
        self.builder.package_rules = PackageRules(denied=parse_patterns(["git"]))
        self.failureResultOf(self.request("hello/git"), PackagesDenied)
        self.assertEqual([], self.nix.realisations)

    def test_image_that_is_too_large_is_not_packed_and_not_tried_again_at_once(self) -> None:
        """An image that is too large is not packed, and not tried again at once."""
        self.limits = evolve(self.limits, max_closure_size=1)
        self.restart()
        error = self.failureResultOf(self.request("hello"), ImageTooLarge).value
        self.assertEqual("max_closure_size", error.setting)
        self.assertEqual(0, self.storage.created)
        self.failureResultOf(self.request("hello"), CachedFailure)
