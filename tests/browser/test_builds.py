"""Builds, watched as they go."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from selenium.webdriver.common.keys import Keys

from tests.browser.case import BrowserCase
from tests.end_to_end.case import watched_registry, watched_set


class BuildTests(BrowserCase):
    @contextmanager
    def building(self, name: str) -> Iterator[str]:
        """
        Start the build of an image, which waits in the package set until the block ends.

        :return: the path of the page to watch it on; the build has ended after that.
        """
        registry = watched_registry().registry
        with ThreadPoolExecutor(1) as pool:
            pull = pool.submit(registry.manifest, name)
            watched_set().wait_for(name)
            try:
                builds = json.loads(registry.get("/builds", accept="application/json").body)
                (build_id,) = (each["id"] for each in builds["builds"] if each["image"] == name)
                yield f"/builds/{build_id}"
            finally:
                watched_set().let(name)
                pull.result()

    def test_watched_to_the_end(self) -> None:
        """
        While an image is built its page tells the phase, how far it is and what the log
        says; then what came of it, and the stages, without being loaded again.
        """
        page = self.browser
        with self.building("seen-live") as path:
            self.visit(watched_registry(), path)
            page.run("window.untouched = true")
            page.wait("#build[data-state=running] #state", "running")
            page.wait("#log", "the first line of seen-live")
            page.wait("#doing", "building")
            page.wait("#doing", "building seen-live 1.0")
            page.wait("#running li", "-seen-live-1.0.drv")
            page.wait("#notes", "1 client waiting")
            self.assertEqual([], page.find_all(".count[data-unit=builds]"))
            # The time goes on while nothing happens.
            before = page.wait("#running .since").text
            page.until(lambda: page.text("#running .since") != before, "time that passes")
            page.wait("#lanes [data-phase=building]")
            self.assertNotIn("last line", page.text("#log"))
            self.assertFalse(page.find("#result").is_displayed())
        page.wait("#build[data-state=succeeded] #state", "succeeded")
        page.wait("#log", "the last line of seen-live")
        self.assertEqual(1, page.text("#log").count("the first line"))
        page.wait("#lanes [data-phase=packing] rect")
        page.wait("#digest", "sha256:")
        self.assertFalse(page.find("#progress").is_displayed())
        self.assertFalse(page.find("#connection").is_displayed())
        self.assertTrue(page.run("return window.untouched"))
        pull = page.wait("#docker-pull").text
        self.assertEqual(f"docker pull {watched_registry().address}/seen-live", pull)
        page.click("#image-link")
        page.wait("#packages-table [data-package=seen-live]")

    def test_list_of_builds_tells_of_one_that_begins_and_of_its_end_by_itself(self) -> None:
        """The list of builds tells of one that begins, and of its end, by itself."""
        page = self.browser
        self.visit(watched_registry(), "/builds")
        page.wait("#live", "live")
        page.run("window.untouched = true")
        with self.building("seen-listed") as path:
            build_id = path.rpartition("/")[2]
            row = f"#builds [data-build='{build_id}']"
            page.wait(f"{row}[data-state=running]", "building")
            page.wait(f"#builds tbody tr:first-child[data-build='{build_id}']")
        page.wait(f"{row}[data-state=succeeded]")
        self.assertTrue(page.run("return window.untouched"))

    def test_build_that_fails_while_watched_shows_its_error(self) -> None:
        """A build that fails while it is watched shows its error and the end of its log."""
        page = self.browser
        with self.building("failing-live") as path:
            self.visit(watched_registry(), path)
            page.wait("#build[data-state=running]")
        page.wait("#build[data-state=failed] #state", "failed")
        page.wait("#problem-title", "failing-live 1.0 failed to build")
        page.wait("#problem .advice", "Read the end of the log.")
        page.wait("#problem .retry time[data-exact]", "UTC")
        page.wait("#problem .error-message", "-failing-live-1.0.drv failed to build")
        page.wait("#problem pre", "this is why it failed")
        page.wait("#log", "line 3 of the log")
        self.assertFalse(page.find("#result").is_displayed())
        self.visit(watched_registry(), "/")
        page.wait("#failures", "failing-live:latest")

    def test_page_of_a_build_reloads_itself_without_javascript_until_the_build_ends(self) -> None:
        """Without JavaScript the page of a build loads itself again, until the build ends."""
        page = self.browser
        with page.without_scripts():
            with self.building("seen-plain") as path:
                self.visit(watched_registry(), path)
                page.wait("#build[data-state=running] #log", "the first line of seen-plain")
                page.wait("#build", "loads itself again every three seconds")
                page.wait("#running li", "seen-plain 1.0 for ")
                page.wait("#notes", "1 client waiting")
            page.wait("#build[data-state=succeeded] #log", "the last line of seen-plain")
            page.wait("#lanes [data-phase=packing]")
            self.assertEqual([], page.find_all("meta[http-equiv=refresh]"))
            with self.building("failing-plain") as path:
                self.visit(watched_registry(), path)
            page.wait("#build[data-state=failed] #problem pre", "this is why it failed")
            page.wait("#problem-title", "failing-plain 1.0 failed to build")
            page.wait("#problem .retry time[data-exact]", "UTC")
            self.visit(watched_registry(), "/builds")
            page.wait("#builds [data-state=failed]")

    def test_list_is_filtered_by_keyboard_without_javascript_and_leads_to_images(self) -> None:
        """By keyboard and without JavaScript the list is filtered; a row leads to its image."""
        page = self.browser
        for name in ("seen-filtered", "failing-filtered"):
            with self.building(name):
                pass
        with page.without_scripts():
            self.visit(watched_registry(), "/builds")
            page.find("#builds-q").send_keys("FILTERED", Keys.ENTER)
            page.wait("#all-builds")
            self.assertEqual(2, len(page.find_all("#builds tbody tr")))
            page.find("#builds-state").send_keys("succ", Keys.TAB, Keys.TAB, Keys.ENTER)
            page.wait("#builds-state option[value=done][selected]")
            (row,) = page.find_all("#builds tbody tr")
            self.assertIn("seen-filtered:latest", row.text)
            page.find("#builds [data-image]").send_keys(Keys.ENTER)
            page.wait("#packages-table [data-package=seen-filtered]")
        self.visit(watched_registry(), "/builds")
        page.wait("#live", "live")
        page.wait(
            "#builds tr[data-state=succeeded] [data-image][href='/images/seen-filtered:latest']"
        )

    def test_output_of_a_build_is_shown_as_text_whatever_it_contains(self) -> None:
        """The output of a build is shown as text, whatever it contains."""
        page = self.browser
        self.assertEqual(422, watched_registry().registry.manifest("hostile-failing").status)
        self.visit(watched_registry(), "/")
        page.click("#failures summary")
        self.assertIn("<img src=x onerror=alert(1)>", page.text("#failures"))
        page.driver.find_element("link text", "hostile-failing:latest").click()
        for place in ("#log", "#problem pre"):
            text = page.text(place)
            self.assertIn("<img src=x onerror=alert(1)>\n", text)
            self.assertIn("</pre><script>alert(3)</script>\n", text)
            self.assertIn("&lt;b&gt; {{ 7 * 7 }}", text)
            self.assertIn("\\u202edesrever", text)
            self.assertNotIn("\x1b", text)
        self.assertEqual([], page.find_all("main img, main script, main b"))

    def test_lines_of_a_long_log_have_addresses_and_folds(self) -> None:
        """
        The failure is unfolded and comes first; a line has an address, which opens its fold; and
        earlier lines are reached without JavaScript.
        """
        page = self.browser
        registry = watched_registry().registry
        self.assertEqual(422, registry.manifest("verbose-failing").status)
        builds = json.loads(registry.get("/builds", accept="application/json").body)["builds"]
        (build_id,) = (each["id"] for each in builds if each["image"] == "verbose-failing")
        text = registry.get(f"/builds/{build_id}/log").body.decode().splitlines()
        self.assertEqual(
            [
                *(f"verbose-used line {number}" for number in range(1, 1501)),
                *(f"verbose-failing line {number}" for number in range(1, 3001)),
            ],
            text,
        )
        self.visit(watched_registry(), f"/builds/{build_id}")
        page.wait("#log-count", "Lines 3501 to 4500 of 4500")
        fold = page.wait(".fold[data-state=failed][open]", "verbose-failing-1.0 failed")
        page.wait("#L4500", "verbose-failing line 3000")
        # The fold and the link of a line are reached by keyboard.
        fold.find_element("css selector", "summary").send_keys(Keys.ENTER)
        page.until(lambda: not page.find("#L4500").is_displayed(), "folded line")
        self.visit(watched_registry(), f"/builds/{build_id}?after=1000#L1500")
        page.wait(".fold[data-state=built][open] #L1500", "verbose-used line 1500")
        (first, second) = page.find_all(".fold")
        self.assertIn("verbose-failing-1.0", first.text)
        self.assertIn("verbose-used-1.0 built", second.text)
        with page.without_scripts():
            self.visit(watched_registry(), f"/builds/{build_id}")
            page.click("nav a[rel=prev]")
            page.wait("#log-count", "Lines 2501 to 3500 of 4500")
            page.click("#log [id='L3500'] a")
            page.wait("#log-count", "Lines 3001 to 4000 of 4500")
            page.wait("#L3500", "verbose-failing line 2000")
