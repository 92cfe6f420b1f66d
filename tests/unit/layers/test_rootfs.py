"""
Tests for :mod:`nixery.layers.rootfs`, :mod:`nixery.layers.symlink_tree` and
:mod:`nixery.layers.link_resolver`.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from nixery.image.packages import Output, Package
from nixery.layers.errors import MissingPath
from nixery.layers.link_resolver import Kind, LinkResolver
from nixery.layers.rootfs import Conflict, RootTree, plan_root, precedence
from nixery.layers.tarball import Compression, TreeEntry, pack_tree
from tests.support.trees import (
    File,
    Link,
    Node,
    Seen,
    kind_in_root,
    make_tree,
    read_with_tarfile,
)

BASICS = {b"etc", b"etc/group", b"etc/nsswitch.conf", b"etc/passwd", b"root", b"tmp"}
BASICS |= {b"var", b"var/empty"}


def package(attribute: str, *outputs: str, priority: int = 5) -> Package:
    """A package with outputs ``name=store name``, ``out`` where no name is given."""
    pairs = [output.rpartition("=")[::2] for output in outputs or (attribute,)]
    return Package(
        requested=(attribute,),
        attribute=attribute,
        name=f"{attribute}-1",
        pname=attribute,
        version="1",
        description="",
        priority=priority,
        derivation=f"/nix/store/{attribute}.drv",
        outputs=tuple(
            Output(name=name or "out", path=f"/nix/store/{path}") for name, path in pairs
        ),
    )


class RootTestCase(SynchronousTestCase):
    """A store of this test's own, and the roots that are planned from it."""

    def make_store(self, **paths: Node) -> str:
        """A new store that holds ``paths``."""
        store: str = os.path.abspath(self.mktemp())
        make_tree(os.fsencode(store), {name.encode(): node for name, node in paths.items()})
        return store

    def plan(self, *packages: Package, **paths: Node) -> RootTree:
        """The root of ``packages``, with ``paths`` in the store; one for each by default."""
        store = self.make_store(**paths)
        return self.plan_from(store, packages or [package(name) for name in paths])

    def plan_from(
        self, store: str, packages: Sequence[Package], *, closure: Iterable[str] | None = None
    ) -> RootTree:
        """The root of ``packages``; all paths of ``store`` are in the closure by default."""
        names = os.listdir(store) if closure is None else closure
        return plan_root(packages, closure=[f"/nix/store/{name}" for name in names], store=store)

    def added(self, root: RootTree) -> dict[bytes, bytes | None]:
        """Return the packages' entries: targets of symlinks, ``None`` for directories."""
        return {
            entry.path: entry.target if entry.kind == "symlink" else None
            for entry in root.entries
            if entry.path not in BASICS
        }

    def entry(self, root: RootTree, path: bytes) -> TreeEntry:
        """The one entry at ``path``."""
        (entry,) = [entry for entry in root.entries if entry.path == path]
        return entry


class MergeTests(RootTestCase):
    """The packages' trees are laid over each other."""

    def test_programs_are_the_entries_of_bin(self) -> None:
        """Programs are named by the entries of ``/bin``, without what is below its directories."""
        root = self.plan(
            git={b"bin": {b"git": File(executable=True), b"\xff": File(), b"d": {b"e": File()}}},
            htop={b"bin": {b"htop": File(executable=True)}, b"sbin": {b"other": File()}},
        )
        self.assertEqual({"git", "htop", "\\xff"}, set(root.programs()) - {"d"})
        self.assertEqual(sorted(root.programs()), [*root.programs()])

    def test_directories_are_real_all_the_way_down_everything_else_is_a_link(self) -> None:
        """Directories are real all the way down, everything else is a link."""
        root = self.plan(
            git={b"bin": {b"git": File()}, b"share": {b"git": {b"hooks": {b"x": File()}}}},
            htop={b"bin": {b"htop": File(), b"top": Link(b"htop")}, b"share": {b"none": {}}},
        )
        self.assertEqual(
            self.added(root),
            {
                b"bin": None,
                b"bin/git": b"/nix/store/git/bin/git",
                b"bin/htop": b"/nix/store/htop/bin/htop",
                b"bin/top": b"/nix/store/htop/bin/top",
                b"share": None,
                b"share/git": None,
                b"share/git/hooks": None,
                b"share/git/hooks/x": b"/nix/store/git/share/git/hooks/x",
                b"share/none": None,
            },
        )
        self.assertEqual(root.conflicts, ())
        self.assertEqual(self.entry(root, b"share/git").mode, 0o755)

    def test_lower_priority_wins_whatever_the_attribute_paths_are(self) -> None:
        """The lower priority wins, whatever the attribute paths are."""
        root = self.plan(
            package("a", priority=10),
            package("z", priority=-5),
            a={b"bin": {b"vi": File()}},
            z={b"bin": {b"vi": File()}},
        )
        self.assertEqual(self.added(root)[b"bin/vi"], b"/nix/store/z/bin/vi")
        self.assertEqual(
            root.conflicts,
            (Conflict(path="/bin/vi", kept="/nix/store/z/bin/vi", dropped="/nix/store/a/bin/vi"),),
        )

    def test_at_one_priority_attribute_path_that_sorts_first_wins_not_store_path(self) -> None:
        """At one priority the attribute path that sorts first wins, not the store path."""
        root = self.plan(
            package("b", "1"), package("a", "2"), **{"1": {b"f": File()}, "2": {b"f": File()}}
        )
        self.assertEqual(self.added(root)[b"f"], b"/nix/store/2/f")

    def test_outputs_are_ordered_out_bin_then_by_name(self) -> None:
        """Within a package: out, bin, then the others by name."""
        item = package("p", "lib=l", "dev=d", "bin=b", "o")
        self.assertEqual(
            precedence([item, item]),
            ("/nix/store/o", "/nix/store/b", "/nix/store/d", "/nix/store/l"),
        )

    def test_two_packages_with_one_output_have_no_conflict(self) -> None:
        """Two packages with one output have no conflict."""
        root = self.plan(package("a", "x"), package("b", "x"), x={b"f": File()})
        self.assertEqual(root.conflicts, ())

    def test_file_and_directory(self) -> None:
        """Between a file and a directory the precedence decides, both ways."""
        file, directory = File(), {b"below": File()}
        root = self.plan(a={b"x": file, b"y": directory}, b={b"x": directory, b"y": file})
        self.assertEqual(
            self.added(root),
            {b"x": b"/nix/store/a/x", b"y": None, b"y/below": b"/nix/store/a/y/below"},
        )
        self.assertEqual(
            [(item.path, item.kept, item.dropped) for item in root.conflicts],
            [
                ("/x", "/nix/store/a/x", "/nix/store/b/x"),
                ("/y", "/nix/store/a/y", "/nix/store/b/y"),
            ],
        )

    def test_build_machinerys_notes_store_and_what_runtime_mounts_stay_out(self) -> None:
        """Build machinery's notes, the store and what the runtime mounts stay out; only on
        top."""
        names = (b"nix-support", b"propagated-build-inputs", b"nix", b"proc", b"dev", b"sys")
        root = self.plan(a={name: {b"x": File()} for name in names} | {b"share": {b"dev": File()}})
        self.assertEqual(
            self.added(root), {b"share": None, b"share/dev": b"/nix/store/a/share/dev"}
        )

    def test_output_that_is_a_file_has_no_place_in_the_root_and_that_is_said(self) -> None:
        """An output that is a file has no place in the root, and that is said."""
        root = self.plan(a=File(b"script"), b={b"f": File()})
        self.assertEqual(root.skipped, ("/nix/store/a",))
        self.assertEqual(self.added(root), {b"f": b"/nix/store/b/f"})

    def test_output_that_is_a_symlink_has_the_tree_of_its_target(self) -> None:
        """An output that is a symlink to another store path is that store path's tree."""
        root = self.plan(package("a"), a=Link(b"real"), real={b"bin": {b"x": File()}})
        self.assertEqual(self.added(root)[b"bin/x"], b"/nix/store/real/bin/x")

    def test_output_that_is_not_there_is_an_error_that_names_it(self) -> None:
        """An output that is not there is an error that names it."""
        error = self.assertRaises(MissingPath, self.plan, package("a"))
        self.assertEqual(error.path, "/nix/store/a")

    def test_names_are_bytes_and_are_escaped_in_messages(self) -> None:
        """Names are bytes; in messages they are escaped."""
        root = self.plan(a={b"\xff": File()}, b={b"\xff": File()})
        self.assertEqual(self.added(root)[b"\xff"], b"/nix/store/a/\xff")
        self.assertEqual(root.conflicts[0].path, "/\\xff")


class SymlinkTests(RootTestCase):
    """Symlinks to directories are followed where, and only where, it is needed."""

    def test_symlink_to_a_directory_that_no_other_package_has_stays_a_link(self) -> None:
        """A symlink to a directory that no other package has stays a link."""
        root = self.plan(a={b"lib": {b"x": File()}, b"lib64": Link(b"lib")})
        self.assertEqual(self.added(root)[b"lib64"], b"/nix/store/a/lib64")

    def test_link_that_meets_a_directory_of_lower_rank_is_opened(self) -> None:
        """A link that meets a directory of lower rank is opened."""
        root = self.plan(
            a={b"lib": {b"x": File(), b"both": File()}, b"lib64": Link(b"lib")},
            b={b"lib64": {b"y": File(), b"both": File()}},
        )
        added = self.added(root)
        self.assertEqual(added[b"lib64/x"], b"/nix/store/a/lib/x")
        self.assertEqual(added[b"lib64/y"], b"/nix/store/b/lib64/y")
        self.assertEqual(added[b"lib64/both"], b"/nix/store/a/lib/both")
        self.assertEqual([item.path for item in root.conflicts], ["/lib64/both"])

    def test_link_of_lower_rank_adds_what_it_leads_to(self) -> None:
        """A link of lower rank adds what it leads to."""
        root = self.plan(
            a={b"lib64": {b"y": File()}},
            b={b"lib": {b"x": File()}, b"lib64": Link(b"lib")},
        )
        added = self.added(root)
        self.assertEqual(added[b"lib64/x"], b"/nix/store/b/lib/x")
        self.assertEqual(added[b"lib64/y"], b"/nix/store/a/lib64/y")

    def test_two_links_to_different_directories_merge(self) -> None:
        """Two links to different directories merge; two to the same stay one link."""
        root = self.plan(
            a={b"1": {b"x": File()}, b"l": Link(b"1"), b"same": Link(b"../c/d")},
            b={b"2": {b"y": File()}, b"l": Link(b"2"), b"same": Link(b"../c/d")},
            c={b"d": {b"z": File()}},
        )
        added = self.added(root)
        self.assertEqual(added[b"l/x"], b"/nix/store/a/1/x")
        self.assertEqual(added[b"l/y"], b"/nix/store/b/2/y")
        self.assertEqual(added[b"same"], b"/nix/store/a/same")
        self.assertEqual(root.conflicts, ())

    def test_same_target_after_opening(self) -> None:
        """A third that leads where an opened link led brings nothing, and no conflict."""
        root = self.plan(
            a={b"l": Link(b"../d/e")},
            b={b"l": {b"x": File()}},
            c={b"l": Link(b"../d/e")},
            d={b"e": {b"y": File()}},
        )
        self.assertEqual(self.added(root)[b"l/y"], b"/nix/store/d/e/y")
        self.assertEqual(root.conflicts, ())

    def test_link_out_of_the_store_is_never_followed(self) -> None:
        """A link out of the store is never followed, and loses where it leads nowhere."""
        outside = os.path.abspath(self.mktemp())
        Path(outside).mkdir()
        Path(outside, "secret").touch()
        root = self.plan(a={b"l": Link(os.fsencode(outside))}, b={b"l": {b"x": File()}})
        self.assertEqual(self.added(root), {b"l": None, b"l/x": b"/nix/store/b/l/x"})
        self.assertEqual(
            root.conflicts,
            (Conflict(path="/l", kept="/nix/store/b/l", dropped="/nix/store/a/l"),),
        )
        top = self.plan(a={b"l": Link(b"../..")}, b={b"l": {b"x": File()}})
        self.assertEqual(self.added(top), {b"l": b"/nix/store/a/l"})

    def test_link_that_leads_nowhere_or_round_in_circles_loses(self) -> None:
        """A link that leads nowhere, or round in circles, loses to whatever else there is."""
        root = self.plan(
            a={b"n": Link(b"nowhere"), b"c": Link(b"c"), b"f": Link(b"/no/where")},
            b={b"n": {b"x": File()}, b"c": {b"x": File()}, b"f": File()},
        )
        self.assertEqual(
            self.added(root),
            {
                b"c": None,
                b"c/x": b"/nix/store/b/c/x",
                b"f": b"/nix/store/b/f",
                b"n": None,
                b"n/x": b"/nix/store/b/n/x",
            },
        )
        self.assertEqual([item.path for item in root.conflicts], ["/c", "/f", "/n"])

    def test_link_that_leads_nowhere_keeps_a_name_that_nothing_else_has(self) -> None:
        """A link that leads nowhere keeps a name that nothing else has, or only its like."""
        links = {b"l": Link(b"/run/host"), b"m": Link(b"gone")}
        root = self.plan(a=links, b={b"m": Link(b"/also/gone")})
        self.assertEqual(self.added(root), {b"l": b"/nix/store/a/l", b"m": b"/nix/store/a/m"})

    def test_link_to_a_place_that_another_package_brings_keeps_its_rank(self) -> None:
        """A link to a place in the image wins by its rank, if something is there."""
        root = self.plan(
            a={b"x": Link(b"/share/y"), b"p": Link(b"/etc/passwd"), b"m": Link(b"/proc/mounts")},
            b={b"x": {b"z": File()}, b"p": File(), b"m": File()},
            c={b"share": {b"y": Link(b"../y")}, b"y": {}},
        )
        added = self.added(root)
        self.assertEqual(
            [added[name] for name in (b"m", b"p", b"x")],
            [b"/nix/store/a/m", b"/nix/store/a/p", b"/nix/store/a/x"],
        )

    def test_links_that_lead_nowhere_lose_at_every_level(self) -> None:
        """A link that leads nowhere loses also in a directory that came in for another one."""
        root = self.plan(
            a={b"x": Link(b"/gone")},
            b={b"x": {b"y": Link(b"/gone")}},
            c={b"x": {b"y": {b"z": Link(b"/gone")}}},
            d={b"x": {b"y": {b"z": File()}}},
        )
        self.assertEqual(
            self.added(root), {b"x": None, b"x/y": None, b"x/y/z": b"/nix/store/d/x/y/z"}
        )

    def test_store_path_outside_the_closure_is_not_there(self) -> None:
        """A link to a store path that the image does not have is not followed."""
        store = self.make_store(
            a={b"l": Link(b"../c/d"), b"m": Link(b"/nix/store/b/d")},
            b={b"l": {b"x": File()}, b"d": {b"y": File()}, b"m": {b"z": File()}},
            c={b"d": {b"y": File()}},
        )
        packages = [package("a"), package("b")]
        root = self.plan_from(store, packages, closure=["a", "b"])
        self.assertEqual(self.added(root)[b"l/x"], b"/nix/store/b/l/x")
        self.assertNotIn(b"l/y", self.added(root))
        # A path of the closure is found by its place in the image.
        self.assertEqual(self.added(root)[b"m/y"], b"/nix/store/b/d/y")
        self.assertIn(b"l/y", self.added(self.plan_from(store, packages)))

    def test_link_to_its_own_place_or_to_one_above_is_left_out(self) -> None:
        """A link to its own place, or to one above it, is left out, and that is said."""
        root = self.plan(
            a={
                b"tmp": Link(b"/tmp"),
                b"etc": Link(b"/etc/."),
                b"usr": Link(b"/"),
                b"srv": Link(b"../../../srv"),
                b"opt": {b"x": {b"y": Link(b"/opt")}},
                b"run": Link(b"/var/run"),
            }
        )
        self.assertEqual(
            self.added(root), {b"opt": None, b"opt/x": None, b"run": b"/nix/store/a/run"}
        )
        self.assertEqual(
            [(item.path, item.source) for item in root.omissions],
            [
                (f"/{name}", f"/nix/store/a/{name}")
                for name in ("etc", "opt/x/y", "srv", "tmp", "usr")
            ],
        )
        self.assertIn(
            "/tmp of /nix/store/a/tmp is left out: it is a link", "\n".join(root.describe())
        )

    def test_names_that_delete_other_files_are_left_out(self) -> None:
        """Names with which a layer deletes files are left out, and that is said."""
        root = self.plan(
            a={
                b".wh.nix": File(),
                b".wh": File(),
                b"x": {b".aaa": File(), b".wh..aaa": {b"y": File()}, b".wh..wh..opq": Link(b"/")},
            }
        )
        self.assertEqual(
            self.added(root),
            {b".wh": b"/nix/store/a/.wh", b"x": None, b"x/.aaa": b"/nix/store/a/x/.aaa"},
        )
        self.assertEqual(
            [item.path for item in root.omissions], ["/.wh.nix", "/x/.wh..aaa", "/x/.wh..wh..opq"]
        )

    def test_links_back_to_where_they_are_in_several_packages_come_to_an_end(self) -> None:
        """Links back to where they are, in several packages, come to an end."""
        for target in (b".", b"../x", b"..", b"../../b/x", b"../../b"):
            tree: Node = {b"x": {b"loop": Link(target), b"y": {b"loop": Link(b"../..")}}}
            root = self.plan(a=tree, b=tree, c={b"x": {b"loop": {b"loop": {b"loop": {}}}}})
            self.assertIn(b"x/y/loop", self.added(root))

    @given(
        st.lists(
            st.recursive(
                st.one_of(
                    st.just(File()),
                    st.builds(
                        Link, st.sampled_from([b".", b"..", b"a", b"b", b"../a", b"../../p1/a"])
                    ),
                ),
                lambda below: st.dictionaries(st.sampled_from([b"a", b"b", b"c"]), below),
                max_leaves=8,
            ).filter(lambda node: isinstance(node, dict)),
            min_size=1,
            max_size=4,
        ),
        st.randoms(use_true_random=False),
    )
    @settings(max_examples=100)
    def test_any_trees_merge_in_any_order(self, trees: list[Node], shuffle: random.Random) -> None:
        """Any trees merge: the order of the request does not matter, everything the
        outputs hold is found or noted as dropped, and the root can be packed and read."""
        store = self.make_store(**{f"p{n}": tree for n, tree in enumerate(trees)})
        packages = [package(f"p{n}") for n in range(len(trees))]
        root = self.plan_from(store, packages)
        shuffle.shuffle(packages)
        self.assertEqual(self.plan_from(store, packages), root)
        written: list[bytes] = []
        pack_tree(root.entries, written.append, compression=Compression())
        seen: Seen = read_with_tarfile(b"".join(written))
        self.assertEqual(list(seen), [entry.path for entry in root.entries])
        dropped = [os.fsencode(item.dropped) for item in root.conflicts]
        targets = {entry.target for entry in root.entries}
        top = os.fsencode(store)
        for directory, _, names in os.walk(top):
            for name in names:
                path = b"/nix/store" + (directory + b"/" + name)[len(top) :]
                if not os.path.islink(os.path.join(directory, name)):
                    below_dropped = any(
                        path == lost or path.startswith(lost + b"/") for lost in dropped
                    )
                    self.assertTrue(path in targets or below_dropped, path)


class BasicsTests(RootTestCase):
    """Tests of the files that every image has, and of those that some have."""

    def test_root_without_packages_has_users_and_directories_only(self) -> None:
        """An image of nothing has users, a place for files, and neither shell nor CAs."""
        root = self.plan_from(self.make_store(), [])
        self.assertEqual({entry.path for entry in root.entries}, BASICS)
        self.assertEqual((root.shell, root.has_ca_bundle), (None, False))
        modes = {entry.path: entry.mode for entry in root.entries if entry.kind == "directory"}
        self.assertEqual(
            modes,
            {
                b"etc": 0o755,
                b"root": 0o700,
                b"tmp": 0o1777,
                b"var": 0o755,
                b"var/empty": 0o555,
            },
        )
        passwd = self.entry(root, b"etc/passwd").data.splitlines()
        self.assertEqual(passwd[0], b"root:x:0:0:root:/root:/bin/sh")
        self.assertEqual(passwd[1].split(b":")[:4], [b"nobody", b"x", b"65534", b"65534"])

    def test_bash_is_the_shell_roots_too_and_sh_where_there_is_none(self) -> None:
        """Bash is the shell, root's too, and ``sh`` where there is none."""
        root = self.plan(bash={b"bin": {b"bash": File()}})
        self.assertEqual(root.shell, "/bin/bash")
        self.assertEqual(self.entry(root, b"bin/sh").target, b"/nix/store/bash/bin/bash")
        self.assertIn(b"/root:/bin/bash\n", self.entry(root, b"etc/passwd").data)

    def test_packages_own_sh_is_kept_and_is_the_shell_where_there_is_no_bash(self) -> None:
        """A package's own ``sh`` is kept, and is the shell where there is no bash."""
        root = self.plan(dash={b"bin": {b"sh": Link(b"dash"), b"dash": File()}})
        self.assertEqual(root.shell, "/bin/sh")
        self.assertEqual(self.entry(root, b"bin/sh").target, b"/nix/store/dash/bin/sh")

    def test_usr_bin_env_is_there_when_something_has_bin_env(self) -> None:
        """``/usr/bin/env`` is there when something has ``bin/env``."""
        root = self.plan(coreutils={b"bin": {b"env": Link(b"coreutils"), b"coreutils": File()}})
        self.assertEqual(self.entry(root, b"usr/bin/env").target, b"/nix/store/coreutils/bin/env")
        self.assertEqual(root.shell, None)

    def test_link_to_nothing_is_no_shell(self) -> None:
        """A link to nothing is no shell."""
        self.assertEqual(self.plan(a={b"bin": {b"bash": Link(b"gone")}}).shell, None)

    def test_ca_bundle_is_found_under_its_three_names(self) -> None:
        """The CA bundle is found under its three names."""
        certs: Node = {b"etc": {b"ssl": {b"certs": {b"ca-bundle.crt": File()}}}}
        root = self.plan(cacert=certs)
        self.assertTrue(root.has_ca_bundle)
        for path in (
            b"etc/ssl/certs/ca-bundle.crt",
            b"etc/ssl/certs/ca-certificates.crt",
            b"etc/pki/tls/certs/ca-bundle.crt",
        ):
            self.assertEqual(
                self.entry(root, path).target, b"/nix/store/cacert/etc/ssl/certs/ca-bundle.crt"
            )

    def test_ca_bundle_behind_links(self) -> None:
        """A bundle in a directory behind a link is found, and the directory opened."""
        root = self.plan(
            package("cacert"),
            cacert={b"etc": {b"ssl": Link(b"../../data")}},
            data={b"certs": {b"ca-bundle.crt": File(), b"more": File()}},
        )
        self.assertTrue(root.has_ca_bundle)
        added = self.added(root)
        self.assertIn(b"etc/ssl/certs/ca-certificates.crt", added)
        self.assertEqual(added[b"etc/ssl/certs/more"], b"/nix/store/data/certs/more")

    def test_file_or_directory_that_package_has_in_place_of_basic_one_is_kept(self) -> None:
        """A file or directory that a package has in place of a basic one is kept."""
        root = self.plan(a={b"etc": {b"passwd": File(b"mine")}, b"tmp": {b"x": File()}})
        self.assertEqual(self.entry(root, b"etc/passwd").target, b"/nix/store/a/etc/passwd")
        self.assertEqual(self.entry(root, b"tmp").mode, 0o1777)
        self.assertEqual(self.added(root)[b"tmp/x"], b"/nix/store/a/tmp/x")

    def test_in_the_way(self) -> None:
        """A package's file gives way to a directory that the image needs, and that is noted."""
        root = self.plan(a={b"etc": File(), b"tmp": File(), b"bin": File()})
        self.assertEqual(self.added(root), {b"bin": b"/nix/store/a/bin"})
        self.assertEqual(
            root.conflicts,
            (
                Conflict(path="/etc", kept="/etc", dropped="/nix/store/a/etc"),
                Conflict(path="/tmp", kept="/tmp", dropped="/nix/store/a/tmp"),
            ),
        )
        self.assertEqual(
            [*root.describe()],
            [
                "/etc is the image's own, not /nix/store/a/etc",
                "/tmp is the image's own, not /nix/store/a/tmp",
            ],
        )

    def test_file_is_needed_where_a_package_has_a_directory(self) -> None:
        """A package's directory gives way to a file that the image needs."""
        root = self.plan(
            a={b"bin": {b"bash": {b"x": File()}, b"sh": Link(b"..")}, b"etc": {b"passwd": {}}},
            b={b"bin": {b"bash": File()}},
        )
        self.assertEqual(self.entry(root, b"bin/bash").target, b"/nix/store/b/bin/bash")
        self.assertEqual(self.entry(root, b"bin/sh").target, b"/nix/store/b/bin/bash")
        self.assertEqual(self.entry(root, b"etc/passwd").kind, "file")
        self.assertEqual(
            [item.path for item in root.omissions], ["/bin/bash", "/bin/sh", "/etc/passwd"]
        )

    def test_links_out_of_the_store_do_not_take_the_place_of_what_the_image_needs(self) -> None:
        """Users, certificates, shells and the places for files are there whatever links to
        other places packages have."""
        root = self.plan(
            a={
                b"bin": Link(b"/usr/bin"),
                b"etc": {
                    b"passwd": Link(b"/host/etc/passwd"),
                    b"group": Link(b"/etc/static/group"),
                    b"ssl": Link(b"/etc/static/ssl"),
                },
                b"tmp": Link(b"/var/tmp"),
                b"usr": {b"bin": {b"x": File()}},
                b"var": {b"empty": Link(b"/run"), b"tmp": {}},
            },
            bash={b"bin": {b"bash": File(), b"env": File()}},
            cacert={b"etc": {b"ssl": {b"certs": {b"ca-bundle.crt": File()}}}},
        )
        self.assertEqual(root.shell, "/bin/bash")
        self.assertTrue(root.has_ca_bundle)
        self.assertEqual(self.entry(root, b"tmp").mode, 0o1777)
        self.assertEqual(self.entry(root, b"var/empty").mode, 0o555)
        self.assertIn(b"nobody:", self.entry(root, b"etc/passwd").data)
        self.assertIn(b"nobody:", self.entry(root, b"etc/group").data)
        self.assertEqual(self.entry(root, b"usr/bin/env").target, b"/nix/store/bash/bin/env")
        self.assertEqual(self.entry(root, b"bin/sh").target, b"/nix/store/bash/bin/bash")
        self.assertEqual(
            [item.path for item in root.conflicts],
            ["/bin", "/etc/group", "/etc/passwd", "/etc/ssl", "/tmp", "/var/empty"],
        )

    def test_shell_and_certificates_at_other_places_of_the_image_are_found(self) -> None:
        """A shell and certificates that are links to other places of the image are found."""
        root = self.plan(
            a={
                b"bin": {b"bash": Link(b"/libexec/shell"), b"sh": Link(b"/bin/bash")},
                b"etc": {b"ssl": {b"certs": {b"ca-bundle.crt": Link(b"/share/ca")}}},
            },
            b={b"libexec": {b"shell": File()}, b"share": {b"ca": File()}},
        )
        self.assertEqual((root.shell, root.has_ca_bundle), ("/bin/bash", True))
        self.assertEqual(self.entry(root, b"bin/sh").target, b"/nix/store/a/bin/sh")
        self.assertEqual(root.conflicts, ())

    def test_links_to_what_is_no_file_do_not_take_the_place_of_one_that_is_needed(self) -> None:
        """A link to a device or to a directory of the image is no shell and no certificate."""
        for target in (b"/dev/null", b"/proc/self/exe", b"/tmp", b"/root"):
            names = {name: Link(target) for name in (b"bash", b"env", b"sh")}
            bundle = {b"ca-bundle.crt": Link(target)}
            root = self.plan(
                a={b"bin": {**names}, b"etc": {b"ssl": {b"certs": {**bundle}}}},
                b={
                    b"bin": {name: File() for name in names},
                    b"etc": {b"ssl": {b"certs": {b"ca-bundle.crt": File()}}},
                },
            )
            self.assertEqual((root.shell, root.has_ca_bundle), ("/bin/bash", True), target)
            self.assertEqual(self.added(root)[b"bin/sh"], b"/nix/store/b/bin/sh", target)
            self.assertEqual(self.added(root)[b"usr/bin/env"], b"/nix/store/b/bin/env", target)
            self.assertEqual(
                [item.path for item in root.conflicts],
                ["/bin/bash", "/bin/env", "/bin/sh", "/etc/ssl/certs/ca-bundle.crt"],
            )

    def test_entries_behind_a_link_are_where_it_leads(self) -> None:
        """
        An entry that the image needs in a directory that is a link to another place of the
        image is in the archive at that place: an engine unpacks nothing behind a link.
        """
        root = self.plan(
            a={b"bin": Link(b"/usr/bin"), b"etc": Link(b"/share"), b"share": {}},
            b={b"usr": {b"bin": {b"bash": File(), b"env": File()}}},
        )
        self.assertEqual(root.shell, "/bin/bash")
        links = {entry.path for entry in root.entries if entry.kind == "symlink"}
        self.assertLessEqual({b"bin", b"etc"}, links)
        for entry in root.entries:
            self.assertFalse([each for each in links if entry.path.startswith(each + b"/")])
        self.assertEqual(self.entry(root, b"usr/bin/sh").target, b"/nix/store/a/bin/bash")
        self.assertEqual(self.entry(root, b"share/passwd").kind, "file")

    def test_link_to_a_directory_that_is_not_for_all_is_no_place_for_what_all_need(self) -> None:
        """A link to ``/root``, which only root may read, or to ``/tmp``, over which volumes are
        mounted, gives way to a directory."""
        for target in (b"/root", b"/tmp", b"/tmp/x", b"/var/empty"):
            root = self.plan(a={b"etc": Link(target), b"tmp": {b"x": {}}, b"usr": Link(target)})
            self.assertEqual(self.entry(root, b"etc").kind, "directory", target)
            self.assertEqual(self.entry(root, b"etc/passwd").kind, "file", target)
            self.assertIn(
                Conflict(path="/etc", kept="/etc", dropped="/nix/store/a/etc"), root.conflicts
            )


HOST_PATHS = (b"bin/bash", b"bin/env", b"etc/ssl/certs/ca-bundle.crt", b"fonts/x", b"var/x")

TARGETS: tuple[bytes, ...] = (
    *(b".", b"..", b"a", b"../a", b"../../p1/a", b"../../../tmp", b"../../../.."),
    *(b"/", b"/a", b"/bin", b"/bin/bash", b"/bin/sh", b"/etc", b"/etc/passwd", b"/proc/x"),
    *(b"/nix/store/p0", b"/nix/store/p1/bin", b"/nix/store/gone", b"/nix/x", b"/root"),
    *(b"/tmp", b"/tmp/x/", b"/usr/bin", b"/usr/../etc", b"/var", b"//var//empty"),
)
NAMES: tuple[bytes, ...] = (
    *(b".wh.a", b".wh..wh..opq", b"a", b"bash", b"bin", b"ca-bundle.crt", b"certs", b"dev"),
    *(b"empty", b"env", b"etc", b"group", b"passwd", b"root", b"sh", b"ssl", b"tmp", b"usr"),
    b"var",
)

HOSTILE_TREES = st.lists(
    st.dictionaries(
        st.sampled_from(NAMES),
        st.recursive(
            st.one_of(st.just(File()), st.builds(Link, st.sampled_from(TARGETS))),
            lambda below: st.dictionaries(st.sampled_from(NAMES), below, max_size=4),
            max_leaves=10,
        ),
        max_size=6,
    ),
    min_size=1,
    max_size=3,
)


class ImageTests(RootTestCase):
    """The root and the store paths, as the kernel of a container sees them."""

    def unpack(self, root: RootTree, store: str) -> str:
        """Write the image to a directory: the store and the entries of the root."""
        image: str = os.path.abspath(self.mktemp())
        os.makedirs(f"{image}/nix")
        shutil.copytree(store, f"{image}/nix/store", symlinks=True)
        for entry in root.entries:
            path = os.fsencode(image) + b"/" + entry.path
            if entry.kind == "directory":
                os.mkdir(path)
            elif entry.kind == "symlink":
                os.symlink(entry.target, path)
            else:
                Path(os.fsdecode(path)).write_bytes(entry.data)
        return image

    def test_host_that_has_everything_in_the_way(self) -> None:
        """An image is the same whatever the machine that makes it has where links lead."""
        host = Path(self.mktemp()).absolute()
        target = os.fsencode(host)
        store = self.make_store(
            a={
                b"bin": {b"bash": Link(target + b"/bin/bash"), b"env": Link(target + b"/bin/env")},
                b"etc": {b"ssl": {b"certs": Link(target + b"/etc/ssl/certs")}},
                b"fonts": Link(target + b"/fonts"),
                b"var": Link(target + b"/var"),
            },
            b={b"fonts": {b"own": File()}},
        )
        packages = [package("a"), package("b"), package("c", "a=a")]
        without = self.plan_from(store, packages)
        for path in HOST_PATHS:
            (host / os.fsdecode(path)).parent.mkdir(parents=True, exist_ok=True)
            (host / os.fsdecode(path)).write_bytes(b"of the host")
        self.assertEqual(self.plan_from(store, packages), without)
        self.assertEqual((without.shell, without.has_ca_bundle), (None, False))
        self.assertEqual(self.added(without)[b"fonts/own"], b"/nix/store/b/fonts/own")
        self.assertNotIn(b"fonts/x", self.added(without))

    @given(HOSTILE_TREES)
    @settings(max_examples=60)
    def test_promises_hold_whatever_packages_bring(self, trees: list[Node]) -> None:
        """Any trees make a root with users and places for files, which has a shell and
        certificates exactly if it says so; and no name in it deletes another."""
        store = self.make_store(**{f"p{n}": tree for n, tree in enumerate(trees)})
        root = self.plan_from(store, [package(f"p{n}") for n in range(len(trees))])
        image = self.unpack(root, store)
        self.addCleanup(shutil.rmtree, image)
        for path in (b"etc/passwd", b"etc/group", b"etc/nsswitch.conf"):
            self.assertEqual(kind_in_root(image, path), "file", path)
        for path, mode in ((b"tmp", 0o1777), (b"root", 0o700)):
            self.assertEqual(self.entry(root, path).mode, mode)
        # /var may be a link to another directory of the image.
        self.assertEqual(kind_in_root(image, b"var/empty"), "directory")
        if kind_in_root(image, b"bin/bash") == "file":
            self.assertEqual(kind_in_root(image, b"bin/sh"), "file")
        if kind_in_root(image, b"bin/env") == "file":
            self.assertEqual(kind_in_root(image, b"usr/bin/env"), "file")
        shells = [
            f"/bin/{name}"
            for name in ("bash", "sh")
            if kind_in_root(image, f"bin/{name}".encode()) == "file"
        ]
        self.assertEqual(root.shell, next(iter(shells), None))
        bundle = b"etc/ssl/certs/ca-bundle.crt"
        self.assertEqual(root.has_ca_bundle, kind_in_root(image, bundle) == "file")
        names = [name for entry in root.entries for name in entry.path.split(b"/")]
        self.assertFalse([name for name in names if name.startswith(b".wh.")])
        kinds = {entry.path: entry.kind for entry in root.entries}
        above = {path.rpartition(b"/")[0] for path in kinds} - {b""}
        self.assertEqual({kinds[path] for path in above}, {"directory"})

    @given(HOSTILE_TREES, st.sampled_from(TARGETS), st.sampled_from((b"/", b"/nix/store/p0")))
    @settings(max_examples=60)
    def test_links_are_followed_as_by_the_kernel(
        self, trees: list[Node], path: bytes, directory: bytes
    ) -> None:
        """Paths through store paths lead where they lead in a root of their own."""
        store = self.make_store(**{f"p{n}": tree for n, tree in enumerate(trees)})
        image: str = os.path.abspath(self.mktemp())
        os.makedirs(f"{image}/nix")
        os.rename(store, f"{image}/nix/store")
        self.addCleanup(shutil.rmtree, image)
        resolver = LinkResolver(
            [f"/nix/store/p{n}" for n in range(len(trees))], f"{image}/nix/store"
        )
        found = resolver.follow(path, lambda _: Kind.MISSING, directory=directory)
        whole = path if path.startswith(b"/") else directory + b"/" + path
        self.assertEqual(found.kind.value, kind_in_root(image, whole) or "missing")
