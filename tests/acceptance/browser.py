"""The console in Debian's Chromium: one window, wide or as narrow as a phone's, and axe-core to look for barriers."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.peers import REPOSITORY, absent, require_tool, wait_until

AXE = REPOSITORY / ".axe" / "package" / "axe.min.js"
WIDE, PHONE = (1280, 900), (390, 844)
PASSWORD = "correct horse battery"
#: How long what is expected of a page may take, in milliseconds: by itself five seconds, too few on a busy machine.
expect.set_options(timeout=60_000)
_ARGUMENTS = [
    "--no-sandbox",  # the tests may run as root
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """A browser of its own, closed at the end of the block."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=require_tool("chromium"), headless=True, args=_ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


class Window:
    """One person's window on the console. `complaints` are errors of scripts, and what the content policy refused."""

    def __init__(self, browser: Browser, url: str, *, size: tuple[int, int] = WIDE) -> None:
        self.url = url
        self.size = size
        self._context = browser.new_context(viewport={"width": size[0], "height": size[1]})
        self.page: Page = self._context.new_page()
        self.page.set_default_timeout(60_000)
        self.complaints: list[str] = []
        self.asked: list[str] = []
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on(
            "console", lambda one: self.complaints.append(one.text) if "Content Security" in one.text else None
        )
        self.page.on("request", lambda one: self.asked.append(one.url))

    def open(self, path: str) -> Page:
        """Go to a page of the console."""
        self.page.goto(self.url + path)
        return self.page

    def login(self, name: str, password: str = PASSWORD) -> Page:
        """Fill in the form."""
        page = self.open("/login")
        page.get_by_label("Name").fill(name)
        page.get_by_label("Password").fill(password)
        page.get_by_role("button", name="Log in").click()
        return page

    def wait_for_picture(self, element: str) -> None:
        """Wait until a picture is there. Not by `wait_for_function`, which the content policy forbids."""
        wide = "id => document.getElementById(id).naturalWidth"
        wait_until(lambda: self.page.evaluate(wide, element) > 200, seconds=60, what=f"the picture {element}")

    def barriers(self) -> list[str]:
        """What axe-core finds serious or critical on the page as it is shown (WCAG 2.2 A and AA)."""
        if not AXE.is_file():
            absent("axe-core is not here: make viewer (with npm)", "CXRNODE_REQUIRE_PEERS")
        self.page.evaluate(AXE.read_text())
        found: dict[str, Any] = self.page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        return [
            f"{one['id']}: {one['help']} ({', '.join(str(node['target'][0]) for node in one['nodes'][:3])})"
            for one in found["violations"]
            if one["impact"] in ("serious", "critical")
        ]

    def sideways(self) -> int:
        """By how many pixels the page is wider than the window: on a phone nobody scrolls sideways."""
        wide: int = self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")
        return wide

    def shot(self, name: str) -> None:
        """Keep a picture of the whole page where CXRNODE_ARTEFACTS says."""
        if folder := os.environ.get("CXRNODE_ARTEFACTS"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=Path(folder) / f"{name}-{self.size[0]}.png", full_page=True)
