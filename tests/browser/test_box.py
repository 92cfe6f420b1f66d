"""The box on the first page, and the commands that come out of it."""

from __future__ import annotations

import json
import shlex
from urllib.parse import quote

from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from tests.browser.browser import PHONE
from tests.browser.case import BrowserCase
from tests.end_to_end.case import demo_registry, podman, watched_registry


class BoxTests(BrowserCase):
    def test_a_command_that_pulls(self) -> None:
        """
        An unknown name is corrected by a click; the command that then stands on
        the page pulls an image, which runs by the next one.
        """
        page = self.browser
        self.visit(demo_registry(), "/")
        self.assertIn(demo_registry().address, page.text("#example"))
        page.type("#packages", "shell helo")
        page.wait("#result-packages [data-name=helo][data-status=not-found]")
        self.assertFalse(page.find("#commands").is_displayed())
        page.click("a[data-exchange=helo][data-for=hello]")
        page.wait("#result-packages [data-name=hello][data-status=found]", "2.1")
        self.assertEqual("shell hello", page.find("#chosen").get_attribute("value"))
        self.assertIn("packages=shell+hello", page.driver.current_url)

        pull = shlex.split(page.wait("#docker-pull").text)
        self.assertEqual(["docker", "pull", f"{demo_registry().address}/shell/hello"], pull)
        podman().pull(pull[-1]).checked()
        run = shlex.split(page.text("#docker-run"))
        self.assertEqual(["docker", "run", "--rm", "-it", pull[-1]], run[:5])
        ended = podman().run(pull[-1], *run[5:], "-c", "hello").checked()
        self.assertEqual("Hello, world!\n", ended.stdout)
        page.click("[data-client=kubernetes] summary")
        self.assertIn(json.dumps(pull[-1]), page.text("#kubernetes-run"))
        # The client that was chosen last is open on the next page, too.
        page.click("[data-client=podman] summary")

        self.visit(demo_registry(), "/images/shell/hello:latest")
        page.wait("#packages-table [data-package=hello]")
        page.wait("#programs summary", "in /bin")
        page.wait("[data-client=podman][open]")
        pinned = shlex.split(page.text("#podman-digest"))
        self.assertEqual(["podman", "pull", "--tls-verify=false"], pinned[:3])
        self.assertIn("/shell/hello@sha256:", pinned[3])
        page.click("[data-client=docker] summary")

    def test_command_is_copied_by_button_that_keyboard_reaches_and_that_says_so(self) -> None:
        """A command is copied by a button that the keyboard reaches, and that says so."""
        page = self.browser
        self.visit(watched_registry(), "/")
        button = page.wait("button[data-copy=example]")
        for _ in range(20):
            page.press(Keys.TAB)
            if page.driver.switch_to.active_element == button:
                break
        outline = "return getComputedStyle(arguments[0]).outlineStyle"
        self.assertEqual("solid", page.run(outline, button))
        page.press(Keys.ENTER)
        page.wait("button[data-copy=example]", "Copied")
        page.click("#packages")
        page.paste()
        self.assertEqual(["shell", "git", "htop"], self.chips())

    def test_commands_name_the_host_that_the_browser_used(self) -> None:
        """Without ``public_url``, a script puts the browser's host into the commands."""
        page = self.browser
        self.visit(watched_registry(), "/")
        # The browser resolves no names, so that there is no other host to open the page from.
        self.assertEqual(
            watched_registry().address,
            page.run("return document.documentElement.dataset.address"),
        )
        command = page.driver.execute_async_script(
            """
            const [done] = arguments;
            const site = document.querySelector("script[src*='/site.js']").src;
            document.documentElement.dataset.address = "registry.internal:5000";
            import(site.replace("site.js", "text.js")).then(
              (text) => done(text.reachable("docker pull registry.internal:5000/shell/git")));
            """
        )
        self.assertEqual(f"docker pull {watched_registry().address}/shell/git", command)
        with page.without_scripts():
            self.visit(watched_registry(), "/")
            page.wait(".notice", "public_url")

    def chips(self) -> list[str]:
        """Wait for chips, and return their names."""
        self.browser.wait("#chips")
        return [str(each.get_attribute("data-name")) for each in self.chip_buttons()]

    def chip_buttons(self) -> list[WebElement]:
        return self.browser.find_all("#chips button")

    def focus(self) -> str:
        """Return the name of the chip that has the focus, or the id of another element."""
        focus = self.browser.driver.switch_to.active_element
        return str(focus.get_attribute("data-name") or focus.get_attribute("id"))

    def test_chips_are_chosen_and_removed_by_keyboard_alone(self) -> None:
        """Names become chips, which the keyboard reaches and removes; each change is announced."""
        page = self.browser
        page.screen(PHONE)
        self.visit(demo_registry(), "/?packages=git+shell")
        self.assertIn("shell comes first in the name", page.wait("#notice").text)
        self.assertEqual(["shell", "git"], self.chips())
        page.run("document.getElementById('packages').focus()")
        page.press(*"hello ")
        self.assertEqual(["shell", "git", "hello"], self.chips())
        self.assertEqual("hello added", page.text("#announcer"))
        page.wait("#result-packages [data-name=hello][data-status=found]")
        self.assertFalse(page.find("#notice").is_displayed())
        self.assertEqual([], page.faults())

        page.press(*"tree", Keys.HOME, Keys.ARROW_LEFT)
        self.assertEqual("hello", self.focus())
        page.press(Keys.HOME, Keys.ARROW_RIGHT, Keys.DELETE)
        self.assertEqual("git removed", page.text("#announcer"))
        self.assertEqual("hello", self.focus())
        page.press(Keys.ARROW_RIGHT)
        self.assertEqual("packages", self.focus())
        page.wait("#result-packages [data-name=tree][data-status=found]")
        self.assertEqual("shell hello tree", page.find("#chosen").get_attribute("value"))
        # Text before the cursor goes first.
        page.press(Keys.END, *[Keys.BACKSPACE] * 4)
        self.assertEqual(["shell", "hello"], self.chips())
        page.press(Keys.BACKSPACE)
        self.assertEqual(["shell"], self.chips())
        page.press_with(Keys.SHIFT, Keys.TAB)
        self.assertEqual("shell", self.focus())
        page.press(Keys.ENTER)
        self.assertEqual(([], "packages"), (self.chip_buttons(), self.focus()))
        self.assertFalse(page.find("#chips").is_displayed())

    def test_pasted_commands_become_chips_beside_the_others(self) -> None:
        """Names of a pasted command become chips, behind those that are there."""
        page = self.browser
        self.visit(demo_registry(), "/?packages=tree")
        page.type("#packages", "nix-shell -p git hello")
        page.wait("#chips [data-name=hello]")
        self.assertEqual(["tree", "git", "hello"], self.chips())
        page.wait("#docker-pull", "/tree/git/hello")
        page.type("#packages", "jqq,")
        page.wait("#chips [data-name=jqq][data-state=problem]")
        self.assertEqual([], page.faults())
        page.click("#chips [data-name=jqq]")
        page.click("#chips [data-name=tree]")
        page.wait("#docker-pull", "/git/hello")
        # The form sends what the chips say.
        page.run("document.getElementById('ask').submit()")
        page.until(lambda: page.driver.current_url.endswith("packages=git+hello"), "the form")

    def test_price_is_shown_before_the_pull_and_beside_an_image_that_one_has(self) -> None:
        """The price follows the names; an image that one has is subtracted, if it is known here."""
        page, registry = self.browser, watched_registry()
        self.allow("/api/estimate/plain/priced", 404)
        self.visit(registry, "/?packages=priced+plain")
        page.wait("#price-lines p", "To be built: ")
        self.assertEqual(200, registry.registry.manifest("plain").status)
        page.click("#chips [data-name=priced]")
        page.wait("#price-lines p", "Ready. A pull downloads ")
        page.type("#having", "plain")
        page.wait("#price-lines p", " of it already.")
        page.click("#packages")
        page.press(*"priced ")
        page.wait("#price-lines p", "To be built: ")
        page.type("#having", "nothing/of/the/kind")
        page.wait("#price-lines p", "Not known: ")
        self.assertEqual([], page.faults())
        link = str(page.find("#preview-link").get_attribute("href"))
        self.assertTrue(link.endswith("/images/plain/priced:latest"), link)
        with page.without_scripts():
            self.visit(registry, "/?packages=plain+priced")
            page.click("#preview-link")
            page.wait("#packages-table [data-package=priced]")

    def test_late_answers_are_dropped_and_limits_are_told(self) -> None:
        """An answer that comes late is dropped; a limit is told, and Check tries again."""
        page = self.browser
        self.visit(watched_registry(), "/")
        # The answers come in the order in which the test lets them.
        page.run(
            """
            const real = window.fetch;
            window.held = [];
            window.fetch = (url, { signal, ...options }) => String(url).startsWith("/api/packages")
              ? new Promise((answer) => held.push((made) => answer(made ?? real(url, options))))
              : real(url, options);
            """
        )
        page.type("#packages", "plain")
        page.until(lambda: page.run("return held.length") == 1, "a request")
        page.press(*" known")
        page.until(lambda: page.run("return held.length") == 2, "another request")
        page.run("held[1]()")
        page.wait("#result-packages [data-name=known]")
        page.wait("#status", "All of them are there.")
        page.run("held[0](Response.json({ error: 'too late', packages: [] }))")
        page.press(*"x")
        page.until(lambda: page.run("return held.length") == 3, "a third request")
        self.assertFalse(page.find("#answer-error").is_displayed())
        limit = "status: 429, headers: { 'Content-Type': 'text/plain; charset=utf-8' }"
        page.run(f"held[2](new Response('too many requests\\n', {{ {limit} }}))")
        page.wait("#answer-error", "too many requests")
        page.wait("#status", "Press Check to try again.")
        page.click("#ask button[type=submit]")
        page.until(lambda: page.run("return held.length") == 4, "a request again")
        page.run("held[3]()")
        page.wait("#result-packages [data-name=knownx][data-status=not-found]")
        self.assertFalse(page.find("#answer-error").is_displayed())

    def test_keyboard_comes_to_the_box_soon(self) -> None:
        """The keyboard comes to the box soon: past the way to the content and the sections."""
        page = self.browser
        self.visit(watched_registry(), "/")
        seen: list[str] = []
        while "packages" not in seen and len(seen) < 20:
            page.press(Keys.TAB)
            focus = page.driver.switch_to.active_element
            seen.append(str(focus.get_attribute("id") or focus.text))
        self.assertEqual("Skip to the content", seen[0])
        self.assertEqual(["Nixery", "Start", "Builds", "Images", "Documentation"], seen[1:6])
        self.assertIn("packages", seen)

    def test_box_works_without_javascript_corrections_included(self) -> None:
        """The box works without JavaScript, corrections included."""
        page = self.browser
        with page.without_scripts():
            self.visit(watched_registry(), "/")
            page.type("#packages", "plian estate")
            page.click("#ask button")
            page.wait("[data-name=plian][data-status=not-found]")
            page.click("a[data-exchange=plian]")
            pull = page.wait("#docker-pull", "plain").text
        self.assertEqual(f"docker pull {watched_registry().address}/plain/estate", pull)

    def test_text_that_is_no_package_name_is_reported(self) -> None:
        """Text that can be no package name is reported as such, and is shown as text."""
        page = self.browser
        self.allow("/api/packages", 400)
        markup = "<img src=x onerror=alert(1)>"
        for typed, name in (
            (markup, "onerror=alert(1)>"),
            ("\"'><script>alert(1)</script>", "script>"),
            ("\u202egit", "no package can be called so"),
        ):
            self.visit(watched_registry(), "/")
            page.type("#packages", typed)
            page.press(Keys.ENTER)
            page.wait("#answer", name)
            self.visit(watched_registry(), f"/?packages={quote(typed)}")
            page.wait("#answer", name)
            self.assertEqual([], page.find_all("main img, main script"))
