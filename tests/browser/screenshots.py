"""
Make pictures of the pages, for release notes and to be looked at.

    python -m tests.browser.screenshots DIRECTORY [PAGE ...]

Each page is shown on a desktop and on a phone, in the light and in the dark.  Images are those of
the demo package set; the builds that run and fail are those of the tests.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from attrs import frozen

from tests.browser.browser import Browser, Screen
from tests.end_to_end.case import demo_registry, watched_registry, watched_set
from tests.end_to_end.daemon import Daemon
from tests.end_to_end.processes import wait_until

__all__ = ["PAGES", "main"]

WIDTHS = (1280, 390)

HEIGHT = 900

RUNNING, FAILED = "seen-live", "failing-http"

DEMO_IMAGES = ("shell/git/htop", "shell/git", "shell/hello")


@frozen(kw_only=True)
class Page:
    """
    A page to show.

    :param registry: the registry whose page it is.
    :param path: its path; empty: that of a build.
    :param build: the image whose build is shown.
    :param typed: what is typed into the box for packages.
    :param complete: selects what the page shows last.
    """

    registry: Callable[[], Daemon]
    path: str = ""
    build: str = ""
    typed: str = ""
    complete: str = "main"


PAGES: Mapping[str, Page] = {
    "start": Page(registry=demo_registry, path="/"),
    "box": Page(
        registry=demo_registry,
        path="/?packages=shell+git+htop",
        complete="#price-lines:not([aria-busy]) p",
    ),
    "completion": Page(
        registry=demo_registry, path="/?packages=shell", typed="gi", complete="#suggestions li"
    ),
    "box-not-found": Page(registry=demo_registry, path="/?packages=git+helo+shell"),
    "search": Page(registry=demo_registry, path="/search?q=git", complete="#packages"),
    "image": Page(
        registry=demo_registry,
        path="/images/shell/git/htop:latest",
        complete="#graph[data-ready]",
    ),
    "images": Page(registry=demo_registry, path="/images"),
    "comparison": Page(
        registry=demo_registry, path="/images/shell/git/htop:latest/compare?with=shell/git"
    ),
    "preview": Page(registry=demo_registry, path="/images/shell/jq/tree:latest"),
    "builds": Page(registry=watched_registry, path="/builds"),
    "running": Page(registry=watched_registry, build=RUNNING, complete="#log"),
    "failed": Page(registry=watched_registry, build=FAILED, complete="#log"),
    "failures": Page(registry=watched_registry, path="/", complete="#failures"),
}


def main(arguments: list[str] | None = None) -> None:
    """Make the pictures."""
    parser = argparse.ArgumentParser(prog="python -m tests.browser.screenshots")
    parser.add_argument("directory", type=Path)
    parser.add_argument("pages", nargs="*", metavar="PAGE", help=", ".join(PAGES))
    options = parser.parse_args(arguments)
    if unknown := set(options.pages) - set(PAGES):
        parser.error(f"there is no page {', '.join(sorted(unknown))}")
    options.directory.mkdir(parents=True, exist_ok=True)
    pages = {name: PAGES[name] for name in options.pages or PAGES}
    if any(page.registry is demo_registry for page in pages.values()):
        _prepare_demo()
    with _builds():
        browser = Browser()
        for (name, page), width, dark in itertools.product(pages.items(), WIDTHS, (False, True)):
            browser.screen(Screen(width=width, height=HEIGHT, dark=dark, touch=width < HEIGHT))
            browser.open(f"http://{page.registry().address}{_path(page)}")
            if page.typed:
                browser.type("#packages", page.typed)
            browser.wait(page.complete)
            theme = "dark" if dark else "light"
            path = options.directory / f"{name}-{width}-{theme}.png"
            browser.picture(path)
            print(path)


def _prepare_demo() -> None:
    """Pull the images, and wait for the list of packages."""
    registry = demo_registry().registry
    for name in DEMO_IMAGES:
        answer = registry.manifest(name)
        if answer.status != 200:
            raise AssertionError(f"{name} cannot be pulled: {answer.status}")
    wait_until(
        lambda: json.loads(registry.get("/api/search?q=git").body)["ready"],
        "the list of packages",
        seconds=300,
    )


@contextmanager
def _builds() -> Iterator[None]:
    """Let one build fail, and another one run until the block ends."""
    registry = watched_registry().registry
    registry.manifest("estate")
    registry.manifest(FAILED)
    with ThreadPoolExecutor(1) as pool:
        pull = pool.submit(registry.manifest, RUNNING)
        watched_set().wait_for(RUNNING)
        try:
            yield
        finally:
            watched_set().let(RUNNING)
            pull.result()


def _path(page: Page) -> str:
    """Return the path of a page; of a build, it is known only when the build has begun."""
    if page.path:
        return page.path
    listed = page.registry().registry.get("/builds", accept="application/json")
    builds = json.loads(listed.body)["builds"]
    return next(f"/builds/{each['id']}" for each in builds if each["image"] == page.build)


if __name__ == "__main__":
    main()
