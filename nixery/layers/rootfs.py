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

import hashlib
from collections.abc import Iterable, Iterator, Sequence

from attrs import frozen

from nixery.image.packages import Output, Package
from nixery.layers.link_resolver import LinkResolver
from nixery.layers.symlink_tree import Conflict, Omission, SymlinkTree
from nixery.layers.tarball import STORE, TreeEntry
from nixery.layers.tree_rules import TreeRules

__all__ = ["ROOT_VERSION", "Conflict", "Omission", "RootTree", "plan_root", "precedence"]

MOUNTED = frozenset((b"dev", b"proc", b"sys"))
"""Mount points of a container's runtime, which a symlink in their place would redirect."""

METADATA = frozenset(
    (
        b"nix-support",
        b"propagated-build-inputs",
        b"propagated-native-build-inputs",
        b"propagated-user-env-packages",
    )
)
"""Metadata for the package set's own build machinery."""

ROOT_VERSION = 1
"""
Increased when the same packages give another root: part of cache keys.

It is not increased when a few packages do: :mod:`nixery.layers.content_check` finds their images.
"""

CA_BUNDLE = b"etc/ssl/certs/ca-bundle.crt"
CA_BUNDLE_ALIASES = (b"etc/pki/tls/certs/ca-bundle.crt", b"etc/ssl/certs/ca-certificates.crt")
"""The bundle's paths in Nix packages, and those that programs built for Fedora and for
Debian open."""

_FILES = (
    b"bin/bash",
    b"bin/env",
    b"bin/sh",
    b"etc/group",
    b"etc/nsswitch.conf",
    b"etc/passwd",
    b"usr/bin/env",
    CA_BUNDLE,
    *CA_BUNDLE_ALIASES,
)
_DIRECTORIES = (b"root", b"tmp", b"var/empty")


def _with_parents(paths: Iterable[bytes]) -> Iterator[bytes]:
    for path in paths:
        parts = path.split(b"/")
        for depth in range(len(parts)):
            yield b"/".join(parts[: depth + 1])


RULES = TreeRules(
    # A symlink in place of the store would redirect the other layers.
    ignored=METADATA | MOUNTED | {b"nix"},
    mounted=MOUNTED,
    directories=frozenset(_with_parents((*_FILES, *_DIRECTORIES))) - frozenset(_FILES),
    files=frozenset(_FILES),
)
"""The names that packages cannot have in the root, or only as files or only as directories."""

MAX_MERGES = 8
"""
The most times that the trees are merged.  The second time is for links that dangle and keep a name
from other entries; each further time takes such a link in a directory that has come in by the
last.
"""

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
    :param omissions: entries of packages that are left out, sorted.
    :param skipped: the store paths of outputs that are single files and have no
        place in the root, sorted; they are in the image nevertheless.
    """

    entries: tuple[TreeEntry, ...]
    shell: str | None
    has_ca_bundle: bool
    conflicts: tuple[Conflict, ...]
    omissions: tuple[Omission, ...]
    skipped: tuple[str, ...]

    def identity(self) -> str:
        """Return a hash of the entries: trees with equal hashes make one layer."""
        digest = hashlib.sha256()
        for entry in self.entries:
            kind = b"%s %o" % (entry.kind.encode("ascii"), entry.mode)
            for value in (kind, entry.path, entry.data, entry.target):
                digest.update(b"%d:%b" % (len(value), value))
        return digest.hexdigest()

    def programs(self) -> tuple[str, ...]:
        """Return the names of the programs in ``/bin``, sorted."""
        names = (
            entry.path.removeprefix(b"bin/")
            for entry in self.entries
            if entry.kind != "directory" and entry.path.startswith(b"bin/")
        )
        return tuple(
            sorted(name.decode("utf-8", "backslashreplace") for name in names if b"/" not in name)
        )

    def describe(self) -> Iterator[str]:
        """Yield a sentence on each entry of the packages that is not in the root."""
        for omission in self.omissions:
            yield f"{omission.path} of {omission.source} is left out: {omission.reason}"
        for conflict in self.conflicts:
            kept = "the image's own" if conflict.kept == conflict.path else conflict.kept
            yield f"{conflict.path} is {kept}, not {conflict.dropped}"
        for path in self.skipped:
            yield f"{path} has no place in the root, because it is no directory"


def plan_root(
    packages: Sequence[Package], *, closure: Iterable[str], store: str = STORE
) -> RootTree:
    """
    Plan the root of an image of these packages.

    :param packages: in any order; their outputs are valid.
    :param closure: the store paths of the image; links to others are not followed.
    :param store: the directory of this machine that holds the store paths.
    :raises MissingPath: an output does not exist or cannot be read.
    """
    resolver = LinkResolver(closure, store)
    yielding: frozenset[bytes] = frozenset()
    for _ in range(MAX_MERGES):
        tree = SymlinkTree(resolver, RULES, yielding)
        skipped = [path for path in precedence(packages) if not tree.merge(path)]
        for entry in _default_entries(tree):
            tree.add_entry(entry)
        dangling = tree.find_dangling()
        if not dangling:
            break
        yielding |= dangling
    return RootTree(
        entries=tuple(tree.entries()),
        shell=next((f"/{path}" for path in ("bin/bash", "bin/sh") if _has(tree, path)), None),
        has_ca_bundle=tree.find(CA_BUNDLE) is not None,
        conflicts=tree.conflicts(),
        omissions=tree.omissions(),
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
    """Yield the entries that programs expect."""
    yield TreeEntry(path=b"root", kind="directory", mode=0o700)
    yield TreeEntry(path=b"tmp", kind="directory", mode=0o1777)
    yield TreeEntry(path=b"var/empty", kind="directory", mode=0o555)
    yield TreeEntry(path=b"etc/group", kind="file", mode=0o644, data=GROUP)
    yield TreeEntry(path=b"etc/nsswitch.conf", kind="file", mode=0o644, data=NSSWITCH)
    login = b"/bin/sh" if tree.find(b"bin/bash") is None else b"/bin/bash"
    passwd = (
        b"root:x:0:0:root:/root:" + login + b"\nnobody:x:65534:65534:nobody:/var/empty:/bin/false\n"
    )
    yield TreeEntry(path=b"etc/passwd", kind="file", mode=0o644, data=passwd)
    # Packages' links may lead to the entries above: these are looked for afterwards.
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
