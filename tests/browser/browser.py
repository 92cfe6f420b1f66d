"""
Chromium without a window, which reaches nothing but this machine.

Everything that a page asks for and complains of is written down by the browser: a test
asks for it afterwards (:meth:`Browser.complaints`).
"""

from __future__ import annotations

import json
import shutil
from base64 import b64decode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from attrs import frozen
from selenium.common.exceptions import (
    NoSuchElementException,
    StaleElementReferenceException,
    TimeoutException,
)
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.wait import WebDriverWait

from tests.end_to_end.engines import require
from tests.end_to_end.processes import at_end, private_directory

__all__ = ["DESKTOP", "PHONE", "Browser", "Screen"]

T = TypeVar("T")

PATIENCE = 60.0
"""For how many seconds something is waited for; most of it comes at once."""

_RULES = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice")
"""The rules that pages have to follow, by axe's names."""


@frozen(kw_only=True)
class Screen:
    """The size and the abilities of the screen that a page is shown on."""

    width: int
    height: int
    dark: bool = False
    touch: bool = False


DESKTOP = Screen(width=1280, height=900)
PHONE = Screen(width=360, height=740, dark=True, touch=True)


class Browser:
    """A browser with one window, and an unused profile."""

    def __init__(self) -> None:
        require("chromium", "chromedriver")
        options = ChromeOptions()
        options.binary_location = str(shutil.which("chromium"))
        for flag in (
            "--headless=new",
            f"--user-data-dir={private_directory('chromium')}",
            # Root has no sandbox of Chromium's, and a container little shared memory.
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-extensions",
            # Whatever it wants elsewhere, it does not get.
            "--no-proxy-server",
            "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
        ):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        # An alert stays open, and is seen in the log.
        options.set_capability("unhandledPromptBehavior", "dismiss")
        # Named, or Selenium would look for one on the network.
        service = Service(str(shutil.which("chromedriver")))
        self.driver = Chrome(options=options, service=service)
        at_end(self.driver.quit)
        self.screen(DESKTOP)

    # -- looking

    def open(self, url: str) -> None:
        """Go to a page, and wait until it is loaded."""
        self.driver.get(url)

    def screen(self, screen: Screen) -> None:
        """Look at all pages on another screen from now on."""
        self._command(
            "Emulation.setDeviceMetricsOverride",
            width=screen.width,
            height=screen.height,
            deviceScaleFactor=1,
            mobile=screen.touch,
        )
        self._command("Emulation.setTouchEmulationEnabled", enabled=screen.touch)
        scheme = "dark" if screen.dark else "light"
        self._command(
            "Emulation.setEmulatedMedia",
            features=[
                {"name": "prefers-color-scheme", "value": scheme},
                {"name": "prefers-reduced-motion", "value": "reduce"},
            ],
        )

    @contextmanager
    def without_scripts(self) -> Iterator[None]:
        """Pages that are opened meanwhile run no scripts."""
        self._command("Emulation.setScriptExecutionDisabled", value=True)
        try:
            yield
        finally:
            self._command("Emulation.setScriptExecutionDisabled", value=False)

    def find(self, selector: str) -> WebElement:
        """:raises NoSuchElementException: nothing on the page is selected."""
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def find_all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def text(self, selector: str) -> str:
        """The text of an element, also of what cannot be seen now."""
        return str(self.find(selector).get_attribute("textContent"))

    def wait(self, selector: str, text: str | None = None) -> WebElement:
        """
        Wait until an element can be seen.

        :param text: what has to be in its text.
        """

        def visible() -> WebElement | None:
            element = self.find(selector)
            seen = element.is_displayed() and (text is None or text in element.text)
            return element if seen else None

        what = selector if text is None else f"{selector} with the text {text!r}"
        return self.until(visible, what)

    def until(self, find: Callable[[], T | None], what: str) -> T:
        """
        Wait until something is true.

        :return: what ``find`` has found.
        :raises AssertionError: it has found nothing for a long time.
        """
        # A page that loads itself again is another page from one line to the next.
        passing = (NoSuchElementException, StaleElementReferenceException)
        wait = WebDriverWait(self.driver, PATIENCE, 0.05, passing)
        try:
            found = wait.until(lambda _: find() or False)
        except TimeoutException:
            text = self.find("body").text
            raise AssertionError(f"no {what} on {self.driver.current_url}:\n{text}") from None
        assert found is not False
        return found

    def run(self, script: str, *arguments: object) -> Any:
        """The result of a script."""
        return self.driver.execute_script(script, *arguments)

    # -- doing

    def click(self, selector: str) -> None:
        self.wait(selector).click()

    def type(self, selector: str, text: str) -> None:
        """Put text in the place of what is in a field."""
        field = self.wait(selector)
        field.clear()
        field.send_keys(text)

    def press(self, *keys: str) -> None:
        """Press keys, wherever the focus is."""
        for key in keys:
            ActionChains(self.driver, duration=0).send_keys(key).perform()

    def paste(self) -> None:
        """Put what was copied where the focus is."""
        self.press_with(Keys.CONTROL, "v")

    def press_with(self, modifier: str, key: str) -> None:
        """Press a key while another one is held."""
        keys = ActionChains(self.driver, duration=0)
        keys.key_down(modifier).send_keys(key).key_up(modifier).perform()

    # -- judging

    def faults(self) -> list[str]:
        """List the faults that axe finds in the page as it is, and a width beyond the screen."""
        if not self.run("return typeof axe === 'object'"):
            self.run(_axe())
        found = self.driver.execute_async_script(
            """
            const [rules, done] = arguments;
            axe.run(document, { runOnly: rules, resultTypes: ["violations"] })
              .then((result) => done(result.violations), (error) => done(String(error)));
            """,
            list(_RULES),
        )
        if isinstance(found, str):
            raise AssertionError(f"axe failed: {found}")
        faults = [
            f"{rule['id']}: {node['html'][:300]}\n{node['failureSummary']}"
            for rule in found
            for node in rule["nodes"]
        ]
        width, screen = self.run(
            "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
        )
        if width > screen:
            faults.append(f"the page is {width} wide on a screen of {screen}")
        return faults

    def complaints(self, allowed: Mapping[str, int]) -> list[str]:
        """
        List the recorded faults since the last call: messages of scripts and of the
        browser, requests to other hosts, dialogs.

        :param allowed: the failed requests that are right: statuses by paths.
        """
        found = []
        for entry in self.driver.get_log("browser"):
            message = entry["message"]
            path = urlsplit(message.split(" ", 1)[0]).path
            if path in allowed and f"a status of {allowed[path]} " in message:
                continue
            found.append(f"{entry['level']}: {message}")
        for entry in self.driver.get_log("performance"):
            event = json.loads(entry["message"])["message"]
            if event["method"] == "Network.requestWillBeSent":
                url = event["params"]["request"]["url"]
                parts = urlsplit(url)
                if parts.scheme not in {"data", "about"} and parts.hostname != "127.0.0.1":
                    found.append(f"a request to {url}")
            elif event["method"] == "Page.javascriptDialogOpening":
                found.append(f"a dialog: {event['params']}")
        return found

    def picture(self, path: Path) -> None:
        """Make a picture of the whole page, with what is below the screen."""
        size = self._command("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        made = self._command("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
        path.write_bytes(b64decode(made["data"]))

    def _command(self, command: str, **arguments: object) -> Any:
        return self.driver.execute_cdp_cmd(command, arguments)


@cache
def _axe() -> str:
    """The script that judges pages; its package is there for this file alone."""
    spec = find_spec("axe_playwright_python")
    if spec is None or spec.origin is None:
        raise AssertionError("axe-core is not installed: see tox.ini")
    return Path(spec.origin).with_name("axe.min.js").read_text("utf-8")
