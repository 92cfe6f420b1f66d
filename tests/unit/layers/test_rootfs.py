"""Tests for :mod:`nixery.layers.rootfs` and :mod:`nixery.layers.symlink_tree`."""

from __future__ import annotations

import os
import random
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from nixery.image.packages import Output, Package
from nixery.layers.errors import MissingPath
from nixery.layers.rootfs import Conflict, RootTree, plan_root, precedence
from nixery.layers.tarball import Compression, TreeEntry, pack_tree
from tests.support.trees import File, Link, Node, Seen, make_tree, read_with_tarfile

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
        return plan_root(packages or [package(name) for name in paths], store=store)

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
        """A link out of the store is never followed."""
        outside = os.path.abspath(self.mktemp())
        Path(outside).mkdir()
        Path(outside, "secret").touch()
        root = self.plan(a={b"l": Link(os.fsencode(outside))}, b={b"l": {b"x": File()}})
        self.assertEqual(self.added(root), {b"l": b"/nix/store/a/l"})
        self.assertEqual(len(root.conflicts), 1)
        top = self.plan(a={b"l": Link(b"../..")}, b={b"l": {b"x": File()}})
        self.assertEqual(self.added(top), {b"l": b"/nix/store/a/l"})

    def test_link_that_leads_nowhere_or_round_in_circles_is_link_like_any_other(self) -> None:
        """A link that leads nowhere, or round in circles, is a link like any other."""
        root = self.plan(
            a={b"n": Link(b"nowhere"), b"c": Link(b"c")},
            b={b"n": {b"x": File()}, b"c": {b"x": File()}},
        )
        self.assertEqual(self.added(root), {b"c": b"/nix/store/a/c", b"n": b"/nix/store/a/n"})

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
        root = plan_root(packages, store=store)
        shuffle.shuffle(packages)
        self.assertEqual(plan_root(packages, store=store), root)
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
        root = plan_root([], store=self.make_store())
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
        """A package's file where the image wants a directory stays, and nothing fails."""
        root = self.plan(a={b"etc": File(), b"tmp": File()})
        self.assertEqual(self.entry(root, b"etc").target, b"/nix/store/a/etc")
        self.assertEqual(self.entry(root, b"tmp").target, b"/nix/store/a/tmp")
