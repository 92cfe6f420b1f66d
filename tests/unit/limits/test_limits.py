"""Tests of the package rules, the build quota, and admission control."""

from __future__ import annotations

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from nixery.image.names import parse_image_name
from nixery.image.packages import Evaluation, Output, Package
from nixery.image.patterns import parse_patterns
from nixery.limits.addresses import parse_proxies
from nixery.limits.admission import RESERVED_CONNECTIONS, AdmissionControl, AdmissionLimits
from nixery.limits.build_quota import BuildQuota, current_client
from nixery.limits.errors import (
    BuildsExceeded,
    ImageTooLarge,
    PackagesDenied,
    RequestsExceeded,
    TooManyConnections,
)
from nixery.limits.package_rules import PackageRules


def found(attribute: str, *requested: str, pname: str = "x") -> Evaluation:
    """An evaluation that has led to a package."""
    package = Package(
        requested=requested or (attribute,),
        attribute=attribute,
        name=f"{pname}-1",
        pname=pname,
        version="1",
        description="",
        priority=5,
        derivation="/nix/store/x.drv",
        outputs=(Output(name="out", path="/nix/store/x"),),
    )
    return Evaluation(packages=(package,), missing_optional=(), system="x86_64-linux")


class RulesTests(SynchronousTestCase):
    """Packages that are allowed and denied."""

    def denied(self, rules: PackageRules, repository: str) -> tuple[str, ...]:
        """Return the packages of an image that are not served."""
        try:
            rules.check(parse_image_name(repository, "x86_64-linux"))
        except PackagesDenied as error:
            return error.packages
        return ()

    def test_every_package_is_served_without_rules(self) -> None:
        """Everything is served."""
        self.assertEqual((), self.denied(PackageRules(), "shell/git/curl.dev"))

    def test_only_what_is_named_under_its_whole_path(self) -> None:
        """Only what is named, under its whole path; the meta-package stands for its own."""
        rules = PackageRules(allowed=parse_patterns(["shell", "git", "_7zz", "python3.*"]))
        self.assertEqual((), self.denied(rules, "shell/git/7zz/python3.pkgs"))
        for name in ("curl", "git.doc", "xgit", "python3", "python3.pkgs.curl"):
            self.assertEqual((name,), self.denied(rules, f"git/{name}"), name)

    def test_denied_package_is_refused_by_every_path_that_leads_to_it(self) -> None:
        """A denied package is refused by every path that leads to it, in every spelling."""
        rules = PackageRules(denied=parse_patterns(["curl", "_7zz", "python3Packages.re*"]))
        escaped = "attr--" + b"Curl".hex()
        for name, shown in (
            ("curl", "curl"),
            ("curl.dev", "curl.dev"),
            ("python3.pkgs.curl", "python3.pkgs.curl"),
            ("7zz", "7zz"),
            (escaped, "Curl"),
            ("python3packages.requests", "python3packages.requests"),
        ):
            self.assertEqual((shown,), self.denied(rules, f"git/{name}"), name)
        self.assertEqual((), self.denied(rules, "git/curlftpfs/python3packages.numpy"))

    def test_package_is_checked_again_once_it_is_found(self) -> None:
        """A package is checked again once it is found, by its path and by its own name."""
        rules = PackageRules(denied=parse_patterns(["curl"]))
        rules.check_evaluation(found("git"))
        for evaluation in (
            found("Curl", "x"),
            found("python3.pkgs.curl", "x"),
            found("curlFull", "x", pname="curl"),
        ):
            error = self.assertRaises(PackagesDenied, rules.check_evaluation, evaluation)
            self.assertEqual(("x",), error.packages)

    def test_package_that_is_found_has_to_be_allowed(self) -> None:
        """The package that is found has to be allowed; an output follows the path."""
        rules = PackageRules(allowed=parse_patterns(["git", "curl.*"]))
        rules.check_evaluation(found("git"))
        rules.check_evaluation(found("curl", "curl.dev"))
        self.assertRaises(PackagesDenied, rules.check_evaluation, found("htop", "git"))

    def test_packages_that_are_in_every_image_need_not_be_allowed(self) -> None:
        """Packages that are in every image need not be allowed."""
        rules = PackageRules(allowed=parse_patterns(["git"]), denied=parse_patterns(["cacert"]))
        self.assertEqual((), self.denied(rules, "git"))
        rules.check_evaluation(found("cacert"))

    def test_packages_that_were_asked_for_count(self) -> None:
        """Those count that were asked for."""
        rules = PackageRules(max_packages=2)
        rules.check(parse_image_name("git/curl/git", "x86_64-linux"))
        error = self.assertRaises(
            ImageTooLarge, rules.check, parse_image_name("git/curl/htop", "x86_64-linux")
        )
        self.assertEqual((3, 2, "max_packages"), (error.value, error.limit, error.setting))


class BuildQuotaTests(SynchronousTestCase):
    """Builds of a client."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.refusals: list[str] = []
        self.build_quota = BuildQuota(
            max_concurrent=2,
            max_per_hour=3,
            seconds=self.clock.seconds,
            on_refusal=self.refusals.append,
        )
        token = current_client.set(("192.0.2.1", "user alice"))
        self.addCleanup(current_client.reset, token)

    def test_concurrent_builds_of_a_client_are_limited_however_they_end(self) -> None:
        """So many, and others when they have ended, however they did."""
        first, second, third = (self.build_quota.reserve_slots() for _ in range(3))
        first.__enter__()
        second.__enter__()
        self.assertRaises(BuildsExceeded, third.__enter__)
        error = KeyError()
        self.assertFalse(second.__exit__(KeyError, error, None))
        with self.build_quota.reserve_slots():
            pass
        first.__exit__(None, None, None)
        self.assertEqual(["builds"], self.refusals)

    def test_build_limit_follows_both_the_user_and_the_address(self) -> None:
        """A user who has moved is still the user, and another one at the place is not free."""
        with self.build_quota.reserve_slots(), self.build_quota.reserve_slots():
            for client in (("198.51.100.1", "user alice"), ("192.0.2.1", "user bob")):
                current_client.set(client)
                error = self.assertRaises(
                    BuildsExceeded, self.build_quota.reserve_slots().__enter__
                )
                self.assertEqual(client, error.client)
            current_client.set(("198.51.100.1", "user bob"))
            with self.build_quota.reserve_slots():
                pass
            current_client.set(("192.0.2.1", "user alice"))

    def test_in_an_hour(self) -> None:
        """So many, and then one whenever a part of the hour has passed."""
        for _ in range(3):
            self.build_quota.count_new_image()
        error = self.assertRaises(BuildsExceeded, self.build_quota.count_new_image)
        self.assertAlmostEqual(1200, error.retry_after)
        self.clock.advance(1201)
        self.build_quota.count_new_image()
        self.assertEqual(["hourly_builds"], self.refusals)

    def test_daemons_own_work_is_not_counted(self) -> None:
        """The daemon's own work is not counted, and nor is anything where nothing is said."""
        current_client.set(())
        for _ in range(9):
            self.build_quota.count_new_image()
        current_client.set(("192.0.2.1",))
        for _ in range(9):
            BuildQuota().count_new_image()


class AdmissionTests(SynchronousTestCase):
    """Requests and connections."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.admission = AdmissionControl(
            limits=AdmissionLimits(
                requests_per_second=1,
                burst=2,
                max_connections=3,
                connections_per_client=2,
                proxies=parse_proxies(["10.0.0.1"]),
            ),
            seconds=self.clock.seconds,
        )

    def test_too_many_are_refused_of_address_and_of_user_and_monitors_never_are(self) -> None:
        """Too many are refused, of an address and of a user, and monitors never are."""
        for _ in range(2):
            self.assertIsNone(
                self.admission.check_request(b"/v2/", ("a", "user x"), over_limit=False)
            )
        for client in (("a",), ("b", "user x")):
            refusal = self.admission.check_request(b"/v2/", client, over_limit=False)
            assert isinstance(refusal, RequestsExceeded)
            self.assertAlmostEqual(1, refusal.retry_after)
        self.assertIsNone(self.admission.check_request(b"/healthz", ("a",), over_limit=True))
        self.assertEqual({"requests": 2}, self.admission.refusals)
        # What was refused for the user has cost the address nothing.
        for _ in range(2):
            self.assertIsNone(self.admission.check_request(b"/v2/", ("b",), over_limit=False))

    def test_connection_that_is_one_too_many_is_for_monitors(self) -> None:
        """A connection that is one too many is for monitors."""
        refusal = self.admission.check_request(b"/v2/", ("a",), over_limit=True)
        self.assertIsInstance(refusal, TooManyConnections)

    def test_connections_are_limited(self) -> None:
        """So many, some for a moment, and no more."""
        self.assertEqual([True] * 3, [self.admission.connection_opened() for _ in range(3)])
        self.assertEqual(
            [False] * RESERVED_CONNECTIONS,
            [self.admission.connection_opened() for _ in range(RESERVED_CONNECTIONS)],
        )
        self.assertIsNone(self.admission.connection_opened())
        for _ in range(RESERVED_CONNECTIONS + 2):
            self.admission.connection_closed()
        self.assertTrue(self.admission.connection_opened())

    def test_connections_of_a_client(self) -> None:
        """So many of an address; a proxy has any number."""
        origins = [self.admission.assign_client("192.0.2.1") for _ in range(3)]
        self.assertEqual(["192.0.2.1", "192.0.2.1", None], origins)
        self.assertIsNotNone(self.admission.assign_client("192.0.2.2"))
        self.assertEqual([""] * 9, [self.admission.assign_client("10.0.0.1") for _ in range(9)])
        for origin in origins:
            self.admission.release_client(origin)
        self.assertIsNotNone(self.admission.assign_client("192.0.2.1"))
