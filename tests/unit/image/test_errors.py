"""Tests of :mod:`nixery.image.errors`."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from nixery.image.errors import PackageProblem, PackagesRefused, ProblemKind


class SummaryTests(SynchronousTestCase):
    """The reasons why packages are refused, in a few words."""

    def refused(self, **kinds: ProblemKind) -> PackagesRefused:
        """Return the error for packages by their names."""
        return PackagesRefused(
            problems=tuple(
                PackageProblem(name=name, kind=kind, message=f"the package {name} is of no use")
                for name, kind in kinds.items()
            )
        )

    def test_several_packages_share_one_reason(self) -> None:
        """The names of packages stand behind the reason that they share."""
        error = self.refused(
            a=ProblemKind.UNSUPPORTED,
            b=ProblemKind.UNSUPPORTED,
            c=ProblemKind.NOT_FOUND,
            d=ProblemKind.UNSUPPORTED,
        )
        self.assertEqual(
            "not for aarch64-linux: a, b, d; not found: c", error.summary("aarch64-linux")
        )

    def test_one_package_keeps_its_message(self) -> None:
        """The message of one package is short, and says more."""
        error = self.refused(a=ProblemKind.BROKEN)
        self.assertEqual("the package a is of no use", error.summary("aarch64-linux"))

    def test_every_reason_has_a_summary(self) -> None:
        """There are a few words for each kind of problem."""
        for kind in ProblemKind:
            self.assertIn(": x, y", self.refused(x=kind, y=kind).summary("s"))
