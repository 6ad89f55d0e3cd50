"""What browser tests stand on: a Chromium, a page in it, and a server of a small shop. Loaded by pyproject.toml.

A module that needs another browser, window or shop has a fixture of that name.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, sync_playwright

from chatbot_site.tests.server import Server, make_empty_shop, make_trained_shop, running_server

CHROMIUM = "/usr/bin/chromium"
SWITCHES = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    # Other websites than the chat's own.
    "--host-resolver-rules=MAP *.test 127.0.0.1",
]

PHONE: dict[str, Any] = {
    "viewport": {"width": 360, "height": 640},
    "device_scale_factor": 2,
    "has_touch": True,
    "is_mobile": True,
}


@contextmanager
def running_chromium(*switches: str, **options: Any) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*SWITCHES, *switches], **options)
        yield browser
        browser.close()


def note_problems(page: Page, problems: list[str], *, may_lose_connection: bool = True) -> None:
    """From now on: scripts that fail, and what breaks the content policy or cannot be loaded."""

    def hear(message: ConsoleMessage) -> None:
        is_of_connection = "WebSocket" in message.text or "ERR_" in message.text
        if message.type == "error" and not (is_of_connection and may_lose_connection):
            problems.append(message.text)

    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", hear)


def violations(page: Page) -> list[str]:
    """What axe-core finds on the page as it is."""
    found = Axe().run(page).response["violations"]
    return [f"{each['id']}: {[node['target'] for node in each['nodes']]}" for each in found]


# Not for the whole session: its event loop would be in the way of tests that have one of their own.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with running_chromium() as browser:
        yield browser


@pytest.fixture
def window() -> dict[str, Any]:
    """What a browser context is made with."""
    return {"locale": "es-ES", "viewport": {"width": 900, "height": 760}}


@pytest.fixture
def context(browser: Browser, window: dict[str, Any]) -> Iterator[BrowserContext]:
    context = browser.new_context(**window)
    yield context
    context.close()


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    """A page on which no script may fail and nothing may break the content policy."""
    page = context.new_page()
    problems: list[str] = []
    note_problems(page, problems)
    yield page
    assert problems == []


@pytest.fixture(scope="session")
def empty_shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("empty-shop")
    make_empty_shop(folder)
    return folder


@pytest.fixture(scope="session")
def trained_shop(empty_shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained-shop")
    make_trained_shop(folder, empty_shop)
    return folder


@pytest.fixture(scope="module")
def server(trained_shop: Path) -> Iterator[Server]:
    with running_server(trained_shop) as server:
        yield server


@pytest.fixture(autouse=True)
def _restored(request: pytest.FixtureRequest) -> Iterator[None]:
    """What a test has changed of a server's answers is no other's, whether it passes or not."""
    yield
    if "server" in request.fixturenames and isinstance(server := request.getfixturevalue("server"), Server):
        server.restore_answers()
