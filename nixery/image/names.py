"""
Parse repository names and references.

A repository name is a list of packages: ``shell/git/htop`` requests the packages
of the meta-package ``shell``, and git and htop.  Names are parsed here, once,
before they reach Nix or a file system; all later code uses the
frozen :class:`ImageName`.

Grammar: the OCI distribution specification, version 1.1, section "Pulling
manifests".
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterable
from typing import NewType

from attrs import field, frozen

from nixery.image.errors import InvalidDigest, InvalidName, InvalidReference

__all__ = [
    "DEFAULT_PACKAGES",
    "ARCH_META_PACKAGES",
    "META_PACKAGES",
    "MULTI",
    "MULTI_SYSTEMS",
    "SHELL",
    "Digest",
    "ImageName",
    "PackageRequest",
    "Tag",
    "canonical_repository",
    "escape_attribute",
    "is_commit",
    "is_referrers_tag",
    "meta_packages_first",
    "parse_digest",
    "parse_image_name",
    "parse_reference",
    "parse_single_image_name",
    "parse_tag",
]

Digest = NewType("Digest", str)
"""``sha256:`` and 64 lower-case hexadecimal digits, checked when it was parsed."""

Tag = NewType("Tag", str)
"""A tag within the grammar."""

SHELL = ("bashInteractive", "coreutils", "moreutils", "nano")
"""The packages of the meta-package ``shell``, by their exact attribute names."""

DEFAULT_PACKAGES = ("cacert", "iana-etc")
"""Packages that every image contains, if the package set has them."""

ARCH_META_PACKAGES = {"amd64": "x86_64-linux", "arm64": "aarch64-linux"}
"""Meta-packages that choose the system of an image."""

MULTI = "multi"
"""The meta-package that chooses all platforms: the tag is an index of their images."""

MULTI_SYSTEMS = ("x86_64-linux", "aarch64-linux")
"""The systems of an index, where the configuration lists none."""

META_PACKAGES = frozenset({"shell", MULTI, *ARCH_META_PACKAGES})
"""All meta-packages."""

ESCAPE = "attr--"
"""
The prefix of a component that holds, in hexadecimal, the UTF-8 bytes of an attribute
path that the grammar of repository names cannot express: ``libsigc++`` is
``attr--6c6962736967632b2b``.
"""

MAX_NAME_CHARACTERS = 255
"""The longest repository name that registries and clients agree on, in characters."""

_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_REFERRERS_TAG = re.compile(r"sha256-[0-9a-f]{64}(?:\..*)?")


@frozen(kw_only=True, order=True)
class PackageRequest:
    """
    One package that was requested.

    :param name: an attribute path, its parts joined by dots; the last part may
        be an output (``curl.dev``).  Names of attributes may have dots too: the longest
        name that exists wins.
    :param exact: true if the path is spelled as in the package set; if
        not, the lookup may change case and prefix digits.
    :param optional: true if a package set without it is no error.
    """

    name: str
    exact: bool = False
    optional: bool = False


@frozen(kw_only=True, cache_hash=True)
class ImageName:
    """
    The packages and the system that a repository name requests.

    Names that request the same are equal, in whatever spelling.

    :param repository: the name as the client wrote it, for messages; it is ignored
        in comparisons.
    :param package_requests: the packages, sorted and without duplicates, those of
        :data:`DEFAULT_PACKAGES` included.
    :param system: the Nix system of the image, ``x86_64-linux``; of an index, the one whose image
        clients get that accept no index.
    :param platforms: the Nix systems of an index, in its order; empty: the image of one system.
    """

    repository: str = field(eq=False)
    package_requests: tuple[PackageRequest, ...]
    system: str
    platforms: tuple[str, ...] = ()

    def for_system(self, system: str) -> ImageName:
        """Return the name that requests the same packages for one system, and no index."""
        components = self.repository.split("/")
        meta = list(itertools.takewhile(META_PACKAGES.__contains__, components))
        chosen = [name for name, known in ARCH_META_PACKAGES.items() if known == system]
        kept = [component for component in meta if component == "shell"]
        return ImageName(
            repository="/".join([*chosen, *kept, *components[len(meta) :]]),
            package_requests=self.package_requests,
            system=system,
        )


def meta_packages_first(repository: str) -> str:
    """Return a name with its meta-packages at the start, the only place where they are such."""
    components = repository.split("/")
    return "/".join(sorted(components, key=lambda component: component not in META_PACKAGES))


def parse_image_name(repository: str, system: str, platforms: Collection[str] = ()) -> ImageName:
    """
    Parse a repository name.

    Meta-packages are recognised only at the beginning of the name, in any order and any
    number; after the first ordinary component they are ordinary names, so
    that packages called ``shell`` or ``arm64`` can still be requested.  Of several that choose a
    system, the last one counts.

    :param repository: the name from the URL, decoded.
    :param system: the Nix system if no meta-package chooses another.
    :param platforms: the Nix systems of the index that a name requests which chooses no system;
        empty: such a name requests the image of ``system``.
    :raises InvalidName: the name is outside the grammar, too long, or an escape
        in it does not decode.
    """
    if len(repository) > MAX_NAME_CHARACTERS:
        raise InvalidName(
            name=repository[:64] + "...",
            reason=f"it is longer than {MAX_NAME_CHARACTERS} characters",
        )
    components = repository.split("/")
    for component in components:
        if not _COMPONENT.fullmatch(component):
            raise InvalidName(
                name=repository,
                reason=(
                    f"the component {component!r} is not made of lower-case letters and digits,"
                    " joined by single dots, one or two underscores, or dashes"
                ),
            )
    requests: list[PackageRequest] = []
    leading, chosen = True, ""
    for component in components:
        if leading and component == "shell":
            requests += [PackageRequest(name=name, exact=True) for name in SHELL]
        elif leading and component in META_PACKAGES:
            chosen = component
        else:
            leading = False
            requests.append(_parse_component(repository, component))
    return ImageName(
        repository=repository,
        package_requests=_with_default_packages(requests),
        system=ARCH_META_PACKAGES.get(chosen, system),
        platforms=_platforms(chosen, system, platforms),
    )


def canonical_repository(repository: str) -> str:
    """
    Return one spelling of all names that list the same components.

    :param repository: as :func:`parse_image_name` accepts it.
    """
    components = repository.split("/")
    meta = list(itertools.takewhile(META_PACKAGES.__contains__, components))
    # A package that is called like a meta-package must not come first.
    packages = sorted(
        set(components[len(meta) :]),
        key=lambda component: (component in META_PACKAGES, component),
    )
    # Of those that choose a system, the last one counts.
    chosen = [component for component in meta if component != "shell"][-1:]
    kept = {"shell"}.intersection(meta)
    return "/".join([*chosen, *kept, *packages])


def parse_reference(text: str) -> Tag | Digest:
    """
    Parse the reference of a manifest: a digest if it has a colon, else a tag.

    :raises InvalidDigest: it has a colon, and is no digest.
    :raises InvalidReference: it is outside the grammar of tags.
    """
    return parse_digest(text) if ":" in text else parse_tag(text)


def parse_tag(text: str) -> Tag:
    """
    Parse a tag.

    :raises InvalidReference: it is outside the grammar of tags.
    """
    if not _TAG.fullmatch(text):
        raise InvalidReference(reference=text)
    return Tag(text)


def parse_digest(text: str) -> Digest:
    """
    Parse a digest.

    :raises InvalidDigest: it is no SHA-256 digest in its canonical form.
    """
    if not _DIGEST.fullmatch(text):
        raise InvalidDigest(digest=text)
    return Digest(text)


def is_referrers_tag(tag: Tag) -> bool:
    """
    Tell whether a tag is a referrers fallback or a signature look-up of cosign's
    (``sha256-<64 hex>``, with or without a suffix): such a tag is never a revision.
    """
    return _REFERRERS_TAG.fullmatch(tag) is not None


def is_commit(text: str) -> bool:
    """Tell whether a text is the full hash of a git commit."""
    return _COMMIT.fullmatch(text) is not None


def parse_single_image_name(repository: str, system: str) -> ImageName:
    """
    Parse the name of an image for one platform.

    :param system: the Nix system of images whose name chooses none.
    :raises InvalidName: it is no name, or that of an index.
    """
    name = parse_image_name(repository, system)
    if name.platforms:
        chosen = " or ".join(ARCH_META_PACKAGES)
        raise InvalidName(
            name=repository,
            reason=f"{MULTI} stands for several platforms: write {chosen} for one of them",
        )
    return name


def escape_attribute(path: str) -> str:
    """Return the component that requests the exact attribute path ``path``."""
    return ESCAPE + path.encode("utf-8").hex()


def _parse_component(repository: str, component: str) -> PackageRequest:
    if not component.startswith(ESCAPE):
        return PackageRequest(name=component)
    try:
        path = bytes.fromhex(component.removeprefix(ESCAPE)).decode("utf-8")
    except ValueError:
        path = ""
    # Any printable text may be an attribute's name; control characters are never part of
    # one, and could be used to forge lines in a log.
    if not path.isprintable() or not all(path.split(".")):
        raise InvalidName(
            name=repository,
            reason=(
                f"the component {component!r} has to be {ESCAPE} and the hexadecimal UTF-8 bytes"
                " of an attribute path"
            ),
        )
    return PackageRequest(name=path, exact=True)


def _platforms(chosen: str, system: str, platforms: Collection[str]) -> tuple[str, ...]:
    """
    Return the systems of the index that a name requests; empty: it requests none.

    :param chosen: the meta-package that chooses the system; empty: none does.
    """
    if chosen in ARCH_META_PACKAGES or not (chosen or platforms):
        return ()
    systems = dict.fromkeys(platforms or (*MULTI_SYSTEMS, system))
    # Clients that find no platform of their own may take the first.
    return tuple(sorted(systems, key=lambda each: each != "x86_64-linux"))


def _with_default_packages(requests: Iterable[PackageRequest]) -> tuple[PackageRequest, ...]:
    """
    Add the default packages, sort, and remove duplicates.

    A default package that was requested explicitly is not optional.
    """
    by_name = {(request.name, request.exact): request for request in requests}
    names = {request.name for request in by_name.values()}
    for name in DEFAULT_PACKAGES:
        if name not in names:
            by_name[name, True] = PackageRequest(name=name, exact=True, optional=True)
    return tuple(sorted(by_name.values()))
