"""The box on the first page, and the commands that come out of it."""

from __future__ import annotations

import json
import shlex
from urllib.parse import quote

from selenium.webdriver.common.keys import Keys

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
        self.assertEqual("shell hello", page.find("#packages").get_attribute("value"))
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
        pasted = page.find("#packages").get_attribute("value")
        self.assertEqual(page.text("#example"), pasted)

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
