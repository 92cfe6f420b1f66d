"""
The root of an image: the packages' trees merged, and what no package brings.

::

    /nix/store/A-git/bin/git          bin/         a directory
    /nix/store/B-htop/bin/htop   ->   bin/git      -> /nix/store/A-git/bin/git
    /nix/store/B-htop/etc/htoprc      bin/htop     -> /nix/store/B-htop/bin/htop
                                      etc/htoprc   -> /nix/store/B-htop/etc/htoprc
                                      etc/passwd   the image's own
                                      tmp/         the image's own

How trees merge is :mod:`nixery.layers.symlink_tree`'s matter; which comes first, and what an
image needs beyond them, is decided here.  The result depends on the packages
alone: not on the order in which they were asked for, nor on that of a file
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
        # Notes of the package set's build machinery to itself.
        b"nix-support",
        b"propagated-build-inputs",
        b"propagated-native-build-inputs",
        b"propagated-user-env-packages",
        # What a container's runtime mounts, and the store: a symlink in their
        # place would lead the runtime, or the other layers, somewhere else.
        b"dev",
        b"nix",
        b"proc",
        b"sys",
    )
)
"""Names at the top of an output that never reach the root."""

ROOT_VERSION = 1
"""Raised when the same packages begin to make another root: part of cache keys."""

CA_BUNDLE = b"etc/ssl/certs/ca-bundle.crt"
CA_BUNDLE_ALIASES = (b"etc/pki/tls/certs/ca-bundle.crt", b"etc/ssl/certs/ca-certificates.crt")
"""The bundle's place in Nix packages, and where programs built for Fedora and for
Debian look."""

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
    :param shell: ``/bin/bash`` or else ``/bin/sh``; ``None`` where neither is.
    :param has_ca_bundle: whether ``/etc/ssl/certs/ca-bundle.crt`` is there.
    :param conflicts: what lost its place to something else, sorted.
    :param skipped: the store paths of outputs that are single files and have no
        place in the root, sorted; they are in the image all the same.
    """

    entries: tuple[TreeEntry, ...]
    shell: str | None
    has_ca_bundle: bool
    conflicts: tuple[Conflict, ...]
    skipped: tuple[str, ...]


def plan_root(packages: Sequence[Package], *, store: str = STORE) -> RootTree:
    """
    The root of an image of these packages.

    :param packages: in any order; their outputs are valid.
    :param store: the directory of this machine that holds the store paths.
    :raises MissingPath: an output is not there or cannot be read.
    """
    overlay = SymlinkTree(store, IGNORED)
    skipped = [path for path in precedence(packages) if not overlay.add(path)]
    for entry in _basics(overlay):
        overlay.provide(entry)
    return RootTree(
        entries=tuple(overlay.entries()),
        shell=next((f"/{path}" for path in ("bin/bash", "bin/sh") if _has(overlay, path)), None),
        has_ca_bundle=overlay.find(CA_BUNDLE) is not None,
        conflicts=overlay.conflicts(),
        skipped=tuple(sorted(skipped)),
    )


def precedence(packages: Sequence[Package]) -> tuple[str, ...]:
    """
    The output paths of the packages, each once; who comes first wins a conflict.

    By priority, then by attribute path; within a package ``out``, ``bin``, then
    the others by name.
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


def _has(overlay: SymlinkTree, path: str) -> bool:
    return overlay.find(path.encode()) is not None


def _basics(overlay: SymlinkTree) -> Iterator[TreeEntry]:
    """What programs expect of a root; a package that brings it itself is left its own."""
    bash = overlay.find(b"bin/bash")
    if bash is not None:
        yield TreeEntry(path=b"bin/sh", kind="symlink", target=bash)
    env = overlay.find(b"bin/env")
    if env is not None:
        yield TreeEntry(path=b"usr/bin/env", kind="symlink", target=env)
    bundle = overlay.find(CA_BUNDLE)
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
