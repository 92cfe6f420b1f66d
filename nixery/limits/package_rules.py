"""
Which packages are served at all, and how many in one image.

What is *allowed* has to be named exactly: a pattern is about whole attribute paths.  What
is *denied* has to be denied on every way to it: a pattern that matches some parts of a
path that follow each other denies the path, whatever is before it (``python3.pkgs.curl``)
and behind it (``curl.dev``).

Both are looked at twice.  Before the evaluation, on what was asked for, so that nothing of
what is denied is ever evaluated; and after it, on what was found, by the path and by the
name that the package has itself: a lookup may change the case of letters, and two paths
may lead to one package.
"""

from __future__ import annotations

from functools import lru_cache

from attrs import frozen

from nixery.image.names import DEFAULT_PACKAGES, ImageName, PackageRequest
from nixery.image.packages import Evaluation, Package
from nixery.image.patterns import PackagePatterns, fold
from nixery.limits.errors import ImageTooLarge, PackagesDenied

__all__ = ["PackageRules"]


@frozen(kw_only=True, cache_hash=True)
class PackageRules:
    """
    What may be in images.

    :param allowed: only these; ``None``: all.
    :param denied: none of these.
    :param most: packages that an image may be asked for; ``None``: any number.
    """

    allowed: PackagePatterns | None = None
    denied: PackagePatterns | None = None
    most: int | None = None

    def check(self, name: ImageName) -> None:
        """
        Look at what is asked for.  Takes about a microsecond when it was asked for lately.

        :raises PackagesDenied: some of it is not served.
        :raises ImageTooLarge: it is too much.
        """
        denied = _denied(self, name)
        if denied:
            raise PackagesDenied(packages=denied)
        # Without those that nobody asks for.
        count = len(name.requirements) - len(DEFAULT_PACKAGES)
        if self.most is not None and count > self.most:
            raise ImageTooLarge(
                what="packages", value=count, limit=self.most, setting="max_packages"
            )

    def check_found(self, evaluation: Evaluation) -> None:
        """
        Look at what was found.

        :raises PackagesDenied: some of it is not served.
        """
        denied = [package for package in evaluation.packages if self._denies_found(package)]
        if denied:
            raise PackagesDenied(
                packages=tuple(sorted({name for package in denied for name in package.requested}))
            )

    def denies(self, item: PackageRequest) -> bool:
        """Whether something is not served that is asked for."""
        if item.name in DEFAULT_PACKAGES:
            return False
        return (self.allowed is not None and not self.allowed.matches(item.name)) or (
            self.denied is not None and self.denied.touches(item.name)
        )

    def _denies_found(self, package: Package) -> bool:
        if all(name in DEFAULT_PACKAGES for name in package.requested):
            return False
        if self.denied is not None and (
            self.denied.touches(package.attribute)
            or any(self.denied.touches(name) for name in package.requested)
            or self.denied.touches(_as_one_part(package.pname))
        ):
            return True
        return self.allowed is not None and not self._allows(self.allowed, package)

    def _allows(self, allowed: PackagePatterns, package: Package) -> bool:
        found = fold(package.attribute)
        return allowed.matches(package.attribute) or any(
            # An output that was asked for stands behind the attribute path.
            fold(name)[: len(found)] == found and allowed.matches(name)
            for name in package.requested
        )


@lru_cache(maxsize=4096)
def _denied(rules: PackageRules, name: ImageName) -> tuple[str, ...]:
    return tuple(item.name for item in name.requirements if rules.denies(item))


def _as_one_part(pname: str) -> str:
    """A name that derivations have, where a dot separates nothing."""
    return pname.replace(".", "_")
