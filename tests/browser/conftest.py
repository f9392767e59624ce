"""A real Chromium in front of a real server. Whatever a page complains about fails its test."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, expect, sync_playwright

from tests.browser.world import World, serving, world

ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@dataclass
class Tab:
    """A page, and what went wrong on it."""

    page: Page
    home: str
    complaints: list[str] = field(default_factory=list)

    def open(self, path: str) -> None:
        answer = self.page.goto(self.home + path)
        assert answer is not None
        assert answer.status == 200, f"{path}: {answer.status}"
        expect(self.page.locator("#live")).to_have_attribute("data-state", "on")

    def note_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"console {message.type}: {message.text}")

    def note_request(self, request: Request) -> None:
        if not request.url.startswith((self.home, "data:")):
            self.complaints.append(f"asked another host: {request.url}")

    def note_failure(self, request: Request) -> None:
        if request.failure != "net::ERR_ABORTED":  # what a page that is left was still asking for
            self.complaints.append(f"failed: {request.url}: {request.failure}")


@pytest.fixture(scope="module")
def browser(chromium: str) -> Iterator[Browser]:
    """Closed with the module: while it is open, no other test of this thread can run an event loop."""
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[World]:
    with world(tmp_path / "forewarn.db") as found:
        yield found


@pytest.fixture
def home(desk: World) -> Iterator[str]:
    """The address of the console of `desk`."""
    with serving(desk) as address:
        yield address


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    made = browser.new_context(locale="en-GB", viewport={"width": 1280, "height": 900})
    made.set_default_timeout(15_000)
    yield made
    made.close()


@pytest.fixture
def tab(context: BrowserContext, home: str) -> Iterator[Tab]:
    """A tab that must stay without complaint."""
    found = Tab(page=context.new_page(), home=home)
    found.page.on("console", found.note_console)
    found.page.on("pageerror", lambda error: found.complaints.append(f"page error: {error}"))
    found.page.on("request", found.note_request)
    found.page.on("requestfailed", found.note_failure)
    yield found
    assert found.complaints == []
