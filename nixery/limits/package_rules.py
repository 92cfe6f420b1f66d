"""
Decides which packages may be served, and how many in one image.

*Allowed* packages have to be named exactly: a pattern matches whole attribute paths.
*Denied* packages have to be denied on every path to them: a pattern that matches some
consecutive parts of a path denies the path, whatever is before them (``python3.pkgs.curl``)
and after them (``curl.dev``).

Both are checked twice: before the evaluation, on the requested names, so that no denied
package is ever evaluated; and after it, on the packages found, by their attribute path and by
their own name: a lookup may change the case of letters, and two paths may lead to one package.
"""

from __future__ import annotations

from attrs import frozen

from nixery.image.name_cache import NameCache, memory_size
from nixery.image.names import DEFAULT_PACKAGES, ImageName, PackageRequest
from nixery.image.packages import Evaluation, Package
from nixery.image.patterns import PackagePatterns, normalize_path
from nixery.limits.errors import ImageTooLarge, PackagesDenied

__all__ = ["PackageRules"]


@frozen(kw_only=True, cache_hash=True)
class PackageRules:
    """
    The rules for the packages of images.

    :param allowed: only these may be served; ``None``: all.
    :param denied: these may not be served.
    :param max_packages: how many packages may be requested in one image; ``None``: any number.
    """

    allowed: PackagePatterns | None = None
    denied: PackagePatterns | None = None
    max_packages: int | None = None

    def check(self, name: ImageName) -> None:
        """
        Check the requested packages.  Takes about a microsecond for a recently checked name.

        :raises PackagesDenied: some of them may not be served.
        :raises ImageTooLarge: there are too many of them.
        """
        denied = _denied_packages(self, name)
        if denied:
            raise PackagesDenied(packages=denied)
        # Default packages are in every image and do not count.
        count = len(name.package_requests) - len(DEFAULT_PACKAGES)
        if self.max_packages is not None and count > self.max_packages:
            raise ImageTooLarge(
                what="packages", value=count, limit=self.max_packages, setting="max_packages"
            )

    def check_evaluation(self, evaluation: Evaluation) -> None:
        """
        Check the packages that an evaluation found.

        :raises PackagesDenied: some of them may not be served.
        """
        denied = [package for package in evaluation.packages if self._denies_package(package)]
        if denied:
            raise PackagesDenied(
                packages=tuple(sorted({name for package in denied for name in package.requested}))
            )

    def allows(self, name: ImageName) -> bool:
        """Tell whether all requested packages may be served."""
        return not _denied_packages(self, name)

    def denies(self, request: PackageRequest) -> bool:
        """Tell whether a requested package may not be served."""
        if request.name in DEFAULT_PACKAGES:
            return False
        return (self.allowed is not None and not self.allowed.matches(request.name)) or (
            self.denied is not None and self.denied.matches_part_of(request.name)
        )

    def _denies_package(self, package: Package) -> bool:
        if all(name in DEFAULT_PACKAGES for name in package.requested):
            return False
        if self.denied is not None and (
            self.denied.matches_part_of(package.attribute)
            or any(self.denied.matches_part_of(name) for name in package.requested)
            or self.denied.matches_part_of(_escape_dots(package.pname))
        ):
            return True
        return self.allowed is not None and not self._allows(self.allowed, package)

    def _allows(self, allowed: PackagePatterns, package: Package) -> bool:
        attribute_path = normalize_path(package.attribute)
        return allowed.matches(package.attribute) or any(
            # A requested output follows the attribute path.
            normalize_path(name)[: len(attribute_path)] == attribute_path and allowed.matches(name)
            for name in package.requested
        )


_denied_by_name: NameCache[tuple[PackageRules, ImageName], tuple[str, ...]] = NameCache()


def _denied_packages(rules: PackageRules, name: ImageName) -> tuple[str, ...]:
    denied = _denied_by_name.get((rules, name))
    if denied is None:
        denied = tuple(item.name for item in name.package_requests if rules.denies(item))
        _denied_by_name.add((rules, name), denied, memory_size(name))
    return denied


def _escape_dots(pname: str) -> str:
    """Turn a derivation's name, in which dots separate nothing, into one part of a path."""
    return pname.replace(".", "_")
