"""
Tests for ``nixery.image.closure``.
"""

from __future__ import annotations

from random import Random

from hypothesis import assume, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from nixery.errors import UnexpectedOutput
from nixery.image.closure import (
    ClosureSize,
    PathInfo,
    RuntimeGraph,
    StorePath,
    package_name,
    parse_db_dump,
)
from tests.support.strategies import graphs, hashes, store_names, store_path, store_paths

HELLO = "/nix/store/zr2knphxg8yyy2mkq8akf2hfknjvdiz7-hello-2.10"
GLIBC = "/nix/store/mh3rz2qzm0lrcxk22g2b1kifak7q2nj9-glibc-2.36"

DUMP = f"""\
{GLIBC}
{"1" * 64}
30000000

1
{GLIBC}
{HELLO}
{"2" * 64}
205920
/nix/store/00000000000000000000000000000000-hello-2.10.drv
2
{GLIBC}
{HELLO}
"""


def dump_of(graph: RuntimeGraph, random: Random) -> str:
    """Return a graph as Nix might print it: in any order, self references included."""
    infos = list(graph.paths.values())
    random.shuffle(infos)
    lines: list[str] = []
    for info in infos:
        references = [*info.references, *([info.path] if random.random() < 0.5 else [])]
        random.shuffle(references)
        lines += [info.path.path, info.nar_hash, str(info.nar_size)]
        lines += [random.choice(["", f"{info.path}.drv"]), str(len(references))]
        lines += [reference.path for reference in references]
    return "".join(f"{line}\n" for line in lines)


class StorePathTests(SynchronousTestCase):
    """Tests for :class:`StorePath`."""

    def test_store_path_knows_its_hash_and_its_name(self) -> None:
        """A store path knows its hash and its name."""
        path = StorePath(HELLO)
        self.assertEqual(path.hash, "zr2knphxg8yyy2mkq8akf2hfknjvdiz7")
        self.assertEqual(path.name, "hello-2.10")
        self.assertEqual(str(path), HELLO)

    @settings(max_examples=50)
    @given(store_names, hashes)
    def test_name_and_hash_come_back_out_of_their_path(self, name: str, digits: str) -> None:
        """Name and hash come back out of the path that they make."""
        path = store_path(name, digits)
        self.assertEqual((path.name, path.hash), (name, digits))

    @settings(max_examples=50)
    @given(st.lists(store_paths))
    def test_store_paths_are_ordered_by_name_and_by_hash_among_equal_names_only(
        self, paths: list[StorePath]
    ) -> None:
        """Store paths are ordered by name, and by hash among equal names only."""
        expected = sorted(paths, key=lambda path: (path.name, path.hash))
        self.assertEqual(sorted(paths), expected)
        self.assertEqual(sorted(paths, key=lambda path: path.sort_key), expected)

    def test_equal_paths_are_equal_and_hash_alike_others_are_not_equal(self) -> None:
        """Equal paths are equal and hash alike, others are not equal."""
        self.assertEqual(StorePath(HELLO), StorePath(HELLO))
        self.assertEqual(len({StorePath(HELLO), StorePath(HELLO), StorePath(GLIBC)}), 2)

    def test_text_that_is_no_store_path_is_refused_and_named_in_the_error(self) -> None:
        """A text that is no store path is refused, and named in the error."""
        for text in (
            "",
            "/nix/store",
            "/nix/store/hello-2.10",
            HELLO + "/bin/hello",
            HELLO + "\n",
            HELLO.replace("hello", "héllo"),
            HELLO.replace("/nix/store", "/gnu/store"),
            # e, o, t and u are no digits.
            HELLO.replace("zr2k", "zr2u"),
            # One digit too few: the dash stands where a digit should.
            HELLO.replace("zr2k", "zr2"),
            HELLO[: -len("hello-2.10")],
            HELLO[: -len("hello-2.10")] + "x" * 212,
        ):
            error = self.assertRaises(UnexpectedOutput, StorePath, text)
            self.assertEqual(error.excerpt, text)


class ParseDumpTests(SynchronousTestCase):
    """Tests for :func:`parse_db_dump`."""

    def test_sizes_hashes_and_references_are_read(self) -> None:
        """Sizes, hashes and references are read; references to itself are dropped."""
        graph = parse_db_dump(DUMP)
        glibc, hello = StorePath(GLIBC), StorePath(HELLO)
        self.assertEqual(
            dict(graph.paths),
            {
                glibc: PathInfo(path=glibc, nar_hash="1" * 64, nar_size=30000000, references=()),
                hello: PathInfo(
                    path=hello, nar_hash="2" * 64, nar_size=205920, references=(glibc,)
                ),
            },
        )
        self.assertEqual(graph.nar_size, 30205920)

    def test_bytes_are_read_as_well_as_text(self) -> None:
        """Bytes are read as well as text."""
        self.assertEqual(parse_db_dump(DUMP.encode()), parse_db_dump(DUMP))

    def test_nothing_is_a_graph_without_paths(self) -> None:
        """Nothing is a graph without paths."""
        self.assertEqual(len(parse_db_dump("")), 0)

    def test_record_may_occur_twice(self) -> None:
        """A record may occur twice: a list of paths was asked for in pieces."""
        self.assertEqual(parse_db_dump(DUMP + DUMP), parse_db_dump(DUMP))

    @settings(max_examples=60)
    @given(graphs(), st.randoms(use_true_random=False))
    def test_dump_in_any_order_is_read_as_its_graph(
        self, graph: RuntimeGraph, random: Random
    ) -> None:
        """A graph is what is read from its dump, in whatever order it is printed."""
        parsed = parse_db_dump(dump_of(graph, random))
        self.assertEqual(parsed, graph)
        self.assertEqual(list(parsed.paths), sorted(graph.paths))
        self.assertEqual(parsed.references_first, graph.references_first)

    @settings(max_examples=60)
    @given(graphs(min_size=1, max_size=5), st.randoms(use_true_random=False), st.data())
    def test_dump_that_was_cut_off_is_an_error(
        self, graph: RuntimeGraph, random: Random, data: st.DataObject
    ) -> None:
        """
        A dump that was cut off is an error, unless the cut fell between two
        records and what is left is a closed graph.
        """
        dump = dump_of(graph, random)
        cut = data.draw(st.integers(0, len(dump) - 1))
        try:
            parsed = parse_db_dump(dump[:cut])
        except UnexpectedOutput:
            return
        self.assertLess(len(parsed), len(graph))
        for path, info in parsed.paths.items():
            self.assertEqual(graph.paths[path], info)

    def test_malformed_lines_are_refused_and_shown(self) -> None:
        """Each kind of line is checked, and the error shows the line."""
        for old, new in (
            (f"{HELLO}\n{'2' * 64}", f"{HELLO}\nsha512-{'2' * 64}"),
            ("205920", "205920 bytes"),
            ("205920", "-1"),
            ("205920", "²"),
            ("205920", "9" * 5000),
            ("\n2\n", "\n3\n"),
            ("\n2\n", "\n1\n"),
            ("\n2\n", "\nmany\n"),
            ("\n2\n", "\n9999999999999999999\n"),
            ("hello-2.10\n", "hel lo-2.10\n"),
        ):
            self.assertIn(old, DUMP)
            self.assertRaises(UnexpectedOutput, parse_db_dump, DUMP.replace(old, new))

    def test_bytes_that_are_no_text_are_malformed_not_a_crash(self) -> None:
        """Bytes that are no text are malformed, not a crash."""
        self.assertRaises(UnexpectedOutput, parse_db_dump, DUMP.encode().replace(b"hello", b"\xff"))

    def test_two_records_of_a_path_that_differ_are_an_error(self) -> None:
        """Two records of a path that differ are an error."""
        other = DUMP.replace("205920", "205921")
        self.assertRaises(UnexpectedOutput, parse_db_dump, DUMP + other)

    @settings(max_examples=100)
    @given(st.one_of(st.text(), st.binary()))
    def test_any_output_of_nix_becomes_a_graph_or_the_one_error(self, dump: str | bytes) -> None:
        """Any output of Nix becomes a graph or the one error."""
        try:
            parse_db_dump(dump)
        except UnexpectedOutput as error:
            self.assertIn("not understood", error.message)


class RuntimeGraphTests(SynchronousTestCase):
    """Tests for :class:`RuntimeGraph`."""

    def test_graph_that_lacks_a_path_which_is_referred_to_is_refused(self) -> None:
        """A graph that lacks a path which is referred to is refused."""
        hello = StorePath(HELLO)
        info = PathInfo(path=hello, nar_hash="0" * 64, nar_size=1, references=(StorePath(GLIBC),))
        error = self.assertRaises(UnexpectedOutput, RuntimeGraph, paths={hello: info})
        self.assertIn(GLIBC, error.excerpt)

    def test_cycles_are_refused(self) -> None:
        """Paths that refer to each other, which Nix never registers, are refused."""
        a, b = store_path("a"), store_path("b")
        infos = {
            path: PathInfo(path=path, nar_hash="0" * 64, nar_size=1, references=(other,))
            for path, other in ((a, b), (b, a))
        }
        error = self.assertRaises(UnexpectedOutput, RuntimeGraph, paths=infos)
        self.assertIn("cycle", error.excerpt)

    @settings(max_examples=60)
    @given(graphs())
    def test_in_references_first_every_path_stands_behind_its_references(
        self, graph: RuntimeGraph
    ) -> None:
        """In ``references_first`` every path stands behind its references."""
        seen: set[StorePath] = set()
        for path in graph.references_first:
            self.assertTrue(seen.issuperset(graph.paths[path].references))
            seen.add(path)
        self.assertEqual(seen, set(graph.paths))

    @settings(max_examples=60)
    @given(graphs(min_size=1), st.data())
    def test_closure_is_closed_holds_its_roots_and_nothing_that_they_do_not_need(
        self, graph: RuntimeGraph, data: st.DataObject
    ) -> None:
        """A closure is closed, holds its roots, and nothing that they do not need."""
        roots = data.draw(st.sets(st.sampled_from(list(graph.paths))))
        closure = graph.subgraph(roots)
        self.assertTrue(roots.issuperset(closure.roots()))
        self.assertTrue(set(closure.paths).issuperset(roots))

    @settings(max_examples=30)
    @given(graphs())
    def test_roots_need_the_whole_graph(self, graph: RuntimeGraph) -> None:
        """The roots need everything."""
        self.assertEqual(graph.subgraph(graph.roots()), graph)

    def test_closure_of_stranger(self) -> None:
        """The closure of a path that the graph lacks is an error that names it."""
        graph = parse_db_dump(DUMP)
        stranger = store_path("stranger")
        error = self.assertRaises(UnexpectedOutput, graph.subgraph, [stranger])
        self.assertIn(str(stranger), error.excerpt)

    @settings(max_examples=60)
    @given(graphs())
    def test_size_of_a_closure_is_the_sum_of_its_paths_each_counted_once(
        self, graph: RuntimeGraph
    ) -> None:
        """The size of a closure is the sum of its paths, each counted once."""
        expected = {}
        for path in graph.paths:
            closure = graph.subgraph([path])
            expected[path] = ClosureSize(paths=len(closure), nar_size=closure.nar_size)
        self.assertEqual(graph.closure_sizes(), expected)
        counts = {path: size.paths for path, size in expected.items()}
        self.assertEqual(graph.closure_counts(), counts)

    def test_graph_does_not_change_with_the_mapping_that_it_was_made_from(self) -> None:
        """A graph does not change with the mapping that it was made from."""
        hello = store_path("hello")
        paths = {hello: PathInfo(path=hello, nar_hash="0" * 64, nar_size=1, references=())}
        graph = RuntimeGraph(paths=paths)
        paths.clear()
        self.assertEqual(list(graph.paths), [hello])

    @settings(max_examples=30)
    @given(graphs(), graphs())
    def test_graphs_are_equal_when_their_paths_are(
        self, one: RuntimeGraph, other: RuntimeGraph
    ) -> None:
        """Graphs are equal when their paths are."""
        assume(dict(one.paths) != dict(other.paths))
        self.assertNotEqual(one, other)
        self.assertEqual(one, RuntimeGraph(paths=one.paths))


class PackageNameTests(SynchronousTestCase):
    """Tests for :func:`package_name`."""

    def test_version_begins_at_the_first_dash_that_no_letter_follows_as_in_nix(self) -> None:
        """The version begins at the first dash that no letter follows, as in Nix."""
        for name, expected in (
            ("hello-2.10", "hello"),
            ("hello", "hello"),
            ("curl-8.5.0-dev", "curl"),
            ("bash-interactive-5.2-p37", "bash-interactive"),
            ("python3.12-setuptools-75.1", "python3.12-setuptools"),
            ("gtk+3-3.24", "gtk+3"),
            ("source", "source"),
            ("libfoo-unstable-2024-01-01", "libfoo-unstable"),
            ("a-_", "a"),
            ("a--1", "a"),
            ("trailing-", "trailing-"),
            ("-1", ""),
        ):
            self.assertEqual(package_name(name), expected)

    @settings(max_examples=50)
    @given(store_names)
    def test_package_name_is_prefix_of_paths_name_and_has_no_version_of_its_own(
        self, name: str
    ) -> None:
        """A package name is a prefix of the path's name and has no version of its own."""
        self.assertTrue(name.startswith(package_name(name)))
        self.assertEqual(package_name(package_name(name)), package_name(name))
