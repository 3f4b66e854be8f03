"""Debian's Chromium, headless: opens the dashboard and notes what it asked for and complained of."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from playwright.sync_api import expect, sync_playwright

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, ConsoleMessage, Page, ViewportSize

    from tests.e2e.programs import Daemon

WAIT_MS = 30_000
"""What does not show within so long does not come; generous, for machines that are busy."""

SHOTS = Path(__file__).parent / "screenshots"
"""Pictures for people to look at; git ignores them."""

_SWITCHES = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
)
DESKTOP: ViewportSize = {"width": 1360, "height": 900}
PHONE: ViewportSize = {"width": 390, "height": 844}


class Dashboard:
    """An open page.

    Args:
        page: the browser's.
        daemon: whose page it is.
    """

    def __init__(self, page: Page, daemon: Daemon) -> None:
        self.page = page
        self.daemon = daemon
        self.complaints: list[str] = []
        self.hosts: set[str] = set()
        self.urls: list[str] = []
        page.set_default_timeout(WAIT_MS)
        page.on("console", self._take_message)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self._note(request.url))

    def open(self) -> None:
        """Go there and wait until VMs are shown."""
        self.page.goto(self.daemon.url)
        self.page.wait_for_selector(".vm-row")
        self.page.wait_for_selector("#hour-chart canvas")

    def row(self, name: str) -> Any:
        """The row of a VM."""
        return self.page.locator(".vm-row").filter(has=self.page.get_by_text(name, exact=True))

    def bar(self, name: str) -> str:
        """What a screen reader tells of a VM's bar."""
        return str(self.row(name).locator(".range-bar").get_attribute("aria-label"))

    def wait_for_bar(self, name: str, part: str) -> None:
        """Wait until a VM's bar tells something."""
        self.row(name).locator(f'.range-bar[aria-label*="{part}"]').wait_for()

    def log_in(self, *, password: str = "") -> None:
        """Fill in the open form."""
        self.page.fill("#login-password", password or self.daemon.password)
        self.page.click("#login-submit")

    def shoot(self, name: str, *, full: bool = False) -> None:
        """Keep a picture."""
        SHOTS.mkdir(exist_ok=True)
        self.page.screenshot(path=SHOTS / f"{name}.png", full_page=full, animations="disabled")

    def _note(self, url: str) -> None:
        self.urls.append(url)
        if urlsplit(url).scheme not in {"data", "blob"}:
            self.hosts.add(urlsplit(url).netloc)

    def _take_message(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.complaints.append(message.text)


@contextmanager
def chromium() -> Iterator[Browser]:
    """The browser, with a profile of its own that is gone afterwards."""
    expect.set_options(timeout=WAIT_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=list(_SWITCHES))
        try:
            yield browser
        finally:
            browser.close()
