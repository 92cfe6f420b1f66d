"""
Tests for ``nixery.layers.svg``.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from nixery.layers.grouping import LayerGroup
from nixery.layers.svg import DrawnLayer, draw_svg, draw_text
from tests.support.strategies import store_path

SVG = "{http://www.w3.org/2000/svg}"

MB = 1_000_000

LAYERS = (
    DrawnLayer(
        title="glibc-2.40",
        size=12 * MB,
        nar_size=30 * MB,
        reason="large enough for a layer of its own",
        paths=("glibc-2.40",),
        shared_with=("shell", "shell/htop"),
    ),
    DrawnLayer(
        title="git-2.47",
        size=24 * MB,
        nar_size=48 * MB,
        reason="git-2.47 with what few have without it",
        paths=("git-2.47", "perl-Error-0.17", "perl-TermReadKey-2.38"),
    ),
    DrawnLayer(title="links at the root", size=900, nar_size=1500, reason="made for this image"),
)

any_text = st.text(max_size=30)

drawn_layers = st.lists(
    st.builds(
        DrawnLayer,
        title=any_text,
        size=st.integers(0, 10**10),
        nar_size=st.integers(0, 10**10),
        reason=any_text,
        paths=st.lists(any_text, max_size=60).map(tuple),
        shared_with=st.lists(any_text, max_size=8).map(tuple),
    ),
    max_size=12,
)


class SvgTests(SynchronousTestCase):
    """Tests for :func:`draw_svg`."""

    @settings(max_examples=60)
    @given(any_text, drawn_layers)
    def test_with_any_names_the_picture_is_xml_with_a_rectangle_for_each_layer(
        self, image: str, layers: list[DrawnLayer]
    ) -> None:
        """With any names, the picture is XML with a rectangle for each layer."""
        root = ET.fromstring(draw_svg(image, layers))
        self.assertEqual(root.tag, f"{SVG}svg")
        groups = [group for group in root.iter(f"{SVG}g") if group.find(f"{SVG}title") is not None]
        self.assertEqual(len(groups), len(layers))
        tags = {element.tag.removeprefix(SVG) for element in root.iter()}
        self.assertLessEqual(tags, {"svg", "title", "style", "g", "rect", "text"})

    @settings(max_examples=60)
    @given(drawn_layers)
    def test_narrow_picture_has_the_same_rectangles(self, layers: list[DrawnLayer]) -> None:
        """The picture for a narrow screen has all rectangles, within its own proportions."""
        root = ET.fromstring(draw_svg("git", layers, styled=False, anchor="layer-", narrow=True))
        _, _, width, height = map(float, root.attrib["viewBox"].split())
        self.assertLess(width, height)
        boxes = [each.attrib for each in root.iter(f"{SVG}rect")]
        self.assertEqual(len(boxes), len(layers))
        self.assertEqual(len(list(root.iter(f"{SVG}a"))), len(layers))
        for box in boxes:
            self.assertLessEqual(float(box["x"]) + float(box["width"]), width + 0.1)
            self.assertLessEqual(float(box["y"]) + float(box["height"]), height + 0.1)
        area = sum(float(box["width"]) * float(box["height"]) for box in boxes)
        if sum(layer.size for layer in layers):
            self.assertLess(abs(area - width * height), 0.05 * width * height)

    def test_names_are_text_and_never_markup(self) -> None:
        """Names are text and never markup."""
        name = '"><script>alert(1)</script>&amp;\x00\x1b'
        layer = DrawnLayer(
            title=name, size=1, nar_size=1, reason=name, paths=(name,), shared_with=(name,)
        )
        root = ET.fromstring(draw_svg(name, [layer]))
        texts = "".join(root.itertext())
        self.assertIn('"><script>alert(1)</script>&amp;\ufffd\ufffd', texts)
        self.assertEqual(list(root.iter(f"{SVG}script")), [])

    def test_areas_are_in_proportion_to_the_bytes_that_are_downloaded(self) -> None:
        """Areas are in proportion to the bytes that are downloaded."""
        root = ET.fromstring(draw_svg("git", LAYERS))
        areas = {}
        for group in root.iter(f"{SVG}g"):
            title, rectangle = group.find(f"{SVG}title"), group.find(f"{SVG}rect")
            if title is not None and title.text is not None and rectangle is not None:
                areas[title.text.split(":")[0]] = float(rectangle.attrib["width"]) * float(
                    rectangle.attrib["height"]
                )
        self.assertEqual(sorted(areas), ["Layer 1", "Layer 2", "Layer 3"])
        self.assertAlmostEqual(areas["Layer 2"] / areas["Layer 1"], 2, places=3)

    def test_layers_that_other_images_have_are_told_from_others_and_say_which(self) -> None:
        """Layers that other images have are told from the others, and say which."""
        root = ET.fromstring(draw_svg("git", LAYERS))
        kinds = {}
        for group in root.iter(f"{SVG}g"):
            title = group.find(f"{SVG}title")
            if title is not None and title.text is not None:
                kinds[title.text.split("\n")[0]] = group.attrib["class"], title.text
        kind, hint = kinds["Layer 1: glibc-2.40"]
        self.assertEqual(kind, "shared")
        self.assertIn("also in shell, shell/htop", hint)
        kind, hint = kinds["Layer 2: git-2.47 + 2"]
        self.assertEqual(kind, "own")
        self.assertIn("in no other image", hint)
        self.assertIn("\nperl-Error-0.17\n", hint)

    def test_picture_loads_nothing_and_follows_the_colour_scheme(self) -> None:
        """The picture loads nothing, and follows the reader's colour scheme."""
        picture = draw_svg("git", LAYERS)
        self.assertEqual(picture.count("http"), 1)
        self.assertNotIn("url(", picture)
        self.assertIn("prefers-color-scheme: dark", picture)
        self.assertIn("currentColor", picture)


class TextTests(SynchronousTestCase):
    """Tests for :func:`draw_text`."""

    def test_table_shows_sizes_bars_reasons_paths_and_sharing(self) -> None:
        """The table shows sizes, bars, reasons, paths and sharing."""
        self.assertEqual(
            draw_text("git", LAYERS),
            """\
git: 3 layers, 36.0 MB to download, 78.0 MB unpacked; 12.0 MB in 1 of them also in other images

  no  download  unpacked  # also in other images, - only in this image
   1   12.0 MB   30.0 MB  ############              glibc-2.40
                          large enough for a layer of its own; also in shell, shell/htop
   2   24.0 MB   48.0 MB  ------------------------  git-2.47 + 2
                          git-2.47 with what few have without it; in no other image
                          git-2.47, perl-Error-0.17, perl-TermReadKey-2.38
   3     900 B   1.50 kB                            links at the root
                          made for this image; in no other image
""",
        )

    def test_long_lists_of_paths_are_cut_short_where_that_is_wanted(self) -> None:
        """Long lists of paths are cut short where that is wanted."""
        text = draw_text("git", LAYERS, max_paths=2)
        self.assertIn("git-2.47, perl-Error-0.17 and 1 more\n", text)
        names = tuple(f"path-{number}" for number in range(50))
        layer = DrawnLayer(title="x", size=1, nar_size=1, reason="y", paths=names)
        everything = draw_text("git", [layer], max_paths=None)
        for name in names:
            self.assertIn(name, everything)
        self.assertLessEqual(max(map(len, everything.splitlines())), 100)

    def test_image_without_layers_is_no_error(self) -> None:
        """An image without layers is no error."""
        self.assertIn("0 layers", draw_text("git", []))
        ET.fromstring(draw_svg("git", []))

    @settings(max_examples=60)
    @given(any_text, drawn_layers)
    def test_with_any_names_a_terminal_gets_lines_of_plain_text(
        self, image: str, layers: list[DrawnLayer]
    ) -> None:
        """With any names, a terminal gets lines of plain text."""
        for line in draw_text(image, layers).split("\n"):
            self.assertTrue(line.isprintable() or not line.isascii(), repr(line))
            self.assertNotIn("\x1b", line)


class DrawnLayerTests(SynchronousTestCase):
    """Tests for :class:`DrawnLayer`."""

    def test_layer_of_a_plan_is_drawn_with_the_names_of_its_paths(self) -> None:
        """A layer of a plan is drawn with the names of its paths."""
        git, perl = store_path("git-2.47"), store_path("a-perl")
        group = LayerGroup(paths=(perl, git), leader=git, nar_size=7, reason="so")
        self.assertEqual(
            DrawnLayer.from_group(group, size=3, shared_with=["shell"]),
            DrawnLayer(
                title="git-2.47",
                size=3,
                nar_size=7,
                reason="so",
                paths=("a-perl", "git-2.47"),
                shared_with=("shell",),
            ),
        )

    def test_of_many_images_a_few_are_named(self) -> None:
        """Of many images a few are named."""
        layer = DrawnLayer(title="x", size=1, nar_size=1, reason="y", shared_with=tuple("abcdefg"))
        self.assertEqual(layer.sharing, "also in a, b, c, d, e and 2 more")
