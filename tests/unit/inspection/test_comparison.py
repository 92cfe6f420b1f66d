"""Tests for :mod:`nixery.inspection.comparison`."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from nixery.inspection.comparison import PackageChange, compare_images, compare_packages
from nixery.inspection.report import ImageReport, ReportedPath
from tests.support.inspection import digest, report_of, reports


def path(name: str, *, hashed: str = "0", size: int = 10) -> ReportedPath:
    return ReportedPath(
        path=f"/nix/store/{hashed * 32}-{name}",
        size=size,
        closure=size,
        popularity=0,
        references=(),
    )


def changes(found: Sequence[PackageChange]) -> list[tuple[str, str, str, int]]:
    return [(each.name, ",".join(each.old), ",".join(each.new), each.size) for each in found]


class PackageTests(SynchronousTestCase):
    def test_packages_are_updated_added_removed_or_rebuilt(self) -> None:
        """Packages are told by what has become of them, each with its versions and its size."""
        found = compare_packages(
            [
                path("git-2.40", size=5),
                path("glibc-2.38"),
                path("glibc-2.38-bin"),
                path("perl-5.38"),
                path("zlib-1.3", hashed="a"),
                path("env", hashed="a"),
            ],
            [
                path("git-2.41", size=7),
                path("glibc-2.38"),
                path("htop-3.2", size=3),
                path("zlib-1.3", hashed="b", size=9),
                path("env", hashed="b"),
            ],
        )
        self.assertEqual([("git", "2.40", "2.41", 7)], changes(found.updated))
        self.assertEqual([("htop", "", "3.2", 3)], changes(found.added))
        self.assertEqual(
            [("glibc (bin)", "2.38", "", 10), ("perl", "5.38", "", 10)], changes(found.removed)
        )
        self.assertEqual([("env", "", "", 10), ("zlib", "1.3", "1.3", 9)], changes(found.rebuilt))
        self.assertEqual(1, found.unchanged)

    def test_outputs_that_changed_alike_are_told_once(self) -> None:
        """The outputs of an updated package are one row; a version is no output."""
        old = [path(f"curl-8.5.0{suffix}") for suffix in ("", "-bin", "-dev")]
        new = [path(f"curl-8.6.0-rc1{suffix}") for suffix in ("", "-bin", "-dev")]
        found = compare_packages(old, new)
        self.assertEqual([("curl", "8.5.0", "8.6.0-rc1", 30)], changes(found.updated))

    def test_several_versions_of_a_package_are_told_together(self) -> None:
        """A package of which an image has two versions is one row."""
        found = compare_packages(
            [path("openssl-1.1"), path("openssl-3.0")], [path("openssl-3.0"), path("openssl-3.1")]
        )
        self.assertEqual([("openssl", "1.1,3.0", "3.0,3.1", 10)], changes(found.updated))
        gone = compare_packages([path("openssl-1.1"), path("openssl-3.0")], [path("openssl-3.0")])
        self.assertEqual([("openssl", "1.1,3.0", "3.0", 10)], changes(gone.updated))

    @given(
        names=st.lists(
            st.tuples(
                st.sampled_from(["a-1", "a-2", "a-1-bin", "b", "b-1", "c-1-man"]),
                st.sampled_from("01"),
            ),
            unique=True,
        ),
        cut=st.integers(0, 12),
    )
    def test_every_path_is_in_the_comparison(self, names: list[tuple[str, str]], cut: int) -> None:
        """No path that differs is lost, and the other way round is the same."""
        old = [path(name, hashed=hashed) for name, hashed in names[:cut]]
        new = [path(name, hashed=hashed) for name, hashed in names[cut // 2 :]]
        found = compare_packages(old, new)
        same = {each.path for each in old} & {each.path for each in new}
        self.assertEqual(len(same), found.unchanged)
        added = sum(each.size for each in found.added)
        new_only = 10 * len({each.path for each in new} - same)
        old_only = 10 * len({each.path for each in old} - same)
        self.assertLessEqual(added, new_only)
        self.assertEqual(
            new_only + old_only > 0,
            any((found.updated, found.added, found.removed, found.rebuilt)),
        )
        back = compare_packages(new, old)
        self.assertEqual(
            changes(found.added),
            [(name, after, before, size) for name, before, after, size in changes(back.removed)],
        )
        self.assertEqual(
            [(each.name, each.old, each.new) for each in found.updated],
            [(each.name, each.new, each.old) for each in back.updated],
        )


class ImageTests(SynchronousTestCase):
    @given(reports)
    def test_image_does_not_differ_from_itself(self, report: ImageReport) -> None:
        """An image does not differ from itself."""
        found = compare_images(report, report)
        self.assertEqual((0, ()), (found.new_size, found.new))
        self.assertEqual(report.size, found.shared_size)
        assert found.packages is not None
        packages = found.packages
        self.assertFalse(packages.updated + packages.added + packages.removed + packages.rebuilt)

    def test_layers_are_shared_by_their_digests(self) -> None:
        """Layers are shared if their digests are equal; the others are downloaded."""
        old = report_of({"git-2.40": 40, "glibc-2.38": 30}, {"git-2.40": ["glibc-2.38"]})
        changed = evolve(old.layers[0], digest=digest("other"), size=999)
        new = evolve(old, layers=(changed, *old.layers[1:]))
        found = compare_images(old, new)
        self.assertEqual((changed,), found.new)
        self.assertEqual(999, found.new_size)
        self.assertEqual(old.layers[1:], found.shared)

    def test_packages_are_not_compared_without_paths(self) -> None:
        """Nothing is said of packages if the paths of an image are not known."""
        report = report_of({"git-2.40": 40}, {})
        for other in (evolve(report, paths=()), evolve(report, paths=(), omitted_paths=5)):
            self.assertIsNone(compare_images(other, report).packages)
            self.assertIsNone(compare_images(report, other).packages)
