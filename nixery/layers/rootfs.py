"""
Plan the root of an image: merge the packages' trees, and add files that no package has.

::

    /nix/store/A-git/bin/git          bin/         a directory
    /nix/store/B-htop/bin/htop   ->   bin/git      -> /nix/store/A-git/bin/git
    /nix/store/B-htop/etc/htoprc      bin/htop     -> /nix/store/B-htop/bin/htop
                                      etc/htoprc   -> /nix/store/B-htop/etc/htoprc
                                      etc/passwd   the image's own
                                      tmp/         the image's own

:mod:`nixery.layers.symlink_tree` merges trees; this module decides their precedence, and the
entries that an image needs besides them.  The result depends on the packages
alone: not on the order in which they were requested, nor on that of a file
system.

Blocking (it reads the packages' directories), and safe on any thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from attrs import frozen

from nixery.image.packages import Output, Package
from nixery.layers.symlink_tree import Conflict, SymlinkTree
from nixery.layers.tarball import STORE, TreeEntry

__all__ = ["ROOT_VERSION", "Conflict", "RootTree", "plan_root", "precedence"]

IGNORED = frozenset(
    (
        # Metadata for the package set's own build machinery.
        b"nix-support",
        b"propagated-build-inputs",
        b"propagated-native-build-inputs",
        b"propagated-user-env-packages",
        # Mount points of a container's runtime, and the store: a symlink in their
        # place would redirect the runtime, or the other layers.
        b"dev",
        b"nix",
        b"proc",
        b"sys",
    )
)
"""Names at the top of an output that never reach the root."""

ROOT_VERSION = 1
"""Increased when the same packages give another root: part of cache keys."""

CA_BUNDLE = b"etc/ssl/certs/ca-bundle.crt"
CA_BUNDLE_ALIASES = (b"etc/pki/tls/certs/ca-bundle.crt", b"etc/ssl/certs/ca-certificates.crt")
"""The bundle's paths in Nix packages, and those that programs built for Fedora and for
Debian open."""

NSSWITCH = b"""\
passwd: files
group: files
shadow: files
hosts: files dns
networks: files
protocols: files
services: files
"""

GROUP = b"""\
root:x:0:
nobody:x:65534:
"""


@frozen(kw_only=True)
class RootTree:
    """
    The root of an image.

    :param entries: sorted as in the archive, for :func:`nixery.layers.tarball.pack_tree`.
    :param shell: ``/bin/bash`` or else ``/bin/sh``; ``None`` if neither exists.
    :param has_ca_bundle: true if ``/etc/ssl/certs/ca-bundle.crt`` exists.
    :param conflicts: the paths that several trees have, sorted.
    :param skipped: the store paths of outputs that are single files and have no
        place in the root, sorted; they are in the image nevertheless.
    """

    entries: tuple[TreeEntry, ...]
    shell: str | None
    has_ca_bundle: bool
    conflicts: tuple[Conflict, ...]
    skipped: tuple[str, ...]


def plan_root(packages: Sequence[Package], *, store: str = STORE) -> RootTree:
    """
    Plan the root of an image of these packages.

    :param packages: in any order; their outputs are valid.
    :param store: the directory of this machine that holds the store paths.
    :raises MissingPath: an output does not exist or cannot be read.
    """
    tree = SymlinkTree(store, IGNORED)
    skipped = [path for path in precedence(packages) if not tree.merge(path)]
    for entry in _default_entries(tree):
        tree.add_entry(entry)
    return RootTree(
        entries=tuple(tree.entries()),
        shell=next((f"/{path}" for path in ("bin/bash", "bin/sh") if _has(tree, path)), None),
        has_ca_bundle=tree.find(CA_BUNDLE) is not None,
        conflicts=tree.conflicts(),
        skipped=tuple(sorted(skipped)),
    )


def precedence(packages: Sequence[Package]) -> tuple[str, ...]:
    """
    Return the output paths of the packages, each once; earlier ones win conflicts.

    They are sorted by priority, then by attribute path; within a package ``out``, ``bin``,
    then the others by name.
    """
    return tuple(
        dict.fromkeys(
            output.path
            for package in sorted(packages, key=lambda item: (item.priority, item.attribute))
            for output in sorted(package.outputs, key=_rank)
        )
    )


def _rank(output: Output) -> tuple[int, str]:
    return {"out": 0, "bin": 1}.get(output.name, 2), output.name


def _has(tree: SymlinkTree, path: str) -> bool:
    return tree.find(path.encode()) is not None


def _default_entries(tree: SymlinkTree) -> Iterator[TreeEntry]:
    """Yield the entries that programs expect; entries of the packages take precedence."""
    bash = tree.find(b"bin/bash")
    if bash is not None:
        yield TreeEntry(path=b"bin/sh", kind="symlink", target=bash)
    env = tree.find(b"bin/env")
    if env is not None:
        yield TreeEntry(path=b"usr/bin/env", kind="symlink", target=env)
    bundle = tree.find(CA_BUNDLE)
    if bundle is not None:
        for alias in CA_BUNDLE_ALIASES:
            yield TreeEntry(path=alias, kind="symlink", target=bundle)
    login = b"/bin/sh" if bash is None else b"/bin/bash"
    passwd = (
        b"root:x:0:0:root:/root:" + login + b"\nnobody:x:65534:65534:nobody:/var/empty:/bin/false\n"
    )
    yield TreeEntry(path=b"etc/group", kind="file", mode=0o644, data=GROUP)
    yield TreeEntry(path=b"etc/nsswitch.conf", kind="file", mode=0o644, data=NSSWITCH)
    yield TreeEntry(path=b"etc/passwd", kind="file", mode=0o644, data=passwd)
    yield TreeEntry(path=b"root", kind="directory", mode=0o700)
    yield TreeEntry(path=b"tmp", kind="directory", mode=0o1777)
    yield TreeEntry(path=b"var/empty", kind="directory", mode=0o555)
