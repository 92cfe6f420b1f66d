"""Tests of the pages that show the contents of an image, and why each path is in it."""

from __future__ import annotations

from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.keys import Keys

from nixery.http.ui.formatting import duration, full_time, iso_time, relative_time
from nixery.runtime.clocks import WallTime
from nixery.runtime.sizes import format_size
from tests.browser.browser import DESKTOP, PHONE
from tests.browser.case import BrowserCase
from tests.end_to_end.case import watched_registry

COLOURS = """
const canvas = document.getElementById("graph-canvas");
const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
const seen = new Set();
for (let at = 0; at < pixels.length; at += 4)
  if (pixels[at + 3] === 255) seen.add(pixels.slice(at, at + 3).join());
return [...seen];
"""
"""The colours of the graph that let nothing through."""

PLACE = """
const [name, done] = arguments;
const view = document.getElementById("graph-view");
const source = document.getElementById("graph").dataset.source;
fetch(source).then((answer) => answer.json()).then((data) => {
  const scale = Math.min(view.clientWidth / data.width, view.clientHeight / data.height);
  const path = data.path.findIndex((each) => each.endsWith(`-${name}`));
  done([(data.x[path] - data.width / 2) * scale, (data.y[path] - data.height / 2) * scale]);
});
"""
"""The place of a path, relative to the middle of the graph, when all of it is shown."""

FORMATS = """
const [sizes, spans, moments, now, done] = arguments;
const site = document.querySelector("script[src*='/site.js']").src;
import(site.replace("site.js", "text.js")).then((text) => {
  const clock = Date.now;
  Date.now = () => now;
  const times = moments.map((moment) => {
    const time = text.element("time", { datetime: moment });
    text.relative(time);
    return [time.textContent, time.title];
  });
  Date.now = clock;
  done({ sizes: sizes.map(text.size), spans: spans.map(text.duration), times });
});
"""
"""Formats sizes, spans of time and times as scripts do."""


class ImageTests(BrowserCase):
    def setUp(self) -> None:
        super().setUp()
        self.assertEqual(200, watched_registry().registry.manifest("estate").status)

    def open_image(self, question: str = "") -> None:
        self.visit(watched_registry(), f"/images/estate:latest{question}")
        self.browser.wait("#graph[data-ready]")

    def test_closure_of_an_image_of_hundreds_of_paths_is_drawn(self) -> None:
        """
        The closure of an image of hundreds of paths is drawn; a search marks what it
        finds, and choosing tells the chain from what was asked for.
        """
        page = self.browser
        self.open_image()
        graph = page.find("#graph")
        self.assertEqual("301", graph.get_attribute("data-paths"))
        page.until(lambda: len(page.run(COLOURS)) > 1, "picture")
        page.type("#graph-q", "part27")
        page.until(lambda: graph.get_attribute("data-marked") == "11", "marks")
        page.type("#graph-q", "part270")
        page.press(Keys.ENTER)
        page.wait("#graph-chosen", "estate-1.0-part270")
        chain = page.text("#graph-chain")
        for name in ("part0", "part66", "part134", "part270"):
            self.assertIn(f"estate-1.0-{name}", chain)
        chosen = page.find("#graph-view").get_attribute("data-chosen")
        self.assertTrue(str(chosen).endswith("-estate-1.0-part270"), chosen)

    def test_graph_is_walked_through_with_the_arrows_from_what_was_asked_for(self) -> None:
        """The graph is walked through with the arrows, from what was asked for."""
        page = self.browser
        self.open_image()
        page.run("document.getElementById('graph-view').focus()")
        names = []
        for key in (Keys.ARROW_DOWN, Keys.ARROW_DOWN, Keys.ARROW_UP):
            page.press(key)
            names.append(page.wait("#graph-chosen").text)
        self.assertEqual("estate-1.0-part0", names[0])
        self.assertNotEqual(names[0], names[1])
        self.assertEqual(names[0], names[2])
        page.press(Keys.ENTER)
        page.wait("#graph-view[data-chosen$='-estate-1.0-part0']")
        page.press(Keys.ESCAPE)
        page.until(lambda: not page.find_all("#graph-view[data-chosen]"), "letting go")

    def test_click_on_a_path_in_the_graph_chooses_it(self) -> None:
        """A click on a path in the graph chooses it."""
        page = self.browser
        self.open_image()
        x, y = page.driver.execute_async_script(PLACE, "part299")
        view = page.find("#graph-view")
        page.run("arguments[0].scrollIntoView({ block: 'center' })", view)
        ActionChains(page.driver).move_to_element_with_offset(view, x, y).click().perform()
        page.wait("#graph-view[data-chosen$='-estate-1.0-part299']")
        page.wait("#graph-chain", "part0")

    def test_layers_are_drawn_and_each_is_a_link_to_what_is_in_it_and_why(self) -> None:
        """Layers are drawn, and each is a link to what is in it and why."""
        page = self.browser
        self.open_image()
        link = page.wait("#layers-picture svg a[href$='#layer-1']")
        page.driver.execute_script("arguments[0].scrollIntoView()", link)
        link.click()
        layer = page.wait("#layer-1[open]")
        self.assertRegex(str(layer.get_attribute("data-digest")), "^sha256:[0-9a-f]{64}$")
        page.wait("#layer-1 .facts", "Why it is a layer")
        page.wait("#layer-1 .paths a").click()
        page.wait("#why-answer[data-found='1'] .chain [aria-current]", "part299")
        page.wait("#why-answer .chain", "requested")

    def test_why_a_path_is_there_is_answered_without_javascript(self) -> None:
        """The page says without JavaScript why a path is there, and draws the closure."""
        page = self.browser
        with page.without_scripts():
            self.visit(watched_registry(), "/images/estate:latest")
            page.type("#why-q", "part134")
            page.click("#why-form button")
            page.wait("#why-answer[data-found='1'] .chain", "estate-1.0-part66")
            image = page.wait("img.graph-still")
            self.assertGreater(int(str(image.get_property("naturalWidth"))), 100)
        self.visit(watched_registry(), "/images/estate:latest?why=nowhere")
        page.wait("#why-answer", "Nothing in this image has")

    def test_phone_has_readable_layers_and_a_tree_of_the_closure(self) -> None:
        """On a phone layers have readable names, and paths are a tree by what they retain."""
        page = self.browser
        page.screen(PHONE)
        self.addCleanup(page.screen, DESKTOP)
        self.open_image()
        self.visit(watched_registry(), "/images/estate:latest")
        self.assertFalse(page.find("#layers-picture svg:not(.narrow)").is_displayed())
        text = page.wait("#layers-picture svg.narrow text", "estate")
        self.assertGreaterEqual(text.size["height"], 12)
        page.wait("#tree[open]", "estate-1.0")
        first = page.find("#tree > .tree > li")
        self.assertIn("estate-1.0 ", first.text)
        summary = first.find_element("css selector", "summary")
        # What is the only one is unfolded, and folded by keyboard.
        page.wait("#tree .tree .tree li", "estate-1.0-part")
        summary.send_keys(Keys.ENTER)
        page.until(
            lambda: not page.find("#tree .tree .tree li").is_displayed(), "tree that is folded"
        )
        width = page.run("return document.documentElement.scrollWidth")
        self.assertLessEqual(width, PHONE.width)

    def test_all_paths_are_listed_found_by_a_name_and_lead_to_the_image_again(self) -> None:
        """All paths are listed, found by a name, and lead to the image again."""
        page = self.browser
        self.visit(watched_registry(), "/images/estate:latest/paths")
        page.type("#paths-q", "part13")
        page.click("#paths-form button")
        page.wait("#paths[data-total='11']", "estate-1.0-part134")
        page.click("#paths tbody a[href*='#layer-']")
        page.wait("#layers-list details[open]")

    def test_images_are_compared_without_javascript(self) -> None:
        """The page of an image leads to its comparison with another one, and to the other way."""
        page = self.browser
        self.assertEqual(200, watched_registry().registry.manifest("known/estate").status)
        with page.without_scripts():
            self.visit(watched_registry(), "/images/known/estate:latest")
            page.type("#compare-with", "estate")
            page.click("#compare-form button")
            page.wait("#compare-title", "estate:latest")
            page.wait("#added [data-package=known]")
            page.wait("#partial", "zstd-chunked")
            self.assertGreater(int(str(page.find("#new-layers").get_attribute("data-bytes"))), 0)
            page.click("#compare-swap")
            page.wait("#removed [data-package=known]")
        self.assertEqual([], page.find_all("#updated, #rebuilt, #added"))

    def test_layers_are_sorted_and_found_with_scripts_and_without(self) -> None:
        """Layers are listed by size, and found by a path in them, by scripts and by links."""
        page = self.browser

        def check() -> None:
            page.click("#layers-sort option[value=size]")
            page.type("#layers-q", "part134")
            page.click("#layers-form button")
            page.wait("#layers-found", "1 of ")
            self.assertEqual(1, len(page.find_all("#layers-list details")))
            self.assertIn("sort=size", page.driver.current_url)

        self.open_image()
        page.run("window.untouched = true")
        check()
        self.assertTrue(page.run("return window.untouched"))
        page.wait("#served time[title$=UTC]", " ")
        self.check_formats()
        page.wait("#facts", "none in /bin")
        with page.without_scripts():
            self.visit(watched_registry(), "/images/estate:latest")
            time = page.find("#served time")
            self.assertRegex(time.text, "ago|just now")
            self.assertRegex(str(time.get_attribute("title")), r"^\d{4}-.* UTC$")
            check()

    def check_formats(self) -> None:
        """Scripts write sizes, spans and times as the server does."""
        sizes = [0, 999, 9_996, 12_345, 999_500, 123_456_789, 2**40, 10**15]
        spans = [0.42, 3.21, 59.7, 185, 7500]
        ages = [0, 9, 10, 59, 60, 3600 * 3, 86400, 86400 * 65, 86400 * 800, -7230]
        now = 1_700_000_000
        moments = [iso_time(WallTime(now - age)) for age in ages]
        found = self.browser.driver.execute_async_script(FORMATS, sizes, spans, moments, now * 1000)
        self.assertEqual([format_size(each) for each in sizes], found["sizes"])
        self.assertEqual([duration(each) for each in spans], found["spans"])
        self.assertEqual(
            [
                [
                    relative_time(WallTime(now - age), WallTime(now)),
                    f"{full_time(WallTime(now - age))} UTC",
                ]
                for age in ages
            ],
            found["times"],
        )

    def test_command_that_pulls_by_digest_names_what_is_served(self) -> None:
        """The command that pulls by digest names what is served."""
        registry = watched_registry().registry
        digest = registry.manifest("estate").headers["docker-content-digest"]
        self.open_image()
        command = self.browser.wait("#docker-digest").text
        self.assertEqual(f"docker pull {watched_registry().address}/estate@{digest}", command)

    def test_page_of_an_image_that_has_been_made_this_moment_is_whole(self) -> None:
        """The page of an image that has been made this moment is whole."""
        page = self.browser
        watched_registry().registry.manifest("plain/estate")
        self.visit(watched_registry(), "/images/plain/estate:latest")
        page.wait("#graph[data-ready][data-paths='302']")
        self.assertEqual([], page.find_all("#no-report"))

    def test_search_term_in_the_url_is_shown_as_text(self) -> None:
        """A search term in the URL is shown as text."""
        for path, field_id in (
            ("/images?q=", "images-q"),
            ("/images/estate:latest?why=", "why-q"),
            ("/images/estate:latest?layers=", "layers-q"),
            ("/images/estate:latest/paths?q=", "paths-q"),
        ):
            self.visit(watched_registry(), f"{path}%22%3E%3Cimg%20src=x%20onerror=alert(1)%3E")
            field = self.browser.wait(f"#{field_id}")
            self.assertEqual('"><img src=x onerror=alert(1)>', field.get_attribute("value"))
            self.assertEqual([], self.browser.find_all("main img[src=x]"))

    def test_description_of_a_package_is_shown_as_text_and_so_are_names_in_a_url(self) -> None:
        """The description of a package is shown as text, and so are names in a URL."""
        page = self.browser
        self.assertEqual(200, watched_registry().registry.manifest("hostile").status)
        self.visit(watched_registry(), "/images/hostile:latest")
        page.wait("#graph[data-ready]")
        row = page.wait("[data-package=hostile]").text
        self.assertIn("<img src=x onerror=alert(1)>", row)
        self.assertIn("\"><script>alert(2)</script>'", row)
        self.visit(watched_registry(), "/images/hostile:latest/paths")
        page.wait("#paths")
        self.visit(watched_registry(), "/?packages=hostile+hostil")
        page.wait("#result-packages [data-name=hostile]", "<img src=x onerror=alert(1)>")
        page.wait("#result-packages [data-name=hostil] .near")
        page.type("#packages", "hostil hostile plain")
        page.wait("#result-packages [data-name=plain]")
        page.wait("#result-packages [data-name=hostile]", "<img src=x onerror=alert(1)>")
        page.wait("#result-packages [data-name=hostil] .near a")
        self.assertEqual([], page.find_all("main img, main script"))
        bad = "/images/%3Cimg%20src=x%20onerror=alert(1)%3E%E2%80%AE%22'%3E:latest"
        for path, status in ((bad, 400), (f"{bad}/paths", 400), (f"/builds{bad}", 404)):
            self.allow(path, status)
            self.visit(watched_registry(), path)
            page.wait("main h1")
            self.assertEqual([], page.find_all("main img, main script"))
